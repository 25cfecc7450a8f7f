/*
 * Leaf kernels for AVX2 with FMA and F16C. The same arithmetic as tiles_avx512.cpp, with what this instruction set lacks spelled out:
 * products of bf16 pairs are two fma on widened values, products of int8 are formed in int16. Both are exact before the rounding that the order asks for.
 *
 * Sixteen registers hold at most 12 accumulators of 8 columns, so a kernel covers `chunks` of 8 columns: a whole panel for few rows, half of one for more.
 */
#if defined(__AVX2__) && !defined(__AVX512F__)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "gate.h"
#include "numeric.h"
#include "sum.h"
#include "tiles.h"

namespace sy {
namespace {

constexpr int most_rows = 6;
constexpr size_t near_ahead = 2048;
constexpr int lanes8 = 8;
constexpr int chunks_of_panel = panel_columns / lanes8;

int max_rows(int) { return most_rows; }

/* ---- tiles ---- */

/* Steps of one row and group. For int8 weights each quad x0..x3 is int16 (x0, x2), (x1, x3), because masking and shifting give a weight's even and odd
 * bytes; for int4 it is four int8. */
constexpr size_t steps_bytes(int format) { return format == SY_W_I8 ? group_k * 2 : group_k; }
constexpr size_t group_bytes(int format) { return steps_bytes(format) + 8; }

size_t row_bytes(int format, int k) { return quantised(format) ? (size_t)groups_of(k) * group_bytes(format) : (size_t)pairs_of(k) * 8; }

void pack_f32_row(const float *x, int count, int rows, float *tile) {
  if (rows == 1) memcpy(tile, x, (size_t)count * 4);
  else
    for (int i = 0; i < count; i++) tile[(size_t)i * rows] = x[i];
  if (count % 2) tile[(size_t)count * rows] = 0.0f;
}

/* Nearest even, a denormal becomes zero, a NaN stays one: to_bf16() and back, eight at a time. */
__m256 rounded(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i nearest = _mm256_add_epi32(bits, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd));
  const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000)), is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
  __m256i result = _mm256_blendv_epi8(nearest, _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000)), is_nan);
  result = _mm256_blendv_epi8(result, _mm256_and_si256(bits, _mm256_set1_epi32((int)0x80000000u)), is_tiny);
  return _mm256_castsi256_ps(_mm256_and_si256(result, _mm256_set1_epi32((int)0xffff0000u)));
}

__m256i first_lanes(int count) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }

void pack_rounded_row(const float *x, int count, int rows, float *tile) {
  for (int i = 0; i < count; i += lanes8) {
    alignas(32) float values[lanes8];
    _mm256_store_ps(values, rounded(_mm256_maskload_ps(x + i, first_lanes(count - i))));
    for (int j = 0; j < lanes8 && i + j < count; j++) tile[(size_t)(i + j) * rows] = values[j];
  }
  if (count % 2) tile[(size_t)count * rows] = 0.0f;
}

int32_t largest_lane(__m256i v) {
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i *>(lanes), v);
  int32_t largest = lanes[0];
  for (const int32_t lane : lanes) largest = lane > largest ? lane : largest;
  return largest;
}

void pack_group(int format, const float *x, int count, int rows, uint8_t *tile, int row) {
  __m256 v[group_k / lanes8];
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < group_k / lanes8; i++) {
    v[i] = rounded(_mm256_maskload_ps(x + i * lanes8, first_lanes(count - i * lanes8)));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v[i]), _mm256_set1_epi32(0x7fffffff)));
  }
  const uint32_t bits = (uint32_t)largest_lane(largest); // Magnitudes compare as integers.
  const GroupScale scale = group_scale(float_of(bits), bits < 0x7f800000u, 127.0f);
  const __m256 inverse = _mm256_set1_ps(scale.inverse);
  const __m256i kept = _mm256_set1_epi32(scale.inverse == 0.0f ? 0 : -1);
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  alignas(32) uint64_t quads[group_k / 4];
  int32_t sum = 0;
  for (int i = 0; i < group_k / lanes8; i += 2) {
    const auto steps = [&](__m256 values) {
      const __m256i q = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(values, inverse)), kept);
      return _mm256_min_epi32(_mm256_max_epi32(q, _mm256_set1_epi32(-127)), _mm256_set1_epi32(127));
    };
    const __m256i halves = _mm256_packs_epi32(steps(v[i]), steps(v[i + 1]));                            // quads 0, 2 | 1, 3
    const __m256i words = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(halves, 0xd8), order); // quads 0..3, each x0 x2 x1 x3
    _mm256_store_si256(reinterpret_cast<__m256i *>(quads + i * 2), words);
    alignas(32) int32_t sums[8];
    _mm256_store_si256(reinterpret_cast<__m256i *>(sums), _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
    for (const int32_t s : sums) sum += s;
  }
  for (int quad = 0; quad < group_k / 4; quad++) {
    if (format == SY_W_I8) {
      memcpy(tile + ((size_t)quad * rows + row) * 8, &quads[quad], 8);
      continue;
    }
    const uint64_t words = quads[quad]; // x0 x2 x1 x3 as int16
    const uint32_t bytes = (uint32_t)((words & 0xff) | (words >> 32 & 0xff) << 8 | (words >> 16 & 0xff) << 16 | (words >> 48 & 0xff) << 24);
    memcpy(tile + ((size_t)quad * rows + row) * 4, &bytes, 4);
  }
  const int32_t correction = -(format == SY_W_I8 ? 128 : 8) * sum; // Weights are stored with this added.
  uint8_t *after = tile + steps_bytes(format) * (size_t)rows + (size_t)row * 4;
  memcpy(after, &scale.scale, 4);
  memcpy(after + (size_t)rows * 4, &correction, 4);
}

void pack(int format, const float *x, int64_t ldx, const int32_t *index, int rows, int k0, int count, uint8_t *tile) {
  for (int row = 0; row < rows; row++) {
    const float *from = x + (index ? index[row] : row) * ldx;
    if (quantised(format))
      for (int i = 0; i < count; i += group_k)
        pack_group(format, from + i, count - i, rows, tile + (size_t)((k0 + i) / group_k) * group_bytes(format) * rows, row);
    else {
      float *at = reinterpret_cast<float *>(tile) + (size_t)k0 * rows + row;
      if (format == SY_W_BF16_X16) pack_rounded_row(from, count, rows, at);
      else pack_f32_row(from, count, rows, at);
    }
  }
}

/* ---- dot products ---- */

/* Masks stay in memory: the compiler would rather spill an accumulator than a constant. */
alignas(32) constexpr uint32_t high_halves[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
alignas(32) constexpr uint32_t low_bytes[8] = {0x00ff00ffu, 0x00ff00ffu, 0x00ff00ffu, 0x00ff00ffu, 0x00ff00ffu, 0x00ff00ffu, 0x00ff00ffu, 0x00ff00ffu};
alignas(32) constexpr uint32_t low_nibbles[8] = {0x0f0f0f0fu, 0x0f0f0f0fu, 0x0f0f0f0fu, 0x0f0f0f0fu, 0x0f0f0f0fu, 0x0f0f0f0fu, 0x0f0f0f0fu, 0x0f0f0f0fu};
inline __m256i masked(__m256i bits, const uint32_t (&mask)[8]) {
  __m256i result;
  __asm__("vpand %2, %1, %0" : "=x"(result) : "x"(bits), "m"(mask));
  return result;
}
/* Keeps an accumulator in its register and its sum in order: reassociated, integer sums take more registers than there are. */
inline void keep(__m256i &accumulator) { __asm__("" : "+x"(accumulator)); }

/* accumulator += a * b, in the accumulator's own register: with a compiler's choice of registers these loops take up to half as long again. */
inline void multiply_add(__m256 a, __m256 b, __m256 &accumulator) { __asm__("vfmadd231ps %2, %1, %0" : "+x"(accumulator) : "x"(a), "x"(b)); }

/* weights<odd>(w, chunk): 8 columns of the odd or even element of a pair. */
struct F32 {
  static constexpr int pair_bytes = panel_columns * 8, chunk_bytes = 32;
  template <int Odd> static __m256 weights(const uint8_t *w, int chunk) {
    return _mm256_load_ps(reinterpret_cast<const float *>(w + Odd * panel_columns * 4 + chunk * 32));
  }
  static void both(const uint8_t *w, int chunk, __m256 &odd, __m256 &even) {
    odd = weights<1>(w, chunk);
    even = weights<0>(w, chunk);
  }
};
struct F16 {
  static constexpr int pair_bytes = panel_columns * 4, chunk_bytes = 16;
  template <int Odd> static __m256 weights(const uint8_t *w, int chunk) {
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i *>(w + Odd * panel_columns * 2 + chunk * 16)));
  }
  static void both(const uint8_t *w, int chunk, __m256 &odd, __m256 &even) {
    odd = weights<1>(w, chunk);
    even = weights<0>(w, chunk);
  }
};
struct Bf16 {
  static constexpr int pair_bytes = panel_columns * 4, chunk_bytes = 32;
  template <int Odd> static __m256 weights(const uint8_t *w, int chunk) {
    const __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i *>(w + chunk * 32));
    return _mm256_castsi256_ps(Odd ? masked(pairs, high_halves) : _mm256_slli_epi32(pairs, 16));
  }
  static void both(const uint8_t *w, int chunk, __m256 &odd, __m256 &even) {
    const __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i *>(w + chunk * 32));
    odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000u)));
    even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  }
};

/* Whichever of weights and inputs needs fewer registers stays in them. Called instead of inlined, accumulators would go through memory. */
template <class Format, int Odd, int R, int C> __attribute__((always_inline)) inline void multiply(const float *x, const uint8_t *w, __m256 (&acc)[R][C]) {
  if constexpr (C <= 2) {
    __m256 weights[C];
#pragma GCC unroll 2
    for (int c = 0; c < C; c++) weights[c] = Format::template weights<Odd>(w, c);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const __m256 input = _mm256_broadcast_ss(x + Odd * R + r);
#pragma GCC unroll 2
      for (int c = 0; c < C; c++) multiply_add(input, weights[c], acc[r][c]);
    }
  } else {
    __m256 input[R];
#pragma GCC unroll 3
    for (int r = 0; r < R; r++) input[r] = _mm256_broadcast_ss(x + Odd * R + r);
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      const __m256 weights = Format::template weights<Odd>(w, c);
#pragma GCC unroll 3
      for (int r = 0; r < R; r++) multiply_add(input[r], weights, acc[r][c]);
    }
  }
}

/* Both elements of a pair for one or two rows, whose inputs stay in registers: weights are loaded once. */
template <class Format, int R, int C> __attribute__((always_inline)) inline void multiply_pair(const float *x, const uint8_t *w, __m256 (&acc)[R][C]) {
  __m256 odd_input[R], even_input[R];
#pragma GCC unroll 2
  for (int r = 0; r < R; r++) {
    odd_input[r] = _mm256_broadcast_ss(x + R + r);
    even_input[r] = _mm256_broadcast_ss(x + r);
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; c++) {
    __m256 odd, even;
    Format::both(w, c, odd, even);
#pragma GCC unroll 2
    for (int r = 0; r < R; r++) multiply_add(odd_input[r], odd, acc[r][c]);
#pragma GCC unroll 2
    for (int r = 0; r < R; r++) multiply_add(even_input[r], even, acc[r][c]);
  }
}

/* Adds `pairs` pairs to chunks first .. first+C of dots, and brings as many bytes from `ahead` on as it reads (TileOps::dot). */
template <class Format, int R, int C> void add_pairs(const float *x, const uint8_t *w, int first, int pairs, const uint8_t *ahead, float *dots) {
  constexpr int read = Format::pair_bytes * C / chunks_of_panel; /* of a pair */
  __m256 acc[R][C];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) acc[r][c] = _mm256_load_ps(dots + r * panel_columns + (first + c) * lanes8);
  w += first * Format::chunk_bytes;
#pragma GCC unroll 2
  for (; pairs > 0; pairs--, x += 2 * R, w += Format::pair_bytes, ahead += read) {
    if constexpr (R <= 2) multiply_pair<Format, R, C>(x, w, acc);
    else {
      multiply<Format, 1, R, C>(x, w, acc);
      multiply<Format, 0, R, C>(x, w, acc);
    }
    if constexpr (R > 2 || !std::is_same_v<Format, F32>) // With few fma to a line, the processor's own prefetching is enough, and better.
#pragma GCC unroll 4
      for (int i = 0; i < read; i += 64) _mm_prefetch(reinterpret_cast<const char *>(ahead + i), _MM_HINT_T1);
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) _mm256_store_ps(dots + r * panel_columns + (first + c) * lanes8, acc[r][c]);
}

/* Where a panel takes several passes, they alternate every few pairs, so that memory sees one linear stream and only the first pass waits for it; together they
 * bring what follows, line by line. (Zen 3, four rows: 13 GB/s with 64 pairs, 17 with 16, of 19 that can be read; with 8, loading and storing accumulators begins
 * to show.) */
template <class Format, int R> void add_stretch_of_pairs(const float *x, const uint8_t *w, int pairs, const uint8_t *ahead, float *dots) {
  constexpr int chunks = R <= 3 ? chunks_of_panel : 2;
  for (int first = 0; first < chunks_of_panel; first += chunks)
    add_pairs<Format, R, chunks>(x, w, first, pairs, ahead + (size_t)pairs * Format::pair_bytes * first / chunks_of_panel, dots);
}
template <class Format, int R> void dot_pairs(const uint8_t *tile, const uint8_t *w, int k, const uint8_t *ahead, float *dots) {
  const int all_pairs = pairs_of(k), most_pairs = R <= 3 ? all_pairs : 16;
  memset(dots, 0, sizeof(float) * R * panel_columns);
  const float *x = reinterpret_cast<const float *>(tile);
  for (int done = 0; done < all_pairs; done += most_pairs)
    add_stretch_of_pairs<Format, R>(x + (size_t)done * 2 * R, w + (size_t)done * Format::pair_bytes, std::min(most_pairs, all_pairs - done),
                                    ahead + (size_t)done * Format::pair_bytes, dots);
}

/* Adds the bytes (0, 2) or (1, 3) of one quad, as int16. x points at the first row's. */
template <int R, int C> void multiply_words(const int32_t *x, const __m256i (&words)[C], __m256i (&acc)[R][C]) {
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) {
    const __m256i input = _mm256_set1_epi32(x[2 * r]);
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
      acc[r][c] = _mm256_add_epi32(acc[r][c], _mm256_madd_epi16(words[c], input));
      keep(acc[r][c]);
    }
  }
}

/* What add_pairs does with `ahead`, for C chunks of one quad or octet of a quantised panel. */
template <int C> inline void bring(const uint8_t *ahead) {
#pragma GCC unroll 2
  for (int i = 0; i < C * 32; i += 64) _mm_prefetch(reinterpret_cast<const char *>(ahead + i), _MM_HINT_T1);
}

struct I8 {
  static constexpr int format = SY_W_I8, weight_bytes = group_k * panel_columns;
  template <int R, int C> static void multiply_quad(const int32_t *x, const uint8_t *w, __m256i (&acc)[R][C]) {
    __m256i words[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) words[c] = masked(_mm256_load_si256(reinterpret_cast<const __m256i *>(w) + c), low_bytes);
    multiply_words(x, words, acc);
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) words[c] = _mm256_srli_epi16(_mm256_load_si256(reinterpret_cast<const __m256i *>(w) + c), 8);
    multiply_words(x + 1, words, acc);
  }
  template <int R, int C> static void group(const int32_t *x, const uint8_t *w, const uint8_t *ahead, __m256i (&acc)[R][C]) {
    for (int quad = 0; quad < group_k / 4; quad++, x += 2 * R, w += panel_columns * 4) {
      bring<C>(ahead + quad * panel_columns * 4);
      multiply_quad(x, w, acc);
    }
  }
};

/* Unsigned nibbles times int8, in pairs: at most 15*127*2, so that eight of them fit the int16 that they are added in. */
struct I4 {
  static constexpr int format = SY_W_I4, weight_bytes = group_k / 2 * panel_columns, most_quads = 8;
  template <int R, int C> static void multiply_bytes(const int32_t *x, const __m256i (&bytes)[C], __m256i (&acc)[R][C]) {
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const __m256i input = _mm256_set1_epi32(x[r]);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        acc[r][c] = _mm256_add_epi16(acc[r][c], _mm256_maddubs_epi16(bytes[c], input));
        keep(acc[r][c]);
      }
    }
  }
  template <int R, int C> static void group(const int32_t *x, const uint8_t *w, const uint8_t *ahead, __m256i (&acc)[R][C]) {
    for (int quads = 0; quads < group_k / 4; quads += most_quads) {
      __m256i narrow[R][C];
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) narrow[r][c] = _mm256_setzero_si256();
      for (int octet = 0; octet < most_quads / 2; octet++, x += 2 * R, w += panel_columns * 4) {
        __m256i bytes[C];
        bring<C>(ahead + (quads / 2 + octet) * panel_columns * 4);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) bytes[c] = masked(_mm256_load_si256(reinterpret_cast<const __m256i *>(w) + c), low_nibbles);
        multiply_bytes(x, bytes, narrow);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) bytes[c] = masked(_mm256_srli_epi16(_mm256_load_si256(reinterpret_cast<const __m256i *>(w) + c), 4), low_nibbles);
        multiply_bytes(x + R, bytes, narrow);
      }
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) acc[r][c] = _mm256_add_epi32(acc[r][c], _mm256_madd_epi16(narrow[r][c], _mm256_set1_epi16(1)));
    }
  }
};

/* dots[chunk] += a group's sum times both scales; `scales` are the weights' of the panel. */
inline void scale_group(__m256i sum, __m256 x_scale, const uint8_t *scales, int chunk, float *dots) {
  float *at = dots + chunk * lanes8;
  const __m256 scale = _mm256_mul_ps(x_scale, _mm256_load_ps(reinterpret_cast<const float *>(scales) + chunk * lanes8));
  _mm256_store_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, _mm256_load_ps(at)));
}

/* Adds one group to chunks first .. first+C of dots. `w` is the group's weights, its scales follow. */
template <class Format, int R, int C> void add_group(const int32_t *steps, const uint8_t *w, int first, const uint8_t *ahead, float *dots) {
  const float *x_scale = reinterpret_cast<const float *>(steps + steps_bytes(Format::format) / 4 * R);
  const int32_t *correction = steps + (steps_bytes(Format::format) / 4 + 1) * R;
  __m256i acc[R][C];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) acc[r][c] = _mm256_set1_epi32(correction[r]);
  Format::group(steps, w + first * 32, ahead + first * 32, acc);
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) scale_group(acc[r][c], _mm256_set1_ps(x_scale[r]), w + Format::weight_bytes, first + c, dots + r * panel_columns);
}

template <class Format, int R> void dot_groups(const uint8_t *x, const uint8_t *w, int k, const uint8_t *ahead, float *dots) {
  constexpr int chunks = R == 1 ? chunks_of_panel : 2;
  memset(dots, 0, sizeof(float) * R * panel_columns);
  constexpr int bytes = Format::weight_bytes + panel_columns * 4;
  for (int groups = groups_of(k); groups > 0; groups--, x += group_bytes(Format::format) * R, w += bytes, ahead += bytes)
    for (int first = 0; first < chunks_of_panel; first += chunks) add_group<Format, R, chunks>(reinterpret_cast<const int32_t *>(x), w, first, ahead, dots);
}

template <class Format, int R> void dot_panel(const uint8_t *tile, const uint8_t *w, int k, const uint8_t *ahead, float *dots) {
  if constexpr (std::is_same_v<Format, I8> || std::is_same_v<Format, I4>) dot_groups<Format, R>(tile, w, k, ahead, dots);
  else dot_pairs<Format, R>(tile, w, k, ahead, dots);
}

using Dot = void (*)(const uint8_t *tile, const uint8_t *w, int k, const uint8_t *ahead, float *dots);
template <class Format, size_t... R> constexpr std::array<Dot, most_rows> table(std::index_sequence<R...>) { return {dot_panel<Format, (int)R + 1>...}; }
template <class Format> constexpr auto kernels = table<Format>(std::make_index_sequence<most_rows>()); /* [rows-1] */

Dot kernel(int format, int rows) {
  switch (format) {
  case SY_W_F32: return kernels<F32>[rows - 1];
  case SY_W_F16: return kernels<F16>[rows - 1];
  case SY_W_BF16:
  case SY_W_BF16_X16: return kernels<Bf16>[rows - 1];
  case SY_W_I8: return kernels<I8>[rows - 1];
  default: return kernels<I4>[rows - 1];
  }
}

/* `steps` pairs or groups from number `done` on, added to dots. */
using Stretch = void (*)(const uint8_t *tile, const uint8_t *w, int done, int steps, const uint8_t *ahead, float *dots);
template <class Format, int R> void add_stretch(const uint8_t *tile, const uint8_t *w, int done, int steps, const uint8_t *ahead, float *dots) {
  if constexpr (std::is_same_v<Format, I8> || std::is_same_v<Format, I4>) {
    constexpr int bytes = Format::weight_bytes + panel_columns * 4;
    for (int group = done; group < done + steps; group++)
      for (int first = 0; first < chunks_of_panel; first += 2)
        add_group<Format, R, 2>(reinterpret_cast<const int32_t *>(tile + (size_t)group * group_bytes(Format::format) * R), w + (size_t)group * bytes, first,
                                ahead + (size_t)group * bytes, dots);
  } else {
    const auto *x = reinterpret_cast<const float *>(tile) + (size_t)done * 2 * R;
    add_stretch_of_pairs<Format, R>(x, w + (size_t)done * Format::pair_bytes, steps, ahead + (size_t)done * Format::pair_bytes, dots);
  }
}
template <class Format, size_t... R> constexpr std::array<Stretch, most_rows> stretches(std::index_sequence<R...>) { return {add_stretch<Format, (int)R + 1>...}; }
template <class Format> constexpr auto stretch_of = stretches<Format>(std::make_index_sequence<most_rows>()); /* [rows-1] */

const Stretch *stretch(int format) {
  switch (format) {
  case SY_W_F32: return stretch_of<F32>.data();
  case SY_W_F16: return stretch_of<F16>.data();
  case SY_W_BF16:
  case SY_W_BF16_X16: return stretch_of<Bf16>.data();
  case SY_W_I8: return stretch_of<I8>.data();
  default: return stretch_of<I4>.data();
  }
}

void dot_tiles(int format, const uint8_t *tiles, size_t row_bytes, const Tiling &tiling, int first, int end, const uint8_t *panel, int k, const uint8_t *ahead,
               float *dots) {
  const int first_row = tiling.first(first), steps = quantised(format) ? groups_of(k) : pairs_of(k);
  // Half of the nearest cache for many tiles, which multiply longer than they wait for weights; few want weights in small pieces, as dot_pairs does.
  const int most_steps = quantised(format) ? 4 : end - first < 4 ? 32 : format == SY_W_F32 ? 64 : 128;
  const Stretch *add = stretch(format);
  memset(dots, 0, sizeof(float) * (size_t)(tiling.first(end) - first_row) * panel_columns);
  for (int done = 0; done < steps; done += most_steps)
    for (int tile = first; tile < end; tile++) {
      const int row = tiling.first(tile);
      add[tiling.height(tile) - 1](tiles + (size_t)row * row_bytes, panel, done, most_steps < steps - done ? most_steps : steps - done, ahead,
                                   dots + (size_t)(row - first_row) * panel_columns);
    }
}

/* ---- few rows, panels side by side ---- */

/* One row of a tile of T rows times `panels` P that lie side by side, added to dots[panel][T][32]: x and dots point at the row's. */
template <class Format, int T, int P> void add_row(const float *x, const uint8_t *w, size_t stride, int pairs, float *dots) {
  __m256 acc[P][chunks_of_panel];
#pragma GCC unroll 3
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int c = 0; c < chunks_of_panel; c++) acc[p][c] = _mm256_load_ps(dots + p * T * panel_columns + c * lanes8);
  for (; pairs > 0; pairs--, x += 2 * T, w += Format::pair_bytes) {
    const __m256 odd_input = _mm256_broadcast_ss(x + T), even_input = _mm256_broadcast_ss(x);
#pragma GCC unroll 3
    for (int p = 0; p < P; p++)
#pragma GCC unroll 4
      for (int c = 0; c < chunks_of_panel; c++) {
        __m256 odd, even;
        Format::both(w + p * stride, c, odd, even);
        multiply_add(odd_input, odd, acc[p][c]);
        multiply_add(even_input, even, acc[p][c]);
      }
  }
#pragma GCC unroll 3
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int c = 0; c < chunks_of_panel; c++) _mm256_store_ps(dots + p * T * panel_columns + c * lanes8, acc[p][c]);
}

/* The same for one group of int8. `row` is the row's number in the tile. */
template <int T, int P> void add_row_of_group(const int32_t *steps, int row, const uint8_t *w, size_t stride, float *dots) {
  const __m256 x_scale = _mm256_broadcast_ss(reinterpret_cast<const float *>(steps + steps_bytes(SY_W_I8) / 4 * T) + row);
  const int32_t correction = steps[(steps_bytes(SY_W_I8) / 4 + 1) * T + (size_t)row];
  __m256i acc[P][1][chunks_of_panel];
#pragma GCC unroll 3
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int c = 0; c < chunks_of_panel; c++) acc[p][0][c] = _mm256_set1_epi32(correction);
  const int32_t *x = steps + 2 * row;
  const uint8_t *here = w;
  for (int quad = 0; quad < group_k / 4; quad++, x += 2 * T, here += panel_columns * 4)
#pragma GCC unroll 3
    for (int p = 0; p < P; p++) I8::multiply_quad(x, here + p * stride, acc[p]);
#pragma GCC unroll 3
  for (int p = 0; p < P; p++)
#pragma GCC unroll 4
    for (int c = 0; c < chunks_of_panel; c++) scale_group(acc[p][0][c], x_scale, w + p * stride + I8::weight_bytes, c, dots + p * T * panel_columns);
}

/* Rows take turns at each short stretch of the panels: the first waits for memory, the others find it in the nearest cache. One panel after the other, a row
 * reads as fast as the processor fetches ahead in one stream. (Zen 3, two cores, bf16: one row 29 GB/s, 37 with three streams; two rows 25 and 29.) */
template <class Format, int T, int P> void dot_streams_of(const uint8_t *tile, const uint8_t *w, size_t stride, int k, float *dots) {
  memset(dots, 0, sizeof(float) * T * P * panel_columns);
  if constexpr (std::is_same_v<Format, I8>) {
    constexpr int bytes = I8::weight_bytes + panel_columns * 4;
    for (int groups = groups_of(k); groups > 0; groups--, tile += group_bytes(SY_W_I8) * T, w += bytes)
      for (int row = 0; row < T; row++) add_row_of_group<T, P>(reinterpret_cast<const int32_t *>(tile), row, w, stride, dots + row * panel_columns);
  } else {
    const int all_pairs = pairs_of(k), most_pairs = T == 1 ? all_pairs : 8;
    for (int done = 0; done < all_pairs; done += most_pairs)
      for (int row = 0; row < T; row++)
        add_row<Format, T, P>(reinterpret_cast<const float *>(tile) + (size_t)done * 2 * T + row, w + (size_t)done * Format::pair_bytes, stride,
                              most_pairs < all_pairs - done ? most_pairs : all_pairs - done, dots + row * panel_columns);
  }
}

/* Sums of int4 take two sets of registers, so that one panel fills them. */
int streamed_rows(int format) { return format == SY_W_I4 ? 0 : most_streamed_rows; }

/* In threes, and twos where that leaves no panel alone. */
static_assert(side_by_side == 3 && most_streamed_rows == 2);
template <class Format, int T> void dot_in_threes(const uint8_t *tile, const uint8_t *panel, size_t stride, int panels, int k, float *dots) {
  for (int left = panels; left > 0;) {
    const int taken = left == 1 ? 1 : left == 2 || left == 4 ? 2 : side_by_side;
    if (taken == 3) dot_streams_of<Format, T, 3>(tile, panel, stride, k, dots);
    else if (taken == 2) dot_streams_of<Format, T, 2>(tile, panel, stride, k, dots);
    else dot_panel<Format, T>(tile, panel, k, panel + near_ahead, dots);
    left -= taken;
    panel += (size_t)taken * stride;
    dots += taken * T * panel_columns;
  }
}
template <class Format> void dot_in_threes(const uint8_t *tile, int rows, const uint8_t *panel, size_t stride, int panels, int k, float *dots) {
  if (rows == 1) dot_in_threes<Format, 1>(tile, panel, stride, panels, k, dots);
  else dot_in_threes<Format, 2>(tile, panel, stride, panels, k, dots);
}

void dot_streams(int format, const uint8_t *tile, int rows, const uint8_t *panel, size_t stride, int panels, int k, float *dots) {
  switch (format) {
  case SY_W_F32: return dot_in_threes<F32>(tile, rows, panel, stride, panels, k, dots);
  case SY_W_F16: return dot_in_threes<F16>(tile, rows, panel, stride, panels, k, dots);
  case SY_W_I8: return dot_in_threes<I8>(tile, rows, panel, stride, panels, k, dots);
  default: return dot_in_threes<Bf16>(tile, rows, panel, stride, panels, k, dots);
  }
}

/* Of one row several panels side by side are faster from a cache too: the chains of one panel's four sums leave the multipliers half idle. */
void dot(int format, const uint8_t *tile, int rows, const uint8_t *panel, size_t stride, int panels, int k, const uint8_t *ahead, float *dots) {
  if (rows == 1 && panels > 1 && streamed_rows(format) > 0) return dot_streams(format, tile, rows, panel, stride, panels, k, dots);
  const Dot one = kernel(format, rows);
  for (int p = 0; p < panels; p++) one(tile, panel + p * stride, k, ahead + p * stride, dots + p * rows * panel_columns);
}

/* ---- what is done with dot products: 8 columns at a time, the end by masks ---- */

/* A masked store takes these processors dozens of steps: only the last columns pay for it. */
inline void store_first(float *at, __m256i lanes, int count, __m256 v) {
  if (count >= lanes8) _mm256_storeu_ps(at, v);
  else _mm256_maskstore_ps(at, lanes, v);
}

void store(const float *dots, int rows, int first, int count, const float *bias, float scale, bool add, float *out, int64_t ldo) {
  const __m256 s = _mm256_set1_ps(scale);
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < count; i += 8) {
      const __m256i lanes = first_lanes(count - i);
      __m256 v = _mm256_maskload_ps(dots + row * panel_columns + first + i, lanes);
      if (bias) v = _mm256_add_ps(v, _mm256_maskload_ps(bias + i, lanes));
      float *at = out + row * ldo + i;
      v = add ? _mm256_fmadd_ps(s, v, _mm256_maskload_ps(at, lanes)) : _mm256_mul_ps(s, v);
      store_first(at, lanes, count - i, v);
    }
}

void gate(const sy_experts_desc &desc, const float *gate, const float *up, int rows, int count, const float *gate_bias, const float *up_bias, float *out,
          int64_t ldo) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < count; i += 8) {
      const __m256i lanes = first_lanes(count - i);
      __m256 g = _mm256_load_ps(gate + row * panel_columns + i), u = _mm256_load_ps(up + row * panel_columns + i);
      if (gate_bias) {
        g = _mm256_add_ps(g, _mm256_maskload_ps(gate_bias + i, lanes));
        u = _mm256_add_ps(u, _mm256_maskload_ps(up_bias + i, lanes));
      }
      store_first(out + row * ldo + i, lanes, count - i, gated8(desc.activation, desc.alpha, desc.limit, g, u));
    }
}

__m256 contribution(const float *dots, const float *bias, __m256 weight, __m256i lanes) {
  __m256 y = _mm256_maskload_ps(dots, lanes);
  if (bias) y = _mm256_add_ps(y, _mm256_maskload_ps(bias, lanes));
  return _mm256_mul_ps(weight, y);
}

__m256 magnitude(__m256 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

/* Steps beyond int32 are rare: the grid is chosen so that they mean nearly overflowing weights. False for NaN or beyond the limit. */
bool add_wide(const float *steps, int count, int64_t *sum) {
  bool good = true;
  for (int i = 0; i < count; i++) {
    if (std::fabs(steps[i]) < contribution_limit) sum[i] += (int64_t)llrintf(steps[i]);
    else good = false;
  }
  return good;
}

bool contribute_exact(const float *dots, const float *bias, float weight, float steps_per_unit, int count, int64_t *sum) {
  const __m256 w = _mm256_set1_ps(weight), unit = _mm256_set1_ps(steps_per_unit), int32_limit = _mm256_set1_ps(2147483648.0f);
  bool good = true;
  for (int i = 0; i < count; i += 8) {
    const __m256 steps = _mm256_mul_ps(contribution(dots + i, bias ? bias + i : nullptr, w, first_lanes(count - i)), unit);
    const bool narrow = _mm256_movemask_ps(_mm256_cmp_ps(magnitude(steps), int32_limit, _CMP_NLT_UQ)) == 0;
    if (!narrow || count - i < 8) {
      alignas(32) float values[8];
      _mm256_store_ps(values, steps);
      good &= add_wide(values, count - i < 8 ? count - i : 8, sum + i);
      continue;
    }
    const __m256i integers = _mm256_cvtps_epi32(steps);
    __m256i *low = reinterpret_cast<__m256i *>(sum + i), *high = low + 1;
    _mm256_storeu_si256(low, _mm256_add_epi64(_mm256_loadu_si256(low), _mm256_cvtepi32_epi64(_mm256_castsi256_si128(integers))));
    _mm256_storeu_si256(high, _mm256_add_epi64(_mm256_loadu_si256(high), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(integers, 1))));
  }
  return good;
}

void contribute_fast(const float *dots, const float *bias, float weight, int count, float *sum) {
  const __m256 w = _mm256_set1_ps(weight);
  for (int i = 0; i < count; i += 8) {
    const __m256i lanes = first_lanes(count - i);
    const __m256 c = contribution(dots + i, bias ? bias + i : nullptr, w, lanes);
    store_first(sum + i, lanes, count - i, _mm256_add_ps(_mm256_maskload_ps(sum + i, lanes), c));
  }
}

void combine_exact(const int64_t *sum, int count, float unit, float multiplier, const float *shared, float *residual) {
  for (int i = 0; i < count; i++) {
    float m = (float)sum[i] * unit;
    if (shared) m = m + shared[i];
    residual[i] = __builtin_fmaf(multiplier, m, residual[i]);
  }
}

void combine_fast(const float *sum, int count, float multiplier, const float *shared, float *residual) {
  for (int i = 0; i < count; i++) {
    float m = sum[i];
    if (shared) m = m + shared[i];
    residual[i] = __builtin_fmaf(multiplier, m, residual[i]);
  }
}

constexpr TileOps ops{near_ahead, max_rows,         row_bytes,       pack,          dot,         streamed_rows, dot_streams, dot_tiles, store,
                      gate,       contribute_exact, contribute_fast, combine_exact, combine_fast};

} // namespace

const TileOps *tile_ops_avx2() { return &ops; }

} // namespace sy
#endif
