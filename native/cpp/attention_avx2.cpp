#include <immintrin.h>

#include "attention_lanes.h"
#include "exp.h"

namespace sy {
namespace {

struct Lanes {
  struct V {
    __m256 low, high;
  };
  struct M {
    __m256 low, high;
  };
  static constexpr int key_blocks = 1, value_lanes = 1;
  static V load(const float *at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
  static __m256 widen(const uint16_t *at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(at))), 16));
  }
  static V load(const uint16_t *at) { return {widen(at), widen(at + 8)}; }
  static void store(float *at, V x) {
    _mm256_storeu_ps(at, x.low);
    _mm256_storeu_ps(at + 8, x.high);
  }
  static V set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)}; }
  static V mul(V a, V b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static V add(V a, V b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static V sub(V a, V b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static V max(V a, V b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static V exp(V x) { return {sy_exp8(x.low), sy_exp8(x.high)}; }
  static float exp_scalar(float x) { return sy_exp(x); }
  /* Lanes first..last, both clamped to the block. */
  static M mask(int first, int last) {
    const __m256i below = _mm256_set1_epi32(first - 1), above = _mm256_set1_epi32(last + 1);
    const auto half = [&](__m256i lane) {
      return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, below), _mm256_cmpgt_epi32(above, lane)));
    };
    return {half(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)), half(_mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
  }
  static V select(M m, V x, V otherwise) { return {_mm256_blendv_ps(otherwise.low, x.low, m.low), _mm256_blendv_ps(otherwise.high, x.high, m.high)}; }
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
};

} // namespace

void attention_tile_avx2(const AttentionTile &tile) { attention_tile<Lanes>(tile); }

} // namespace sy
