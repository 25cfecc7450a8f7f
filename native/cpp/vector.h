/*
 * Kernels that work on one row at a time: norms, rotary positions, elementwise ops and routers.
 * A call struct holds what does not change between runs; `rows` of it are computed by naming a range, so any split over threads gives the same bits.
 * Meaning and order are those of include/switchyard.h. Pointers already include the op's column offset.
 */
#ifndef SWITCHYARD_VECTOR_H
#define SWITCHYARD_VECTOR_H

#include <cstdint>

#include "kernels.h"

namespace sy {

enum class NormKind : int { rms = 0, layer = 1, l2 = 2 };

struct NormCall {
  const float *x;      /* [rows, ldx]; group g at x + g*x_stride */
  int64_t ldx;
  float *out;          /* [rows, ldo] */
  int64_t ldo;
  const float *weight; /* group g at weight + g*weight_stride, or null: 1 */
  const float *bias;   /* beside weight, or null: 0 */
  int groups, width, x_stride, out_stride, weight_stride;
  NormKind kind;
  float eps, weight_plus;
};

struct RopeCall {
  float *x;             /* [rows, ldx], in place; head h at x + h*stride */
  int64_t ldx;
  const float *table;   /* [variants*max_pos, rot]: cos then sin */
  const int32_t *position, *variant; /* [rows] */
  int heads, stride, rot, max_pos;
  bool interleaved;
};

struct ClampCall {
  float *x;
  int64_t ldx;
  int width;
  float low, high;
};

struct GatedCall {
  const float *gate, *up; /* [rows, ldx], elements `step` apart */
  int64_t ldx;
  float *out;
  int64_t ldo;
  int width, step, activation;
  float alpha, limit;
};

struct MulSigmoidCall {
  float *x;
  int64_t ldx;
  const float *gate; /* elements `gate_step` apart: 0 = one gate a row */
  int64_t ldg;
  int width, gate_step;
};

struct AddCall {
  float *out;
  int64_t ldo;
  const float *x;
  int64_t ldx;
  int width;
  float scale;
};

enum class RouteScore : int { softmax = 0, softmax_chosen = 1, sigmoid = 2, sparse_mixer = 3, factored = 4 };

struct RouteCall {
  const float *logits; /* [rows, ld_logits] */
  int64_t ld_logits;
  int32_t *ids;        /* [rows, ld_ids] */
  int64_t ld_ids;
  float *weights;      /* [rows, ld_weights] */
  int64_t ld_weights;
  const float *select_bias; /* [experts] or null */
  int experts, k, groups, top_groups; /* groups <= 1: none */
  RouteScore score;
  bool group_sum_of_two, renorm, mask_zero;
  float scale, renorm_eps, jitter_eps;
  const int32_t *nodes; /* [experts] bits, or null; with it the call goes through route_within_nodes */
  int node_limit;
  RowMarks marks;

  /* An expert that was masked by 0 may be chosen all the same, where fewer than k have a score above 0: then that 0 is its weight. */
  bool weighs_masked() const { return mask_zero && !select_bias; }
};
/* A row whose scores are no numbers chooses no expert. */
static inline void route_nowhere(const RouteCall &call, int row) {
  for (int i = 0; i < call.k; i++) {
    call.ids[row * call.ld_ids + i] = -1;
    call.weights[row * call.ld_weights + i] = 0.0f;
  }
  call.marks.mark(row);
}
constexpr int route_experts_max = 4096; /* bounds the scratch on a thread's stack */
constexpr int route_groups_max = 256;

/* One implementation of everything here. All compute rows [begin, end). */
struct VectorKernels {
  void (*norm)(const NormCall &, int begin, int end);
  void (*rope)(const RopeCall &, int begin, int end);
  void (*clamp)(const ClampCall &, int begin, int end);
  void (*gated)(const GatedCall &, int begin, int end);
  void (*mul_sigmoid)(const MulSigmoidCall &, int begin, int end);
  void (*add)(const AddCall &, int begin, int end);
  void (*route)(const RouteCall &, int begin, int end);
};

const VectorKernels &vector_kernels(Isa isa);
const VectorKernels &vector_kernels_ref();
const VectorKernels &vector_kernels_avx2();   /* x86-64 only */
const VectorKernels &vector_kernels_avx512(); /* x86-64 only */

} // namespace sy
#endif
