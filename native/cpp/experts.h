/* The experts of one layer on one device: memory of the slots, and the workspace that a call needs. */
#ifndef SWITCHYARD_EXPERTS_H
#define SWITCHYARD_EXPERTS_H

#include <vector>

#include "accelerator.h"
#include "kernels.h"
#include "pack.h"
#include "region.h"
#include "sum.h"
#include "thread-choice.h"
#include "tiles.h"

namespace sy {

/* One slot in the SIMD layout. Gate panel i and up panel i are neighbours, so that one stream feeds both halves of the activation. */
struct ExpertLayout {
  size_t gate_panel_bytes = 0, down_panel_bytes = 0;
  size_t down_at = 0, gate_bias_at = 0, up_bias_at = 0, down_bias_at = 0; /* offsets in a slot */
  size_t slot_bytes = 0;                                                  /* a multiple of 4096: neighbours share no page */
};

struct PlainExpert {
  PlainMatrix gate, up, down;
  std::vector<float> gate_bias, up_bias, down_bias; /* empty without biases */
};

/* Pairs of a call, grouped by slot in ascending order; inside a group in the order given. */
struct PairPlan {
  struct Group {
    int slot, first, count; /* pairs first .. first+count */
  };
  std::vector<int> ends;       /* [slots] counting sort */
  std::vector<Group> groups;   /* distinct slots in use */
  std::vector<int32_t> row;    /* [pairs] */
  std::vector<float> weight;   /* [pairs] */
};

struct Experts {
  Isa isa;
  sy_experts_desc desc;
  std::vector<uint8_t> set; /* [slots] */

  ExpertLayout layout;  /* SIMD */
  Region memory;        /* SIMD: [slots] of slot_bytes; a clear slot holds no pages */
  std::vector<PlainExpert> plain; /* Isa::ref */
  std::unique_ptr<AcceleratedExperts> accelerated; /* then `memory` and `plain` stay empty */

  PairPlan plan;
  Workspace own, *workspace; /* see Scratch in experts.cpp */
  ThreadChoice choices[row_classes]; /* by pairs, for calls outside a program */

  uint8_t *slot(int index) const { return memory.data() + (size_t)index * layout.slot_bytes; }
  const float *bias(int index, size_t at) const { return desc.has_bias ? reinterpret_cast<const float *>(slot(index) + at) : nullptr; }
};

/* Where results go: added to a sum with the pair's weight, or (probe) stored unweighted, pair p to row p of `out`. */
struct ExpertSink {
  RowSum *sum;
  int cleared_rows; /* rows of the sum to zero first */
  int rows;         /* of the sum that pairs add to */
  float steps_per_unit;
  float *out;
};

/* Runs the plan of `experts` (experts.cpp for SIMD, experts_ref.cpp for the oracle). */
void run_plan(Experts &experts, Pool &pool, const float *x, int64_t ldx, const ExpertSink &sink);
void run_plan_ref(Experts &experts, const float *x, int64_t ldx, const ExpertSink &sink);

} // namespace sy
#endif
