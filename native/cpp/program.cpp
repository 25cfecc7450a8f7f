#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "compile.h"
#include "route_nodes.h"
#include "team.h"
#include "ticks.h"

namespace sy {
namespace {

/* Below these many elements the caller does a row op alone: waking a helper costs microseconds. Results do not depend on them. */
constexpr int64_t copy_alone_below = 64 * 1024;        /* moved or scaled */
constexpr int64_t exponential_alone_below = 16 * 1024; /* one exponential each */

/* Rows are shared out in contiguous ranges. */
template <class Work> void share_rows(Pool &pool, int rows, int64_t elements, int64_t alone_below, const Work &work) {
  if (elements < alone_below || rows < 2) return work(0, rows);
  share(pool, false, [&](const Team &team) {
    const Range range = team.part(rows);
    if (range.begin < range.end) work(range.begin, range.end);
  });
}

/* The rate of ticks() is found by comparing it with the steady clock. */
struct ClockStart {
  uint64_t tick = ticks();
  std::chrono::steady_clock::time_point time = std::chrono::steady_clock::now();
};
const ClockStart clock_start;

double seconds_per_tick() {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - clock_start.time).count();
  const uint64_t passed = ticks() - clock_start.tick;
  return passed == 0 ? 0.0 : seconds / (double)passed;
}

void embed(Pool &pool, const EmbedStep &step, const sy_batch &batch) {
  share_rows(pool, batch.rows, (int64_t)batch.rows * step.width, copy_alone_below, [&](int begin, int end) {
    for (int t = begin; t < end; t++) {
      float *out = step.out + t * step.ldo;
      load_f32(*step.table, batch.token[t], 0, step.width, out);
      if (step.scale != 1.0f)
        for (int i = 0; i < step.width; i++) out[i] *= step.scale;
    }
  });
}

void kv_write(Pool &pool, const KvWriteStep &step, const sy_batch &batch, const int32_t *position) {
  const KvShape &shape = step.kv->shape;
  const int64_t elements = (int64_t)batch.rows * shape.kv_heads * (shape.k_dim + (step.v ? shape.v_dim : 0));
  share_rows(pool, batch.rows, elements, copy_alone_below / 4, [&](int begin, int end) {
    int s = 0;
    for (int t = begin; t < end; t++) {
      while (t >= batch.seq_row[s + 1]) s++;
      const int block = batch.block[(int64_t)s * batch.max_blocks + position[t] / kv_block];
      for (int h = 0; h < shape.kv_heads; h++)
        step.kv->write(block, h, position[t] % kv_block, step.k + t * step.ldk + (int64_t)h * step.k_stride,
                       step.v ? step.v + t * step.ldv + (int64_t)h * step.v_stride : nullptr);
    }
  });
}

void gather(Pool &pool, const GatherStep &step, const sy_batch &batch) {
  share_rows(pool, batch.logit_rows, (int64_t)batch.logit_rows * step.width, copy_alone_below, [&](int begin, int end) {
    for (int i = begin; i < end; i++) memcpy(step.out + i * step.ldo, step.x + batch.logit_row[i] * step.ldx, (size_t)step.width * sizeof(float));
  });
}

[[noreturn]] void refuse(const char *field, int index, int value, const char *limit) {
  fail(SY_INVALID_ARGUMENT, "batch %s[%d] = %d: %s", field, index, value, limit);
}

void check_count(const char *field, int value, int most) {
  if (value < 0 || value > most) fail(SY_INVALID_ARGUMENT, "batch %s = %d: must be 0..%d", field, value, most);
}

/* Index of the first value outside 0..most-1, or -1. One pass without branches finds that there is none. */
int first_outside(const int32_t *value, int count, int most) {
  unsigned outside = 0;
  for (int i = 0; i < count; i++) outside |= (uint32_t)value[i] >= (uint32_t)most;
  if (!outside) return -1;
  for (int i = 0; i < count; i++)
    if ((uint32_t)value[i] >= (uint32_t)most) return i;
  return -1;
}

} // namespace

void validate(const sy_batch &batch, const BatchLimits &limits) {
  check_count("rows", batch.rows, limits.max_rows);
  check_count("seqs", batch.seqs, limits.max_seqs);
  check_count("logit_rows", batch.logit_rows, std::min(batch.rows, limits.max_logit_rows));
  if (batch.rows > 0 && !batch.row_status) fail(SY_INVALID_ARGUMENT, "batch row_status is null");
  if (batch.max_blocks < 0) fail(SY_INVALID_ARGUMENT, "batch max_blocks = %d: must not be negative", batch.max_blocks);

  if (batch.seq_row[0] != 0) refuse("seq_row", 0, batch.seq_row[0], "the first sequence begins at row 0");
  for (int s = 0; s < batch.seqs; s++) {
    const int first = batch.seq_row[s], end = batch.seq_row[s + 1];
    if (end < first || end > batch.rows) refuse("seq_row", s + 1, end, "must ascend and not exceed the rows");
    const int rows = end - first;
    if (batch.seq_pos[s] < 0 || batch.seq_pos[s] > limits.max_context - rows) {
      fail(SY_INVALID_ARGUMENT, "batch seq_pos[%d] = %d: with %d rows it must be 0..%d", s, batch.seq_pos[s], rows, limits.max_context - rows);
    }
    if (limits.variants > 0 && (uint32_t)batch.seq_variant[s] >= (uint32_t)limits.variants)
      fail(SY_INVALID_ARGUMENT, "batch seq_variant[%d] = %d: must be 0..%d", s, batch.seq_variant[s], limits.variants - 1);
    if (limits.kv_blocks > 0 && rows > 0) {
      const int blocks = (batch.seq_pos[s] + rows - 1) / kv_block + 1; // No sum here exceeds max_context.
      if (blocks > batch.max_blocks) fail(SY_INVALID_ARGUMENT, "batch max_blocks = %d: sequence %d needs %d", batch.max_blocks, s, blocks);
      const int wrong = first_outside(batch.block + (int64_t)s * batch.max_blocks, blocks, limits.kv_blocks);
      if (wrong >= 0)
        fail(SY_INVALID_ARGUMENT, "batch block[%d, %d] = %d: must be 0..%d", s, wrong, batch.block[(int64_t)s * batch.max_blocks + wrong],
             limits.kv_blocks - 1);
    }
  }
  if (batch.seq_row[batch.seqs] != batch.rows) refuse("seq_row", batch.seqs, batch.seq_row[batch.seqs], "the last sequence ends at the last row");

  if (limits.tokens > 0) {
    const int wrong = first_outside(batch.token, batch.rows, limits.tokens);
    if (wrong >= 0) fail(SY_INVALID_ARGUMENT, "batch token[%d] = %d: must be 0..%d", wrong, batch.token[wrong], limits.tokens - 1);
  }
  for (int i = 0, least = 0; i < batch.logit_rows; i++) {
    if (batch.logit_row[i] < least || batch.logit_row[i] >= batch.rows) refuse("logit_row", i, batch.logit_row[i], "must ascend and be one of the rows");
    least = batch.logit_row[i] + 1;
  }
}

} // namespace sy

sy_program::sy_program(sy_device &owner, const sy_op *ops, int count, sy_object *const *objects, int object_count, int max_rows, int max_seqs,
                       int max_context)
    : device(owner), limits_{max_rows, max_seqs, max_context, 0} {
  using namespace sy;
  if (max_rows < 1) fail(SY_INVALID_ARGUMENT, "max_rows = %d: must be at least 1", max_rows);
  if (max_seqs < 1) fail(SY_INVALID_ARGUMENT, "max_seqs = %d: must be at least 1", max_seqs);
  if (max_context < 1) fail(SY_INVALID_ARGUMENT, "max_context = %d: must be at least 1", max_context);
  if (count < 0 || object_count < 0) fail(SY_INVALID_ARGUMENT, "count = %d, object_count = %d: must not be negative", count, object_count);
  for (int i = 0; i < object_count; i++) {
    if (!objects[i]) fail(SY_INVALID_ARGUMENT, "object %d is null", i);
    if (objects[i]->device != &device) fail(SY_INVALID_ARGUMENT, "object %d (%s) belongs to another device", i, name_of(objects[i]->kind));
  }
  position_.resize((size_t)max_rows);
  variant_.resize((size_t)max_rows);
  Compilation compilation{device.isa, device.pool.threads(), limits_, position_.data(), variant_.data()};
  steps_.reserve((size_t)count);
  for (int i = 0; i < count; i++) steps_.push_back(compile(ops[i], i, objects, object_count, compilation));
  limits_ = compilation.limits;
  if (limits_.max_logit_rows == 0) limits_.max_logit_rows = max_rows; // No op reads them.
  const auto count_dense = [&](const Weight &weight) {
    const int64_t products = (int64_t)weight_n(weight) * weight_k(weight);
    work_.dense_bytes += 2 * products;
    work_.dense_products_per_row += products;
  };
  const auto count_attention = [&](const AttentionCall &call) {
    const int64_t products = (int64_t)call.heads * (call.kv->shape.k_dim + call.kv->shape.v_dim);
    int64_t seen = max_context;
    for (const int limit : {call.window, call.chunk})
      if (limit > 0) seen = std::min<int64_t>(seen, limit);
    for (auto &kind : work_.attention)
      if (kind.seen == seen) return void(kind.products_per_key += products);
    work_.attention.push_back({seen, products});
  };
  for (const Step &step : steps_) {
    if (const auto *dense = std::get_if<LinearStep>(&step.call)) count_dense(*dense->weight);
    else if (const auto *heads = std::get_if<HeadLinearStep>(&step.call)) count_dense(*heads->weight);
    else if (const auto *attention = std::get_if<AttentionCall>(&step.call)) count_attention(*attention);
    else if (const auto *layer = std::get_if<ExpertsStep>(&step.call)) {
      if (experts_on_accelerator(*layer->experts)) continue;
      const sy_experts_desc &desc = experts_desc(*layer->experts);
      work_.expert_bytes += 2 * (int64_t)3 * desc.hidden * desc.inter;
      work_.pairs_per_row = layer->call.k;
      work_.slots = desc.slots;
    }
  }
  device.workspace.reserve(compilation.workspace_bytes);
  used_.assign(objects, objects + object_count);
  for (sy_object *object : used_) object->references++;
}

sy_program::~sy_program() {
  for (sy_object *object : used_) sy::object_release(object);
}

/* From what one core streams and multiplies; only its order of magnitude matters, and it never changes a result. */
double sy_program::estimated_us(const sy_batch &batch) const {
  constexpr double bytes_per_us = 40'000, products_per_us = 80'000;
  const int64_t rows = batch.rows, pairs = rows * work_.pairs_per_row;
  double attention = 0;
  for (int s = 0; s < batch.seqs; s++) {
    const int64_t own = batch.seq_row[s + 1] - batch.seq_row[s], keys = batch.seq_pos[s] + (own + 1) / 2; // Of a row, on average.
    for (const auto &kind : work_.attention) attention += (double)(own * std::min(kind.seen, keys) * kind.products_per_key);
  }
  const double bytes = (double)(work_.dense_bytes + work_.expert_bytes * std::min(pairs, work_.slots));
  const double products = attention + (double)(rows * work_.dense_products_per_row + pairs * (work_.expert_bytes / 2));
  return std::max(bytes / bytes_per_us, products / products_per_us);
}

void sy_program::run(const sy_batch &batch) {
  using namespace sy;
  validate(batch, limits_);
  if (batch.rows == 0) return;
  memset(batch.row_status, 0, (size_t)batch.rows * sizeof(int32_t));
  const double estimate = estimated_us(batch);
  const bool learns = device.pool.threads() > 1 && together_to_learn(estimate);
  ThreadChoice &choice = choices_[row_class(batch.rows)];
  const uint64_t start = ticks();
  const bool together = learns ? choice.begin(start, estimate >= together_expected_from_us) : estimate >= together_always_from_us;
  Pool::Session session(device.pool, together, patience_us(estimate));
  for (int s = 0; s < batch.seqs; s++)
    for (int t = batch.seq_row[s]; t < batch.seq_row[s + 1]; t++) {
      position_[(size_t)t] = batch.seq_pos[s] + (t - batch.seq_row[s]);
      variant_[(size_t)t] = batch.seq_variant[s];
    }
  uint64_t before = ticks();
  for (const Step &step : steps_) {
    session.gather();
    run_step(step, batch);
    const uint64_t now = ticks();
    ticks_[step.kind] += now - before;
    before = now;
  }
  if (learns) choice.end(before, batch.rows);
}

void sy_program::run_step(const sy::Step &step, const sy_batch &batch) {
  using namespace sy;
  Pool &pool = device.pool;
  const VectorKernels &kernels = vector_kernels(device.isa);
  void *workspace = device.workspace.data();
  const int rows = step.logit_rows ? batch.logit_rows : batch.rows;
  if (rows == 0) return;
  const int64_t n = rows;
  switch (step.kind) {
  case SY_OP_EMBED: return embed(pool, std::get<EmbedStep>(step.call), batch);
  case SY_OP_NORM: {
    const NormCall &call = std::get<NormCall>(step.call);
    return share_rows(pool, rows, n * call.groups * call.width, copy_alone_below, [&](int begin, int end) { kernels.norm(call, begin, end); });
  }
  case SY_OP_LINEAR: {
    const LinearStep &linear_step = std::get<LinearStep>(step.call);
    LinearCall call = linear_step.call;
    call.rows = rows;
    return linear(pool, *linear_step.weight, call, workspace);
  }
  case SY_OP_HEAD_LINEAR: {
    const HeadLinearStep &head_step = std::get<HeadLinearStep>(step.call);
    HeadLinearCall call = head_step.call;
    call.rows = rows;
    return head_linear(pool, *head_step.weight, call, workspace);
  }
  case SY_OP_ROPE: {
    const RopeCall &call = std::get<RopeCall>(step.call);
    return share_rows(pool, rows, n * call.heads * call.rot, copy_alone_below, [&](int begin, int end) { kernels.rope(call, begin, end); });
  }
  case SY_OP_CLAMP: {
    const ClampCall &call = std::get<ClampCall>(step.call);
    return share_rows(pool, rows, n * call.width, copy_alone_below, [&](int begin, int end) { kernels.clamp(call, begin, end); });
  }
  case SY_OP_KV_WRITE: return kv_write(pool, std::get<KvWriteStep>(step.call), batch, position_.data());
  case SY_OP_ATTENTION: return attention(pool, device.isa, std::get<AttentionCall>(step.call), batch, limits_.max_context, workspace);
  case SY_OP_GATED_ACT: {
    const GatedCall &call = std::get<GatedCall>(step.call);
    return share_rows(pool, rows, n * call.width, exponential_alone_below, [&](int begin, int end) { kernels.gated(call, begin, end); });
  }
  case SY_OP_MUL_SIGMOID: {
    const MulSigmoidCall &call = std::get<MulSigmoidCall>(step.call);
    return share_rows(pool, rows, n * call.width, exponential_alone_below, [&](int begin, int end) { kernels.mul_sigmoid(call, begin, end); });
  }
  case SY_OP_ADD: {
    const AddCall &call = std::get<AddCall>(step.call);
    return share_rows(pool, rows, n * call.width, copy_alone_below, [&](int begin, int end) { kernels.add(call, begin, end); });
  }
  case SY_OP_ROUTE: {
    RouteCall call = std::get<RouteCall>(step.call);
    call.marks = {batch.row_status, step.number + 1};
    return share_rows(pool, rows, n * call.experts, exponential_alone_below / 4, [&](int begin, int end) {
      if (call.nodes) route_within_nodes(kernels, call, begin, end);
      else kernels.route(call, begin, end);
    });
  }
  case SY_OP_EXPERTS: {
    const ExpertsStep &experts_step = std::get<ExpertsStep>(step.call);
    RoutedCall call = experts_step.call;
    call.rows = rows;
    return experts_run_routed(*experts_step.experts, pool, call, *experts_step.sum);
  }
  case SY_OP_COMBINE: {
    const CombineStep &combine_step = std::get<CombineStep>(step.call);
    CombineCall call = combine_step.call;
    call.rows = rows;
    call.marks = {batch.row_status, step.number + 1};
    return combine(pool, *combine_step.sum, call);
  }
  case SY_OP_GATHER: return gather(pool, std::get<GatherStep>(step.call), batch);
  }
}

void sy_program::times(double out[32]) const {
  const double scale = sy::seconds_per_tick();
  for (int kind = 0; kind < 32; kind++) out[kind] = (double)ticks_[kind] * scale;
}
