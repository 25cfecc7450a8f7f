#if defined(__AVX2__)
#include <immintrin.h>

#include <cstring>

#include "numeric.h"
#include "square.h"

namespace sy {
namespace {

__m256i load(const void *at) { return _mm256_loadu_si256(static_cast<const __m256i *>(at)); }
void store(void *at, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(at), v); }

void pairs_of_bf16(const uint8_t *elements, uint32_t *words) {
  const __m256i magnitude_bits = _mm256_set1_epi16(0x7fff), sign = _mm256_set1_epi16((short)0x8000), quiet = _mm256_set1_epi16(0x40);
  for (int i = 0; i < group_k; i += 16) {
    const __m256i x = load(elements + 2 * i), magnitude = _mm256_and_si256(x, magnitude_bits);
    const __m256i tiny = _mm256_cmpgt_epi16(_mm256_set1_epi16(0x80), magnitude), nan = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(0x7f80));
    const __m256i kept = _mm256_blendv_epi8(x, _mm256_and_si256(x, sign), tiny);
    store(words + i / 2, _mm256_or_si256(kept, _mm256_and_si256(nan, quiet)));
  }
}

/* to_bf16() of eight, in the low halves. */
__m256i rounded(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i high = _mm256_srli_epi32(bits, 16), odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd)), 16);
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000)), is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
  const __m256i number = _mm256_blendv_epi8(nearest, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), is_nan);
  return _mm256_blendv_epi8(number, _mm256_and_si256(high, _mm256_set1_epi32(0x8000)), is_tiny);
}

void pairs_of_f32(const float *elements, uint32_t *words) {
  for (int i = 0; i < group_k; i += 16) {
    const __m256i packed = _mm256_packus_epi32(rounded(_mm256_loadu_ps(elements + i)), rounded(_mm256_loadu_ps(elements + i + 8)));
    store(words + i / 2, _mm256_permute4x64_epi64(packed, 0xd8));
  }
}

/* Steps of a group as int8, in order. */
float quantise(const float *elements, int steps, __m256i (&q)[2]) {
  __m256 v[group_k / 8];
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < group_k / 8; i++) {
    const __m256i bits = load(elements + 8 * i), magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    // Denormals are zero whoever packs, also outside FTZ|DAZ.
    const __m256i kept = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude), bits);
    v[i] = _mm256_castsi256_ps(kept);
    largest = _mm256_max_epi32(largest, _mm256_and_si256(kept, _mm256_set1_epi32(0x7fffffff)));
  }
  alignas(32) int32_t lanes[8];
  store(lanes, largest);
  int32_t most = 0;
  for (const int32_t lane : lanes) most = lane > most ? lane : most;
  const GroupScale scale = group_scale(float_of((uint32_t)most), most < 0x7f800000, (float)steps); // Magnitudes compare as integers.
  const __m256 inverse = _mm256_set1_ps(scale.inverse);
  const __m256i kept = _mm256_set1_epi32(scale.inverse == 0.0f ? 0 : -1), limit = _mm256_set1_epi32(steps), least = _mm256_set1_epi32(-steps);
  const auto whole = [&](int i) {
    const __m256i s = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse)), kept);
    return _mm256_min_epi32(_mm256_max_epi32(s, least), limit);
  };
  for (int half = 0; half < 2; half++) {
    const int i = half * 4;
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole(i), whole(i + 1)), _mm256_packs_epi32(whole(i + 2), whole(i + 3)));
    q[half] = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  return scale.scale;
}

float quantise_i8(const float *elements, uint32_t *words) {
  __m256i q[2];
  const float scale = quantise(elements, 127, q);
  for (int half = 0; half < 2; half++) store(words + half * 8, _mm256_xor_si256(q[half], _mm256_set1_epi8((char)0x80)));
  return scale;
}

float quantise_i4(const float *elements, uint32_t *words) {
  __m256i q[2];
  const float scale = quantise(elements, 7, q);
  for (int half = 0; half < 2; half++) {
    // Of each eight bytes the first four are low nibbles, the others high ones.
    const __m256i nibbles = _mm256_add_epi8(q[half], _mm256_set1_epi8(8)), merged = _mm256_or_si256(nibbles, _mm256_srli_epi64(nibbles, 28));
    const __m256i evens = _mm256_permutevar8x32_epi32(merged, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(words + half * 4), _mm256_castsi256_si128(evens));
  }
  return scale;
}

void turn(const uint32_t (*words)[square_words], int count, uint32_t *out) {
  for (int i = 0; i < count; i += 8)
    for (int column = 0; column < panel_columns; column += 8) {
      __m256i row[8], pair[8], four[8];
      for (int r = 0; r < 8; r++) row[r] = load(words[column + r] + i);
      for (int r = 0; r < 8; r += 2) {
        pair[r] = _mm256_unpacklo_epi32(row[r], row[r + 1]);
        pair[r + 1] = _mm256_unpackhi_epi32(row[r], row[r + 1]);
      }
      for (int r = 0; r < 8; r += 4) {
        four[r] = _mm256_unpacklo_epi64(pair[r], pair[r + 2]);
        four[r + 1] = _mm256_unpackhi_epi64(pair[r], pair[r + 2]);
        four[r + 2] = _mm256_unpacklo_epi64(pair[r + 1], pair[r + 3]);
        four[r + 3] = _mm256_unpackhi_epi64(pair[r + 1], pair[r + 3]);
      }
      for (int r = 0; r < 4; r++) {
        uint32_t *at = out + (i + r) * panel_columns + column;
        _mm256_stream_si256(reinterpret_cast<__m256i *>(at), _mm256_permute2x128_si256(four[r], four[r + 4], 0x20));
        _mm256_stream_si256(reinterpret_cast<__m256i *>(at + 4 * panel_columns), _mm256_permute2x128_si256(four[r], four[r + 4], 0x31));
      }
    }
}

void done() { _mm_sfence(); }

constexpr SquareOps ops{pairs_of_bf16, pairs_of_f32, quantise_i8, quantise_i4, turn, done};

} // namespace

const SquareOps *square_ops_avx2() { return &ops; }

} // namespace sy
#endif
