/*
 * A program: ops checked against their objects once, then run for one batch after another without allocating.
 */
#ifndef SWITCHYARD_PROGRAM_H
#define SWITCHYARD_PROGRAM_H

#include <memory>
#include <variant>
#include <vector>

#include "attention.h"
#include "device.h"
#include "thread-choice.h"
#include "vector.h"

namespace sy {

struct EmbedStep {
  const sy_source *table;
  float *out;
  int64_t ldo;
  int width;
  float scale;
};
struct LinearStep {
  const Weight *weight;
  LinearCall call; /* rows are set when it runs */
};
struct HeadLinearStep {
  const Weight *weight;
  HeadLinearCall call;
};
struct KvWriteStep {
  KvCache *kv;
  const float *k, *v; /* v null: the cache shares k */
  int64_t ldk, ldv;
  int k_stride, v_stride;
};
struct ExpertsStep {
  Experts *experts;
  RowSum *sum;
  RoutedCall call;
};
struct CombineStep {
  const RowSum *sum;
  CombineCall call;
};
struct GatherStep {
  const float *x;
  int64_t ldx;
  float *out;
  int64_t ldo;
  int width;
};

struct Step {
  int kind;          /* sy_op_kind */
  int number;        /* in the list of ops, for messages */
  bool logit_rows;   /* works on the batch's logit rows */
  std::variant<EmbedStep, NormCall, LinearStep, HeadLinearStep, RopeCall, ClampCall, KvWriteStep, AttentionCall, GatedCall, MulSigmoidCall, AddCall,
               RouteCall, ExpertsStep, CombineStep, GatherStep>
      call;
};

/* What a batch must stay within, gathered from the arguments and from every op. */
struct BatchLimits {
  int max_rows, max_seqs, max_context, max_logit_rows;
  int tokens = 0;                /* rows of the smallest embedding table; 0: tokens are not read */
  int kv_blocks = 0;             /* blocks of the smallest cache; 0: blocks are not read */
  int variants = 0;              /* of the smallest rope table; 0: variants are not read */
};

/* Throws SY_INVALID_ARGUMENT naming the field, its value and its limit. */
void validate(const sy_batch &batch, const BatchLimits &limits);

} // namespace sy

struct sy_program {
  sy_program(sy_device &device, const sy_op *ops, int count, sy_object *const *objects, int object_count, int max_rows, int max_seqs, int max_context);
  ~sy_program();
  sy_program(const sy_program &) = delete;
  sy_program &operator=(const sy_program &) = delete;

  void run(const sy_batch &batch); /* throws */
  void times(double out[32]) const;

  sy_device &device;

private:
  void run_step(const sy::Step &step, const sy_batch &batch);
  double estimated_us(const sy_batch &batch) const;

  std::vector<sy_object *> used_; /* one reference each */
  std::vector<sy::Step> steps_;
  sy::BatchLimits limits_;
  std::vector<int32_t> position_, variant_; /* [max_rows], of the batch's rows */
  uint64_t ticks_[32] = {};
  sy::ThreadChoice choices_[sy::row_classes];
  /* What a run on this processor reads and multiplies: enough to tell whether several threads pay. */
  struct {
    int64_t dense_bytes = 0, dense_products_per_row = 0;
    int64_t expert_bytes = 0, pairs_per_row = 0, slots = 0; /* one expert of every layer; of one layer */
    struct Attention {
      int64_t seen, products_per_key; /* keys at most; products of a row, all layers that see so many together */
    };
    std::vector<Attention> attention;
  } work_;
};
#endif
