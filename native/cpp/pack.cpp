#include "pack.h"

#include <algorithm>
#include <cstring>

#include "numeric.h"

namespace sy {
namespace {

constexpr int i8_group_bytes = group_k * panel_columns + panel_columns * 4;
constexpr int i4_group_bytes = group_k / 2 * panel_columns + panel_columns * 4;

/* One row's values of one group, as steps and scale. */
struct QuantGroup {
  int8_t q[group_k];
  float scale;
};
QuantGroup quantise_group(const float *w, int count, int steps) {
  float values[group_k] = {}, largest = 0.0f;
  bool finite = true;
  for (int i = 0; i < count; i++) {
    const float magnitude = std::fabs(w[i]);
    if (magnitude >= smallest_normal || magnitude != magnitude) values[i] = w[i]; // Denormals are zero whoever packs, also outside FTZ|DAZ.
    largest = std::max(largest, std::fabs(values[i]));
    finite = finite && is_finite(w[i]);
  }
  const GroupScale scale = group_scale(largest, finite, (float)steps);
  QuantGroup group{};
  group.scale = scale.scale;
  for (int i = 0; i < count; i++) group.q[i] = (int8_t)quantise(values[i], scale.inverse, steps);
  return group;
}

void put_i8(uint8_t *at, int column, const QuantGroup &group) {
  for (int i = 0; i < group_k; i++) at[(i / 4 * panel_columns + column) * 4 + i % 4] = (uint8_t)(group.q[i] + 128);
  memcpy(at + group_k * panel_columns + column * 4, &group.scale, 4);
}

void put_i4(uint8_t *at, int column, const QuantGroup &group) {
  for (int octet = 0; octet < group_k / 8; octet++)
    for (int i = 0; i < 4; i++) {
      const unsigned low = (unsigned)(group.q[octet * 8 + i] + 8), high = (unsigned)(group.q[octet * 8 + 4 + i] + 8);
      at[(octet * panel_columns + column) * 4 + i] = (uint8_t)(low | high << 4);
    }
  memcpy(at + group_k / 2 * panel_columns + column * 4, &group.scale, 4);
}

/* A square of a panel: `columns` rows of the matrix from `column` on, elements k0 .. k0+count. k0 is a multiple of the group, so that every format can
 * store the square by itself. */
struct Square {
  int column, columns, k0, count;
  float values[panel_columns][group_k]; /* [columns][count]; zeros from count to group_k */
};

void put_f32(const Square &s, float *panel) {
  for (int i = 0; i < s.count; i++)
    for (int c = 0; c < s.columns; c++) panel[(size_t)(s.k0 + i) * panel_columns + s.column + c] = s.values[c][i];
}

void put_f16(const Square &s, uint16_t *panel) {
  for (int i = 0; i < s.count; i++)
    for (int c = 0; c < s.columns; c++) panel[(size_t)(s.k0 + i) * panel_columns + s.column + c] = to_f16(s.values[c][i]);
}

/* Rounded row by row, which vectorises, then turned pair by pair. */
SY_AVX2_CLONES void put_bf16(const Square &s, uint32_t *panel) {
  uint32_t pairs[panel_columns][group_k / 2];
  for (int c = 0; c < s.columns; c++)
    for (int i = 0; i < group_k / 2; i++) pairs[c][i] = (uint32_t)to_bf16(s.values[c][2 * i]) | (uint32_t)to_bf16(s.values[c][2 * i + 1]) << 16;
  for (int i = 0; i < pairs_of(s.count); i++)
    for (int c = 0; c < s.columns; c++) panel[(size_t)(s.k0 / 2 + i) * panel_columns + s.column + c] = pairs[c][i];
}

void put(const Square &s, int format, uint8_t *panel) {
  switch (format) {
  case SY_W_F32: return put_f32(s, reinterpret_cast<float *>(panel));
  case SY_W_F16: return put_f16(s, reinterpret_cast<uint16_t *>(panel));
  case SY_W_BF16:
  case SY_W_BF16_X16: return put_bf16(s, reinterpret_cast<uint32_t *>(panel));
  default:
    for (int c = 0; c < s.columns; c++) {
      const QuantGroup group = quantise_group(s.values[c], s.count, quant_steps(format));
      if (format == SY_W_I8) put_i8(panel + (size_t)(s.k0 / group_k) * i8_group_bytes, s.column + c, group);
      else put_i4(panel + (size_t)(s.k0 / group_k) * i4_group_bytes, s.column + c, group);
    }
  }
}

/* Rows first .. last of the matrix, all in one panel. A square is read before the next, because in a transposed source neighbouring rows share cache lines. */
void set_panel(const Panels &p, int first, int last, int first_row, const sy_source &source) {
  Square square{};
  square.column = first % panel_columns;
  square.columns = last - first;
  for (int k0 = 0; k0 < p.k; k0 += group_k) {
    square.k0 = k0;
    square.count = std::min(group_k, p.k - k0);
    for (int c = 0; c < square.columns; c++) {
      load_f32(source, first - first_row + c, k0, square.count, square.values[c]);
      std::fill(square.values[c] + square.count, square.values[c] + group_k, 0.0f);
    }
    put(square, p.format, p.data + (size_t)(first / panel_columns) * p.stride);
  }
}

struct SetTask {
  const Panels *panels;
  const sy_source *source;
  int first_row, threads;
};

void set_share(void *context, int thread) {
  const SetTask &task = *static_cast<const SetTask *>(context);
  const int end = task.first_row + task.source->n;
  const int first_panel = task.first_row / panel_columns, count = panels_of(end) - first_panel;
  const int from = first_panel + (int)((int64_t)count * thread / task.threads), to = first_panel + (int)((int64_t)count * (thread + 1) / task.threads);
  for (int panel = from; panel < to; panel++)
    set_panel(*task.panels, std::max(task.first_row, panel * panel_columns), std::min(end, (panel + 1) * panel_columns), task.first_row, *task.source);
}

} // namespace

void validate_format(int32_t format) {
  if (format < SY_W_F32 || format > SY_W_I4) fail(SY_INVALID_ARGUMENT, "format %d is not one of 0..%d", format, SY_W_I4);
}

size_t panel_bytes(int format, int k) {
  switch (format) {
  case SY_W_F32: return (size_t)pairs_of(k) * 2 * panel_columns * 4;
  case SY_W_I8: return (size_t)groups_of(k) * i8_group_bytes;
  case SY_W_I4: return (size_t)groups_of(k) * i4_group_bytes;
  default: return (size_t)pairs_of(k) * 2 * panel_columns * 2;
  }
}

size_t panels_bytes(int format, int n, int k) { return (size_t)panels_of(n) * panel_bytes(format, k); }

void panels_clear(const Panels &p) {
  const size_t bytes = panel_bytes(p.format, p.k);
  const QuantGroup zero{};
  for (int panel = 0; panel < panels_of(p.n); panel++) {
    uint8_t *at = p.data + (size_t)panel * p.stride;
    memset(at, 0, bytes);
    if (quantised(p.format))
      for (int group = 0; group < groups_of(p.k); group++)
        for (int column = 0; column < panel_columns; column++)
          p.format == SY_W_I8 ? put_i8(at + (size_t)group * i8_group_bytes, column, zero) : put_i4(at + (size_t)group * i4_group_bytes, column, zero);
  }
}

void panels_set(const Panels &panels, Pool &pool, int first_row, const sy_source &source) {
  SetTask task{&panels, &source, first_row, pool.threads()};
  pool.run(set_share, &task);
}

PlainMatrix plain_create(int format, int n, int k) {
  PlainMatrix m;
  m.format = format;
  m.n = n;
  m.k = k;
  m.values = Region((size_t)n * k * (quantised(format) ? 1 : 4));
  if (quantised(format)) m.scales = Region((size_t)n * groups_of(k) * 4);
  return m;
}

void plain_set(PlainMatrix &m, int first_row, const sy_source &source) {
  float chunk[group_k];
  for (int row = 0; row < source.n; row++)
    for (int k0 = 0; k0 < m.k; k0 += group_k) {
      const int count = std::min(group_k, m.k - k0);
      load_f32(source, row, k0, count, chunk);
      const size_t at = (size_t)(first_row + row) * m.k + k0;
      if (quantised(m.format)) {
        const QuantGroup group = quantise_group(chunk, count, quant_steps(m.format));
        memcpy(m.values.data() + at, group.q, (size_t)count);
        reinterpret_cast<float *>(m.scales.data())[(size_t)(first_row + row) * groups_of(m.k) + k0 / group_k] = group.scale;
        continue;
      }
      float *values = reinterpret_cast<float *>(m.values.data()) + at;
      for (int i = 0; i < count; i++)
        values[i] = m.format == SY_W_F32 ? chunk[i] : m.format == SY_W_F16 ? from_f16(to_f16(chunk[i])) : from_bf16(to_bf16(chunk[i]));
    }
}

WeightPtr weight_create(Isa isa, int32_t format, int32_t n, int32_t k) {
  validate_format(format);
  if (n < 1 || k < 1) fail(SY_INVALID_ARGUMENT, "weight shape [%d, %d] must be at least [1, 1]", n, k);
  WeightPtr weight(new Weight{isa, format, n, k, {}, {}, {}});
  if (isa == Isa::ref) {
    weight->plain = plain_create(format, n, k);
    return weight;
  }
  weight->memory = Region(panels_bytes(format, n, k));
  weight->panels = {weight->memory.data(), panel_bytes(format, k), format, n, k};
  if (quantised(format)) panels_clear(weight->panels);
  return weight;
}

void WeightDeleter::operator()(Weight *weight) const { delete weight; }

void weight_set(Weight &weight, Pool &pool, int32_t first_row, const sy_source &source) {
  validate(source, "source");
  if (source.k != weight.k) fail(SY_INVALID_ARGUMENT, "source k %d must be the weight's k %d", source.k, weight.k);
  if (first_row < 0 || first_row > weight.n - source.n)
    fail(SY_INVALID_ARGUMENT, "rows %d..%lld do not fit a weight of %d rows", first_row, (long long)first_row + source.n - 1, weight.n);
  if (weight.isa == Isa::ref) plain_set(weight.plain, first_row, source);
  else panels_set(weight.panels, pool, first_row, source);
}

int weight_n(const Weight &weight) { return weight.n; }
int weight_k(const Weight &weight) { return weight.k; }

} // namespace sy
