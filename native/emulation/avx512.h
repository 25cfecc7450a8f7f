/*
 * The AVX-512 instructions that the kernels use, spelled out for a processor that has AVX2 alone: so that the kernels' logic (tiles, tails, masks, layouts, the
 * order of sums) is compared with the oracle on every machine. That the instructions do what is written here, only a processor that has them shows.
 *
 * Included before everything else in files compiled for AVX-512 (build.mjs --emulate-avx512). The compiler's own header comes first, for its types; each name is then
 * turned to a function of ours. What the masks leave out is neither read nor written.
 */
#ifndef SWITCHYARD_EMULATION_AVX512_H
#define SWITCHYARD_EMULATION_AVX512_H

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512DQ__ 1
#define __AVX512BF16__ 1
#define __AVX512VNNI__ 1

namespace sy {
namespace emulated {
namespace {

template <class To, class From> inline To bits_as(const From &from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

using Ints = int32_t __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using Longs = int64_t __attribute__((vector_size(64)));
using Shorts = uint16_t __attribute__((vector_size(64)));

inline Ints ints(__m512i v) { return bits_as<Ints>(v); }
inline Words words(__m512i v) { return bits_as<Words>(v); }
template <class V> inline __m512i raw(V v) { return bits_as<__m512i>(v); }

/* of(lane) for each of sixteen lanes. */
template <class F> inline __m512 floats_of(F of) {
  __m512 v{};
  for (int i = 0; i < 16; i++) v[i] = of(i);
  return v;
}
template <class F> inline __m512i ints_of(F of) {
  Ints v{};
  for (int i = 0; i < 16; i++) v[i] = of(i);
  return raw(v);
}
template <class F> inline __mmask16 mask_of(F of) {
  unsigned mask = 0;
  for (int i = 0; i < 16; i++) mask |= (unsigned)(of(i) ? 1 : 0) << i;
  return (__mmask16)mask;
}
inline bool has(unsigned mask, int lane) { return mask >> lane & 1u; }
inline __m256 half(__m512 v, int which) {
  __m256 part;
  memcpy(&part, reinterpret_cast<const char *>(&v) + which * 32, 32);
  return part;
}
inline __m512 joined(__m256 low, __m256 high) {
  __m512 v;
  memcpy(&v, &low, 32);
  memcpy(reinterpret_cast<char *>(&v) + 32, &high, 32);
  return v;
}

/* ---- moving ---- */

inline __m512 load(const void *at) {
  __m512 v;
  memcpy(&v, at, 64);
  return v;
}
inline __m512i load_int(const void *at) { return raw(load(at)); }
template <class V> inline void store(void *at, V v) { memcpy(at, &v, 64); }
inline __m512 masked_load(__mmask16 mask, const float *at) {
  return floats_of([&](int i) { return has(mask, i) ? at[i] : 0.0f; });
}
inline void masked_store(float *at, __mmask16 mask, __m512 v) {
  for (int i = 0; i < 16; i++)
    if (has(mask, i)) memcpy(at + i, reinterpret_cast<const char *>(&v) + 4 * i, 4);
}
inline void masked_store_int(void *at, __mmask16 mask, __m512i v) {
  for (int i = 0; i < 16; i++)
    if (has(mask, i)) memcpy(static_cast<char *>(at) + 4 * i, reinterpret_cast<const char *>(&v) + 4 * i, 4);
}
inline __m512i masked_load_long(__mmask8 mask, const void *at) {
  Longs v{};
  for (int i = 0; i < 8; i++)
    if (has(mask, i)) v[i] = static_cast<const int64_t *>(at)[i];
  return raw(v);
}
inline void masked_store_long(void *at, __mmask8 mask, __m512i v) {
  for (int i = 0; i < 8; i++)
    if (has(mask, i)) static_cast<int64_t *>(at)[i] = bits_as<Longs>(v)[i];
}
inline __m512 all(float x) {
  return floats_of([&](int) { return x; });
}
inline __m512i all_int(int32_t x) {
  return ints_of([&](int) { return x; });
}
inline __m512i all_bytes(char x) {
  __m512i v;
  memset(&v, x, 64);
  return v;
}
template <class... Int> inline __m512i these(Int... x) { return raw(Ints{x...}); }
inline __m512 selected(__m512 otherwise, __mmask16 mask, __m512 v) {
  return floats_of([&](int i) { return has(mask, i) ? v[i] : otherwise[i]; });
}
inline __m512i replaced(__m512i v, __mmask16 mask, int32_t x) {
  const Ints lanes = ints(v);
  return ints_of([&](int i) { return has(mask, i) ? x : lanes[i]; });
}
inline __m512 inserted(__m512 v, __m256 part, int which) { return which ? joined(half(v, 0), part) : joined(part, half(v, 1)); }
inline __m512 permuted(__m512 a, __m512i index, __m512 b) {
  const Ints at = ints(index);
  return floats_of([&](int i) { return at[i] & 16 ? b[at[i] & 15] : a[at[i] & 15]; });
}
/* Of each 128 bits, `part` of a's and b's lanes in turn. */
template <class V, int Lanes> inline V interleaved(V a, V b, int part) {
  V v{};
  for (int block = 0; block < 4; block++)
    for (int i = 0; i < Lanes / 2; i++) {
      v[block * Lanes + 2 * i] = a[block * Lanes + part * (Lanes / 2) + i];
      v[block * Lanes + 2 * i + 1] = b[block * Lanes + part * (Lanes / 2) + i];
    }
  return v;
}
inline __m512 shuffled_blocks(__m512 a, __m512 b, int which) {
  return floats_of([&](int i) {
    const int from = which >> (i / 4 * 2) & 3;
    return (i < 8 ? a : b)[from * 4 + i % 4];
  });
}

/* ---- arithmetic ---- */

inline __m512 fused(__m512 a, __m512 b, __m512 c) {
  return joined(_mm256_fmadd_ps(half(a, 0), half(b, 0), half(c, 0)), _mm256_fmadd_ps(half(a, 1), half(b, 1), half(c, 1)));
}
/* The second operand where either is NaN. */
inline __m512 larger(__m512 a, __m512 b) { return joined(_mm256_max_ps(half(a, 0), half(b, 0)), _mm256_max_ps(half(a, 1), half(b, 1))); }
inline __m512 smaller(__m512 a, __m512 b) { return joined(_mm256_min_ps(half(a, 0), half(b, 0)), _mm256_min_ps(half(a, 1), half(b, 1))); }
inline __mmask16 compared(__m512 a, __m512 b, int how) {
  return mask_of([&](int i) {
    switch (how) {
    case _CMP_EQ_OQ: return a[i] == b[i];
    case _CMP_LT_OQ: return a[i] < b[i];
    case _CMP_GT_OQ: return a[i] > b[i];
    case _CMP_NLT_UQ: return !(a[i] < b[i]);
    case _CMP_UNORD_Q: return a[i] != a[i] || b[i] != b[i];
    default: __builtin_trap();
    }
  });
}
/* Pairs of bf16: the odd elements' product is added first, each as one fused operation. */
inline __m512 added_pairs(__m512 sum, __m512i a, __m512i b) {
  const Words wa = words(a), wb = words(b);
  const auto odd = [](Words w) { return bits_as<__m512>(w & 0xffff0000u); };
  const auto even = [](Words w) { return bits_as<__m512>(w << 16); };
  return fused(even(wa), even(wb), fused(odd(wa), odd(wb), sum));
}
/* Unsigned bytes of a times signed bytes of b, four to a lane. */
inline __m512i added_quads(__m512i sum, __m512i a, __m512i b) {
  const Words wa = words(a);
  const Ints wb = ints(b), s = ints(sum);
  return ints_of([&](int i) {
    int32_t total = s[i];
    for (int byte = 0; byte < 4; byte++) total += (int32_t)(wa[i] >> (8 * byte) & 0xff) * (int32_t)(int8_t)((uint32_t)wb[i] >> (8 * byte));
    return total;
  });
}
template <class F> inline int32_t reduced(__m512i v, F of) {
  const Ints lanes = ints(v);
  int32_t result = lanes[0];
  for (int i = 1; i < 16; i++) result = of(result, lanes[i]);
  return result;
}

/* ---- conversions ---- */

inline uint16_t rounded(float x) {
  const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
  if (magnitude < 0x00800000u) return (uint16_t)(bits >> 16 & 0x8000u);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline __m256i rounded_all(__m512 v) {
  uint16_t lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = rounded(bits_as<__m512>(v)[i]);
  return bits_as<__m256i>(lanes);
}
inline __m512i rounded_two(__m512 high, __m512 low) {
  __m512i v;
  const __m256i parts[2] = {rounded_all(low), rounded_all(high)};
  memcpy(&v, parts, 64);
  return v;
}
inline __m512 from_halves(__m256i v) {
  __m128i parts[2];
  memcpy(parts, &v, 32);
  return joined(_mm256_cvtph_ps(parts[0]), _mm256_cvtph_ps(parts[1]));
}
inline __m512i to_ints(__m512 v) {
  const __m256i parts[2] = {_mm256_cvtps_epi32(half(v, 0)), _mm256_cvtps_epi32(half(v, 1))};
  return bits_as<__m512i>(parts);
}
inline __m512i to_longs(__m256 v) {
  Longs result{};
  for (int i = 0; i < 8; i++) result[i] = v[i] >= -0x1p63f && v[i] < 0x1p63f ? (int64_t)std::nearbyint(v[i]) : INT64_MIN;
  return raw(result);
}
inline __m256 from_longs(__m512i v) {
  __m256 result{};
  for (int i = 0; i < 8; i++) result[i] = (float)bits_as<Longs>(v)[i];
  return result;
}
inline __m512i widened(__m256i v) {
  uint16_t lanes[16];
  memcpy(lanes, &v, 32);
  return ints_of([&](int i) { return lanes[i]; });
}
inline __m128i low_bytes(__m512i v) {
  int8_t lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = (int8_t)ints(v)[i];
  return bits_as<__m128i>(lanes);
}

} // namespace
} // namespace emulated
} // namespace sy

#define _mm512_loadu_ps(at) sy::emulated::load(at)
#define _mm512_load_ps(at) sy::emulated::load(at)
#define _mm512_loadu_si512(at) sy::emulated::load_int(at)
#define _mm512_load_si512(at) sy::emulated::load_int(at)
#define _mm512_storeu_ps(at, v) sy::emulated::store(at, v)
#define _mm512_store_ps(at, v) sy::emulated::store(at, v)
#define _mm512_storeu_si512(at, v) sy::emulated::store(at, v)
#define _mm512_store_si512(at, v) sy::emulated::store(at, v)
#define _mm512_maskz_loadu_ps(mask, at) sy::emulated::masked_load(mask, at)
#define _mm512_mask_storeu_ps(at, mask, v) sy::emulated::masked_store(at, mask, v)
#define _mm512_mask_storeu_epi32(at, mask, v) sy::emulated::masked_store_int(at, mask, v)
#define _mm512_maskz_loadu_epi64(mask, at) sy::emulated::masked_load_long(mask, at)
#define _mm512_mask_storeu_epi64(at, mask, v) sy::emulated::masked_store_long(at, mask, v)
#define _mm512_set1_ps(x) sy::emulated::all(x)
#define _mm512_setzero_ps() sy::emulated::all(0.0f)
#define _mm512_set1_epi32(x) sy::emulated::all_int(x)
#define _mm512_set1_epi8(x) sy::emulated::all_bytes(x)
#define _mm512_setzero_si512() sy::emulated::all_int(0)
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) sy::emulated::these(__VA_ARGS__)
#define _mm512_mask_mov_ps(otherwise, mask, v) sy::emulated::selected(otherwise, mask, v)
#define _mm512_mask_set1_epi32(v, mask, x) sy::emulated::replaced(v, mask, x)
#define _mm512_insertf32x8(v, part, which) sy::emulated::inserted(v, part, which)
#define _mm512_extractf32x8_ps(v, which) sy::emulated::half(v, which)
#define _mm512_castps512_ps256(v) sy::emulated::half(v, 0)
#define _mm512_castps256_ps512(v) sy::emulated::joined(v, v)
#define _mm512_castps_si512(v) sy::emulated::bits_as<__m512i>(v)
#define _mm512_castsi512_ps(v) sy::emulated::bits_as<__m512>(v)
#define _mm512_castps_pd(v) sy::emulated::bits_as<__m512d>(v)
#define _mm512_castpd_ps(v) sy::emulated::bits_as<__m512>(v)
#define _mm512_permutex2var_ps(a, index, b) sy::emulated::permuted(a, index, b)
#define _mm512_unpacklo_ps(a, b) (sy::emulated::interleaved<__m512, 4>(a, b, 0))
#define _mm512_unpackhi_ps(a, b) (sy::emulated::interleaved<__m512, 4>(a, b, 1))
#define _mm512_unpacklo_pd(a, b) (sy::emulated::interleaved<__m512d, 2>(a, b, 0))
#define _mm512_unpackhi_pd(a, b) (sy::emulated::interleaved<__m512d, 2>(a, b, 1))
#define _mm512_shuffle_f32x4(a, b, which) sy::emulated::shuffled_blocks(a, b, which)

#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_sub_ps(a, b) ((a) - (b))
#define _mm512_mul_ps(a, b) ((a) * (b))
#define _mm512_div_ps(a, b) ((a) / (b))
#define _mm512_fmadd_ps(a, b, c) sy::emulated::fused(a, b, c)
#define _mm512_max_ps(a, b) sy::emulated::larger(a, b)
#define _mm512_min_ps(a, b) sy::emulated::smaller(a, b)
#define _mm512_abs_ps(v) sy::emulated::bits_as<__m512>(sy::emulated::words(sy::emulated::raw(v)) & 0x7fffffffu)
#define _mm512_cmp_ps_mask(a, b, how) sy::emulated::compared(a, b, how)
#define _mm512_mask_cmp_ps_mask(mask, a, b, how) (__mmask16)((mask) & sy::emulated::compared(a, b, how))
#define _mm512_dpbf16_ps(sum, a, b) sy::emulated::added_pairs(sum, sy::emulated::raw(a), sy::emulated::raw(b))
#define _mm512_dpbusd_epi32(sum, a, b) sy::emulated::added_quads(sum, a, b)
#define _mm512_reduce_max_ps(v) \
  [](__m512 all) { \
    float most = all[0]; \
    for (int i = 1; i < 16; i++) most = most > all[i] ? most : all[i]; \
    return most; \
  }(v)

#define _mm512_add_epi32(a, b) sy::emulated::raw(sy::emulated::words(a) + sy::emulated::words(b))
#define _mm512_sub_epi32(a, b) sy::emulated::raw(sy::emulated::words(a) - sy::emulated::words(b))
#define _mm512_add_epi64(a, b) sy::emulated::raw(sy::emulated::bits_as<sy::emulated::Longs>(a) + sy::emulated::bits_as<sy::emulated::Longs>(b))
#define _mm512_and_si512(a, b) sy::emulated::raw(sy::emulated::words(a) & sy::emulated::words(b))
#define _mm512_xor_si512(a, b) sy::emulated::raw(sy::emulated::words(a) ^ sy::emulated::words(b))
#define _mm512_slli_epi32(v, by) sy::emulated::raw(sy::emulated::words(v) << (uint32_t)(by))
#define _mm512_srli_epi32(v, by) sy::emulated::raw(sy::emulated::words(v) >> (uint32_t)(by))
#define _mm512_srai_epi32(v, by) sy::emulated::raw(sy::emulated::ints(v) >> (by))
#define _mm512_srli_epi16(v, by) sy::emulated::raw(sy::emulated::bits_as<sy::emulated::Shorts>(v) >> (uint16_t)(by))
#define _mm512_max_epi32(a, b) sy::emulated::raw(sy::emulated::ints(a) > sy::emulated::ints(b) ? sy::emulated::ints(a) : sy::emulated::ints(b))
#define _mm512_min_epi32(a, b) sy::emulated::raw(sy::emulated::ints(a) < sy::emulated::ints(b) ? sy::emulated::ints(a) : sy::emulated::ints(b))
#define _mm512_max_epu32(a, b) sy::emulated::raw(sy::emulated::words(a) > sy::emulated::words(b) ? sy::emulated::words(a) : sy::emulated::words(b))
#define _mm512_cmpeq_epi32_mask(a, b) \
  sy::emulated::mask_of([x = sy::emulated::ints(a), y = sy::emulated::ints(b)](int i) { return x[i] == y[i]; })
#define _mm512_reduce_max_epi32(v) sy::emulated::reduced(v, [](int32_t a, int32_t b) { return a > b ? a : b; })
#define _mm512_reduce_max_epu32(v) (uint32_t)sy::emulated::reduced(v, [](int32_t a, int32_t b) { return (uint32_t)a > (uint32_t)b ? a : b; })
#define _mm512_reduce_add_epi32(v) sy::emulated::reduced(v, [](int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); })

#define _mm512_cvtneps_pbh(v) sy::emulated::bits_as<__m256bh>(sy::emulated::rounded_all(v))
#define _mm512_cvtne2ps_pbh(high, low) sy::emulated::bits_as<__m512bh>(sy::emulated::rounded_two(high, low))
#define _mm512_cvtph_ps(v) sy::emulated::from_halves(v)
#define _mm512_cvtps_epi32(v) sy::emulated::to_ints(v)
#define _mm512_maskz_cvtps_epi32(mask, v) \
  sy::emulated::ints_of([m = (mask), x = sy::emulated::ints(sy::emulated::to_ints(v))](int i) { return sy::emulated::has(m, i) ? x[i] : 0; })
#define _mm512_cvtepi32_ps(v) __builtin_convertvector(sy::emulated::ints(v), __m512)
#define _mm512_cvtps_epi64(v) sy::emulated::to_longs(v)
#define _mm512_cvtepi64_ps(v) sy::emulated::from_longs(v)
#define _mm512_cvtepu16_epi32(v) sy::emulated::widened(v)
#define _mm512_cvtepi32_epi8(v) sy::emulated::low_bytes(v)

#endif
