/*
 * Rows times panels (cpp/pack.h): the products of an expert, in the order of include/switchyard.h, so that a GPU gives the bits that the oracle gives.
 *
 * A panel has 32 columns and a warp 32 threads: thread i sums column i, k ascending, in one accumulator, which is the order that the header asks for. Nothing is
 * split along k; what keeps a GPU busy is many columns, many experts and many rows.
 *
 *   few   up to 8 rows: a warp for each panel, whose bytes stream through a ring in shared memory, with the rows' columns beside them, far ahead of the
 *         sums. Bound by memory, or, where columns are few, by the chain of additions: 4 cycles each.
 *   many  a warp for 4 neighbouring panels and up to 16 rows (8 in the quantised formats): 64 sums a thread, so that a weight serves 16 rows and an input 4
 *         columns. Bound by arithmetic.
 *
 * Gate and up panels alternate (cpp/experts.h). Their two dots meet in the activation: in `many` in one thread, in `few` through shared memory.
 */
#ifndef SWITCHYARD_CUDA_PANELS_H
#define SWITCHYARD_CUDA_PANELS_H

#include "../cpp/gate.h"
#include "../cpp/numeric.h"
#include "../cpp/pack.h"
#include "gpu.h"

namespace sy::SY_GPU {

constexpr int block_warps = 4, block_threads = block_warps * warp_threads;
constexpr int few_rows = 8;
SY_ANYWHERE constexpr int many_rows(int format) { return format == SY_W_I8 || format == SY_W_I4 ? 8 : 16; }
/* Tiles are computed for so many rows, the last repeated. */
SY_ANYWHERE constexpr int few_rows_of(int rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : rows <= 6 ? 6 : few_rows; }
constexpr int many_panels = 4;

/* Pairs first .. first+rows of the plan, all of one slot. */
struct Tile {
  int32_t slot, first, rows;
};

/* Input rows as the weights' format takes them. Rows begin `stride` elements apart, a multiple of the quantisation group. Behind an odd width comes a zero, behind
 * that zeros or what an earlier call left: it is copied, never used. */
struct Inputs {
  const float *values;  /* formats 0..3: f32, rounded to bf16 for SY_W_BF16_X16 */
  const int8_t *steps;  /* formats 4, 5 */
  const float *scales;  /* formats 4, 5: [rows, stride / SY_QUANT_GROUP] */
  int64_t stride;
};

struct Product {
  const uint8_t *slots;        /* [slots, slot_bytes] */
  size_t slot_bytes;
  size_t at, panel_bytes;      /* where the matrix begins in a slot */
  int panels, n, k;            /* panels of the matrix: of gate and up together; columns of the output; width of the input */
  const Tile *tiles;
  const int32_t *row;          /* input row of a pair; null: pair p has row p */
  Inputs in;
  float *out;                  /* [pairs, ldo] */
  int64_t ldo;
  bool has_bias;
  size_t bias_at, up_bias_at;
  int activation;              /* of gate and up */
  float alpha, limit;
  bool round;                  /* what comes out is rounded to bf16 */
};

SY_GPU_CODE const uint8_t *slot_of(const Product &p, const Tile &tile) { return p.slots + (size_t)tile.slot * p.slot_bytes; }
SY_GPU_CODE int64_t input_row(const Product &p, const Tile &tile, int r) {
  const int pair = tile.first + (r < tile.rows ? r : tile.rows - 1);
  return p.row ? p.row[pair] : pair;
}
SY_GPU_CODE float plus_bias(const Product &p, const uint8_t *slot, size_t bias_at, int column, float dot) {
  return p.has_bias ? dot + reinterpret_cast<const float *>(slot + bias_at)[column] : dot;
}
/* One element between the matrices. The columns that fill up the last panel are zero: an odd width is read as one more. */
SY_GPU_CODE void store_gated(const Product &p, const uint8_t *slot, int pair, int column, float gate, float up) {
  float value = 0.0f;
  if (column < p.n) {
    value = gated(p.activation, p.alpha, p.limit, plus_bias(p, slot, p.bias_at, column, gate), plus_bias(p, slot, p.up_bias_at, column, up));
    if (p.round) value = from_bf16(to_bf16(value));
  }
  p.out[pair * p.ldo + column] = value;
}
SY_GPU_CODE void store(const Product &p, const uint8_t *slot, int pair, int column, float dot) {
  if (column < p.n) p.out[pair * p.ldo + column] = plus_bias(p, slot, p.bias_at, column, dot);
}

/* ---- weights of one column ---- */

struct WeightPair {
  float even, odd; /* of k = 2p and 2p + 1 */
};
template <int format> SY_GPU_CODE WeightPair weights_of(const uint8_t *panel, int pair, int lane) {
  if constexpr (format == SY_W_F32) {
    const float *at = reinterpret_cast<const float *>(panel) + 2 * pair * panel_columns + lane;
    return {at[0], at[panel_columns]};
  } else if constexpr (format == SY_W_F16) {
    const uint16_t *at = reinterpret_cast<const uint16_t *>(panel) + 2 * pair * panel_columns + lane;
    return {half_to_float(at[0]), half_to_float(at[panel_columns])};
  } else {
    const uint32_t word = reinterpret_cast<const uint32_t *>(panel)[pair * panel_columns + lane];
    return {float_of(word << 16), float_of(word & 0xffff0000u)};
  }
}
SY_GPU_CODE float add_pair(float sum, float x_even, float x_odd, WeightPair w) { return fmaf(x_even, w.even, fmaf(x_odd, w.odd, sum)); }

SY_ANYWHERE constexpr int group_bytes(int format) { return group_k * panel_columns / (format == SY_W_I4 ? 2 : 1) + panel_columns * 4; }
/* Four weights of one column, signed; `quad` = k / 4 within the group. */
template <int format> SY_GPU_CODE int weight_quad(const uint8_t *group, int quad, int lane) {
  const uint32_t *words = reinterpret_cast<const uint32_t *>(group);
  if constexpr (format == SY_W_I8) return (int)(words[quad * panel_columns + lane] ^ 0x80808080u);
  const uint32_t nibbles = (words[quad / 2 * panel_columns + lane] >> (quad % 2 * 4)) & 0x0f0f0f0fu;
  return (int)(((nibbles | 0x80808080u) - 0x08080808u) ^ 0x80808080u); // Minus 8 in every byte; none borrows from the next.
}
template <int format> SY_GPU_CODE float weight_scale(const uint8_t *group, int lane) {
  return reinterpret_cast<const float *>(group + group_bytes(format) - panel_columns * 4)[lane];
}

/* ---- few rows ---- */

/* How a panel passes through a warp's ring: `stages` pieces, each of so many bytes of weights and the columns of k that belong to them. */
struct Ring {
  int weight_bytes, stage_k, stages;
};
SY_ANYWHERE constexpr Ring ring_of(int format) {
  if (format == SY_W_F32) return {4096, 32, 4};
  if (format == SY_W_I8) return {group_bytes(SY_W_I8), group_k, 6};
  if (format == SY_W_I4) return {group_bytes(SY_W_I4), group_k, 8};
  return {4096, 64, 4};
}
/* A row's part of a stage. */
SY_ANYWHERE constexpr int input_bytes(int format) { return ring_of(format).stage_k * (format == SY_W_I8 || format == SY_W_I4 ? 1 : 4); }
SY_ANYWHERE constexpr int stage_bytes(int format, int rows) { return ring_of(format).weight_bytes + rows * input_bytes(format); }
SY_ANYWHERE constexpr int ring_bytes(int format, int rows) { return ring_of(format).stages * stage_bytes(format, rows); }
SY_ANYWHERE constexpr size_t few_shared_bytes(int format, int rows) {
  return (size_t)block_warps * ring_bytes(format, rows) + (size_t)(block_warps / 2) * rows * panel_columns * sizeof(float);
}

/* Pairs first .. end of a stage. */
template <int format, int rows> SY_GPU_CODE void add_pairs(const uint8_t *weights, const float *x, int first, int end, int lane, float (&sum)[rows]) {
  constexpr int row_floats = input_bytes(format) / 4;
  int pair = first;
#pragma unroll 8
  for (; pair + 2 <= end; pair += 2) {
    const WeightPair even = weights_of<format>(weights, pair, lane), odd = weights_of<format>(weights, pair + 1, lane);
#pragma unroll
    for (int r = 0; r < rows; r++) {
      const Float4 v = *reinterpret_cast<const Float4 *>(x + r * row_floats + 2 * pair);
      sum[r] = add_pair(add_pair(sum[r], v.x, v.y, even), v.z, v.w, odd);
    }
  }
  if (pair == end) return;
  const WeightPair last = weights_of<format>(weights, pair, lane);
#pragma unroll
  for (int r = 0; r < rows; r++) sum[r] = add_pair(sum[r], x[r * row_floats + 2 * pair], x[r * row_floats + 2 * pair + 1], last);
}

/* A group of a quantised format. `x_scale` is that of each row. */
template <int format, int rows> SY_GPU_CODE void add_group(const uint8_t *weights, const uint8_t *x, const float (&x_scale)[rows], int lane, float (&sum)[rows]) {
  int steps[rows] = {};
#pragma unroll
  for (int quads = 0; quads < group_k / 4; quads += 4) {
    int w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) w[i] = weight_quad<format>(weights, quads + i, lane);
#pragma unroll
    for (int r = 0; r < rows; r++) {
      const Int4 v = *reinterpret_cast<const Int4 *>(x + r * group_k + quads * 4);
      steps[r] = dot4(v.w, w[3], dot4(v.z, w[2], dot4(v.y, w[1], dot4(v.x, w[0], steps[r]))));
    }
  }
  const float scale = weight_scale<format>(weights, lane);
#pragma unroll
  for (int r = 0; r < rows; r++) sum[r] = fmaf((float)steps[r], x_scale[r] * scale, sum[r]);
}

template <int format, int rows>
SY_GPU_CODE void stream_panel(const Product &p, const uint8_t *panel, const Tile &tile, uint8_t *ring, int lane, float (&sum)[rows]) {
  constexpr Ring shape = ring_of(format);
  constexpr bool steps_format = format == SY_W_I8 || format == SY_W_I4;
  constexpr int bytes = stage_bytes(format, rows), x_bytes = input_bytes(format), x_pieces = x_bytes / 16, weight_pieces = shape.weight_bytes / 16;
  const int stages = (p.k + shape.stage_k - 1) / shape.stage_k, whole = (int)(p.panel_bytes / shape.weight_bytes);
  // The inputs' pieces that this thread brings: piece `lane + 32 i` of all rows.
  constexpr int most_pieces = (rows * x_pieces + warp_threads - 1) / warp_threads;
  const uint8_t *x_from[most_pieces];
#pragma unroll
  for (int i = 0; i < most_pieces; i++) {
    const int piece = lane + i * warp_threads, r = piece / x_pieces < rows ? piece / x_pieces : rows - 1;
    const int64_t at = input_row(p, tile, r) * p.in.stride;
    x_from[i] = (steps_format ? reinterpret_cast<const uint8_t *>(p.in.steps + at) : reinterpret_cast<const uint8_t *>(p.in.values + at)) + piece % x_pieces * 16;
  }
  const float *scales[rows];
#pragma unroll
  for (int r = 0; r < rows; r++) scales[r] = steps_format ? p.in.scales + input_row(p, tile, r) * (p.in.stride / group_k) : nullptr;

  const uint8_t *from = panel + lane * 16;
  const auto fetch = [&](int stage) {
    if (stage < stages) {
      uint8_t *to = ring + stage % shape.stages * bytes;
      if (stage < whole) {
#pragma unroll
        for (int i = 0; i < (weight_pieces + warp_threads - 1) / warp_threads; i++)
          if (weight_pieces % warp_threads == 0 || lane + i * warp_threads < weight_pieces) copy16(to + (lane + i * warp_threads) * 16, from + i * warp_threads * 16);
      } else
        for (int at = lane * 16; (size_t)stage * shape.weight_bytes + at < p.panel_bytes; at += warp_threads * 16) copy16(to + at, from + at - lane * 16);
      from += shape.weight_bytes;
#pragma unroll
      for (int i = 0; i < most_pieces; i++)
        if (rows * x_pieces % warp_threads == 0 || lane + i * warp_threads < rows * x_pieces)
          copy16(to + shape.weight_bytes + (lane + i * warp_threads) * 16, x_from[i] + (size_t)stage * x_bytes);
    }
    end_group(); // Also when empty: groups are counted.
  };
#pragma unroll
  for (int stage = 0; stage < shape.stages - 1; stage++) fetch(stage);
  for (int stage = 0; stage < stages; stage++) {
    float x_scale[rows];
#pragma unroll
    for (int r = 0; r < rows; r++) x_scale[r] = steps_format ? scales[r][stage] : 0.0f;
    wait_copies<shape.stages - 2>();
    sync_warp(); // Everybody's piece of this stage is here, and everybody has done with the stage before, which the next copies write over.
    fetch(stage + shape.stages - 1);
    const uint8_t *here = ring + stage % shape.stages * bytes;
    if constexpr (steps_format) {
      add_group<format, rows>(here, here + shape.weight_bytes, x_scale, lane, sum);
    } else {
      const float *x = reinterpret_cast<const float *>(here + shape.weight_bytes);
      if ((stage + 1) * shape.stage_k <= p.k) add_pairs<format, rows>(here, x, 0, shape.stage_k / 2, lane, sum);
      else add_pairs<format, rows>(here, x, 0, (p.k - stage * shape.stage_k + 1) / 2, lane, sum);
    }
  }
}

template <int format, bool gate_up, int rows> SY_GPU_CODE void few_of(const Product &p, const Tile &tile) {
  const int warp = thread_in_block() / warp_threads, lane = thread_in_block() % warp_threads, panel = block_y() * block_warps + warp;
  const uint8_t *slot = slot_of(p, tile);
  float sum[rows] = {};
  if (panel < p.panels) stream_panel<format, rows>(p, slot + p.at + (size_t)panel * p.panel_bytes, tile, shared_memory() + warp * ring_bytes(format, rows), lane, sum);
  if constexpr (gate_up) {
    float *ups = reinterpret_cast<float *>(shared_memory() + block_warps * ring_bytes(format, rows)) + warp / 2 * rows * panel_columns;
    if (warp % 2) {
#pragma unroll
      for (int r = 0; r < rows; r++) ups[r * panel_columns + lane] = sum[r];
    }
    sync_block();
    if (warp % 2 || panel >= p.panels) return;
#pragma unroll
    for (int r = 0; r < rows; r++)
      if (r < tile.rows) store_gated(p, slot, tile.first + r, panel / 2 * panel_columns + lane, sum[r], ups[r * panel_columns + lane]);
  } else {
    if (panel >= p.panels) return;
#pragma unroll
    for (int r = 0; r < rows; r++)
      if (r < tile.rows) store(p, slot, tile.first + r, panel * panel_columns + lane, sum[r]);
  }
}

/* Blocks: [tiles, panels / 4]. */
template <int format, bool gate_up> SY_KERNEL void few(Product p) {
  const Tile tile = p.tiles[block_x()];
  switch (few_rows_of(tile.rows)) {
  case 1: return few_of<format, gate_up, 1>(p, tile);
  case 2: return few_of<format, gate_up, 2>(p, tile);
  case 4: return few_of<format, gate_up, 4>(p, tile);
  case 6: return few_of<format, gate_up, 6>(p, tile);
  default: return few_of<format, gate_up, few_rows>(p, tile);
  }
}

/* ---- many rows ---- */

constexpr size_t many_shared_bytes = (size_t)many_rows(SY_W_F32) * group_k * sizeof(float);

template <int format, bool gate_up, int rows> SY_GPU_CODE void many_of(const Product &p, const Tile &tile) {
  constexpr bool steps_format = format == SY_W_I8 || format == SY_W_I4;
  const int thread = thread_in_block(), lane = thread % warp_threads, first = (block_y() * block_warps + thread / warp_threads) * many_panels;
  const uint8_t *slot = slot_of(p, tile);
  const uint8_t *panel[many_panels];
#pragma unroll
  for (int c = 0; c < many_panels; c++) panel[c] = slot + p.at + (size_t)(first + c < p.panels ? first + c : p.panels - 1) * p.panel_bytes;
  float sum[many_panels][rows] = {};

  for (int k0 = 0; k0 < p.k; k0 += group_k) {
    sync_block();
    if constexpr (steps_format) {
      Int4 *steps = reinterpret_cast<Int4 *>(shared_memory());
      float *scales = reinterpret_cast<float *>(shared_memory() + rows * group_k);
      if (thread < rows * group_k / 16) steps[thread] = *reinterpret_cast<const Int4 *>(p.in.steps + input_row(p, tile, thread / 4) * p.in.stride + k0 + thread % 4 * 16);
      if (thread < rows) scales[thread] = p.in.scales[input_row(p, tile, thread) * (p.in.stride / group_k) + k0 / group_k];
      sync_block();
      int step_sum[many_panels][rows] = {};
#pragma unroll
      for (int quads = 0; quads < group_k / 4; quads += 4) {
        int w[many_panels][4];
#pragma unroll
        for (int c = 0; c < many_panels; c++)
#pragma unroll
          for (int i = 0; i < 4; i++) w[c][i] = weight_quad<format>(panel[c] + (size_t)(k0 / group_k) * group_bytes(format), quads + i, lane);
#pragma unroll
        for (int r = 0; r < rows; r++) {
          const Int4 x = steps[r * (group_k / 16) + quads / 4];
#pragma unroll
          for (int c = 0; c < many_panels; c++) step_sum[c][r] = dot4(x.w, w[c][3], dot4(x.z, w[c][2], dot4(x.y, w[c][1], dot4(x.x, w[c][0], step_sum[c][r]))));
        }
      }
#pragma unroll
      for (int c = 0; c < many_panels; c++) {
        const float scale = weight_scale<format>(panel[c] + (size_t)(k0 / group_k) * group_bytes(format), lane);
#pragma unroll
        for (int r = 0; r < rows; r++) sum[c][r] = fmaf((float)step_sum[c][r], scales[r] * scale, sum[c][r]);
      }
    } else {
      Float4 *values = reinterpret_cast<Float4 *>(shared_memory());
      constexpr int row_words = group_k / 4;
      for (int i = thread; i < rows * row_words; i += block_threads)
        values[i] = *reinterpret_cast<const Float4 *>(p.in.values + input_row(p, tile, i / row_words) * p.in.stride + k0 + i % row_words * 4);
      sync_block();
      const int pairs = ((p.k - k0 < group_k ? p.k - k0 : group_k) + 1) / 2;
      for (int pair = 0; pair + 2 <= pairs; pair += 2) {
        WeightPair even[many_panels], odd[many_panels];
#pragma unroll
        for (int c = 0; c < many_panels; c++) {
          even[c] = weights_of<format>(panel[c], k0 / 2 + pair, lane);
          odd[c] = weights_of<format>(panel[c], k0 / 2 + pair + 1, lane);
        }
#pragma unroll
        for (int r = 0; r < rows; r++) {
          const Float4 x = values[r * row_words + pair / 2];
#pragma unroll
          for (int c = 0; c < many_panels; c++) sum[c][r] = add_pair(add_pair(sum[c][r], x.x, x.y, even[c]), x.z, x.w, odd[c]);
        }
      }
      if (pairs % 2) {
#pragma unroll
        for (int c = 0; c < many_panels; c++) {
          const WeightPair last = weights_of<format>(panel[c], k0 / 2 + pairs - 1, lane);
#pragma unroll
          for (int r = 0; r < rows; r++) {
            const Float4 x = values[r * row_words + (pairs - 1) / 2];
            sum[c][r] = add_pair(sum[c][r], x.x, x.y, last);
          }
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < rows; r++) {
    if (r >= tile.rows) break;
#pragma unroll
    for (int c = 0; c < many_panels; c++) {
      if (first + c >= p.panels) break;
      if constexpr (gate_up) {
        if (c % 2 == 0) store_gated(p, slot, tile.first + r, (first + c) / 2 * panel_columns + lane, sum[c][r], sum[c + 1][r]);
      } else store(p, slot, tile.first + r, (first + c) * panel_columns + lane, sum[c][r]);
    }
  }
}

/* Blocks: [tiles, panels / 16]. */
template <int format, bool gate_up> SY_KERNEL_BLOCKS(block_threads, format == SY_W_I8 || format == SY_W_I4 ? 3 : 4) void many(Product p) {
  constexpr int most = many_rows(format);
  const Tile tile = p.tiles[block_x()];
  if (tile.rows <= most * 3 / 4) many_of<format, gate_up, most * 3 / 4>(p, tile);
  else many_of<format, gate_up, most>(p, tile);
}

/* ---- rows before, sums after ---- */

struct Rounding {
  const float *x; /* [rows, stride], zeros beyond width */
  int64_t stride;
  int rows, width;
  float *values;  /* SY_W_BF16_X16 */
  int8_t *steps;  /* quantised formats */
  float *scales;
};

/* Blocks: [rows, stride / 128]. */
SY_KERNEL void round_to_bf16(Rounding r) {
  const int64_t column = (int64_t)block_y() * block_threads + thread_in_block(), at = block_x() * r.stride + column;
  if (column < r.stride) r.values[at] = from_bf16(to_bf16(r.x[at]));
}

/* A thread for each group of a row. Blocks: [rows, groups / 128]. */
SY_KERNEL void round_to_steps(Rounding r) {
  const int group = block_y() * block_threads + thread_in_block();
  if (group >= r.stride / group_k) return;
  const int64_t at = block_x() * r.stride + (int64_t)group * group_k;
  const int count = r.width - group * group_k < group_k ? r.width - group * group_k : group_k;
  float largest = 0.0f;
  bool finite = true;
  for (int i = 0; i < count; i++) {
    const float value = from_bf16(to_bf16(r.x[at + i])), magnitude = fabsf(value);
    if (magnitude > largest) largest = magnitude;
    finite = finite && is_finite(value);
  }
  const GroupScale scale = group_scale(largest, finite, 127.0f);
  r.scales[block_x() * (r.stride / group_k) + group] = scale.scale;
  for (int i = 0; i < group_k; i++) r.steps[at + i] = i < count ? (int8_t)quantise(from_bf16(to_bf16(r.x[at + i])), scale.inverse, 127) : (int8_t)0;
}

struct Contributions {
  const float *y;           /* [pairs, hidden] */
  int hidden;
  const int32_t *row_begin; /* [rows + 1] into row_pair */
  const int32_t *row_pair;  /* pairs of each row */
  const float *weight;      /* [pairs] */
  float steps_per_unit, limit;
  void *sums;               /* [rows, hidden] int32 or int64 */
  uint8_t *poisoned, *wide; /* [rows]; only ever set to 1: a contribution beyond the grid's range; a sum beyond the integer's */
};

/* Blocks: [rows, hidden / 128]. Integer is what sums travel to the host as: nearly all fit 32 bits, and half the bytes are half the time. */
template <class Integer> SY_KERNEL void sum_pairs(Contributions c) {
  const int column = block_y() * block_threads + thread_in_block(), row = block_x();
  if (column >= c.hidden) return;
  int64_t sum = 0;
  for (int i = c.row_begin[row]; i < c.row_begin[row + 1]; i++) {
    const int pair = c.row_pair[i];
    const float contribution = c.weight[pair] * c.y[(int64_t)pair * c.hidden + column];
    const float steps = contribution * c.steps_per_unit;
    if (!(fabsf(steps) < c.limit)) c.poisoned[row] = 1;
    else sum += (int64_t)llrintf(steps);
  }
  if ((int64_t)(Integer)sum != sum) c.wide[row] = 1;
  static_cast<Integer *>(c.sums)[(int64_t)row * c.hidden + column] = (Integer)sum;
}

} // namespace sy::SY_GPU
#endif
