/*
 * SY_EXP: e^x in f32, the same bits from scalar, AVX2 and AVX-512 code.
 *
 * n = nearest-even(x * log2 e); r = x - n*ln2 with ln2 in two parts (Cody and Waite); e^r by a polynomial of degree 6 (minimax in relative error on
 * +-ln2/2: 3.1e-9 before rounding), Horner by fma; then times 2^n in two exact steps, because 2^128 is no f32.
 * At most 2 ulp. exp(x) = 0 below -87.3 (also -inf), inf above 88.7228, NaN stays the NaN it was.
 */
#ifndef SWITCHYARD_EXP_H
#define SWITCHYARD_EXP_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "anywhere.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sy {
namespace {

constexpr float exp_log2e = 0x1.715476p+0f;
constexpr float exp_ln2_high = 0x1.62e430p-1f, exp_ln2_low = -0x1.05c610p-29f;
constexpr float exp_c2 = 0x1.fffffcp-2f, exp_c3 = 0x1.555492p-3f, exp_c4 = 0x1.5558f2p-5f, exp_c5 = 0x1.123a20p-7f, exp_c6 = 0x1.6a23d0p-10f;
constexpr float exp_lowest = -87.3f, exp_highest = 88.7228f;

/* The scalar form needs a real fused multiply-add: the builtin falls back to a correct library call without one. */
SY_ANYWHERE inline float sy_exp(float x) {
  if (x != x) return x;
  if (x < exp_lowest) return 0.0f;
  if (x > exp_highest) return INFINITY;
  const int32_t n = (int32_t)lrintf(x * exp_log2e);
  float r = __builtin_fmaf((float)n, -exp_ln2_high, x);
  r = __builtin_fmaf((float)n, -exp_ln2_low, r);
  float p = exp_c6;
  p = __builtin_fmaf(p, r, exp_c5);
  p = __builtin_fmaf(p, r, exp_c4);
  p = __builtin_fmaf(p, r, exp_c3);
  p = __builtin_fmaf(p, r, exp_c2);
  p = __builtin_fmaf(p, r, 1.0f);
  p = __builtin_fmaf(p, r, 1.0f);
  const int32_t half = n >> 1;
  const uint32_t first = (uint32_t)(half + 127) << 23, second = (uint32_t)(n - half + 127) << 23;
  float a, b;
  memcpy(&a, &first, 4);
  memcpy(&b, &second, 4);
  return (p * a) * b;
}

#if defined(__AVX2__) && defined(__FMA__)
inline __m256 sy_exp8(__m256 x) {
  const __m256i n = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(exp_log2e)));
  const __m256 nf = _mm256_cvtepi32_ps(n);
  __m256 r = _mm256_fmadd_ps(nf, _mm256_set1_ps(-exp_ln2_high), x);
  r = _mm256_fmadd_ps(nf, _mm256_set1_ps(-exp_ln2_low), r);
  const __m256 one = _mm256_set1_ps(1.0f);
  __m256 p = _mm256_set1_ps(exp_c6);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(exp_c5));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(exp_c4));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(exp_c3));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(exp_c2));
  p = _mm256_fmadd_ps(p, r, one);
  p = _mm256_fmadd_ps(p, r, one);
  const __m256i half = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
  const __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23));
  __m256 y = _mm256_mul_ps(_mm256_mul_ps(p, a), b);
  y = _mm256_blendv_ps(y, _mm256_setzero_ps(), _mm256_cmp_ps(x, _mm256_set1_ps(exp_lowest), _CMP_LT_OQ));
  y = _mm256_blendv_ps(y, _mm256_set1_ps(INFINITY), _mm256_cmp_ps(x, _mm256_set1_ps(exp_highest), _CMP_GT_OQ));
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
#endif

#if defined(__AVX512F__)
inline __m512 sy_exp16(__m512 x) {
  const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(exp_log2e)));
  const __m512 nf = _mm512_cvtepi32_ps(n);
  __m512 r = _mm512_fmadd_ps(nf, _mm512_set1_ps(-exp_ln2_high), x);
  r = _mm512_fmadd_ps(nf, _mm512_set1_ps(-exp_ln2_low), r);
  const __m512 one = _mm512_set1_ps(1.0f);
  __m512 p = _mm512_set1_ps(exp_c6);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(exp_c5));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(exp_c4));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(exp_c3));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(exp_c2));
  p = _mm512_fmadd_ps(p, r, one);
  p = _mm512_fmadd_ps(p, r, one);
  const __m512i half = _mm512_srai_epi32(n, 1), bias = _mm512_set1_epi32(127);
  const __m512 a = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
  const __m512 b = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(n, half), bias), 23));
  __m512 y = _mm512_mul_ps(_mm512_mul_ps(p, a), b);
  y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, _mm512_set1_ps(exp_lowest), _CMP_LT_OQ), _mm512_setzero_ps());
  y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, _mm512_set1_ps(exp_highest), _CMP_GT_OQ), _mm512_set1_ps(INFINITY));
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}
#endif

} // namespace
} // namespace sy
#endif
