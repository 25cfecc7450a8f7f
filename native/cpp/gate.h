/*
 * The gated activations of sy_activation, one definition for the GATED_ACT op and for experts. Products run from left to right, each rounded:
 *   SILU      (g * sigmoid(g)) * u
 *   GPT_OSS   ((u + 1) * g) * sigmoid(alpha * g), after g = min(g, limit) and u = clamp(u, -limit, limit)
 * sigmoid(z) = 1 / (1 + SY_EXP(-z)). The clamps let a NaN through: a corrupt value must reach the checks downstream, not turn into a limit.
 */
#ifndef SWITCHYARD_GATE_H
#define SWITCHYARD_GATE_H

#include "../include/switchyard.h"
#include "exp.h"

namespace sy {
namespace {

SY_ANYWHERE inline float sigmoid(float z) { return 1.0f / (1.0f + sy_exp(-z)); }

SY_ANYWHERE inline float gated(int activation, float alpha, float limit, float g, float u) {
  if (activation == SY_ACT_SILU) return (g * sigmoid(g)) * u;
  g = g > limit ? limit : g;
  u = u > limit ? limit : u;
  u = u < -limit ? -limit : u;
  return ((u + 1.0f) * g) * sigmoid(alpha * g);
}

/* min(value, limit) with a NaN value kept: MINPS returns its second operand when either is NaN. */
#if defined(__AVX2__) && defined(__FMA__)
inline __m256 sigmoid8(__m256 z) {
  const __m256 one = _mm256_set1_ps(1.0f);
  return _mm256_div_ps(one, _mm256_add_ps(one, sy_exp8(_mm256_xor_ps(z, _mm256_set1_ps(-0.0f)))));
}
inline __m256 gated8(int activation, float alpha, float limit, __m256 g, __m256 u) {
  if (activation == SY_ACT_SILU) return _mm256_mul_ps(_mm256_mul_ps(g, sigmoid8(g)), u);
  g = _mm256_min_ps(_mm256_set1_ps(limit), g);
  u = _mm256_max_ps(_mm256_set1_ps(-limit), _mm256_min_ps(_mm256_set1_ps(limit), u));
  return _mm256_mul_ps(_mm256_mul_ps(_mm256_add_ps(u, _mm256_set1_ps(1.0f)), g), sigmoid8(_mm256_mul_ps(_mm256_set1_ps(alpha), g)));
}
#endif

#if defined(__AVX512F__)
inline __m512 sigmoid16(__m512 z) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 negated = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(z), _mm512_set1_epi32((int)0x80000000u)));
  return _mm512_div_ps(one, _mm512_add_ps(one, sy_exp16(negated)));
}
inline __m512 gated16(int activation, float alpha, float limit, __m512 g, __m512 u) {
  if (activation == SY_ACT_SILU) return _mm512_mul_ps(_mm512_mul_ps(g, sigmoid16(g)), u);
  g = _mm512_min_ps(_mm512_set1_ps(limit), g);
  u = _mm512_max_ps(_mm512_set1_ps(-limit), _mm512_min_ps(_mm512_set1_ps(limit), u));
  return _mm512_mul_ps(_mm512_mul_ps(_mm512_add_ps(u, _mm512_set1_ps(1.0f)), g), sigmoid16(_mm512_mul_ps(_mm512_set1_ps(alpha), g)));
}
#endif

} // namespace
} // namespace sy
#endif
