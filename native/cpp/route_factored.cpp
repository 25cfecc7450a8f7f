/*
 * The bi-level gate of SMILE (He et al. 2022, arXiv:2212.05191) in its general form: p = softmax over groups, q = softmax over the slots that every group
 * has, expert (i, j) has the score p_i * q_j. The best topGroups groups stay, and in each the best k / topGroups slots; SMILE itself keeps one of one.
 * A row costs groups + slots exponentials, not their product, so wide vectors would have nothing to do.
 */
#include "route_factored.h"

#include "exp.h"
#include "numeric.h"

namespace sy {
namespace {

/* p[i] = exp(z[i] - max z) / sum, the sum ascending. False if a logit is NaN or the sum is not finite and positive. */
SY_FMA_CLONES bool shares(const float *z, int n, float *p) {
  float m = z[0];
  for (int i = 0; i < n; i++) {
    if (z[i] != z[i]) return false;
    m = z[i] > m ? z[i] : m;
  }
  float sum = 0.0f;
  for (int i = 0; i < n; i++) {
    p[i] = sy_exp(z[i] - m);
    sum += p[i];
  }
  if (sum != sum) return false;
  for (int i = 0; i < n; i++) p[i] = p[i] / sum;
  return true;
}

/* best[0..keep): indices of the largest, higher first, ties to the lower index. */
void largest(const float *p, int n, int keep, int *best) {
  int held = 0;
  for (int i = 0; i < n; i++) {
    int at = held;
    while (at > 0 && p[i] > p[best[at - 1]]) at--;
    if (at == keep) continue;
    if (held < keep) held++;
    for (int j = held - 1; j > at; j--) best[j] = best[j - 1];
    best[at] = i;
  }
}

bool route_row(const RouteCall &call, const float *z, int32_t *ids, float *weights) {
  const int groups = call.groups, slots = call.experts / groups, kept_groups = call.top_groups, kept_slots = call.k / kept_groups;
  float p[route_groups_max], q[route_experts_max];
  int group[route_groups_max], slot[route_experts_max];
  if (!shares(z, groups, p) || !shares(z + groups, slots, q)) return false;
  largest(p, groups, kept_groups, group);
  largest(q, slots, kept_slots, slot);

  // By score, then id: products are inserted one by one, for k is small.
  int held = 0;
  float sum = 0.0f;
  for (int i = 0; i < kept_groups; i++)
    for (int j = 0; j < kept_slots; j++) {
      const int32_t id = group[i] * slots + slot[j];
      const float score = p[group[i]] * q[slot[j]];
      int at = held++;
      for (; at > 0 && (score > weights[at - 1] || (score == weights[at - 1] && id < ids[at - 1])); at--) {
        weights[at] = weights[at - 1];
        ids[at] = ids[at - 1];
      }
      weights[at] = score;
      ids[at] = id;
    }
  if (call.renorm) {
    for (int i = 0; i < call.k; i++) sum += weights[i];
    const float divisor = sum + call.renorm_eps;
    for (int i = 0; i < call.k; i++) weights[i] = weights[i] / divisor;
  }
  for (int i = 0; i < call.k; i++) {
    weights[i] *= call.scale;
    if (weights[i] != weights[i]) return false;
  }
  return true;
}

} // namespace

void route_factored(const RouteCall &call, int begin, int end) {
  for (int t = begin; t < end; t++)
    if (!route_row(call, call.logits + t * call.ld_logits, call.ids + t * call.ld_ids, call.weights + t * call.ld_weights)) route_nowhere(call, t);
}

} // namespace sy
