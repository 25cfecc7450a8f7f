/* The oracle's experts: one pair after the other, everything in plain vectors. */
#include "experts.h"
#include "gate.h"
#include "numeric.h"
#include "oracle.h"

namespace sy {
namespace {

const float *data_or_null(const std::vector<float> &bias) { return bias.empty() ? nullptr : bias.data(); }

SY_FMA_CLONES float gated_ref(const sy_experts_desc &desc, float g, float u) { return gated(desc.activation, desc.alpha, desc.limit, g, u); }

/* E(x), [hidden]. */
std::vector<float> expert_ref(const sy_experts_desc &desc, const PlainExpert &expert, const float *x) {
  std::vector<float> h = multiply_ref(expert.gate, x, data_or_null(expert.gate_bias));
  const std::vector<float> up = multiply_ref(expert.up, x, data_or_null(expert.up_bias));
  for (size_t i = 0; i < h.size(); i++) h[i] = gated_ref(desc, h[i], up[i]);
  return multiply_ref(expert.down, h.data(), data_or_null(expert.down_bias));
}

/* Adds weight * y to a row: rounded once, then to the nearest step of the grid (ties to even), then as integers. */
void contribute_ref(RowSum &sum, int row, const std::vector<float> &y, float weight, float steps_per_unit) {
  for (size_t i = 0; i < y.size(); i++) {
    const float contribution = weight * y[i];
    if (sum.mode == SY_SUM_FAST) {
      sum.fast(row)[i] += contribution;
      continue;
    }
    const float steps = contribution * steps_per_unit; // A power of two: exact, or so small that it rounds to 0 anyway.
    if (!(std::fabs(steps) < contribution_limit)) sum.poison(row);
    else sum.exact(row)[i] += (int64_t)llrintf(steps);
  }
}

} // namespace

void run_plan_ref(Experts &experts, const float *x, int64_t ldx, const ExpertSink &sink) {
  if (sink.sum) sum_clear(*sink.sum, sink.cleared_rows);
  for (const PairPlan::Group &group : experts.plan.groups)
    for (int pair = group.first; pair < group.first + group.count; pair++) {
      const int row = experts.plan.row[(size_t)pair];
      const std::vector<float> y = expert_ref(experts.desc, experts.plain[(size_t)group.slot], x + row * ldx);
      if (sink.out) std::copy(y.begin(), y.end(), sink.out + (size_t)pair * y.size());
      else contribute_ref(*sink.sum, row, y, experts.plan.weight[(size_t)pair], sink.steps_per_unit);
    }
}

} // namespace sy
