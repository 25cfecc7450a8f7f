/*
 * How weights lie in memory.
 *
 * SIMD layouts are made of panels of 32 output columns. Inside a panel k runs slowly and the 32 columns are vector lanes, so a dot product keeps the
 * sequential order of the header and a panel is read as one linear stream:
 *   f32, f16   [k][32]                                k padded to even
 *   bf16       [k/2][32][2]                           the pairs that VDPBF16PS takes
 *   int8       per group of 64: [16][32][4] bytes, each w+128 (unsigned, as VPDPBUSD wants it), then 32 scales f32
 *   int4       per group of 64: [8][32][4] bytes, each w+8 of k (low nibble) and of k+4 (high nibble), then 32 scales f32
 * Memory that is all zeros is a zero matrix in every format: in the quantised ones the scales make it so, whatever the bytes mean.
 * The oracle (Isa::ref) keeps [n][k] of plain f32 or int8, and [n][groups] scales.
 */
#ifndef SWITCHYARD_PACK_H
#define SWITCHYARD_PACK_H

#include "kernels.h"
#include "region.h"

namespace sy {

constexpr int panel_columns = 32;
constexpr int group_k = SY_QUANT_GROUP;

static inline bool quantised(int format) { return format == SY_W_I8 || format == SY_W_I4; }
static inline int quant_steps(int format) { return format == SY_W_I8 ? 127 : 7; }
/* n, k <= dimension_max. */
static inline int groups_of(int k) { return (k + group_k - 1) / group_k; }
static inline int pairs_of(int k) { return (k + 1) / 2; }
static inline int panels_of(int n) { return (n + panel_columns - 1) / panel_columns; }

/* Throws unless it is one of sy_weight_format. */
void validate_format(int32_t format);

/* Bytes of one panel of a weight k wide; a multiple of 64. */
size_t panel_bytes(int format, int k);

/* A packed matrix somewhere in memory: panel i is at data + i*stride. A stride above panel_bytes leaves room to interleave two matrices. */
struct Panels {
  uint8_t *data;
  size_t stride;
  int format, n, k;
};
size_t panels_bytes(int format, int n, int k);
/* Rows of a source to be packed over rows first_row.. of a matrix. The source was validated and fits. */
struct PackJob {
  Panels panels;
  int first_row;
  const sy_source *source;
};
/* Packs all of them, shared out over the pool by panels. */
void panels_set(Pool &pool, const PackJob *jobs, int count);

/* The oracle's matrix. */
struct PlainMatrix {
  int format = 0, n = 0, k = 0;
  Region values; /* [n][k] f32, or int8 in the quantised formats */
  Region scales; /* [n][groups] f32, quantised formats only */
};
PlainMatrix plain_create(int format, int n, int k);
void plain_set(PlainMatrix &matrix, int first_row, const sy_source &source);

struct Weight {
  Isa isa;
  int format, n, k;
  Region memory;     /* SIMD */
  Panels panels;     /* SIMD: over `memory` */
  PlainMatrix plain; /* Isa::ref */
};

} // namespace sy
#endif
