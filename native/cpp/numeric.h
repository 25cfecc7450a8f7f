/*
 * Number formats, bit by bit. Conversions use integer arithmetic only, so they mean the same under any floating-point environment.
 */
#ifndef SWITCHYARD_NUMERIC_H
#define SWITCHYARD_NUMERIC_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "anywhere.h"

/* One more copy of a scalar function, compiled for machines with hardware FMA or AVX2: the same bits, only faster. Needs ifunc, hence glibc; the
 * thread sanitizer starts too late for it. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__FMA__) && !defined(__SANITIZE_THREAD__)
#define SY_FMA_CLONES __attribute__((target_clones("default", "fma")))
#define SY_AVX2_CLONES __attribute__((target_clones("default", "avx2")))
#else
#define SY_FMA_CLONES
#define SY_AVX2_CLONES
#endif

namespace sy {

/* Internal linkage, because files with different instruction sets include this: the linker must not merge their copies. */
namespace {

SY_ANYWHERE inline uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
SY_ANYWHERE inline float float_of(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

SY_ANYWHERE inline float from_bf16(uint16_t b) { return float_of((uint32_t)b << 16); }

/* Nearest even; a denormal becomes a zero of its sign; a NaN stays a (quiet) NaN. What VCVTNEPS2BF16 does. */
SY_ANYWHERE inline uint16_t to_bf16(float f) {
  const uint32_t u = bits_of(f), magnitude = u & 0x7fffffffu;
  const uint32_t nearest = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u, zero = (u >> 16) & 0x8000u;
  return (uint16_t)(magnitude > 0x7f800000u ? quiet : magnitude < 0x00800000u ? zero : nearest); // Selected, not branched to: loops over it vectorise.
}

/* IEEE half: denormals kept, nearest even, overflow to infinity. */
SY_ANYWHERE inline float from_f16(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  uint32_t mantissa = h & 1023u;
  if (exponent == 31) return float_of(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  if (mantissa == 0) return float_of(sign);
  uint32_t shift = 0; // Normalise: the value is mantissa * 2^-24.
  while (!(mantissa & 1024u)) {
    mantissa <<= 1;
    shift++;
  }
  return float_of(sign | ((113u - shift) << 23) | ((mantissa & 1023u) << 13));
}
SY_ANYWHERE inline uint16_t to_f16(float f) {
  const uint32_t u = bits_of(f);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); // >= 65536
  if (magnitude >= 0x38800000u) {                                  // normal half; the carry of rounding may reach infinity, as it should
    const uint32_t rebased = magnitude - (112u << 23);
    return (uint16_t)(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }
  if (magnitude < 0x33000000u) return (uint16_t)sign; // < 2^-25, and 2^-25 itself ties to even zero below
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t shift = 126u - (magnitude >> 23); // 14 .. 24
  const uint32_t half = 1u << (shift - 1);
  const uint32_t down = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  return (uint16_t)(sign | (down + ((rest > half || (rest == half && (down & 1u))) ? 1u : 0u)));
}

/* OCP 8-bit float E4M3 ("FN": no infinities, 0x7f and 0xff are NaN). */
SY_ANYWHERE inline float from_f8_e4m3(uint8_t b) {
  const uint32_t sign = (uint32_t)(b & 0x80u) << 24;
  const uint32_t exponent = (b >> 3) & 15u;
  const uint32_t mantissa = b & 7u;
  if ((b & 0x7fu) == 0x7fu) return float_of(sign | 0x7fc00000u);
  if (exponent != 0) return float_of(sign | ((exponent + 120u) << 23) | (mantissa << 20));
  const float magnitude = (float)mantissa * (1.0f / 512.0f);
  return float_of(sign | bits_of(magnitude));
}

/* OCP 4-bit float E2M1, twice its value as an integer: exact, and the sign is bit 3. */
SY_ANYWHERE inline float from_f4_e2m1(unsigned nibble) {
  static const float value[16] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  return value[nibble & 15u];
}

/* 2^e as f32, -126 <= e <= 127. */
SY_ANYWHERE inline float power_of_two(int e) { return float_of((uint32_t)(e + 127) << 23); }

constexpr float smallest_normal = 0x1p-126f;

/* Scales of one quantisation group, from the largest magnitude in it (SY_QUANT_GROUP in the header). `steps` is 127 or 7.
 * A group that is not finite has scale NaN and zero steps: the result is NaN whatever the weights are. A scale too small for a normal float is zero. */
struct GroupScale {
  float scale;   /* value of one step */
  float inverse; /* steps per unit */
};
SY_ANYWHERE inline GroupScale group_scale(float largest, bool finite, float steps) {
  if (!finite) return {float_of(0x7fc00000u), 0.0f};
  const float scale = largest / steps;
  if (!(scale >= smallest_normal)) return {0.0f, 0.0f};
  return {scale, steps / largest};
}
SY_ANYWHERE inline bool is_finite(float f) { return (bits_of(f) & 0x7f800000u) != 0x7f800000u; }

/* Nearest even, clamped to +-steps. `steps_per_unit` = 0 gives 0 for every value, also one that is not finite. */
SY_ANYWHERE inline int quantise(float value, float steps_per_unit, int steps) {
  if (steps_per_unit == 0.0f) return 0;
  const int q = (int)lrintf(value * steps_per_unit);
  return q > steps ? steps : q < -steps ? -steps : q;
}

} // namespace
} // namespace sy
#endif
