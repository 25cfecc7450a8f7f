/* Experts on a GPU: what is in its memory, and the launches of a call. Compiled twice, see gpu.h. */
#include <algorithm>
#include <cstring>
#include <vector>

#include "../cpp/accelerator.h"
#include "../cpp/experts.h"
#include "../cpp/team.h"
#include "../cpp/tiles.h"
#include "ceilings.h"
#include "panels.h"

namespace sy::SY_GPU {
namespace {

constexpr size_t alignment = 256; /* of what lies in one block of memory */
int blocks_of(int64_t items, int in_block) { return (int)((items + in_block - 1) / in_block); }

/* Memory that is only ever made larger, its content lost. */
template <void *(*make)(size_t), void (*free)(void *)> class Memory {
public:
  Memory() = default;
  ~Memory() { free(data_); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  void reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    free(data_);
    data_ = nullptr, bytes_ = 0;
    data_ = static_cast<uint8_t *>(make(bytes));
    bytes_ = bytes;
  }
  template <class T> T *at(size_t offset) const { return reinterpret_cast<T *>(data_ + offset); }
  bool empty() const { return !data_; }

private:
  uint8_t *data_ = nullptr;
  size_t bytes_ = 0;
};
using DeviceMemory = Memory<allocate, release>;
using PinnedMemory = Memory<allocate_pinned, release_pinned>;

/* Pieces one after the other in a block of memory. */
struct Offsets {
  __int128 bytes = 0;
  size_t take(__int128 count) {
    const __int128 at = bytes;
    bytes = (at + count + alignment - 1) / alignment * alignment;
    return (size_t)at; // If it does not fit, nor does the sum: total() throws.
  }
  size_t total(int64_t pairs) const { return checked_bytes(bytes, "the workspace of %lld pairs on a GPU", (long long)pairs); }
};

int64_t stride_of(int width) { return (int64_t)groups_of(width) * group_k; }

/* What goes to the GPU for a call, in one copy. */
struct Request {
  size_t x, pair_row, weight, row_begin, row_pair, few, many, bytes;
  Request(const sy_experts_desc &d, int64_t pairs, int64_t rows) {
    Offsets offsets;
    x = offsets.take((__int128)rows * stride_of(d.hidden) * sizeof(float));
    pair_row = offsets.take((__int128)pairs * sizeof(int32_t));
    weight = offsets.take((__int128)pairs * sizeof(float));
    row_begin = offsets.take((__int128)(rows + 1) * sizeof(int32_t));
    row_pair = offsets.take((__int128)pairs * sizeof(int32_t));
    few = offsets.take((__int128)pairs * sizeof(Tile));
    many = offsets.take((__int128)pairs * sizeof(Tile));
    bytes = offsets.total(pairs);
  }
};
/* What a call writes in the GPU's memory. */
struct Scratch {
  size_t x_values, x_steps, x_scales, hidden, hidden_steps, hidden_scales, y, bytes;
  Scratch(const sy_experts_desc &d, int64_t pairs, int64_t rows) {
    Offsets offsets;
    const __int128 inputs = (__int128)rows * stride_of(d.hidden), hiddens = (__int128)pairs * stride_of(d.inter);
    const bool steps = quantised(d.format);
    x_values = offsets.take(d.format == SY_W_BF16_X16 ? inputs * sizeof(float) : 0);
    x_steps = offsets.take(steps ? inputs : 0);
    x_scales = offsets.take(steps ? inputs / group_k * sizeof(float) : 0);
    hidden = offsets.take(hiddens * sizeof(float));
    hidden_steps = offsets.take(steps ? hiddens : 0);
    hidden_scales = offsets.take(steps ? hiddens / group_k * sizeof(float) : 0);
    y = offsets.take((__int128)pairs * d.hidden * sizeof(float));
    bytes = offsets.total(pairs);
  }
};
/* What comes back: sums and marks of rows, or the outputs of pairs where they are added on the host (0: they are not). */
struct Answer {
  size_t sums, poisoned, wide, bytes;
  Answer(const sy_experts_desc &d, int64_t pairs, int64_t rows) {
    Offsets offsets;
    sums = offsets.take((__int128)d.hidden * std::max(rows * (int64_t)sizeof(int64_t), pairs * (int64_t)sizeof(float)));
    poisoned = offsets.take(rows);
    wide = offsets.take(rows);
    bytes = offsets.total(pairs);
  }
};

bool adds_here(const ExpertSink &sink) { return !sink.sum || sink.sum->mode != SY_SUM_EXACT; }

/* The memory that all experts of a device share, because their calls come one at a time. */
struct Workspace {
  explicit Workspace(int ordinal) : device(ordinal) {}
  ~Workspace() { device.use_if_possible(); }

  Device device;
  PinnedMemory request, answer;
  DeviceMemory device_request, scratch;

  void reserve(const sy_experts_desc &d, int64_t pairs, int64_t rows, bool outputs_come_back) {
    const size_t request_bytes = Request(d, pairs, rows).bytes;
    request.reserve(request_bytes);
    device_request.reserve(request_bytes);
    scratch.reserve(Scratch(d, pairs, rows).bytes);
    answer.reserve(Answer(d, outputs_come_back ? pairs : 0, rows).bytes);
  }
};

/* Experts with more rows than this are computed by `many`: below, what counts is that many warps read at a time. (Of 8, 16 and 32 the best on an H200.) */
constexpr int few_up_to = 16;

/* The launches of one weight format. */
struct Kernels {
  void (*few_gate_up)(Product);
  void (*many_gate_up)(Product);
  void (*few_down)(Product);
  void (*many_down)(Product);
};
template <int format> constexpr Kernels kernels_for() { return {few<format, true>, many<format, true>, few<format, false>, many<format, false>}; }
Kernels kernels_of(int format) {
  switch (format) {
  case SY_W_F32: return kernels_for<SY_W_F32>();
  case SY_W_F16: return kernels_for<SY_W_F16>();
  case SY_W_BF16:
  case SY_W_BF16_X16: return kernels_for<SY_W_BF16>(); // They differ in what is done to rows before.
  case SY_W_I8: return kernels_for<SY_W_I8>();
  default: return kernels_for<SY_W_I4>();
  }
}

class GpuExperts final : public AcceleratedExperts {
public:
  GpuExperts(std::shared_ptr<Workspace> workspace, const sy_experts_desc &desc, const ExpertLayout &layout)
      : workspace_(std::move(workspace)), desc_(desc), layout_(layout), kernels_(kernels_of(desc.format)) {
    constexpr int widest = 65535 * block_warps * panel_columns / 2; // Columns are the second dimension of a grid; gate and up share it.
    if (desc.hidden > widest || desc.inter > widest)
      fail(SY_UNSUPPORTED, "experts on a GPU: hidden %d and inter %d must not exceed %d", desc.hidden, desc.inter, widest);
    workspace_->device.use();
    for (const auto kernel : {kernels_.few_gate_up, kernels_.few_down}) allow_shared(kernel, few_shared_bytes(desc.format, few_rows));
    slots_.reserve((size_t)desc.slots * layout.slot_bytes); // At once, so that what does not fit is known before anything is packed.
  }
  ~GpuExperts() override { workspace_->device.use_if_possible(); }

  void set(int slot, const uint8_t *bytes) override {
    workspace_->device.use();
    upload_now(slots_.at<void>((size_t)slot * layout_.slot_bytes), bytes, layout_.slot_bytes);
  }
  void reserve(int pairs, int rows) override {
    workspace_->device.use();
    workspace_->reserve(desc_, pairs, rows, false);
    for (std::vector<int> *list : {&rows_, &place_, &counts_}) list->reserve((size_t)rows);
  }

  void run(const Experts &experts, Pool &pool, const float *x, int64_t ldx, const ExpertSink &sink) override {
    const PairPlan &plan = experts.plan;
    int pairs = 0;
    for (const PairPlan::Group &group : plan.groups) pairs += group.count;
    find_rows(plan, pairs);
    if (pairs > 0) {
      workspace_->device.use();
      workspace_->reserve(desc_, pairs, (int64_t)rows_.size(), adds_here(sink));
      try {
        send(plan, pairs, pool, x, ldx);
        compute(pairs);
        bring(pairs, sink);
      } catch (...) {
        settle(); // What was launched writes to memory that the next call uses.
        throw;
      }
    }
    take(plan, pairs, pool, sink);
  }

private:
  /* The rows that any pair reads, ascending, and each pair's place among them. */
  void find_rows(const PairPlan &plan, int pairs) {
    int last = -1;
    for (int p = 0; p < pairs; p++) last = std::max(last, (int)plan.row[(size_t)p]);
    place_.assign((size_t)last + 1, 0);
    for (int p = 0; p < pairs; p++) place_[(size_t)plan.row[(size_t)p]]++;
    rows_.clear();
    counts_.clear();
    for (int row = 0; row <= last; row++) {
      if (place_[(size_t)row] == 0) continue;
      counts_.push_back(place_[(size_t)row]);
      place_[(size_t)row] = (int)rows_.size();
      rows_.push_back(row);
    }
  }

  void send(const PairPlan &plan, int pairs, Pool &pool, const float *x, int64_t ldx) {
    const Request at(desc_, pairs, (int64_t)rows_.size());
    const PinnedMemory &to = workspace_->request;
    const int64_t stride = stride_of(desc_.hidden);
    each_row(pool, [&](size_t i) {
      float *row = to.at<float>(at.x) + (int64_t)i * stride;
      memcpy(row, x + rows_[i] * ldx, (size_t)desc_.hidden * sizeof(float));
      memset(row + desc_.hidden, 0, (size_t)(stride - desc_.hidden) * sizeof(float));
    });
    int32_t *pair_row = to.at<int32_t>(at.pair_row), *row_begin = to.at<int32_t>(at.row_begin), *row_pair = to.at<int32_t>(at.row_pair);
    memcpy(to.at<float>(at.weight), plan.weight.data(), (size_t)pairs * sizeof(float));
    row_begin[0] = 0;
    for (size_t i = 0; i < rows_.size(); i++) {
      row_begin[i + 1] = row_begin[i] + counts_[i];
      counts_[i] = row_begin[i];
    }
    for (int p = 0; p < pairs; p++) {
      pair_row[p] = place_[(size_t)plan.row[(size_t)p]];
      row_pair[counts_[(size_t)pair_row[p]]++] = p;
    }
    few_ = many_ = few_rows_ = 0;
    for (const PairPlan::Group &group : plan.groups) {
      const bool is_few = group.count <= few_up_to;
      const Tiling tiling(group.count, is_few ? few_rows : many_rows(desc_.format));
      for (int i = 0; i < tiling.tiles; i++) {
        to.at<Tile>(is_few ? at.few : at.many)[is_few ? few_++ : many_++] = {group.slot, group.first + tiling.first(i), tiling.height(i)};
        if (is_few) few_rows_ = std::max(few_rows_, few_rows_of(tiling.height(i)));
      }
    }
    upload(workspace_->device_request.at<void>(0), to.at<void>(0), at.bytes);
  }

  /* Rows as the weights' format takes them. */
  Inputs rounded(const float *x, int64_t stride, int rows, int width, float *values, int8_t *steps, float *scales) {
    const Rounding rounding{x, stride, rows, width, values, steps, scales};
    if (quantised(desc_.format)) {
      launch(round_to_steps, {rows, blocks_of(stride / group_k, block_threads)}, block_threads, 0, rounding);
      return {nullptr, steps, scales, stride};
    }
    if (desc_.format != SY_W_BF16_X16 || !values) return {x, nullptr, nullptr, stride};
    launch(round_to_bf16, {rows, blocks_of(stride, block_threads)}, block_threads, 0, rounding);
    return {values, nullptr, nullptr, stride};
  }

  void multiply(Product product, void (*few_kernel)(Product), void (*many_kernel)(Product), const Tile *few_tiles, const Tile *many_tiles) {
    if (many_ > 0) {
      product.tiles = many_tiles;
      launch(many_kernel, {many_, blocks_of(product.panels, block_warps * many_panels)}, block_threads, many_shared_bytes, product);
    }
    if (few_ > 0) {
      product.tiles = few_tiles;
      launch(few_kernel, {few_, blocks_of(product.panels, block_warps)}, block_threads, few_shared_bytes(desc_.format, few_rows_), product);
    }
  }

  /* y = the experts' outputs, by pair. */
  void compute(int pairs) {
    const Request in(desc_, pairs, (int64_t)rows_.size());
    const Scratch at(desc_, pairs, (int64_t)rows_.size());
    const DeviceMemory &request = workspace_->device_request, &scratch = workspace_->scratch;
    const int rows = (int)rows_.size();
    Product product{};
    product.slots = slots_.at<const uint8_t>(0), product.slot_bytes = layout_.slot_bytes;
    product.has_bias = desc_.has_bias;
    const Tile *few_tiles = request.at<Tile>(in.few), *many_tiles = request.at<Tile>(in.many);

    product.at = 0, product.panel_bytes = layout_.gate_panel_bytes, product.panels = 2 * panels_of(desc_.inter);
    product.n = desc_.inter, product.k = desc_.hidden;
    product.row = request.at<int32_t>(in.pair_row);
    product.in = rounded(request.at<float>(in.x), stride_of(desc_.hidden), rows, desc_.hidden, scratch.at<float>(at.x_values), scratch.at<int8_t>(at.x_steps),
                         scratch.at<float>(at.x_scales));
    product.out = scratch.at<float>(at.hidden), product.ldo = stride_of(desc_.inter);
    product.bias_at = layout_.gate_bias_at, product.up_bias_at = layout_.up_bias_at;
    product.activation = desc_.activation, product.alpha = desc_.alpha, product.limit = desc_.limit;
    product.round = desc_.format == SY_W_BF16_X16;
    multiply(product, kernels_.few_gate_up, kernels_.many_gate_up, few_tiles, many_tiles);

    product.at = layout_.down_at, product.panel_bytes = layout_.down_panel_bytes, product.panels = panels_of(desc_.hidden);
    product.n = desc_.hidden, product.k = desc_.inter;
    product.row = nullptr;
    product.in = rounded(scratch.at<float>(at.hidden), stride_of(desc_.inter), pairs, desc_.inter, nullptr, scratch.at<int8_t>(at.hidden_steps),
                         scratch.at<float>(at.hidden_scales));
    product.out = scratch.at<float>(at.y), product.ldo = desc_.hidden;
    product.bias_at = layout_.down_bias_at;
    multiply(product, kernels_.few_down, kernels_.many_down, few_tiles, many_tiles);
  }

  /* Sums of the call's rows, or the outputs themselves where they are added on the host. */
  void bring(int pairs, const ExpertSink &sink) {
    const int rows = (int)rows_.size();
    const Request in(desc_, pairs, rows);
    const Scratch at(desc_, pairs, rows);
    const Answer back(desc_, adds_here(sink) ? pairs : 0, rows);
    const DeviceMemory &request = workspace_->device_request;
    const PinnedMemory &answer = workspace_->answer;
    const float *y = workspace_->scratch.at<float>(at.y);
    wide_ = false;
    if (adds_here(sink)) {
      download(answer.at<void>(back.sums), y, (size_t)pairs * (size_t)desc_.hidden * sizeof(float));
      return finish();
    }
    uint8_t *const poisoned = answer.at<uint8_t>(back.poisoned), *const wide = answer.at<uint8_t>(back.wide);
    memset(poisoned, 0, (size_t)rows);
    memset(wide, 0, (size_t)rows);
    const Contributions contributions{y, desc_.hidden, request.at<int32_t>(in.row_begin), request.at<int32_t>(in.row_pair), request.at<float>(in.weight),
                                      sink.steps_per_unit, contribution_limit, answer.at<void>(back.sums), poisoned, wide};
    const Grid grid{rows, blocks_of(desc_.hidden, block_threads)};
    launch(sum_pairs<int32_t>, grid, block_threads, 0, contributions);
    finish();
    wide_ = std::any_of(wide, wide + rows, [](uint8_t w) { return w != 0; });
    if (!wide_) return;
    launch(sum_pairs<int64_t>, grid, block_threads, 0, contributions);
    finish();
  }

  /* From the answer into the sink, as run_plan() leaves it. */
  void take(const PairPlan &plan, int pairs, Pool &pool, const ExpertSink &sink) {
    const bool exact = !adds_here(sink);
    if (sink.sum && !exact) sum_clear(*sink.sum, sink.cleared_rows);
    if (exact) clear_between(*sink.sum, rows_, sink.cleared_rows);
    if (pairs == 0) return;
    const Answer at(desc_, exact ? 0 : pairs, (int64_t)rows_.size());
    const float *y = workspace_->answer.at<float>(at.sums);
    const size_t width = (size_t)desc_.hidden;
    if (exact) {
      each_row(pool, [&](size_t i) {
        const bool cleared = rows_[i] < sink.cleared_rows;
        if (wide_) place(workspace_->answer.at<int64_t>(at.sums) + i * width, cleared, sink.sum->exact(rows_[i]));
        else place(workspace_->answer.at<int32_t>(at.sums) + i * width, cleared, sink.sum->exact(rows_[i]));
        if (workspace_->answer.at<uint8_t>(at.poisoned)[i]) sink.sum->poison(rows_[i]);
      });
    } else if (sink.sum) {
      for (int p = 0; p < pairs; p++) {
        float *sum = sink.sum->fast(plan.row[(size_t)p]);
        for (size_t i = 0; i < width; i++) sum[i] += plan.weight[(size_t)p] * y[(size_t)p * width + i];
      }
    } else memcpy(sink.out, y, (size_t)pairs * width * sizeof(float));
  }

  template <class Integer> void place(const Integer *from, bool cleared, int64_t *sum) const {
    if (cleared)
      for (int i = 0; i < desc_.hidden; i++) sum[i] = from[i];
    else
      for (int i = 0; i < desc_.hidden; i++) sum[i] += from[i];
  }

  /* Rows below `cleared` that are none of `rows` (ascending), which are written whole. */
  static void clear_between(RowSum &sum, const std::vector<int> &rows, int cleared) {
    memset(sum.poisoned.data(), 0, (size_t)cleared);
    size_t next = 0;
    for (int row = 0; row < cleared; row++) {
      if (next < rows.size() && rows[next] == row) next++;
      else memset(sum.exact(row), 0, (size_t)sum.stride * sizeof(int64_t));
    }
  }

  /* body(i) for every row of the call, shared out over the pool where there is much to copy. */
  template <class Body> void each_row(Pool &pool, const Body &body) const {
    const bool alone = (int64_t)rows_.size() * desc_.hidden < combine_alone_below;
    share(pool, alone, [&](const Team &team) {
      const Range mine = team.part((int)rows_.size());
      for (int i = mine.begin; i < mine.end; i++) body((size_t)i);
    });
  }

  const std::shared_ptr<Workspace> workspace_;
  const sy_experts_desc desc_;
  const ExpertLayout layout_;
  const Kernels kernels_;
  DeviceMemory slots_; /* [slots, slot_bytes] */
  std::vector<int> rows_, place_, counts_; /* rows of x that the call reads; by row of x; by place among rows_ */
  int few_ = 0, many_ = 0, few_rows_ = 0; /* tiles of the call; the most rows of a tile of few */
  bool wide_ = false;                     /* the call's sums came as int64 */
};

class Gpu final : public Accelerator {
public:
  explicit Gpu(int ordinal) : workspace_(std::make_shared<Workspace>(ordinal)) {
    name = workspace_->device.name, identity = workspace_->device.identity, memory_bytes = workspace_->device.memory_bytes;
  }
  std::unique_ptr<AcceleratedExperts> experts(const sy_experts_desc &desc, const ExpertLayout &layout) override {
    return std::make_unique<GpuExperts>(workspace_, desc, layout);
  }
  Ceilings measure_ceilings() override {
    workspace_->device.use();
    return ceilings();
  }

private:
  const std::shared_ptr<Workspace> workspace_;
};

} // namespace

std::unique_ptr<Accelerator> accelerator(int ordinal) { return std::make_unique<Gpu>(ordinal); }

} // namespace sy::SY_GPU
