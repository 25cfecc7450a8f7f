/*
 * What one instruction set must provide: a handful of leaf kernels over *tiles* of input rows and *panels* of weights (pack.h).
 * Drivers (linear.cpp, experts.cpp) decide who computes what; a leaf never does, so a result cannot depend on the division of work.
 *
 * A tile is up to max_rows(format) input rows, rounded as the weight format asks and interleaved so that a kernel reads it as one linear stream:
 *   f32 input    [k][rows]                   k padded to even with zeros
 *   bf16 input   [k/2][rows] pairs           (or f32 as above where their products are those of widened values)
 *   int8 input   per group of 64: the group's steps [16 quads][rows], then rows scales f32, then rows corrections i32 (-offset * sum of steps)
 * `rows` is that of the tile, not of the machine, so a tile of one row is simply the row.
 */
#ifndef SWITCHYARD_TILES_H
#define SWITCHYARD_TILES_H

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "pack.h"

namespace sy {

constexpr int most_tile_rows = 12;
constexpr int most_panels = 4; /* that one dot() call takes */
constexpr int most_streamed_panels = 12; /* that one dot_streams() call takes */
constexpr int most_streamed_rows = 2;
constexpr int side_by_side = 3; /* panels that it reads at a time */
constexpr int most_tiles = 16; /* that one dot_tiles() call takes */

/* `rows` rows cut into as few tiles as possible, of nearly equal height: a kernel with few rows wastes the weights it reads. */
struct Tiling {
  int rows, tiles;
  Tiling(int rows_, int max_rows) : rows(rows_), tiles((rows_ + max_rows - 1) / max_rows) {}
  int first(int tile) const { return (int)((int64_t)rows * tile / tiles); }
  int height(int tile) const { return first(tile + 1) - first(tile); }
  /* Bytes from a panel to `ahead`: a little further in the stream, where the instruction set wants that (TileOps::near_ahead), twice as far when several
   * tiles pass over each stretch. Else the last tile of several, whose weights are in a cache by then, brings the next panel. */
  size_t ahead(int tile, size_t stride, size_t near_ahead) const {
    if (near_ahead) return tiles == 1 ? near_ahead : 2 * near_ahead;
    return tiles > 1 && tile == tiles - 1 ? stride : 0;
  }
};

struct TileOps {
  /* How far ahead in the stream of weights to fetch, in bytes; 0 where the processor's own prefetching does better. (Zen 3: worth a third with four rows, and
   * nearer is better down to 2 KB; Zen 4: nothing.) */
  size_t near_ahead;
  /* Most rows of a tile, at most most_tile_rows. */
  int (*max_rows)(int format);
  /* Bytes of one row of a tile; a multiple of 4. */
  size_t (*row_bytes)(int format, int k);
  /* Rounds columns k0 .. k0+count of `rows` rows into a tile. Row r is x + (index ? index[r] : r)*ldx, and x is already at column k0.
   * k0 is a multiple of 32 (of 64 in the quantised formats); an odd or partial end is padded with zeros. */
  void (*pack)(int format, const float *x, int64_t ldx, const int32_t *index, int rows, int k0, int count, uint8_t *tile);
  /* dots[panel][row][32] = products of the tile with `panels` panels (1..most_panels) that lie `stride` bytes apart.
   * Meanwhile the stretch at `ahead` is brought into the second-level cache. With nothing to bring, `ahead` is `panel`. */
  void (*dot)(int format, const uint8_t *tile, int rows, const uint8_t *panel, size_t stride, int panels, int k, const uint8_t *ahead, float *dots);
  /* Most rows of a tile for which dot_streams() is worth more than dot() where weights come from memory; 0 where it never is, or nobody has measured. */
  int (*streamed_rows)(int format);
  /* What dot() does, for few rows and weights that come from memory: panels are read side by side, so that a core has more of memory under way than one
   * stream would let it. `panels` is 1..most_streamed_panels, best a multiple of side_by_side. */
  void (*dot_streams)(int format, const uint8_t *tile, int rows, const uint8_t *panel, size_t stride, int panels, int k, float *dots);
  /* dots[row][32] = products of tiles first .. end of a batch (at most most_tiles) with one panel; row r of the batch starts at tiles + r*row_bytes, dots
   * begin with the first tile's. What dot() does for each, with a stretch of weights kept in the nearest cache while all tiles pass. */
  void (*dot_tiles)(int format, const uint8_t *tiles, size_t row_bytes, const Tiling &tiling, int first, int end, const uint8_t *panel, int k,
                    const uint8_t *ahead, float *dots);
  /* Columns first .. first+count of dots[row][32] go to out[row*ldo], as in LINEAR. bias and out belong to column `first`. */
  void (*store)(const float *dots, int rows, int first, int count, const float *bias, float scale, bool add, float *out, int64_t ldo);
  /* out[row*ldo + i] = act(gate[row][i] + gate_bias[i], up[row][i] + up_bias[i]) for i < count; gate and up are [row][32]. */
  void (*gate)(const sy_experts_desc &desc, const float *gate, const float *up, int rows, int count, const float *gate_bias, const float *up_bias,
               float *out, int64_t ldo);
  /* sum[i] += nearest-even(weight * (dots[i] + bias[i]) * steps_per_unit) for i < count. False if one was NaN or reached contribution_limit
   * (the row is then worthless, but memory is sound). */
  bool (*contribute_exact)(const float *dots, const float *bias, float weight, float steps_per_unit, int count, int64_t *sum);
  void (*contribute_fast)(const float *dots, const float *bias, float weight, int count, float *sum);
  /* residual[i] = fma(multiplier, sum[i]*unit (+ shared[i]), residual[i]) */
  void (*combine_exact)(const int64_t *sum, int count, float unit, float multiplier, const float *shared, float *residual);
  void (*combine_fast)(const float *sum, int count, float multiplier, const float *shared, float *residual);
};

/* How a tile meets the panels of a weight. From a cache, several panels in one call keep more sums in flight. From memory, few rows read several panels side by
 * side, and more rows read one at a time, which is one linear stream. */
struct PanelCalls {
  bool streamed;
  int at_once; /* panels of one call, for a batch of one tile */
  PanelCalls(const TileOps &ops, int format, int rows, bool cached)
      : streamed(!cached && rows <= ops.streamed_rows(format)),
        at_once(streamed ? most_streamed_panels : cached ? std::max(1, std::min(most_panels, ops.max_rows(format) / rows)) : 1) {}
};

/* dots[panel][row][32] = products of tiles first .. end of a batch with `panels` panels that lie `stride` bytes apart: one panel where there are several tiles. */
static inline void multiply(const TileOps &ops, int format, const PanelCalls &calls, const uint8_t *tiles, size_t row_bytes, const Tiling &tiling, int first,
                            int end, const uint8_t *panel, size_t stride, int panels, int k, float *dots) {
  const uint8_t *tile = tiles + (size_t)tiling.first(first) * row_bytes, *ahead = panel + tiling.ahead(end - 1, stride, ops.near_ahead);
  if (end - first > 1) ops.dot_tiles(format, tiles, row_bytes, tiling, first, end, panel, k, ahead, dots);
  else if (calls.streamed) ops.dot_streams(format, tile, tiling.height(first), panel, stride, panels, k, dots);
  else ops.dot(format, tile, tiling.height(first), panel, stride, panels, k, ahead, dots);
}

const TileOps *tile_ops_avx2();
const TileOps *tile_ops_avx512();

/* Null for the oracle, which has its own loops. */
static inline const TileOps *tile_ops(Isa isa) {
#if defined(__x86_64__)
  return isa == Isa::avx512 ? tile_ops_avx512() : isa == Isa::avx2 ? tile_ops_avx2() : nullptr;
#else
  (void)isa;
  return nullptr;
#endif
}

} // namespace sy
#endif
