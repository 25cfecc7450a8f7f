/* Sixteen lanes of f32 or i32 in one AVX-512 register. lanes_avx2.h has the same interface: what is written over it is written once. */
#ifndef SWITCHYARD_LANES_AVX512_H
#define SWITCHYARD_LANES_AVX512_H

/* gcc 12 takes the deliberately undefined pass-through operands inside its own AVX-512 intrinsics for mistakes. */
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include "gate.h"

namespace sy {
namespace {

struct Lanes {
  using V = __m512;  /* f32 */
  using I = __m512i; /* i32 */
  using M = __mmask16;

  static V load(const float *at) { return _mm512_loadu_ps(at); }
  static V load(const uint16_t *at) { /* bf16 */
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(at))), 16));
  }
  static void store(float *at, V x) { _mm512_storeu_ps(at, x); }
  /* The first n lanes, 0 <= n <= 16; the others are 0, or not written. */
  static V load_first(const float *at, int n) { return _mm512_maskz_loadu_ps(first(n), at); }
  static void store_first(float *at, V x, int n) { _mm512_mask_storeu_ps(at, first(n), x); }
  static M first(int n) { return (M)((1u << n) - 1u); }

  static V set1(float x) { return _mm512_set1_ps(x); }
  static V zero() { return _mm512_setzero_ps(); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V negate(V a) { return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0x80000000u))); }
  /* a > b ? a : b and a < b ? a : b: the second operand when either is NaN. */
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V min(V a, V b) { return _mm512_min_ps(a, b); }
  static V exp(V x) { return sy_exp16(x); }
  static V sigmoid(V x) { return sigmoid16(x); }
  static V gated(int activation, float alpha, float limit, V g, V u) { return gated16(activation, alpha, limit, g, u); }

  /* Lanes first..last, both clamped to the sixteen. */
  static M mask(int first, int last) {
    const int from = first < 0 ? 0 : first, to = last > 15 ? 15 : last;
    return from > to ? 0 : (M)((0xffffu >> (15 - to)) & (0xffffu << from));
  }
  static V select(M m, V x, V otherwise) { return _mm512_mask_mov_ps(otherwise, m, x); }
  static bool any_nan(V x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }

  static float max_lane(V x) { return _mm512_reduce_max_ps(x); }
  /* The tree of the header: (j, j+8), (j, j+4), (j, j+2), (j, j+1). */
  static float sum_lanes(V x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

  /* at[0..32) as its even and its odd elements, and back. */
  static void load_pairs(const float *at, V &even, V &odd) {
    const V a = load(at), b = load(at + 16);
    const I evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even = _mm512_permutex2var_ps(a, evens, b);
    odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), b);
  }
  static void store_pairs(float *at, V even, V odd) {
    const I low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    store(at, _mm512_permutex2var_ps(even, low, odd));
    store(at + 16, _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd));
  }
  /* Sixteen rows of sixteen, in place: row[i] lane j becomes row[j] lane i. */
  static void transpose(V (&row)[16]) {
    V pair[16], quad[16];
    for (int i = 0; i < 16; i += 2) {
      pair[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
      pair[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
      for (int j = 0; j < 2; j++) {
        const __m512d a = _mm512_castps_pd(pair[i + j]), b = _mm512_castps_pd(pair[i + 2 + j]);
        quad[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        quad[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
      }
    for (int j = 0; j < 4; j++) { // quad[4*i + j] holds, in its four 128-bit parts, rows 4*i .. 4*i+3 of columns j, j+4, j+8, j+12.
      const V low = _mm512_shuffle_f32x4(quad[j], quad[4 + j], 0x88), low_odd = _mm512_shuffle_f32x4(quad[j], quad[4 + j], 0xdd);
      const V high = _mm512_shuffle_f32x4(quad[8 + j], quad[12 + j], 0x88), high_odd = _mm512_shuffle_f32x4(quad[8 + j], quad[12 + j], 0xdd);
      row[j] = _mm512_shuffle_f32x4(low, high, 0x88);
      row[j + 4] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
      row[j + 8] = _mm512_shuffle_f32x4(low, high, 0xdd);
      row[j + 12] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
    }
  }

  static I load_int(const int32_t *at) { return _mm512_loadu_si512(at); }
  static void store_int(int32_t *at, I x) { _mm512_storeu_si512(at, x); }
  static I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
  static int32_t max_lane_int(I x) { return _mm512_reduce_max_epi32(x); }
  /* One bit a lane. */
  static unsigned equal(V a, float b) { return _mm512_cmp_ps_mask(a, _mm512_set1_ps(b), _CMP_EQ_OQ); }
  static unsigned equal_int(I a, int32_t b) { return _mm512_cmpeq_epi32_mask(a, _mm512_set1_epi32(b)); }
  /* a with one lane replaced. */
  static I replace_lane(I a, int lane, int32_t value) { return _mm512_mask_set1_epi32(a, (M)(1u << lane), value); }
  /* Integers in the order of the floats; -0 counts as +0. */
  static I ordered(V x) {
    const I bits = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
    return _mm512_xor_si512(bits, _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1));
  }
};

} // namespace
} // namespace sy
#endif
