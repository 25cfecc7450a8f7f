#include "vector.h"

#include <cmath>

#include "gate.h"
#include "numeric.h"
#include "route_factored.h"

namespace sy {
namespace {

constexpr int lanes = 16;

/* The one order of a long sum: 16 lanes, then lanes as a tree. */
struct LaneSum {
  float lane[lanes] = {};
  float total() const {
    float s[lanes];
    for (int j = 0; j < lanes; j++) s[j] = lane[j];
    for (int half = lanes / 2; half > 0; half /= 2)
      for (int j = 0; j < half; j++) s[j] += s[j + half];
    return s[0];
  }
};

SY_FMA_CLONES void norm_row(const NormCall &call, const float *x, float *out, const float *weight, const float *bias) {
  const int n = call.width;
  float mean = 0.0f;
  if (call.kind == NormKind::layer) {
    LaneSum sum;
    for (int i = 0; i < n; i++) sum.lane[i % lanes] += x[i];
    mean = sum.total() / (float)n;
  }
  LaneSum squares;
  for (int i = 0; i < n; i++) {
    const float d = x[i] - mean;
    squares.lane[i % lanes] = __builtin_fmaf(d, d, squares.lane[i % lanes]);
  }
  const float r = 1.0f / sqrtf(squares.total() / (float)n + call.eps);
  for (int i = 0; i < n; i++) {
    float y = (x[i] - mean) * r;
    if (weight) y = y * (weight[i] + call.weight_plus);
    if (bias) y = y + bias[i];
    out[i] = y;
  }
}

void norm(const NormCall &call, int begin, int end) {
  for (int t = begin; t < end; t++)
    for (int g = 0; g < call.groups; g++)
      norm_row(call, call.x + t * call.ldx + (int64_t)g * call.x_stride, call.out + t * call.ldo + (int64_t)g * call.out_stride,
               call.weight ? call.weight + (int64_t)g * call.weight_stride : nullptr, call.bias ? call.bias + (int64_t)g * call.weight_stride : nullptr);
}

SY_FMA_CLONES void rope(const RopeCall &call, int begin, int end) {
  const int half = call.rot / 2;
  for (int t = begin; t < end; t++) {
    const float *cosine = call.table + ((int64_t)call.variant[t] * call.max_pos + call.position[t]) * call.rot, *sine = cosine + half;
    for (int h = 0; h < call.heads; h++) {
      float *x = call.x + t * call.ldx + (int64_t)h * call.stride;
      for (int i = 0; i < half; i++) {
        float &first = call.interleaved ? x[2 * i] : x[i], &second = call.interleaved ? x[2 * i + 1] : x[i + half];
        const float u = first, v = second;
        first = __builtin_fmaf(u, cosine[i], -(v * sine[i]));
        second = __builtin_fmaf(v, cosine[i], u * sine[i]);
      }
    }
  }
}

void clamp(const ClampCall &call, int begin, int end) {
  for (int t = begin; t < end; t++) {
    float *x = call.x + t * call.ldx;
    for (int i = 0; i < call.width; i++) {
      const float raised = call.low > x[i] ? call.low : x[i]; // A NaN passes.
      x[i] = call.high < raised ? call.high : raised;
    }
  }
}

void gated_rows(const GatedCall &call, int begin, int end) {
  for (int t = begin; t < end; t++)
    for (int i = 0; i < call.width; i++)
      call.out[t * call.ldo + i] = gated(call.activation, call.alpha, call.limit, call.gate[t * call.ldx + (int64_t)i * call.step],
                                         call.up[t * call.ldx + (int64_t)i * call.step]);
}

void mul_sigmoid(const MulSigmoidCall &call, int begin, int end) {
  for (int t = begin; t < end; t++)
    for (int i = 0; i < call.width; i++) call.x[t * call.ldx + i] *= sigmoid(call.gate[t * call.ldg + (int64_t)i * call.gate_step]);
}

SY_FMA_CLONES void add(const AddCall &call, int begin, int end) {
  for (int t = begin; t < end; t++)
    for (int i = 0; i < call.width; i++) call.out[t * call.ldo + i] = __builtin_fmaf(call.scale, call.x[t * call.ldx + i], call.out[t * call.ldo + i]);
}

/* ---- router ---------------------------------------------------------------------------------------------------------------------------------- */

/* p[e] = exp(z[e] - max z) / sum, the sum in ascending id. */
void softmax(const float *z, int n, float *p) {
  float m = z[0];
  for (int e = 1; e < n; e++) m = z[e] > m ? z[e] : m;
  float sum = 0.0f;
  for (int e = 0; e < n; e++) {
    p[e] = sy_exp(z[e] - m);
    sum += p[e];
  }
  for (int e = 0; e < n; e++) p[e] = p[e] / sum;
}

/* Index of the largest of c[begin, end) that is not taken; ties go to the lower index. */
int best_of(const float *c, const bool *taken, int begin, int end) {
  int best = -1;
  for (int e = begin; e < end; e++)
    if (!taken[e] && (best < 0 || c[e] > c[best])) best = e;
  return best;
}

/* Experts outside the best groups lose their score: to -inf, or to 0 as older checkpoints' code has it. False if a group's score is NaN (inf - inf). */
bool mask_groups(const RouteCall &call, float *c) {
  const int size = call.experts / call.groups;
  float score[route_groups_max];
  bool kept[route_groups_max] = {}, taken[route_experts_max] = {};
  for (int g = 0; g < call.groups; g++) {
    const int first = best_of(c, taken, g * size, (g + 1) * size);
    score[g] = c[first];
    if (call.group_sum_of_two) {
      taken[first] = true;
      score[g] = c[first] + c[best_of(c, taken, g * size, (g + 1) * size)];
    }
    if (score[g] != score[g]) return false;
  }
  for (int i = 0; i < call.top_groups; i++) kept[best_of(score, kept, 0, call.groups)] = true;
  for (int e = 0; e < call.experts; e++)
    if (!kept[e / size]) c[e] = call.mask_zero ? 0.0f : -INFINITY;
  return true;
}

/* SparseMixer: two sequential argmaxes; each weight is a softmax over the logits within a relative distance of its maximum. */
bool sparse_mixer(const RouteCall &call, const float *z, int32_t *ids, float *weights) {
  const float threshold = 2.0f * call.jitter_eps;
  bool taken[route_experts_max] = {};
  for (int i = 0; i < 2; i++) {
    const int best = best_of(z, taken, 0, call.experts);
    const float m = z[best];
    float sum = 0.0f;
    for (int e = 0; e < call.experts; e++) {
      if (taken[e]) continue;
      const float size = fabsf(z[e]), divisor = size > m ? size : m;
      if ((m - z[e]) / divisor > threshold) continue;
      sum += sy_exp(z[e] - m);
    }
    taken[best] = true;
    ids[i] = best;
    weights[i] = sy_exp(z[best] - m) / sum * call.scale;
    if (weights[i] != weights[i]) return false;
  }
  return true;
}

/* False if a score is NaN. */
bool route_row(const RouteCall &call, const float *z, int32_t *ids, float *weights) {
  const int n = call.experts;
  for (int e = 0; e < n; e++)
    if (z[e] != z[e]) return false;
  if (call.score == RouteScore::sparse_mixer) return sparse_mixer(call, z, ids, weights);
  float s[route_experts_max], c[route_experts_max];
  if (call.score == RouteScore::softmax) softmax(z, n, s);
  else
    for (int e = 0; e < n; e++) s[e] = call.score == RouteScore::sigmoid ? sigmoid(z[e]) : z[e];
  for (int e = 0; e < n; e++) {
    c[e] = call.select_bias ? s[e] + call.select_bias[e] : s[e];
    if (c[e] != c[e]) return false;
  }
  if (call.groups > 1 && !mask_groups(call, c)) return false;

  const float *weighed = call.weighs_masked() ? c : s;
  bool taken[route_experts_max] = {};
  for (int i = 0; i < call.k; i++) {
    ids[i] = best_of(c, taken, 0, n);
    taken[ids[i]] = true;
    weights[i] = weighed[ids[i]];
  }
  if (call.score == RouteScore::softmax_chosen) softmax(weights, call.k, weights);
  if (call.renorm) {
    float sum = 0.0f;
    for (int i = 0; i < call.k; i++) sum += weights[i];
    for (int i = 0; i < call.k; i++) weights[i] = weights[i] / (sum + call.renorm_eps);
  }
  for (int i = 0; i < call.k; i++) {
    weights[i] *= call.scale;
    if (weights[i] != weights[i]) return false; // An infinite logit, or nothing to normalise by.
  }
  return true;
}

void route(const RouteCall &call, int begin, int end) {
  if (call.score == RouteScore::factored) return route_factored(call, begin, end);
  for (int t = begin; t < end; t++)
    if (!route_row(call, call.logits + t * call.ld_logits, call.ids + t * call.ld_ids, call.weights + t * call.ld_weights)) route_nowhere(call, t);
}

} // namespace

const VectorKernels &vector_kernels_ref() {
  static const VectorKernels kernels{norm, rope, clamp, gated_rows, mul_sigmoid, add, route};
  return kernels;
}

const VectorKernels &vector_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return vector_kernels_avx512();
  if (isa == Isa::avx2) return vector_kernels_avx2();
#else
  (void)isa;
#endif
  return vector_kernels_ref();
}

} // namespace sy
