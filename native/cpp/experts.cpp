#include "experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "numeric.h"
#include "team.h"
#include "ticks.h"

namespace sy {
namespace {

size_t aligned(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

/* Throws where all slots would be beyond any memory, so that the sizes inside one cannot wrap either. */
ExpertLayout layout_of(const sy_experts_desc &d) {
  ExpertLayout l;
  l.gate_panel_bytes = panel_bytes(d.format, d.hidden);
  l.down_panel_bytes = panel_bytes(d.format, d.inter);
  const __int128 gate_and_up = (__int128)2 * panels_of(d.inter) * l.gate_panel_bytes, down = (__int128)panels_of(d.hidden) * l.down_panel_bytes;
  const __int128 biases_and_padding = (__int128)8 * d.inter + (__int128)4 * d.hidden + 3 * 64 + 4096;
  checked_bytes((gate_and_up + down + biases_and_padding) * d.slots, "%d experts, hidden %d, inter %d,", d.slots, d.hidden, d.inter);
  l.down_at = (size_t)gate_and_up;
  l.gate_bias_at = l.down_at + (size_t)down;
  const size_t inter_bias = d.has_bias ? aligned((size_t)d.inter * 4, 64) : 0, hidden_bias = d.has_bias ? aligned((size_t)d.hidden * 4, 64) : 0;
  l.up_bias_at = l.gate_bias_at + inter_bias;
  l.down_bias_at = l.up_bias_at + inter_bias;
  l.slot_bytes = aligned(l.down_bias_at + hidden_bias, 4096);
  return l;
}


void require_slot(const Experts &e, int64_t slot) {
  if (slot < 0 || slot >= e.desc.slots) fail(SY_INVALID_ARGUMENT, "slot %lld is not below %d", (long long)slot, e.desc.slots);
}
void require_set(const Experts &e, int slot) {
  if (!e.set[(size_t)slot]) fail(SY_INVALID_ARGUMENT, "slot %d holds no expert", slot);
}

void require_shape(const sy_source *source, int n, int k, const char *name) {
  if (!source) fail(SY_INVALID_ARGUMENT, "%s is required", name);
  validate(*source, name);
  if (source->n != n || source->k != k) fail(SY_INVALID_ARGUMENT, "%s is [%d, %d], must be [%d, %d]", name, source->n, source->k, n, k);
}

struct ExpertSources {
  const sy_source *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
};
/* One expert into slot_bytes at `at`. Padding stays as it was. */
void pack_slot(const Experts &e, Pool &pool, uint8_t *at, const ExpertSources &sources) {
  const sy_experts_desc &d = e.desc;
  const ExpertLayout &l = e.layout;
  const Panels gate{at, 2 * l.gate_panel_bytes, d.format, d.inter, d.hidden}, up{at + l.gate_panel_bytes, 2 * l.gate_panel_bytes, d.format, d.inter, d.hidden};
  const Panels down{at + l.down_at, l.down_panel_bytes, d.format, d.hidden, d.inter};
  const PackJob jobs[] = {{gate, 0, sources.gate}, {up, 0, sources.up}, {down, 0, sources.down}};
  panels_set(pool, jobs, 3);
  if (!d.has_bias) return;
  load_f32(*sources.gate_bias, 0, 0, d.inter, reinterpret_cast<float *>(at + l.gate_bias_at));
  load_f32(*sources.up_bias, 0, 0, d.inter, reinterpret_cast<float *>(at + l.up_bias_at));
  load_f32(*sources.down_bias, 0, 0, d.hidden, reinterpret_cast<float *>(at + l.down_bias_at));
}

/* Workspace of a call: [pairs] rows of tiles for gate and up, [pairs] rows of tiles for down, then a sum for every thread but the first. */
struct Scratch {
  size_t hidden_at, sums_at, sum_bytes, bytes;
  Scratch(const sy_experts_desc &d, const TileOps &ops, int64_t pairs, int64_t rows, int threads) {
    const size_t input_bytes = ops.row_bytes(d.format, d.hidden), hidden_bytes = ops.row_bytes(d.format, d.inter);
    sum_bytes = (size_t)rows * (size_t)sum_stride(d.hidden) * sizeof(int64_t); // As large as a sum, which was checked.
    bytes = checked_bytes((__int128)pairs * ((__int128)input_bytes + hidden_bytes) + (__int128)(threads - 1) * sum_bytes + 2 * 64,
                          "the workspace of %lld pairs", (long long)pairs);
    hidden_at = aligned((size_t)pairs * input_bytes, 64);
    sums_at = aligned(hidden_at + (size_t)pairs * hidden_bytes, 64);
  }
};

/* ---- planning: which pairs belong to which expert ---- */

void begin_plan(Experts &e, int pairs) {
  if ((size_t)pairs > e.plan.row.size()) {
    e.plan.weight.resize((size_t)pairs);
    e.plan.row.resize((size_t)pairs); // Last: its size is what is asked for, and either may throw.
  }
  e.plan.groups.clear();
  std::fill(e.plan.ends.begin(), e.plan.ends.end(), 0);
}

/* Turns counts per slot into groups; `ends[slot]` becomes the next free position of the slot. */
void open_groups(PairPlan &plan) {
  int first = 0;
  for (int slot = 0; slot < (int)plan.ends.size(); slot++) {
    const int count = plan.ends[(size_t)slot];
    plan.ends[(size_t)slot] = first;
    if (count) plan.groups.push_back({slot, first, count});
    first += count;
  }
}

void place(PairPlan &plan, int slot, int row, float weight) {
  const size_t at = (size_t)plan.ends[(size_t)slot]++;
  plan.row[at] = row;
  plan.weight[at] = weight;
}

void plan_pairs(Experts &e, const PairsCall &call) {
  begin_plan(e, call.pairs);
  for (int p = 0; p < call.pairs; p++) {
    require_slot(e, call.slot[p]);
    require_set(e, call.slot[p]);
    e.plan.ends[(size_t)call.slot[p]]++;
  }
  open_groups(e.plan);
  for (int p = 0; p < call.pairs; p++) place(e.plan, call.slot[p], call.row[p], call.weight[p]);
}

void plan_routed(Experts &e, const RoutedCall &call) {
  begin_plan(e, call.rows * call.k);
  for (int row = 0; row < call.rows; row++)
    for (int i = 0; i < call.k; i++) {
      const int id = call.ids[row * call.ld_ids + i];
      if (id == -1) continue;
      if (id < 0 || id >= call.experts) fail(SY_INVALID_ARGUMENT, "expert id %d of row %d is not below %d", id, row, call.experts);
      const int slot = call.slots[id];
      if (slot == -1) continue;
      require_slot(e, slot);
      require_set(e, slot);
      e.plan.ends[(size_t)slot]++;
    }
  open_groups(e.plan);
  for (int row = 0; row < call.rows; row++)
    for (int i = 0; i < call.k; i++) {
      const int id = call.ids[row * call.ld_ids + i], slot = id == -1 ? -1 : call.slots[id];
      if (slot != -1) place(e.plan, slot, row, call.weights[row * call.ld_weights + i]);
    }
}

/* ---- running ---- */

/* Gate and up are computed for this many panels of columns at a time: one group of a quantised format must be rounded as a whole. */
int unit_panels(int format) { return quantised(format) ? group_k / panel_columns : 1; }

/* From so many experts on for each thread, they are handed out whole. */
constexpr int experts_of_thread = 4;

/* Time of one unit of a group's gate and up, in steps: few rows cost what their weights cost to read, many rows what they cost to multiply. */
int64_t unit_cost(int rows) { return std::max(16, rows); }

struct Run {
  Experts &e;
  const float *x;
  int64_t ldx;
  const ExpertSink &sink;
  const TileOps &ops;
  const Scratch scratch;
  uint8_t *const inputs, *const hiddens; /* [pairs] rows of tiles for gate and up, and for down */
  int max_rows;                     /* of a tile */
  size_t input_bytes, hidden_bytes; /* a row of a tile */
  bool cached;                      /* team.h: cached_below */

  uint8_t *input(int pair) const { return inputs + (size_t)pair * input_bytes; }
  uint8_t *hidden(int pair) const { return hiddens + (size_t)pair * hidden_bytes; }

  void pack(const PairPlan::Group &group) const {
    const Tiling tiling(group.count, max_rows);
    for (int tile = 0; tile < tiling.tiles; tile++) {
      const int pair = group.first + tiling.first(tile);
      ops.pack(e.desc.format, x, ldx, e.plan.row.data() + pair, tiling.height(tile), 0, e.desc.hidden, input(pair));
    }
  }

  PanelCalls calls(const PairPlan::Group &group) const { return PanelCalls(ops, e.desc.format, group.count, cached); }

  /* hidden = act(gate x, up x) in columns of units of one group, rounded into the down tile. */
  void gate_up(const PairPlan::Group &group, const Range &units) const {
    const int width = unit_panels(e.desc.format), all_panels = panels_of(e.desc.inter);
    const Tiling tiling(group.count, max_rows);
    const PanelCalls how = calls(group);
    const int at_once = std::max(1, how.at_once / (2 * width)), tiles_at_once = most_tiles / width;
    for (int unit = units.begin; unit < units.end; unit += at_once) {
      const Range panels{unit * width, std::min(std::min(unit + at_once, units.end) * width, all_panels)};
      for (int tile = 0; tile < tiling.tiles; tile += tiles_at_once)
        gate_up(group, how, tiling, Range{tile, std::min(tiling.tiles, tile + tiles_at_once)}, panels);
    }
  }
  void gate_up(const PairPlan::Group &group, const PanelCalls &how, const Tiling &tiling, const Range &tiles, const Range &panels) const {
    const size_t stride = e.layout.gate_panel_bytes;
    const int first_row = tiling.first(tiles.begin), rows = tiling.first(tiles.end) - first_row;
    alignas(64) float dots[2 * most_tiles * most_tile_rows * panel_columns]; /* [gate and up of each panel][row][32] */
    alignas(64) float activations[most_tiles * most_tile_rows * panel_columns];
    static_assert(most_tiles >= most_panels && most_tiles * most_tile_rows >= most_streamed_panels * most_streamed_rows);
    const int count = panels.end - panels.begin, width = count * panel_columns, first_column = panels.begin * panel_columns;
    const uint8_t *weights = e.slot(group.slot) + (size_t)panels.begin * 2 * stride;
    for (int i = 0; i < 2 * count; i += how.at_once)
      multiply(ops, e.desc.format, how, input(group.first), input_bytes, tiling, tiles.begin, tiles.end, weights + (size_t)i * stride, stride,
               std::min(how.at_once, 2 * count - i), e.desc.hidden, dots + (size_t)i * (size_t)rows * panel_columns);
    const float *gate_bias = e.bias(group.slot, e.layout.gate_bias_at), *up_bias = e.bias(group.slot, e.layout.up_bias_at);
    for (int i = 0; i < count; i++) {
      const int column = first_column + i * panel_columns;
      const float *gate = dots + (size_t)(2 * i * rows) * panel_columns, *up = gate + (size_t)rows * panel_columns;
      ops.gate(e.desc, gate, up, rows, std::min(panel_columns, e.desc.inter - column), gate_bias ? gate_bias + column : nullptr,
               up_bias ? up_bias + column : nullptr, activations + i * panel_columns, width);
    }
    for (int tile = tiles.begin; tile < tiles.end; tile++) {
      const int row = tiling.first(tile);
      ops.pack(e.desc.format, activations + (size_t)(row - first_row) * (size_t)width, width, nullptr, tiling.height(tile), first_column,
               std::min(width, e.desc.inter - first_column), hidden(group.first + row));
    }
  }

  /* `sums`: where an exact row 0 lies. */
  void finish(const PairPlan::Group &group, int pair, int rows, int panel, const float *dots, int64_t *sums) const {
    const int column = panel * panel_columns, count = std::min(panel_columns, e.desc.hidden - column);
    const float *all_bias = e.bias(group.slot, e.layout.down_bias_at), *bias = all_bias ? all_bias + column : nullptr;
    if (sink.out) return ops.store(dots, rows, 0, count, bias, 1.0f, false, sink.out + (size_t)pair * e.desc.hidden + column, e.desc.hidden);
    RowSum &sum = *sink.sum;
    for (int r = 0; r < rows; r++, dots += panel_columns) {
      const int row = e.plan.row[(size_t)(pair + r)];
      const float weight = e.plan.weight[(size_t)(pair + r)];
      if (sum.mode == SY_SUM_FAST) ops.contribute_fast(dots, bias, weight, count, sum.fast(row) + column);
      else if (!ops.contribute_exact(dots, bias, weight, sink.steps_per_unit, count, sums + row * sum.stride + column)) sum.poison(row);
    }
  }

  /* Panels begin .. end of down for one group. No other thread touches these columns of the sums. */
  void down(const PairPlan::Group &group, const Range &panels, int64_t *sums) const {
    const Tiling tiling(group.count, max_rows);
    const PanelCalls how = calls(group);
    const size_t stride = e.layout.down_panel_bytes;
    alignas(64) float dots[most_tiles * most_tile_rows * panel_columns];
    for (int panel = panels.begin; panel < panels.end; panel += how.at_once) {
      const uint8_t *weights = e.slot(group.slot) + e.layout.down_at + (size_t)panel * stride;
      const int count = std::min(how.at_once, panels.end - panel);
      for (int tile = 0; tile < tiling.tiles; tile += most_tiles) {
        const int end = std::min(tiling.tiles, tile + most_tiles), row = tiling.first(tile), rows = tiling.first(end) - row;
        multiply(ops, e.desc.format, how, hidden(group.first), hidden_bytes, tiling, tile, end, weights, stride, count, e.desc.inter, dots);
        for (int i = 0; i < count; i++) finish(group, group.first + row, rows, panel + i, dots + (size_t)i * (size_t)rows * panel_columns, sums);
      }
    }
  }

  void clear_columns(const Range &panels) const {
    RowSum &sum = *sink.sum;
    const size_t bytes = sum.mode == SY_SUM_EXACT ? 8 : 4, from = (size_t)panels.begin * panel_columns;
    const size_t to = std::min((size_t)panels.end * panel_columns, (size_t)e.desc.hidden);
    for (int row = 0; row < sink.cleared_rows && from < to; row++)
      memset(sum.memory.data() + ((size_t)row * (size_t)sum.stride + from) * bytes, 0, (to - from) * bytes);
  }

  /* Units of gate and up whose cost begins in begin .. end, all groups' units being laid end to end. */
  void gate_up(int units, int64_t begin, int64_t end) const {
    int64_t at = 0;
    for (const PairPlan::Group &group : e.plan.groups) {
      const int64_t cost = unit_cost(group.count), after = at + units * cost;
      if (at >= end) return;
      const auto units_before = [&](int64_t place) { return (int)std::clamp<int64_t>((place - at + cost - 1) / cost, 0, units); };
      gate_up(group, Range{units_before(begin), units_before(end)});
      at = after;
    }
  }

  int units() const { return (panels_of(e.desc.inter) + unit_panels(e.desc.format) - 1) / unit_panels(e.desc.format); }

  /* Enough experts that nobody waits long for the last one: each is one thread's work from beginning to end, read as one stream, and what passes between its
   * matrices stays in that thread's cache. Threads add to sums of their own, which are added in the end: integers, so in whatever order. */
  bool by_experts(int threads) const {
    return threads > 1 && sink.sum && sink.sum->mode == SY_SUM_EXACT && (int)e.plan.groups.size() >= threads * experts_of_thread;
  }

  void run_by_experts(const Team &team) const {
    const std::vector<PairPlan::Group> &groups = e.plan.groups;
    RowSum &sum = *sink.sum;
    const auto sums_of = [&](int thread) {
      return thread == 0 ? sum.exact(0) : reinterpret_cast<int64_t *>(inputs + scratch.sums_at + (size_t)(thread - 1) * scratch.sum_bytes);
    };
    int64_t *const sums = sums_of(team.thread);
    const int cleared = team.thread == 0 ? sink.cleared_rows : sink.rows;
    memset(sums, 0, (size_t)cleared * (size_t)sum.stride * sizeof(int64_t));
    const Range all_panels{0, panels_of(e.desc.hidden)};
    for (size_t next; (next = (size_t)team.cursors[0].fetch_add(1, std::memory_order_relaxed)) < groups.size();) {
      pack(groups[next]);
      gate_up(groups[next], Range{0, units()});
      down(groups[next], all_panels, sums);
    }
    team.barrier();
    const Range rows = team.part(sink.rows);
    for (int thread = 1; thread < team.threads; thread++)
      for (int64_t i = rows.begin * sum.stride; i < rows.end * sum.stride; i++) sum.exact(0)[i] += sums_of(thread)[i];
  }

  void run_by_columns(const Team &team) const {
    const std::vector<PairPlan::Group> &groups = e.plan.groups;
    const Range packed = team.part((int)groups.size());
    for (int g = packed.begin; g < packed.end; g++) pack(groups[(size_t)g]);
    team.barrier();

    int64_t cost = 0, tiles = 0;
    for (const PairPlan::Group &group : groups) {
      cost += units() * unit_cost(group.count);
      tiles += Tiling(group.count, max_rows).tiles;
    }
    team.divide(0, cost, tiles * (int64_t)e.layout.down_at, side_by_side * unit_cost(1), [&](int64_t begin, int64_t end) { gate_up(units(), begin, end); });
    team.barrier();

    team.divide(1, panels_of(e.desc.hidden), tiles * (int64_t)(e.layout.gate_bias_at - e.layout.down_at), side_by_side, [&](int64_t begin, int64_t end) {
      const Range panels{(int)begin, (int)end};
      if (sink.sum) clear_columns(panels);
      for (const PairPlan::Group &group : groups) down(group, panels, sink.sum ? sink.sum->exact(0) : nullptr);
    });
  }
};

} // namespace

ExpertsPtr experts_create(Isa isa, const sy_experts_desc &d, Workspace *workspace, Accelerator *accelerator) {
  validate_format(d.format);
  if (d.slots < 1 || d.hidden < 1 || d.inter < 1)
    fail(SY_INVALID_ARGUMENT, "experts: slots %d, hidden %d and inter %d must be at least 1", d.slots, d.hidden, d.inter);
  if (d.hidden > dimension_max || d.inter > dimension_max)
    fail(SY_INVALID_ARGUMENT, "experts: hidden %d and inter %d must not exceed %d", d.hidden, d.inter, dimension_max);
  if (d.activation != SY_ACT_SILU && d.activation != SY_ACT_GPT_OSS)
    fail(SY_INVALID_ARGUMENT, "experts: activation %d is not one of 0..%d", d.activation, SY_ACT_GPT_OSS);
  const ExpertLayout layout = layout_of(d);
  ExpertsPtr experts(new Experts{});
  experts->isa = isa;
  experts->workspace = workspace ? workspace : &experts->own;
  experts->desc = d;
  experts->set.assign((size_t)d.slots, 0);
  experts->plan.ends.assign((size_t)d.slots, 0);
  experts->plan.groups.reserve((size_t)d.slots);
  experts->layout = layout;
  if (accelerator) experts->accelerated = accelerator->experts(d, layout);
  else if (isa == Isa::ref) experts->plain.resize((size_t)d.slots);
  else experts->memory = Region((size_t)d.slots * layout.slot_bytes);
  return experts;
}

void ExpertsDeleter::operator()(Experts *experts) const { delete experts; }
const sy_experts_desc &experts_desc(const Experts &experts) { return experts.desc; }
bool experts_on_accelerator(const Experts &experts) { return experts.accelerated != nullptr; }

void experts_clear(Experts &e, int32_t slot) {
  require_slot(e, slot);
  e.set[(size_t)slot] = 0;
  if (e.accelerated) return;
  if (e.isa == Isa::ref) e.plain[(size_t)slot] = PlainExpert{};
  else e.memory.discard((size_t)slot * e.layout.slot_bytes, e.layout.slot_bytes);
}

void experts_set(Experts &e, Pool &pool, int32_t slot, const sy_source *gate, const sy_source *up, const sy_source *down, const sy_source *gate_bias,
                 const sy_source *up_bias, const sy_source *down_bias) {
  const sy_experts_desc &d = e.desc;
  require_slot(e, slot);
  require_shape(gate, d.inter, d.hidden, "gate");
  require_shape(up, d.inter, d.hidden, "up");
  require_shape(down, d.hidden, d.inter, "down");
  if (d.has_bias) {
    require_shape(gate_bias, 1, d.inter, "gate_bias");
    require_shape(up_bias, 1, d.inter, "up_bias");
    require_shape(down_bias, 1, d.hidden, "down_bias");
  } else if (gate_bias || up_bias || down_bias) fail(SY_INVALID_ARGUMENT, "biases given to experts without biases");
  e.set[(size_t)slot] = 0; // What is packed over keeps its padding; giving the pages back first would break up huge ones.

  if (e.isa == Isa::ref && !e.accelerated) {
    PlainExpert &expert = e.plain[(size_t)slot];
    const auto matrix = [&](const sy_source &source) {
      PlainMatrix m = plain_create(d.format, source.n, source.k);
      plain_set(m, 0, source);
      return m;
    };
    const auto bias = [&](const sy_source *source) {
      std::vector<float> values(d.has_bias ? (size_t)source->k : 0);
      if (d.has_bias) load_f32(*source, 0, 0, source->k, values.data());
      return values;
    };
    expert = PlainExpert{matrix(*gate), matrix(*up), matrix(*down), bias(gate_bias), bias(up_bias), bias(down_bias)};
  } else if (e.accelerated) {
    const Region packed(e.layout.slot_bytes);
    pack_slot(e, pool, packed.data(), {gate, up, down, gate_bias, up_bias, down_bias});
    e.accelerated->set(slot, packed.data());
  } else {
    pack_slot(e, pool, e.slot(slot), {gate, up, down, gate_bias, up_bias, down_bias});
  }
  e.set[(size_t)slot] = 1;
}

void experts_reserve(Experts &e, int pairs, int rows, int threads) {
  begin_plan(e, pairs);
  if (e.accelerated) return e.accelerated->reserve(pairs, rows);
  if (const TileOps *ops = tile_ops(e.isa)) e.workspace->reserve(Scratch(e.desc, *ops, pairs, rows, threads).bytes);
}

void run_plan(Experts &e, Pool &pool, const float *x, int64_t ldx, const ExpertSink &sink) {
  if (e.accelerated) return e.accelerated->run(e, pool, x, ldx, sink);
  const TileOps *ops = tile_ops(e.isa);
  if (!ops) return run_plan_ref(e, x, ldx, sink);
  int64_t pairs = 0;
  for (const PairPlan::Group &group : e.plan.groups) pairs += group.count;
  const int64_t bytes = (int64_t)e.plan.groups.size() * (int64_t)e.layout.slot_bytes;
  const bool alone = bytes < weights_alone_below && pairs * 3 * e.desc.hidden * e.desc.inter < products_alone_below;
  if (sink.sum) memset(sink.sum->poisoned.data(), 0, (size_t)sink.cleared_rows);
  const Scratch scratch(e.desc, *ops, pairs, sink.rows, pool.threads());
  e.workspace->reserve(scratch.bytes);
  uint8_t *inputs = e.workspace->data();
  const Run run{e, x, ldx, sink, *ops, scratch, inputs, inputs + scratch.hidden_at, ops->max_rows(e.desc.format), ops->row_bytes(e.desc.format, e.desc.hidden), ops->row_bytes(e.desc.format, e.desc.inter), (int64_t)e.layout.slot_bytes <= cached_below};
  share(pool, alone, [&](const Team &team) {
    if (run.by_experts(team.threads)) run.run_by_experts(team);
    else run.run_by_columns(team);
  });
}

void experts_probe(Experts &e, Pool &pool, int32_t slot, const float *x, int32_t rows, float *out) {
  require_slot(e, slot);
  require_set(e, slot);
  if (rows < 0) fail(SY_INVALID_ARGUMENT, "rows %d is negative", rows);
  begin_plan(e, rows);
  e.plan.ends[(size_t)slot] = rows;
  open_groups(e.plan);
  for (int row = 0; row < rows; row++) place(e.plan, slot, row, 1.0f);
  run_plan(e, pool, x, e.desc.hidden, ExpertSink{nullptr, 0, 0, 0.0f, out});
}

void experts_run_pairs(Experts &e, Pool &pool, const PairsCall &call, RowSum &sum) {
  validate_grid(call.grid);
  if (call.pairs < 0) fail(SY_INVALID_ARGUMENT, "pairs %d is negative", call.pairs);
  if (sum.hidden != e.desc.hidden) fail(SY_INVALID_ARGUMENT, "sum is %d wide, experts %d", sum.hidden, e.desc.hidden);
  const int rows = std::min(call.x_rows, sum.max_rows);
  int last_row = -1;
  for (int p = 0; p < call.pairs; p++) {
    if (call.row[p] < 0 || call.row[p] >= rows) fail(SY_INVALID_ARGUMENT, "row[%d] %d is not below %d", p, call.row[p], rows);
    last_row = std::max(last_row, call.row[p]);
  }
  plan_pairs(e, call);
  const ExpertSink sink{&sum, 0, last_row + 1, power_of_two(-call.grid), nullptr};
  if (e.accelerated) return run_plan(e, pool, call.x, call.ldx, sink);
  constexpr double bytes_per_us = 15'000, products_per_us = 25'000; // Of one core, roughly.
  const double bytes = (double)e.plan.groups.size() * (double)e.layout.slot_bytes, products = 3.0 * call.pairs * e.desc.hidden * e.desc.inter;
  const double estimate = std::max(bytes / bytes_per_us, products / products_per_us);
  const bool learns = pool.threads() > 1 && together_to_learn(estimate);
  ThreadChoice &choice = e.choices[row_class(call.pairs)];
  const Pool::Session session(pool, learns ? choice.begin(ticks(), estimate >= together_expected_from_us) : estimate >= together_always_from_us);
  run_plan(e, pool, call.x, call.ldx, sink);
  if (learns) choice.end(ticks(), call.pairs);
}

void experts_run_routed(Experts &e, Pool &pool, const RoutedCall &call, RowSum &sum) {
  validate_grid(call.grid);
  if (sum.hidden != e.desc.hidden) fail(SY_INVALID_ARGUMENT, "sum is %d wide, experts %d", sum.hidden, e.desc.hidden);
  if (call.rows > sum.max_rows) fail(SY_INVALID_ARGUMENT, "rows %d is above the sum's %d", call.rows, sum.max_rows);
  plan_routed(e, call);
  run_plan(e, pool, call.x, call.ldx, ExpertSink{&sum, call.rows, call.rows, power_of_two(-call.grid), nullptr});
}

} // namespace sy
