/*
 * Fast ways to fill a square of a panel (pack.cpp): `panel_columns` rows of a matrix by `group_k` elements. Every packed format but f32 and f16 is made of
 * 32-bit words, k slow and columns fast, so a row becomes words and the words are turned.
 */
#ifndef SWITCHYARD_SQUARE_H
#define SWITCHYARD_SQUARE_H

#include <cstdint>

#include "kernels.h"
#include "pack.h"

namespace sy {

constexpr int square_words = group_k / 2; /* of a row of bf16 pairs; int8 takes half of them, int4 a quarter */

struct SquareOps {
  /* group_k elements of bf16 as stored, or f32 rounded, into words of pairs: nearest even, denormals to zero, NaN quiet. */
  void (*pairs_of_bf16)(const uint8_t *elements, uint32_t *words);
  void (*pairs_of_f32)(const float *elements, uint32_t *words);
  /* Quantises group_k elements to words of four int8 (w+128) or of eight int4 (w+8), as in pack.h, and returns the scale. */
  float (*quantise_i8)(const float *elements, uint32_t *words);
  float (*quantise_i4)(const float *elements, uint32_t *words);
  /* out[i * panel_columns + column] = words[column][i] for i < count (a multiple of 8); past the caches. `done` once the last was turned. */
  void (*turn)(const uint32_t (*words)[square_words], int count, uint32_t *out);
  void (*done)();
};

/* Null where this processor has none. */
const SquareOps *square_ops();
const SquareOps *square_ops_avx2(); /* x86-64 only */

} // namespace sy
#endif
