#include "compile.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace sy {
namespace {

const char *const names[] = {"",         "embed",     "norm",        "linear", "head_linear", "rope",    "clamp",   "kv_write",
                             "attention", "gated_act", "mul_sigmoid", "add",    "route",       "experts", "combine", "gather"};

/* A rectangle of columns, the same in every row of a buffer: `count` pieces `stride` apart, each `width` wide. */
struct Columns {
  Buffer *buffer;
  int offset, count, stride, width;

  float *at() const { return buffer->f32() + offset; }
  int64_t ld() const { return buffer->width; }
  int64_t end() const { return (int64_t)offset + (int64_t)(count - 1) * stride + width; }
  bool overlaps(const Columns &other) const { return buffer == other.buffer && offset < other.end() && other.offset < end(); }
  bool same(const Columns &other) const { return buffer == other.buffer && offset == other.offset && (count == 1 || stride == other.stride); }
};

/* Reads one op's fields, naming the op in every refusal. */
class Reader {
public:
  Reader(const sy_op &op, int number, sy_object *const *objects, int object_count, const Compilation &compilation)
      : op_(op), number_(number), objects_(objects), object_count_(object_count), compilation_(compilation) {}

  [[noreturn]] void refuse(const char *format, ...) const __attribute__((format(printf, 2, 3))) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fail(SY_INVALID_ARGUMENT, "op %d (%s): %s", number_, op_name(op_.kind), text);
  }

  bool has(int slot) const { return op_.obj[slot] != SY_NONE; }

  template <class T> T &object(int slot, const char *name) const {
    if (!has(slot)) refuse("%s is missing: it must be a %s", name, name_of(T::tag));
    if (op_.obj[slot] >= (uint32_t)object_count_) refuse("%s = object %u: the program has %d", name, op_.obj[slot], object_count_);
    sy_object *object = objects_[op_.obj[slot]];
    if (object->kind != T::tag) refuse("%s is a %s: it must be a %s", name, name_of(object->kind), name_of(T::tag));
    return static_cast<T &>(*object);
  }

  int integer(int slot, const char *name, int least, int most) const {
    const int value = op_.n[slot];
    if (value < least || value > most) refuse("%s = %d: must be %d..%d", name, value, least, most);
    return value;
  }
  int positive(int slot, const char *name) const { return integer(slot, name, 1, INT32_MAX); }
  float finite(int slot, const char *name) const {
    if (!std::isfinite(op_.f[slot])) refuse("%s = %g: must be finite", name, (double)op_.f[slot]);
    return op_.f[slot];
  }

  /* A buffer that holds this op's rows. */
  Buffer &rows(int slot, const char *name) const {
    Buffer &buffer = object<Buffer>(slot, name);
    if (!logit_rows() && buffer.rows < compilation_.limits.max_rows)
      refuse("%s has %d rows: the program runs up to %d", name, buffer.rows, compilation_.limits.max_rows);
    return buffer;
  }
  Columns columns(int slot, const char *name, int offset, int count, int stride, int width) const {
    const Columns columns{&rows(slot, name), offset, count, stride, width};
    if (offset < 0) refuse("%s begins at column %d", name, offset);
    if (count > 1 && stride < 0) refuse("%s has stride %d: must not be negative", name, stride);
    if (columns.end() > columns.ld()) refuse("%s needs columns up to %lld: the buffer has %d", name, (long long)columns.end(), columns.buffer->width);
    return columns;
  }
  Columns columns(int slot, const char *name, int offset, int width) const { return columns(slot, name, offset, 1, 0, width); }
  /* Pieces that are written must not overlap one another. */
  Columns written(int slot, const char *name, int offset, int count, int stride, int width) const {
    if (count > 1 && stride < width) refuse("%s has stride %d: pieces of %d would overlap", name, stride, width);
    return columns(slot, name, offset, count, stride, width);
  }
  void apart(const Columns &read, const Columns &out) const {
    if (read.overlaps(out)) refuse("out overlaps the columns that are read");
  }
  /* Elementwise and per-group ops may work in place, but not half in place. */
  void apart_or_same(const Columns &read, const Columns &out) const {
    if (read.overlaps(out) && !read.same(out)) refuse("out overlaps the columns that are read without being the same");
  }

  /* A vector of parameters: the first row of a buffer, at least `width` wide. */
  const float *parameters(int slot, const char *name, int64_t width) const {
    if (!has(slot)) return nullptr;
    Buffer &buffer = object<Buffer>(slot, name);
    if (buffer.width < width) refuse("%s is %d wide: %lld are needed", name, buffer.width, (long long)width);
    return buffer.f32();
  }

  bool logit_rows() const { return op_.flags & SY_FLAG_LOGIT_ROWS; }
  void all_rows_only() const {
    if (logit_rows()) refuse("flags: this op cannot work on logit rows");
  }

  const sy_op &op_;
  const int number_;
  sy_object *const *const objects_;
  const int object_count_;
  const Compilation &compilation_;
};

void shrink(int &limit, int value) {
  if (limit == 0 || value < limit) limit = value;
}

EmbedStep embed(const Reader &op, Compilation &compilation) {
  op.all_rows_only();
  const Table &table = op.object<Table>(1, "table");
  const int width = op.positive(0, "width");
  if (table.source.k != width) op.refuse("width = %d: the table's rows are %d wide", width, table.source.k);
  const Columns out = op.columns(0, "out", 0, width);
  shrink(compilation.limits.tokens, table.source.n);
  return {&table.source, out.at(), out.ld(), width, op.finite(0, "scale")};
}

NormCall norm(const Reader &op) {
  NormCall call{};
  call.groups = op.positive(0, "groups");
  call.width = op.positive(1, "width");
  call.x_stride = op.op_.n[3];
  call.out_stride = op.op_.n[5];
  call.kind = static_cast<NormKind>(op.integer(6, "kind", 0, 2));
  call.weight_stride = op.integer(7, "weightStride", 0, INT32_MAX);
  call.eps = op.finite(0, "eps");
  call.weight_plus = op.finite(1, "weightPlus");
  const Columns x = op.columns(0, "x", op.op_.n[2], call.groups, call.x_stride, call.width);
  const Columns out = op.written(1, "out", op.op_.n[4], call.groups, call.out_stride, call.width);
  op.apart_or_same(x, out);
  const int64_t parameters = (int64_t)(call.groups - 1) * call.weight_stride + call.width;
  call.weight = op.parameters(2, "weight", parameters);
  call.bias = op.parameters(3, "bias", parameters);
  if (call.kind == NormKind::l2 && (call.weight || call.bias)) op.refuse("kind = 2 (l2): takes no weight and no bias");
  if (call.kind == NormKind::rms && call.bias) op.refuse("kind = 0 (rms): takes no bias");
  call.x = x.at(), call.ldx = x.ld(), call.out = out.at(), call.ldo = out.ld();
  return call;
}

LinearStep linear(const Reader &op, Compilation &compilation) {
  const Weight &weight = *op.object<WeightObject>(2, "weight").weight;
  const Columns x = op.columns(0, "x", op.op_.n[0], weight_k(weight));
  const Columns out = op.columns(1, "out", op.op_.n[1], weight_n(weight));
  op.apart(x, out);
  const bool add = op.integer(2, "mode", 0, 1) == 1;
  const float *bias = op.parameters(3, "bias", weight_n(weight));
  const size_t bytes = linear_workspace_bytes(weight, compilation.limits.max_rows, compilation.threads);
  if (bytes > compilation.workspace_bytes) compilation.workspace_bytes = bytes;
  return {&weight, {x.at(), x.ld(), out.at(), out.ld(), 0, bias, add, op.finite(0, "scale")}};
}

HeadLinearStep head_linear(const Reader &op, Compilation &compilation) {
  const Weight &weight = *op.object<WeightObject>(2, "weight").weight;
  const int heads = op.positive(0, "heads"), out_dim = op.positive(5, "outDim");
  if ((int64_t)heads * out_dim != weight_n(weight)) op.refuse("heads*outDim = %lld: the weight has %d rows", (long long)heads * out_dim, weight_n(weight));
  const Columns x = op.columns(0, "x", op.op_.n[1], heads, op.op_.n[2], weight_k(weight));
  const Columns out = op.written(1, "out", op.op_.n[3], heads, op.op_.n[4], out_dim);
  // Interleaved pieces of one buffer are fine as long as no piece meets another.
  if (x.overlaps(out))
    for (int a = 0; a < heads; a++) {
      // Pieces before `first` end before `from`; if one behind these meets x, so does one of them.
      const int64_t from = x.offset + (int64_t)a * x.stride, first = std::max<int64_t>(0, (from - out.offset - out.width) / std::max(1, out.stride));
      for (int64_t b = first; b < std::min<int64_t>(heads, first + 3); b++) {
        const int64_t to = out.offset + b * out.stride;
        if (from < to + out.width && to < from + x.width) op.refuse("out of head %lld overlaps x of head %d", (long long)b, a);
      }
    }
  const size_t bytes = head_linear_workspace_bytes(weight, compilation.limits.max_rows, heads, compilation.threads);
  if (bytes > compilation.workspace_bytes) compilation.workspace_bytes = bytes;
  return {&weight, {x.at(), x.ld(), x.stride, out.at(), out.ld(), out.stride, 0, heads, out_dim}};
}

RopeCall rope(const Reader &op, Compilation &compilation) {
  op.all_rows_only();
  const Buffer &table = op.object<Buffer>(1, "table");
  RopeCall call{};
  call.heads = op.positive(0, "heads");
  call.stride = op.op_.n[2];
  call.rot = op.positive(3, "rot");
  call.interleaved = op.integer(4, "layout", 0, 1) == 1;
  call.max_pos = op.positive(5, "maxPos");
  if (call.rot % 2 != 0) op.refuse("rot = %d: must be even", call.rot);
  if (table.width != call.rot) op.refuse("table is %d wide: rot = %d", table.width, call.rot);
  if (table.rows % call.max_pos != 0) op.refuse("table has %d rows: must be a multiple of maxPos = %d", table.rows, call.max_pos);
  const Columns x = op.written(0, "x", op.op_.n[1], call.heads, call.stride, call.rot);
  shrink(compilation.limits.max_context, call.max_pos);
  shrink(compilation.limits.variants, table.rows / call.max_pos);
  call.x = x.at(), call.ldx = x.ld(), call.table = table.f32(), call.position = compilation.position, call.variant = compilation.variant;
  return call;
}

ClampCall clamp(const Reader &op) {
  const int width = op.positive(1, "width");
  const float low = op.op_.f[0], high = op.op_.f[1];
  if (!(low <= high)) op.refuse("lo = %g: must not exceed hi = %g", (double)low, (double)high);
  const Columns x = op.columns(0, "x", op.op_.n[0], width);
  return {x.at(), x.ld(), width, low, high};
}

KvWriteStep kv_write(const Reader &op, Compilation &compilation) {
  op.all_rows_only();
  KvCache &kv = op.object<KvObject>(2, "kv").cache;
  const Columns k = op.columns(0, "k", op.op_.n[0], kv.shape.kv_heads, op.op_.n[1], kv.shape.k_dim);
  if (op.has(1) && kv.shape.v_shares_k) op.refuse("v must be absent: the cache shares k");
  KvWriteStep step{&kv, k.at(), nullptr, k.ld(), 0, k.stride, 0};
  if (!kv.shape.v_shares_k) {
    const Columns v = op.columns(1, "v", op.op_.n[2], kv.shape.kv_heads, op.op_.n[3], kv.shape.v_dim);
    step.v = v.at(), step.ldv = v.ld(), step.v_stride = v.stride;
  }
  shrink(compilation.limits.kv_blocks, kv.shape.blocks);
  return step;
}

AttentionCall attention(const Reader &op, Compilation &compilation) {
  op.all_rows_only();
  const KvCache &kv = op.object<KvObject>(2, "kv").cache;
  AttentionCall call{};
  call.kv = &kv;
  call.heads = op.positive(0, "heads");
  if (call.heads % kv.shape.kv_heads != 0) op.refuse("heads = %d: must be a multiple of the cache's kv_heads = %d", call.heads, kv.shape.kv_heads);
  call.q_stride = op.op_.n[2];
  call.out_stride = op.op_.n[4];
  call.window = op.integer(5, "window", 0, INT32_MAX);
  call.chunk = op.integer(6, "chunk", 0, INT32_MAX);
  call.scale = op.finite(0, "scale");
  const Columns q = op.columns(0, "q", op.op_.n[1], call.heads, call.q_stride, kv.shape.k_dim);
  const Columns out = op.written(1, "out", op.op_.n[3], call.heads, call.out_stride, kv.shape.v_dim);
  op.apart(q, out);
  call.sinks = op.parameters(3, "sinks", call.heads);
  if ((int64_t)op.compilation_.limits.max_rows * call.heads > INT32_MAX) op.refuse("heads = %d: too many queries", call.heads);
  call.q = q.at(), call.ldq = q.ld(), call.out = out.at(), call.ldo = out.ld();
  shrink(compilation.limits.kv_blocks, kv.shape.blocks);
  const size_t bytes = attention_workspace_bytes(compilation.limits.max_context, compilation.threads);
  if (bytes > compilation.workspace_bytes) compilation.workspace_bytes = bytes;
  return call;
}

GatedCall gated_act(const Reader &op) {
  const int width = op.positive(0, "width"), step = op.integer(3, "step", 1, 2);
  const int activation = op.integer(5, "kind", SY_ACT_SILU, SY_ACT_GPT_OSS);
  if ((int64_t)width * step > INT32_MAX) op.refuse("width = %d: too large", width);
  const int read = (width - 1) * step + 1;
  const Columns gate = op.columns(0, "gate", op.op_.n[1], read), up = op.columns(0, "up", op.op_.n[2], read);
  const Columns out = op.columns(1, "out", op.op_.n[4], width);
  if (step == 1) {
    op.apart_or_same(gate, out);
    op.apart_or_same(up, out);
  } else {
    op.apart(gate, out);
    op.apart(up, out);
  }
  return {gate.at(), up.at(), gate.ld(), out.at(), out.ld(), width, step, activation, op.finite(0, "alpha"), op.finite(1, "limit")};
}

MulSigmoidCall mul_sigmoid(const Reader &op) {
  const int width = op.positive(0, "width"), step = op.integer(3, "gateStep", 0, 1);
  const Columns x = op.columns(0, "x", op.op_.n[1], width);
  const Columns gate = op.columns(1, "gate", op.op_.n[2], step == 0 ? 1 : width);
  op.apart(gate, x);
  return {x.at(), x.ld(), gate.at(), gate.ld(), width, step};
}

AddCall add(const Reader &op) {
  const int width = op.positive(0, "width");
  const Columns out = op.columns(0, "out", op.op_.n[1], width), x = op.columns(1, "x", op.op_.n[2], width);
  op.apart_or_same(x, out);
  return {out.at(), out.ld(), x.at(), x.ld(), width, op.finite(0, "scale")};
}

/* Logits of a row with two-level gates: one a group, and one for each slot of a group. */
int factored_logits(const Reader &op, const RouteCall &call) {
  if (call.groups < 2) op.refuse("groups = %d: factored scores need two groups or more", call.groups);
  if (call.k % call.top_groups != 0) op.refuse("k = %d: must be a multiple of topGroups = %d", call.k, call.top_groups);
  if (call.group_sum_of_two || call.mask_zero) op.refuse("score = 4 (factored): takes no groupScore and no maskZero");
  return call.groups + call.experts / call.groups;
}

void read_node_limit(const Reader &op, RouteCall &call) {
  if (!op.has(4)) return;
  const Buffer &nodes = op.object<Buffer>(4, "nodes");
  if (nodes.width < call.experts) op.refuse("nodes is %d wide: %d are needed", nodes.width, call.experts);
  if (call.groups > 1 || call.score == RouteScore::sparse_mixer) op.refuse("nodes: not with groups and not with the sparse mixer");
  call.nodes = nodes.i32();
  call.node_limit = op.integer(8, "nodeLimit", 1, 32);
}

RouteCall route(const Reader &op) {
  op.all_rows_only();
  RouteCall call{};
  call.experts = op.integer(0, "experts", 1, route_experts_max);
  call.k = op.integer(1, "k", 1, call.experts);
  call.score = static_cast<RouteScore>(op.integer(2, "score", 0, 4));
  call.groups = op.integer(3, "groups", 0, route_groups_max);
  call.group_sum_of_two = op.integer(5, "groupScore", 0, 1) == 1;
  call.renorm = op.integer(6, "renorm", 0, 1) == 1;
  call.mask_zero = op.integer(7, "maskZero", 0, 1) == 1;
  call.scale = op.finite(0, "scale");
  call.renorm_eps = op.finite(1, "renormEps");
  call.jitter_eps = op.finite(2, "jitterEps");
  if (call.groups > 1) {
    if (call.experts % call.groups != 0) op.refuse("groups = %d: must divide experts = %d", call.groups, call.experts);
    call.top_groups = op.integer(4, "topGroups", 1, call.groups);
    const int size = call.experts / call.groups;
    if (call.group_sum_of_two && size < 2) op.refuse("groupScore = 1: groups of %d have no top two", size);
    if (call.k > call.top_groups * size) op.refuse("k = %d: %d groups of %d hold fewer experts", call.k, call.top_groups, size);
  }
  const bool factored = call.score == RouteScore::factored;
  const Columns logits = op.columns(0, "logits", 0, factored ? factored_logits(op, call) : call.experts);
  const Columns ids = op.columns(1, "ids", 0, call.k), weights = op.columns(2, "weights", 0, call.k);
  op.apart(logits, ids);
  op.apart(logits, weights);
  op.apart(ids, weights);
  call.select_bias = op.parameters(3, "selectBias", call.experts);
  if (factored && call.select_bias) op.refuse("score = 4 (factored): takes no selectBias");
  if (call.score == RouteScore::sparse_mixer) {
    if (call.k != 2) op.refuse("k = %d: the sparse mixer chooses exactly 2", call.k);
    if (call.groups > 1 || call.renorm || call.select_bias) op.refuse("score = 3 (sparse mixer): takes no groups, no renorm and no selectBias");
    if (!(call.jitter_eps >= 0.0f)) op.refuse("jitterEps = %g: must not be negative", (double)call.jitter_eps);
  }
  read_node_limit(op, call);
  call.logits = logits.at(), call.ld_logits = logits.ld();
  call.ids = ids.buffer->i32(), call.ld_ids = ids.ld();
  call.weights = weights.at(), call.ld_weights = weights.ld();
  return call;
}

/* The sum of a step: rows enough and as wide as the rows of the model. */
RowSum &sum_of(const Reader &op, int slot) {
  RowSum &sum = *op.object<SumObject>(slot, "sum").sum;
  if (sum_max_rows(sum) < op.compilation_.limits.max_rows)
    op.refuse("sum has %d rows: the program runs up to %d", sum_max_rows(sum), op.compilation_.limits.max_rows);
  return sum;
}

ExpertsStep experts(const Reader &op) {
  op.all_rows_only();
  Experts &experts = *op.object<ExpertsObject>(3, "experts").experts;
  RowSum &sum = sum_of(op, 4);
  const sy_experts_desc &desc = experts_desc(experts);
  if (sum_hidden(sum) != desc.hidden) op.refuse("sum is %d wide: the experts' hidden is %d", sum_hidden(sum), desc.hidden);
  const int k = op.positive(0, "k");
  const Columns x = op.columns(0, "x", 0, desc.hidden);
  const Columns ids = op.columns(1, "ids", 0, k), weights = op.columns(2, "weights", 0, k);
  const Buffer &slots = op.object<Buffer>(5, "slots");
  if ((int64_t)op.compilation_.limits.max_rows * k > INT32_MAX) op.refuse("k = %d: too many pairs", k);
  experts_reserve(experts, op.compilation_.limits.max_rows * k, op.compilation_.limits.max_rows, op.compilation_.threads);
  return {&experts,
          &sum,
          {x.at(), x.ld(), 0, k, ids.buffer->i32(), ids.ld(), weights.at(), weights.ld(), slots.i32(), slots.width, op.integer(1, "grid", -120, 120)}};
}

CombineStep combine(const Reader &op) {
  op.all_rows_only();
  const RowSum &sum = sum_of(op, 0);
  const Columns residual = op.columns(1, "residual", 0, sum_hidden(sum));
  CombineCall call{0, op.integer(0, "grid", -120, 120), op.finite(0, "multiplier"), residual.at(), residual.ld(), nullptr, 0, {}};
  if (op.has(2)) {
    const Columns shared = op.columns(2, "shared", 0, sum_hidden(sum));
    op.apart(shared, residual);
    call.shared = shared.at(), call.lds = shared.ld();
  }
  return {&sum, call};
}

GatherStep gather(const Reader &op, Compilation &compilation) {
  op.all_rows_only();
  const int width = op.positive(0, "width");
  const Columns x = op.columns(0, "x", 0, width);
  Buffer &out = op.object<Buffer>(1, "out");
  if (out.width < width) op.refuse("out is %d wide: width = %d", out.width, width);
  if (x.buffer == &out) op.refuse("out is x");
  shrink(compilation.limits.max_logit_rows, out.rows);
  return {x.at(), x.ld(), out.f32(), out.width, width};
}

} // namespace

const char *op_name(uint32_t kind) { return kind >= SY_OP_EMBED && kind <= SY_OP_GATHER ? names[kind] : "unknown"; }

Step compile(const sy_op &op, int number, sy_object *const *objects, int object_count, Compilation &compilation) {
  const Reader reader(op, number, objects, object_count, compilation);
  if (op.flags & ~SY_FLAG_LOGIT_ROWS) reader.refuse("flags = %u: unknown bits", op.flags);
  Step step{(int)op.kind, number, reader.logit_rows(), {}};
  switch (op.kind) {
  case SY_OP_EMBED: step.call = embed(reader, compilation); break;
  case SY_OP_NORM: step.call = norm(reader); break;
  case SY_OP_LINEAR: step.call = linear(reader, compilation); break;
  case SY_OP_HEAD_LINEAR: step.call = head_linear(reader, compilation); break;
  case SY_OP_ROPE: step.call = rope(reader, compilation); break;
  case SY_OP_CLAMP: step.call = clamp(reader); break;
  case SY_OP_KV_WRITE: step.call = kv_write(reader, compilation); break;
  case SY_OP_ATTENTION: step.call = attention(reader, compilation); break;
  case SY_OP_GATED_ACT: step.call = gated_act(reader); break;
  case SY_OP_MUL_SIGMOID: step.call = mul_sigmoid(reader); break;
  case SY_OP_ADD: step.call = add(reader); break;
  case SY_OP_ROUTE: step.call = route(reader); break;
  case SY_OP_EXPERTS: step.call = experts(reader); break;
  case SY_OP_COMBINE: step.call = combine(reader); break;
  case SY_OP_GATHER: step.call = gather(reader, compilation); break;
  default: fail(SY_INVALID_ARGUMENT, "op %d: kind = %u: must be %d..%d", number, op.kind, SY_OP_EMBED, SY_OP_GATHER);
  }
  // A buffer of rows bounds how many logit rows a batch may ask for.
  if (reader.logit_rows())
    for (int slot = 0; slot < 2; slot++) {
      if (!reader.has(slot)) continue;
      // Not every op reads both.
      if (op.obj[slot] >= (uint32_t)object_count) reader.refuse("obj[%d] = object %u: the program has %d", slot, op.obj[slot], object_count);
      if (objects[op.obj[slot]]->kind == ObjectKind::buffer)
        shrink(compilation.limits.max_logit_rows, static_cast<Buffer *>(objects[op.obj[slot]])->rows);
    }
  return step;
}

} // namespace sy
