/* Sixteen lanes of f32 or i32 in two AVX2 registers. lanes_avx512.h has the same interface: what is written over it is written once. */
#ifndef SWITCHYARD_LANES_AVX2_H
#define SWITCHYARD_LANES_AVX2_H

#include <immintrin.h>

#include "gate.h"

namespace sy {
namespace {

struct Lanes {
  struct V {
    __m256 low, high;
  };
  struct I {
    __m256i low, high;
  };
  struct M {
    __m256 low, high;
  };

  static V load(const float *at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
  static __m256 widen(const uint16_t *at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(at))), 16));
  }
  static V load(const uint16_t *at) { return {widen(at), widen(at + 8)}; } /* bf16 */
  static void store(float *at, V x) {
    _mm256_storeu_ps(at, x.low);
    _mm256_storeu_ps(at + 8, x.high);
  }
  /* The first n lanes, 0 <= n <= 16; the others are 0, or not written. */
  static V load_first(const float *at, int n) {
    const M m = first(n);
    return {_mm256_maskload_ps(at, _mm256_castps_si256(m.low)), _mm256_maskload_ps(at + 8, _mm256_castps_si256(m.high))};
  }
  static void store_first(float *at, V x, int n) {
    const M m = first(n);
    _mm256_maskstore_ps(at, _mm256_castps_si256(m.low), x.low);
    _mm256_maskstore_ps(at + 8, _mm256_castps_si256(m.high), x.high);
  }
  static M first(int n) { return mask(0, n - 1); }

  static V set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
  static V mul(V a, V b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static V add(V a, V b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static V sub(V a, V b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static V div(V a, V b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static V negate(V a) { return {_mm256_xor_ps(a.low, _mm256_set1_ps(-0.0f)), _mm256_xor_ps(a.high, _mm256_set1_ps(-0.0f))}; }
  /* a > b ? a : b and a < b ? a : b: the second operand when either is NaN. */
  static V max(V a, V b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static V min(V a, V b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static V exp(V x) { return {sy_exp8(x.low), sy_exp8(x.high)}; }
  static V sigmoid(V x) { return {sigmoid8(x.low), sigmoid8(x.high)}; }
  static V gated(int activation, float alpha, float limit, V g, V u) {
    return {gated8(activation, alpha, limit, g.low, u.low), gated8(activation, alpha, limit, g.high, u.high)};
  }

  /* Lanes first..last, both clamped to the sixteen. */
  static M mask(int first, int last) {
    const __m256i below = _mm256_set1_epi32(first - 1), above = _mm256_set1_epi32(last + 1);
    const auto half = [&](__m256i lane) {
      return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, below), _mm256_cmpgt_epi32(above, lane)));
    };
    return {half(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)), half(_mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
  }
  static V select(M m, V x, V otherwise) { return {_mm256_blendv_ps(otherwise.low, x.low, m.low), _mm256_blendv_ps(otherwise.high, x.high, m.high)}; }
  static bool any_nan(V x) {
    const __m256 low = _mm256_cmp_ps(x.low, x.low, _CMP_UNORD_Q), high = _mm256_cmp_ps(x.high, x.high, _CMP_UNORD_Q);
    return _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0;
  }

  static float max_lane(V x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  /* The tree of the header: (j, j+8), (j, j+4), (j, j+2), (j, j+1). */
  static float sum_lanes(V x) {
    const __m256 eight = _mm256_add_ps(x.low, x.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

  /* at[0..32) as its even and its odd elements, and back. */
  static void load_pairs(const float *at, V &even, V &odd) {
    const auto split = [](const float *from, __m256 &evens, __m256 &odds) {
      const __m256 a = _mm256_loadu_ps(from), b = _mm256_loadu_ps(from + 8);
      const __m256 first = _mm256_permute2f128_ps(a, b, 0x20), second = _mm256_permute2f128_ps(a, b, 0x31);
      evens = _mm256_shuffle_ps(first, second, 0x88);
      odds = _mm256_shuffle_ps(first, second, 0xdd);
    };
    split(at, even.low, odd.low);
    split(at + 16, even.high, odd.high);
  }
  static void store_pairs(float *at, V even, V odd) {
    const auto merge = [](float *to, __m256 evens, __m256 odds) {
      const __m256 low = _mm256_unpacklo_ps(evens, odds), high = _mm256_unpackhi_ps(evens, odds);
      _mm256_storeu_ps(to, _mm256_permute2f128_ps(low, high, 0x20));
      _mm256_storeu_ps(to + 8, _mm256_permute2f128_ps(low, high, 0x31));
    };
    merge(at, even.low, odd.low);
    merge(at + 16, even.high, odd.high);
  }
  /* Eight rows of eight, in place: row[i] lane j becomes row[j] lane i. */
  static void transpose(__m256 (&row)[8]) {
    __m256 pair[8], quad[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
      pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
      quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
      quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
      quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      row[i] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
      row[i + 4] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
    }
  }
  /* Sixteen rows of sixteen, in place: row[i] lane j becomes row[j] lane i. A quarter at a time, for which there are registers. */
  static void transpose(V (&row)[16]) {
    __m256 quarter[2][2][8]; // [rows][lanes]
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      quarter[0][0][i] = row[i].low;
      quarter[0][1][i] = row[i].high;
      quarter[1][0][i] = row[8 + i].low;
      quarter[1][1][i] = row[8 + i].high;
    }
    for (int rows = 0; rows < 2; rows++)
      for (int lanes = 0; lanes < 2; lanes++) transpose(quarter[rows][lanes]);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      row[i] = {quarter[0][0][i], quarter[1][0][i]};
      row[8 + i] = {quarter[0][1][i], quarter[1][1][i]};
    }
  }

  static I load_int(const int32_t *at) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(at)), _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at + 8))};
  }
  static void store_int(int32_t *at, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(at), x.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(at + 8), x.high);
  }
  static I max_int(I a, I b) { return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)}; }
  static int32_t max_lane_int(I x) {
    const __m256i eight = _mm256_max_epi32(x.low, x.high);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
  }
  /* One bit a lane. */
  static unsigned equal(V a, float b) {
    const __m256 wanted = _mm256_set1_ps(b);
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.low, wanted, _CMP_EQ_OQ)) | (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.high, wanted, _CMP_EQ_OQ)) << 8;
  }
  static unsigned equal_int(I a, int32_t b) {
    const __m256i wanted = _mm256_set1_epi32(b);
    const auto bits = [&](__m256i half) { return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(half, wanted))); };
    return bits(a.low) | bits(a.high) << 8;
  }
  /* a with one lane replaced. */
  static I replace_lane(I a, int lane, int32_t value) {
    const __m256i wanted = _mm256_set1_epi32(lane), replacement = _mm256_set1_epi32(value);
    const __m256i low = _mm256_cmpeq_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), wanted);
    const __m256i high = _mm256_cmpeq_epi32(_mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15), wanted);
    return {_mm256_blendv_epi8(a.low, replacement, low), _mm256_blendv_epi8(a.high, replacement, high)};
  }
  /* Integers in the order of the floats; -0 counts as +0. */
  static I ordered(V x) {
    const auto half = [](__m256 floats) {
      const __m256i bits = _mm256_castps_si256(_mm256_add_ps(floats, _mm256_setzero_ps()));
      return _mm256_xor_si256(bits, _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1));
    };
    return {half(x.low), half(x.high)};
  }
};

} // namespace
} // namespace sy
#endif
