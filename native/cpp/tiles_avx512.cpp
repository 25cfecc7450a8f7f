/*
 * Leaf kernels for AVX-512 with BF16 and VNNI (Zen 4, Sapphire Rapids and later).
 *
 * A dot kernel keeps `rows * panels * 2` accumulators of 16 columns in registers over the whole of k: at most 24, which leaves room for two vectors of
 * weights and a broadcast input. Every loop over accumulators must be unrolled, or gcc keeps them in memory.
 */
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // in gcc 12's own _mm512_undefined_*()
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "gate.h"
#include "numeric.h"
#include "sum.h"
#include "tiles.h"

namespace sy {
namespace {

/* Rows * panels of one dot kernel. A quantised kernel keeps an integer and an f32 accumulator for every product. */
constexpr int most_row_panels = 12, most_quantised_row_panels = 8;

int max_rows(int format) { return quantised(format) ? most_quantised_row_panels : most_row_panels; }

__mmask16 first_lanes(int count) { return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (count < 0 ? 0 : count)) - 1u); }

/* ---- tiles ---- */

constexpr size_t group_bytes = group_k + 8; /* of one row: steps, scale, correction */

bool f32_input(int format) { return format == SY_W_F32 || format == SY_W_F16 || format == SY_W_BF16; }

/*
 * Products of bf16 pairs are one instruction (`Paired`) or two fma on widened values: the same bits. Sapphire Rapids does half as many multiply-adds a cycle by the
 * instruction as by fma (86 GFLOP/s a thread against 145), Zen 4 does not.
 */
template <bool Paired> size_t row_bytes(int format, int k) {
  if (f32_input(format) || (format == SY_W_BF16_X16 && !Paired)) return (size_t)pairs_of(k) * 8;
  return format == SY_W_BF16_X16 ? (size_t)pairs_of(k) * 4 : (size_t)groups_of(k) * group_bytes;
}

void pack_f32_row(const float *x, int count, int rows, float *tile) {
  if (rows == 1) memcpy(tile, x, (size_t)count * 4);
  else
    for (int i = 0; i < count; i++) tile[(size_t)i * rows] = x[i];
  if (count % 2) tile[(size_t)count * rows] = 0.0f;
}

__m512i round_pairs(const float *x, int count) {
  const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count), x), high = _mm512_maskz_loadu_ps(first_lanes(count - 16), x + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

void pack_bf16_row(const float *x, int count, int rows, uint32_t *tile) {
  for (int i = 0; i < count; i += 32) {
    const __m512i pairs = round_pairs(x + i, count - i);
    const int stored = pairs_of(count - i) < 16 ? pairs_of(count - i) : 16;
    uint32_t *at = tile + (size_t)(i / 2) * rows;
    if (rows == 1) {
      _mm512_mask_storeu_epi32(at, first_lanes(stored), pairs);
      continue;
    }
    alignas(64) uint32_t pair[16];
    _mm512_store_si512(pair, pairs);
    for (int p = 0; p < stored; p++) at[(size_t)p * rows] = pair[p];
  }
}

__m512 widened(__m256bh values) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)values), 16)); }

void pack_rounded_row(const float *x, int count, int rows, float *tile) {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 rounded = widened(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, x + i)));
    if (rows == 1) {
      _mm512_mask_storeu_ps(tile + i, lanes, rounded);
      continue;
    }
    alignas(64) float values[16];
    _mm512_store_ps(values, rounded);
    for (int j = 0; j < 16 && i + j < count; j++) tile[(size_t)(i + j) * rows] = values[j];
  }
  if (count % 2) tile[(size_t)count * rows] = 0.0f;
}

/* One group of one row: bf16 rounding, then steps of the group's scale. `offset` is what the weights of this format carry too much. */
void pack_group(const float *x, int count, int offset, int rows, uint8_t *tile, int row) {
  __m512 v[4];
  __m512i largest = _mm512_setzero_si512();
  for (int i = 0; i < 4; i++) {
    v[i] = widened(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first_lanes(count - i * 16), x + i * 16)));
    largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(v[i]), _mm512_set1_epi32(0x7fffffff)));
  }
  const uint32_t bits = _mm512_reduce_max_epu32(largest); // Magnitudes compare as integers.
  const GroupScale scale = group_scale(float_of(bits), bits < 0x7f800000u, 127.0f);
  const __m512 inverse = _mm512_set1_ps(scale.inverse);
  const __mmask16 kept = scale.inverse == 0.0f ? 0 : 0xffff;
  alignas(64) uint32_t quads[16];
  __m512i sum = _mm512_setzero_si512();
  for (int i = 0; i < 4; i++) {
    __m512i q = _mm512_maskz_cvtps_epi32(kept, _mm512_mul_ps(v[i], inverse));
    q = _mm512_min_epi32(_mm512_max_epi32(q, _mm512_set1_epi32(-127)), _mm512_set1_epi32(127));
    sum = _mm512_add_epi32(sum, q);
    _mm_store_si128(reinterpret_cast<__m128i *>(quads) + i, _mm512_cvtepi32_epi8(q));
  }
  uint32_t *at = reinterpret_cast<uint32_t *>(tile) + row;
  for (int i = 0; i < 16; i++) at[(size_t)i * rows] = quads[i];
  memcpy(at + (size_t)16 * rows, &scale.scale, 4);
  at[(size_t)17 * rows] = (uint32_t)(-offset * _mm512_reduce_add_epi32(sum));
}

template <bool Paired> void pack(int format, const float *x, int64_t ldx, const int32_t *index, int rows, int k0, int count, uint8_t *tile) {
  for (int row = 0; row < rows; row++) {
    const float *from = x + (index ? index[row] : row) * ldx;
    float *const values = reinterpret_cast<float *>(tile) + (size_t)k0 * rows + row;
    if (f32_input(format)) pack_f32_row(from, count, rows, values);
    else if (format == SY_W_BF16_X16 && !Paired) pack_rounded_row(from, count, rows, values);
    else if (format == SY_W_BF16_X16) pack_bf16_row(from, count, rows, reinterpret_cast<uint32_t *>(tile) + (size_t)(k0 / 2) * rows + row);
    else
      for (int i = 0; i < count; i += group_k)
        pack_group(from + i, count - i, format == SY_W_I8 ? 128 : 8, rows, tile + (size_t)((k0 + i) / group_k) * group_bytes * rows, row);
  }
}

/* ---- dot products ---- */

/* One step of TileOps::dot's promise about `ahead`. */
template <int Bytes, int R> void bring(const uint8_t *&ahead) {
  if constexpr (R > 4) {
#pragma GCC unroll 4
    for (int i = 0; i < Bytes; i += 64) _mm_prefetch(reinterpret_cast<const char *>(ahead + i), _MM_HINT_T1);
    ahead += Bytes;
  }
}

/* A format says how one step along k (a pair) adds to the accumulators: odd element first. */
struct F32 {
  static constexpr int x_bytes = 8, w_bytes = 256;
  template <int R, int P> static void step(const uint8_t *x, const uint8_t *w, size_t stride, __m512 (&acc)[R][P][2]) {
    const float *xs = reinterpret_cast<const float *>(x);
#pragma GCC unroll 2
    for (int odd = 1; odd >= 0; odd--)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const __m512 w0 = _mm512_load_ps(w + p * stride + odd * 128), w1 = _mm512_load_ps(w + p * stride + odd * 128 + 64);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
          const __m512 v = _mm512_set1_ps(xs[odd * R + r]);
          acc[r][p][0] = _mm512_fmadd_ps(v, w0, acc[r][p][0]);
          acc[r][p][1] = _mm512_fmadd_ps(v, w1, acc[r][p][1]);
        }
      }
  }
};

struct F16 {
  static constexpr int x_bytes = 8, w_bytes = 128;
  template <int R, int P> static void step(const uint8_t *x, const uint8_t *w, size_t stride, __m512 (&acc)[R][P][2]) {
    const float *xs = reinterpret_cast<const float *>(x);
#pragma GCC unroll 2
    for (int odd = 1; odd >= 0; odd--)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const __m256i *at = reinterpret_cast<const __m256i *>(w + p * stride + odd * 64);
        const __m512 w0 = _mm512_cvtph_ps(_mm256_load_si256(at)), w1 = _mm512_cvtph_ps(_mm256_load_si256(at + 1));
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
          const __m512 v = _mm512_set1_ps(xs[odd * R + r]);
          acc[r][p][0] = _mm512_fmadd_ps(v, w0, acc[r][p][0]);
          acc[r][p][1] = _mm512_fmadd_ps(v, w1, acc[r][p][1]);
        }
      }
  }
};

/* bf16 weights with f32 inputs: the high half of a pair is its odd element. */
struct Bf16 {
  static constexpr int x_bytes = 8, w_bytes = 128;
  template <int R, int P> static void step(const uint8_t *x, const uint8_t *w, size_t stride, __m512 (&acc)[R][P][2]) {
    const float *xs = reinterpret_cast<const float *>(x);
#pragma GCC unroll 2
    for (int odd = 1; odd >= 0; odd--)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const __m512i pairs0 = _mm512_load_si512(w + p * stride), pairs1 = _mm512_load_si512(w + p * stride + 64);
        const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
        const __m512 w0 = _mm512_castsi512_ps(odd ? _mm512_and_si512(pairs0, high) : _mm512_slli_epi32(pairs0, 16));
        const __m512 w1 = _mm512_castsi512_ps(odd ? _mm512_and_si512(pairs1, high) : _mm512_slli_epi32(pairs1, 16));
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
          const __m512 v = _mm512_set1_ps(xs[odd * R + r]);
          acc[r][p][0] = _mm512_fmadd_ps(v, w0, acc[r][p][0]);
          acc[r][p][1] = _mm512_fmadd_ps(v, w1, acc[r][p][1]);
        }
      }
  }
};

struct Bf16X16 {
  static constexpr int x_bytes = 4, w_bytes = 128;
  template <int R, int P> static void step(const uint8_t *x, const uint8_t *w, size_t stride, __m512 (&acc)[R][P][2]) {
    const int32_t *xs = reinterpret_cast<const int32_t *>(x);
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      const __m512bh w0 = (__m512bh)_mm512_load_si512(w + p * stride), w1 = (__m512bh)_mm512_load_si512(w + p * stride + 64);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        const __m512bh v = (__m512bh)_mm512_set1_epi32(xs[r]);
        acc[r][p][0] = _mm512_dpbf16_ps(acc[r][p][0], v, w0);
        acc[r][p][1] = _mm512_dpbf16_ps(acc[r][p][1], v, w1);
      }
    }
  }
};

template <class Format, int R, int P> void dot_pairs(const uint8_t *x, const uint8_t *w, size_t stride, int k, const uint8_t *ahead, float *dots) {
  __m512 acc[R][P][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) acc[r][p][0] = acc[r][p][1] = _mm512_setzero_ps();
  constexpr int at_once = R * P <= 4 ? 4 : 1; // Short bodies are unrolled, so that the loop itself costs nothing.
  int pairs = pairs_of(k);
  for (; pairs >= at_once; pairs -= at_once)
#pragma GCC unroll 4
    for (int i = 0; i < at_once; i++) {
      Format::template step<R, P>(x, w, stride, acc);
      x += Format::x_bytes * R;
      w += Format::w_bytes;
      bring<Format::w_bytes, R>(ahead);
    }
  for (; pairs > 0; pairs--) {
    Format::template step<R, P>(x, w, stride, acc);
    x += Format::x_bytes * R;
    w += Format::w_bytes;
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      _mm512_store_ps(dots + (p * R + r) * panel_columns, acc[r][p][0]);
      _mm512_store_ps(dots + (p * R + r) * panel_columns + 16, acc[r][p][1]);
    }
}

/* A quantised format says how one step along k (eight elements) adds to integer accumulators. */
struct I8 {
  static constexpr int w_bytes = 2 * panel_columns * 4;
  template <int R, int P> static void step(const int32_t *x, const uint8_t *w, size_t stride, __m512i (&acc)[R][P][2]) {
#pragma GCC unroll 2
    for (int quad = 0; quad < 2; quad++)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const uint8_t *at = w + p * stride + quad * panel_columns * 4;
        const __m512i w0 = _mm512_load_si512(at), w1 = _mm512_load_si512(at + 64);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
          const __m512i v = _mm512_set1_epi32(x[quad * R + r]);
          acc[r][p][0] = _mm512_dpbusd_epi32(acc[r][p][0], w0, v);
          acc[r][p][1] = _mm512_dpbusd_epi32(acc[r][p][1], w1, v);
        }
      }
  }
};

struct I4 {
  static constexpr int w_bytes = panel_columns * 4;
  template <int R, int P> static void step(const int32_t *x, const uint8_t *w, size_t stride, __m512i (&acc)[R][P][2]) {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 2
    for (int quad = 0; quad < 2; quad++)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) {
        const __m512i both0 = _mm512_load_si512(w + p * stride), both1 = _mm512_load_si512(w + p * stride + 64);
        const __m512i w0 = _mm512_and_si512(quad ? _mm512_srli_epi16(both0, 4) : both0, low);
        const __m512i w1 = _mm512_and_si512(quad ? _mm512_srli_epi16(both1, 4) : both1, low);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
          const __m512i v = _mm512_set1_epi32(x[quad * R + r]);
          acc[r][p][0] = _mm512_dpbusd_epi32(acc[r][p][0], w0, v);
          acc[r][p][1] = _mm512_dpbusd_epi32(acc[r][p][1], w1, v);
        }
      }
  }
};

template <class Format, int R, int P> void dot_groups(const uint8_t *x, const uint8_t *w, size_t stride, int k, const uint8_t *ahead, float *dots) {
  __m512 acc[R][P][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) acc[r][p][0] = acc[r][p][1] = _mm512_setzero_ps();
  for (int groups = groups_of(k); groups > 0; groups--) {
    const int32_t *steps = reinterpret_cast<const int32_t *>(x);
    const float *x_scale = reinterpret_cast<const float *>(steps + 16 * R);
    __m512i sum[R][P][2];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) sum[r][p][0] = sum[r][p][1] = _mm512_set1_epi32(steps[17 * R + r]);
    for (int octet = 0; octet < group_k / 8; octet++) {
      Format::template step<R, P>(steps, w, stride, sum);
      steps += 2 * R;
      w += Format::w_bytes;
      bring<Format::w_bytes, R>(ahead);
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      const __m512 w0 = _mm512_load_ps(w + p * stride), w1 = _mm512_load_ps(w + p * stride + 64);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        const __m512 scale = _mm512_set1_ps(x_scale[r]);
        acc[r][p][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][p][0]), _mm512_mul_ps(scale, w0), acc[r][p][0]);
        acc[r][p][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][p][1]), _mm512_mul_ps(scale, w1), acc[r][p][1]);
      }
    }
    x += group_bytes * R;
    w += panel_columns * 4;
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) {
      _mm512_store_ps(dots + (p * R + r) * panel_columns, acc[r][p][0]);
      _mm512_store_ps(dots + (p * R + r) * panel_columns + 16, acc[r][p][1]);
    }
}

using Dot = void (*)(const uint8_t *x, const uint8_t *w, size_t stride, int k, const uint8_t *ahead, float *dots);

template <class Format, int R, int P> constexpr Dot instance() {
  if constexpr (std::is_same_v<Format, I8> || std::is_same_v<Format, I4>) {
    if constexpr (R * P <= most_quantised_row_panels) return dot_groups<Format, R, P>;
    else return nullptr;
  } else if constexpr (R * P <= most_row_panels) return dot_pairs<Format, R, P>;
  else return nullptr;
}
template <class Format, int R> constexpr std::array<Dot, most_panels> instances() {
  return {instance<Format, R, 1>(), instance<Format, R, 2>(), instance<Format, R, 3>(), instance<Format, R, 4>()};
}
/* [rows-1][panels-1] */
template <class Format, size_t... R> constexpr std::array<std::array<Dot, most_panels>, most_row_panels> table(std::index_sequence<R...>) {
  return {instances<Format, (int)R + 1>()...};
}
template <class Format> constexpr auto kernels = table<Format>(std::make_index_sequence<most_row_panels>());

template <bool Paired> Dot kernel(int format, int rows, int panels) {
  switch (format) {
  case SY_W_F32: return kernels<F32>[rows - 1][panels - 1];
  case SY_W_F16: return kernels<F16>[rows - 1][panels - 1];
  case SY_W_BF16: return kernels<Bf16>[rows - 1][panels - 1];
  case SY_W_BF16_X16: return kernels<std::conditional_t<Paired, Bf16X16, Bf16>>[rows - 1][panels - 1];
  case SY_W_I8: return kernels<I8>[rows - 1][panels - 1];
  default: return kernels<I4>[rows - 1][panels - 1];
  }
}

template <bool Paired>
void dot(int format, const uint8_t *tile, int rows, const uint8_t *panel, size_t stride, int panels, int k, const uint8_t *ahead, float *dots) {
  if (const Dot all = kernel<Paired>(format, rows, panels)) return all(tile, panel, stride, k, ahead, dots);
  const Dot one = kernel<Paired>(format, rows, 1);
  for (int p = 0; p < panels; p++) one(tile, panel + p * stride, stride, k, ahead, dots + p * rows * panel_columns);
}

/* ---- what is done with dot products: 16 columns at a time ---- */

void store(const float *dots, int rows, int first, int count, const float *bias, float scale, bool add, float *out, int64_t ldo) {
  const __m512 s = _mm512_set1_ps(scale);
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < count; i += 16) {
      const __mmask16 lanes = first_lanes(count - i);
      __m512 v = _mm512_maskz_loadu_ps(lanes, dots + row * panel_columns + first + i);
      if (bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(lanes, bias + i));
      float *at = out + row * ldo + i;
      v = add ? _mm512_fmadd_ps(s, v, _mm512_maskz_loadu_ps(lanes, at)) : _mm512_mul_ps(s, v);
      _mm512_mask_storeu_ps(at, lanes, v);
    }
}

void gate(const sy_experts_desc &desc, const float *gate, const float *up, int rows, int count, const float *gate_bias, const float *up_bias, float *out,
          int64_t ldo) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < count; i += 16) {
      const __mmask16 lanes = first_lanes(count - i);
      __m512 g = _mm512_load_ps(gate + row * panel_columns + i), u = _mm512_load_ps(up + row * panel_columns + i);
      if (gate_bias) {
        g = _mm512_add_ps(g, _mm512_maskz_loadu_ps(lanes, gate_bias + i));
        u = _mm512_add_ps(u, _mm512_maskz_loadu_ps(lanes, up_bias + i));
      }
      _mm512_mask_storeu_ps(out + row * ldo + i, lanes, gated16(desc.activation, desc.alpha, desc.limit, g, u));
    }
}

__m512 contribution(const float *dots, const float *bias, __m512 weight, __mmask16 lanes) {
  __m512 y = _mm512_maskz_loadu_ps(lanes, dots);
  if (bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(lanes, bias));
  return _mm512_mul_ps(weight, y);
}

bool contribute_exact(const float *dots, const float *bias, float weight, float steps_per_unit, int count, int64_t *sum) {
  const __m512 w = _mm512_set1_ps(weight), unit = _mm512_set1_ps(steps_per_unit), limit = _mm512_set1_ps(contribution_limit);
  __mmask16 bad = 0;
  for (int i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 steps = _mm512_mul_ps(contribution(dots + i, bias ? bias + i : nullptr, w, lanes), unit);
    const __mmask16 wrong = _mm512_mask_cmp_ps_mask(lanes, _mm512_abs_ps(steps), limit, _CMP_NLT_UQ);
    bad |= wrong;
    const __m512i low = _mm512_cvtps_epi64(_mm512_castps512_ps256(steps)), high = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(steps, 1));
    /* What is out of range is left out, as everywhere: the sums of several threads would overflow. */
    const __mmask16 good = (__mmask16)(lanes & ~wrong);
    const __mmask8 low_lanes = (__mmask8)good, high_lanes = (__mmask8)(good >> 8);
    _mm512_mask_storeu_epi64(sum + i, low_lanes, _mm512_add_epi64(low, _mm512_maskz_loadu_epi64(low_lanes, sum + i)));
    _mm512_mask_storeu_epi64(sum + i + 8, high_lanes, _mm512_add_epi64(high, _mm512_maskz_loadu_epi64(high_lanes, sum + i + 8)));
  }
  return bad == 0;
}

void contribute_fast(const float *dots, const float *bias, float weight, int count, float *sum) {
  const __m512 w = _mm512_set1_ps(weight);
  for (int i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m512 c = contribution(dots + i, bias ? bias + i : nullptr, w, lanes);
    _mm512_mask_storeu_ps(sum + i, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, sum + i), c));
  }
}

void add_to_residual(__m512 m, __mmask16 lanes, float multiplier, const float *shared, float *residual) {
  if (shared) m = _mm512_add_ps(m, _mm512_maskz_loadu_ps(lanes, shared));
  _mm512_mask_storeu_ps(residual, lanes, _mm512_fmadd_ps(_mm512_set1_ps(multiplier), m, _mm512_maskz_loadu_ps(lanes, residual)));
}

void combine_exact(const int64_t *sum, int count, float unit, float multiplier, const float *shared, float *residual) {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    const __m256 low = _mm512_cvtepi64_ps(_mm512_maskz_loadu_epi64((__mmask8)lanes, sum + i));
    const __m256 high = _mm512_cvtepi64_ps(_mm512_maskz_loadu_epi64((__mmask8)(lanes >> 8), sum + i + 8));
    const __m512 value = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
    add_to_residual(_mm512_mul_ps(value, _mm512_set1_ps(unit)), lanes, multiplier, shared ? shared + i : nullptr, residual + i);
  }
}

void combine_fast(const float *sum, int count, float multiplier, const float *shared, float *residual) {
  for (int i = 0; i < count; i += 16) {
    const __mmask16 lanes = first_lanes(count - i);
    add_to_residual(_mm512_maskz_loadu_ps(lanes, sum + i), lanes, multiplier, shared ? shared + i : nullptr, residual + i);
  }
}

/* The second-level cache feeds these kernels well enough: tile by tile. */
template <bool Paired>
void dot_tiles(int format, const uint8_t *tiles, size_t row_bytes, const Tiling &tiling, int first, int end, const uint8_t *panel, int k, const uint8_t *ahead,
               float *dots) {
  for (int tile = first; tile < end; tile++) {
    const int row = tiling.first(tile), rows = tiling.height(tile);
    dot<Paired>(format, tiles + (size_t)row * row_bytes, rows, panel, 0, 1, k, tile == end - 1 ? ahead : panel, dots);
    dots += (size_t)rows * panel_columns;
  }
}

int streamed_rows(int) { return 0; }

template <bool Paired>
constexpr TileOps ops{0,     max_rows, row_bytes<Paired>, pack<Paired>,    dot<Paired>,   streamed_rows, nullptr, dot_tiles<Paired>,
                      store, gate,     contribute_exact,  contribute_fast, combine_exact, combine_fast};

/* SWITCHYARD_BF16_PRODUCTS=paired or widened decides by hand, to compare them. */
bool paired() {
  const char *wanted = getenv("SWITCHYARD_BF16_PRODUCTS");
  if (wanted && strcmp(wanted, "paired") == 0) return true;
  if (wanted && strcmp(wanted, "widened") == 0) return false;
  __builtin_cpu_init();
  return __builtin_cpu_is("amd");
}

} // namespace

const TileOps *tile_ops_avx512() {
  static const TileOps *const chosen = paired() ? &ops<true> : &ops<false>;
  return chosen;
}

} // namespace sy
#endif
