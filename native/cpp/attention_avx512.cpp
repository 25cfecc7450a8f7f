/* gcc 12 takes the deliberately undefined pass-through operands inside its own AVX-512 intrinsics for mistakes. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include "attention_lanes.h"
#include "exp.h"

namespace sy {
namespace {

struct Lanes {
  using V = __m512;
  using M = __mmask16;
  static constexpr int key_blocks = 2, value_lanes = 4;
  static V load(const float *at) { return _mm512_loadu_ps(at); }
  static V load(const uint16_t *at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(at))), 16));
  }
  static void store(float *at, V x) { _mm512_storeu_ps(at, x); }
  static V set1(float x) { return _mm512_set1_ps(x); }
  static V zero() { return _mm512_setzero_ps(); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V exp(V x) { return sy_exp16(x); }
  static float exp_scalar(float x) { return sy_exp(x); }
  /* Lanes first..last, both clamped to the block. */
  static M mask(int first, int last) {
    const int from = first < 0 ? 0 : first, to = last > 15 ? 15 : last;
    return from > to ? 0 : (M)((0xffffu >> (15 - to)) & (0xffffu << from));
  }
  static V select(M m, V x, V otherwise) { return _mm512_mask_mov_ps(otherwise, m, x); }
  static float max_lane(V x) { return _mm512_reduce_max_ps(x); }
  /* The tree of the header: (j, j+8), (j, j+4), (j, j+2), (j, j+1). */
  static float sum_lanes(V x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

} // namespace

void attention_tile_avx512(const AttentionTile &tile) { attention_tile<Lanes>(tile); }

} // namespace sy
