#include "pack.h"

#include <algorithm>
#include <cstring>

#include "numeric.h"
#include "square.h"
#include "team.h"

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

void put_bf16(const Square &s, uint32_t *panel) {
  for (int i = 0; i < pairs_of(s.count); i++)
    for (int c = 0; c < s.columns; c++)
      panel[(size_t)(s.k0 / 2 + i) * panel_columns + s.column + c] = (uint32_t)to_bf16(s.values[c][2 * i]) | (uint32_t)to_bf16(s.values[c][2 * i + 1]) << 16;
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

/* A whole square in a format of words, by the processor's own means. */
void put_fast(const SquareOps &ops, const sy_source &source, int row, int k0, int format, uint8_t *panel) {
  uint32_t words[panel_columns][square_words];
  float values[group_k], scales[panel_columns];
  const bool as_stored = format <= SY_W_BF16_X16 && source.dtype == SY_BF16 && source.stride_k == 1;
  for (int c = 0; c < panel_columns; c++) {
    if (as_stored) {
      ops.pairs_of_bf16(source.file->data + source.offset + ((int64_t)(row + c) * source.stride_n + k0) * 2, words[c]);
      continue;
    }
    load_f32(source, row + c, k0, group_k, values);
    if (format == SY_W_I8) scales[c] = ops.quantise_i8(values, words[c]);
    else if (format == SY_W_I4) scales[c] = ops.quantise_i4(values, words[c]);
    else ops.pairs_of_f32(values, words[c]);
  }
  const int count = format == SY_W_I8 ? group_k / 4 : format == SY_W_I4 ? group_k / 8 : group_k / 2;
  uint8_t *at = panel + (size_t)(k0 / group_k) * ((size_t)count * panel_columns * 4 + (quantised(format) ? sizeof scales : 0));
  ops.turn(words, count, reinterpret_cast<uint32_t *>(at));
  if (quantised(format)) memcpy(at + (size_t)count * panel_columns * 4, scales, sizeof scales);
}

/* Rows first .. last of the matrix, all in one panel. A square is read before the next, because in a transposed source neighbouring rows share cache lines. */
void set_panel(const Panels &p, int first, int last, int first_row, const sy_source &source) {
  uint8_t *panel = p.data + (size_t)(first / panel_columns) * p.stride;
  const bool of_words = p.format != SY_W_F32 && p.format != SY_W_F16, whole = last - first == panel_columns;
  const SquareOps *ops = of_words && whole ? square_ops() : nullptr;
  Square square{};
  square.column = first % panel_columns;
  square.columns = last - first;
  for (int k0 = 0; k0 < p.k; k0 += group_k) {
    square.k0 = k0;
    square.count = std::min(group_k, p.k - k0);
    if (ops && square.count == group_k) {
      put_fast(*ops, source, first - first_row, k0, p.format, panel);
      continue;
    }
    for (int c = 0; c < square.columns; c++) {
      load_f32(source, first - first_row + c, k0, square.count, square.values[c]);
      std::fill(square.values[c] + square.count, square.values[c] + group_k, 0.0f);
    }
    put(square, p.format, panel);
  }
  if (ops) ops->done();
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

size_t panels_bytes(int format, int n, int k) { return checked_bytes((__int128)panels_of(n) * panel_bytes(format, k), "a weight [%d, %d]", n, k); }

void panels_set(Pool &pool, const PackJob *jobs, int count) {
  int64_t all = 0, bytes = 0;
  for (int i = 0; i < count; i++) {
    all += panels_of(jobs[i].first_row + jobs[i].source->n) - jobs[i].first_row / panel_columns;
    bytes += (int64_t)jobs[i].source->n * jobs[i].source->k * 2;
  }
  share(pool, bytes < pack_alone_below, [&](const Team &team) {
    team.divide(0, all, bytes, 1, [&](int64_t begin, int64_t end) {
      int64_t at = 0;
      for (int i = 0; i < count; i++) {
        const PackJob &job = jobs[i];
        const int first_panel = job.first_row / panel_columns, end_row = job.first_row + job.source->n, panels = panels_of(end_row) - first_panel;
        for (int64_t p = std::max<int64_t>(begin - at, 0); p < std::min<int64_t>(end - at, panels); p++) {
          const int panel = first_panel + (int)p;
          set_panel(job.panels, std::max(job.first_row, panel * panel_columns), std::min(end_row, (panel + 1) * panel_columns), job.first_row, *job.source);
        }
        at += panels;
      }
    });
  });
}

const SquareOps *square_ops() {
#if defined(__x86_64__)
  static const SquareOps *const ops = isa_supported(Isa::avx2) ? square_ops_avx2() : nullptr; // Asking the processor takes a microsecond in a guest.
  return ops;
#else
  return nullptr;
#endif
}

PlainMatrix plain_create(int format, int n, int k) {
  PlainMatrix m;
  m.format = format;
  m.n = n;
  m.k = k;
  m.values = Region(checked_bytes((__int128)n * k * (quantised(format) ? 1 : 4), "a weight [%d, %d]", n, k));
  if (quantised(format)) m.scales = Region(checked_bytes((__int128)n * groups_of(k) * 4, "the scales of a weight [%d, %d]", n, k));
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
  if (n > dimension_max || k > dimension_max) fail(SY_INVALID_ARGUMENT, "weight shape [%d, %d]: neither may exceed %d", n, k, dimension_max);
  WeightPtr weight(new Weight{isa, format, n, k, {}, {}, {}});
  if (isa == Isa::ref) {
    weight->plain = plain_create(format, n, k);
    return weight;
  }
  weight->memory = Region(panels_bytes(format, n, k));
  weight->panels = {weight->memory.data(), panel_bytes(format, k), format, n, k};
  return weight;
}

void WeightDeleter::operator()(Weight *weight) const { delete weight; }

void weight_set(Weight &weight, Pool &pool, int32_t first_row, const sy_source &source) {
  validate(source, "source");
  if (source.k != weight.k) fail(SY_INVALID_ARGUMENT, "source k %d must be the weight's k %d", source.k, weight.k);
  if (first_row < 0 || first_row > weight.n - source.n)
    fail(SY_INVALID_ARGUMENT, "rows %d..%lld do not fit a weight of %d rows", first_row, (long long)first_row + source.n - 1, weight.n);
  if (weight.isa == Isa::ref) plain_set(weight.plain, first_row, source);
  else {
    const PackJob job{weight.panels, first_row, &source};
    panels_set(pool, &job, 1);
  }
}

int weight_n(const Weight &weight) { return weight.n; }
int weight_k(const Weight &weight) { return weight.k; }

} // namespace sy
