#include <algorithm>
#include <cstring>

#include "numeric.h"
#include "oracle.h"
#include "pack.h"
#include "team.h"
#include "tiles.h"

namespace sy {
namespace {

SY_FMA_CLONES void store_ref(float v, float scale, bool add, float *out) { *out = add ? __builtin_fmaf(scale, v, *out) : scale * v; }

void linear_ref(const Weight &weight, const LinearCall &call) {
  for (int row = 0; row < call.rows; row++) {
    const std::vector<float> v = multiply_ref(weight.plain, call.x + row * call.ldx, call.bias);
    for (int n = 0; n < weight.n; n++) store_ref(v[(size_t)n], call.scale, call.add, call.out + row * call.ldo + n);
  }
}

void head_linear_ref(const Weight &weight, const HeadLinearCall &call) {
  for (int row = 0; row < call.rows; row++)
    for (int head = 0; head < call.heads; head++) {
      const RoundedRow x = round_row(weight.format, call.x + row * call.ldx + head * call.x_stride, weight.k);
      float *out = call.out + row * call.ldo + head * call.out_stride;
      for (int n = 0; n < call.out_dim; n++) out[n] = dot_ref(weight.plain, head * call.out_dim + n, x);
    }
}

bool too_small_to_share(const Weight &weight, int rows) {
  return (int64_t)panels_of(weight.n) * (int64_t)weight.panels.stride < weights_alone_below && (int64_t)weight.n * weight.k * rows < products_alone_below;
}

/* Bytes of weights that pass through the registers. */
int64_t reading(const Weight &weight, int tiles) { return (int64_t)panels_of(weight.n) * (int64_t)weight.panels.stride * tiles; }

/* With so little input, every thread rounds it for itself instead of waiting for the others. */
bool packs_alone(int rows, int k, int max_rows) { return rows <= max_rows && (int64_t)rows * k <= 8192; }

bool cached(const Weight &weight) { return reading(weight, 1) <= cached_below; }

/* One band of columns times packed tiles: items are (panel, tile), panels slow. */
struct Band {
  const TileOps *ops;
  const Weight *weight;
  const uint8_t *tiles; /* row r of the batch starts at r*row_bytes */
  size_t row_bytes;
  Tiling tiling;
  PanelCalls calls;
  int first_column, columns; /* of the weight */
  const float *bias;         /* of first_column, or null */
  bool add;
  float scale;
  float *out; /* of first_column */
  int64_t ldo;

  int first_panel() const { return first_column / panel_columns; }
  int panels() const { return panels_of(first_column + columns) - first_panel(); }

  void store(int panel, int row, int rows, const float *dots) const {
    const int begin = std::max(first_column, panel * panel_columns), end = std::min(first_column + columns, (panel + 1) * panel_columns);
    const int offset = begin - first_column;
    ops->store(dots, rows, begin % panel_columns, end - begin, bias ? bias + offset : nullptr, scale, add, out + row * ldo + offset, ldo);
  }

  /* Panels panel .. panel+count with tiles tile .. end: several of only one of them. */
  void run(int panel, int count, int tile, int end) const {
    alignas(64) float dots[most_tiles * most_tile_rows * panel_columns];
    static_assert(most_tiles >= most_panels && most_tiles * most_tile_rows >= most_streamed_panels * most_streamed_rows);
    const size_t stride = weight->panels.stride;
    const int rows = tiling.first(end) - tiling.first(tile);
    multiply(*ops, weight->format, calls, tiles, row_bytes, tiling, tile, end, weight->panels.data + (size_t)panel * stride, stride, count, weight->k, dots);
    for (int i = 0; i < count; i++) store(panel + i, tiling.first(tile), rows, dots + (size_t)i * (size_t)rows * panel_columns);
  }

  void run(const Range &items) const {
    for (int item = items.begin; item < items.end;) {
      const int panel = first_panel() + item / tiling.tiles, tile = item % tiling.tiles, left = items.end - item;
      const int end = std::min({tiling.tiles, tile + most_tiles, tile + left}), count = tiling.tiles > 1 ? 1 : std::min(calls.at_once, left);
      run(panel, count, tile, end);
      item += tiling.tiles > 1 ? end - tile : count;
    }
  }
};

} // namespace

/* Many rows are divided by rows: what a thread packs it alone reads, so that no cache asks another for it, and weights are shared unchanged. A group of
 * tiles fits the second-level cache beside a panel. */
constexpr size_t group_bytes = 192 * 1024;
constexpr int groups_of_thread = 4; /* fewer for weights that every group would read from memory again */
constexpr int64_t shared_cache = 16 * 1024 * 1024;
struct RowGroups {
  int tiles, groups; /* tiles of one group at most */
  RowGroups(const Tiling &tiling, size_t tile_bytes, int64_t weight_bytes, int threads) {
    const size_t most = (size_t)((tiling.tiles + threads - 1) / threads), some = (size_t)(tiling.tiles / (threads * groups_of_thread));
    tiles = weight_bytes > shared_cache ? (int)most : std::max(1, (int)std::min(group_bytes / tile_bytes, some));
    groups = (tiling.tiles + tiles - 1) / tiles;
  }
};

size_t linear_workspace_bytes(const Weight &weight, int rows, int threads) {
  const TileOps *ops = tile_ops(weight.isa);
  if (!ops) return 0;
  const size_t own = (size_t)std::min(rows, ops->max_rows(weight.format)) * (size_t)threads;
  const size_t divided = (size_t)rows + (size_t)rows / groups_of_thread + (size_t)threads; // Groups of whole tiles do not divide evenly.
  return checked_bytes((__int128)std::max(own, divided) * ops->row_bytes(weight.format, weight.k) + 64 * threads, "the workspace of %d rows", rows);
}

void linear(Pool &pool, const Weight &weight, const LinearCall &call, void *workspace) {
  const TileOps *ops = tile_ops(weight.isa);
  if (!ops) return linear_ref(weight, call);
  if (call.rows == 0) return;
  const size_t row_bytes = ops->row_bytes(weight.format, weight.k);
  const int max_rows = ops->max_rows(weight.format);
  const Tiling tiling(call.rows, max_rows);
  const int threads = pool.threads();
  if (threads > 1 && tiling.tiles >= threads * groups_of_thread) {
    const RowGroups groups(tiling, (size_t)tiling.height(0) * row_bytes, reading(weight, 1), threads);
    share(pool, false, [&](const Team &team) {
      const size_t own_rows = (size_t)((int64_t)call.rows * groups.tiles / tiling.tiles + 1);
      const size_t own = (own_rows * row_bytes + 63) & ~size_t{63};
      uint8_t *tiles = static_cast<uint8_t *>(workspace) + (size_t)team.thread * own;
      for (int group; (group = team.cursors[0].fetch_add(1, std::memory_order_relaxed)) < groups.groups;) {
        const int first = (int)((int64_t)tiling.tiles * group / groups.groups), end = (int)((int64_t)tiling.tiles * (group + 1) / groups.groups);
        const int row = tiling.first(first), rows = tiling.first(end) - row;
        const Tiling part(rows, max_rows);
        for (int tile = 0; tile < part.tiles; tile++)
          ops->pack(weight.format, call.x + (row + part.first(tile)) * call.ldx, call.ldx, nullptr, part.height(tile), 0, weight.k,
                    tiles + (size_t)part.first(tile) * row_bytes);
        const PanelCalls calls(*ops, weight.format, rows, false);
        const Band band{ops, &weight, tiles, row_bytes, part, calls, 0, weight.n, call.bias, call.add, call.scale, call.out + row * call.ldo, call.ldo};
        band.run(Range{0, band.panels() * part.tiles});
      }
    });
    return;
  }
  const PanelCalls calls(*ops, weight.format, call.rows, cached(weight));
  share(pool, too_small_to_share(weight, call.rows), [&](const Team &team) {
    uint8_t *tiles = static_cast<uint8_t *>(workspace);
    const auto pack = [&](int tile) {
      const int row = tiling.first(tile);
      ops->pack(weight.format, call.x + row * call.ldx, call.ldx, nullptr, tiling.height(tile), 0, weight.k, tiles + (size_t)row * row_bytes);
    };
    if (packs_alone(call.rows, weight.k, ops->max_rows(weight.format))) {
      tiles += (size_t)team.thread * (((size_t)call.rows * row_bytes + 63) & ~size_t{63});
      pack(0);
    } else {
      const Range mine = team.part(tiling.tiles);
      for (int tile = mine.begin; tile < mine.end; tile++) pack(tile);
      team.barrier();
    }
    const Band band{ops, &weight, tiles, row_bytes, tiling, calls, 0, weight.n, call.bias, call.add, call.scale, call.out, call.ldo};
    team.divide(0, (int64_t)band.panels() * tiling.tiles, reading(weight, tiling.tiles), calls.streamed ? side_by_side : 1,
                [&](int64_t begin, int64_t end) { band.run(Range{(int)begin, (int)end}); });
  });
}

size_t head_linear_workspace_bytes(const Weight &weight, int rows, int heads, int threads) {
  const TileOps *ops = tile_ops(weight.isa);
  if (!ops) return 0;
  (void)heads; // Every thread keeps the tiles of the one head it works on.
  return checked_bytes((__int128)threads * (((__int128)rows * ops->row_bytes(weight.format, weight.k) + 63) & ~(__int128)63), "the workspace of %d rows", rows);
}

void head_linear(Pool &pool, const Weight &weight, const HeadLinearCall &call, void *workspace) {
  const TileOps *ops = tile_ops(weight.isa);
  if (!ops) return head_linear_ref(weight, call);
  if (call.rows == 0) return;
  const size_t row_bytes = ops->row_bytes(weight.format, weight.k);
  const size_t tiles_bytes = ((size_t)call.rows * row_bytes + 63) & ~size_t{63};
  const Tiling tiling(call.rows, ops->max_rows(weight.format));
  const PanelCalls calls(*ops, weight.format, call.rows, cached(weight));
  share(pool, too_small_to_share(weight, call.rows), [&](const Team &team) {
    uint8_t *tiles = static_cast<uint8_t *>(workspace) + (size_t)team.thread * tiles_bytes;
    const auto band = [&](int head) {
      return Band{ops,  &weight, tiles, row_bytes, tiling, calls, head * call.out_dim, call.out_dim, nullptr, false, 1.0f, call.out + head * call.out_stride,
                  call.ldo};
    };
    // Heads may begin inside a panel, so each has its own number of items; they are numbered through all heads.
    bool packed = false; // The input, if all heads read the same.
    int64_t items = 0;
    for (int head = 0; head < call.heads; head++) items += (int64_t)band(head).panels() * tiling.tiles;
    team.divide(0, items, reading(weight, tiling.tiles), calls.streamed ? side_by_side : 1, [&](int64_t begin, int64_t end) {
      int64_t before = 0;
      for (int head = 0; head < call.heads && before < end; head++) {
        const Band work = band(head);
        const int64_t count = (int64_t)work.panels() * tiling.tiles;
        const int64_t from = std::max<int64_t>(begin - before, 0), to = std::min(end - before, count);
        before += count;
        if (from >= to) continue;
        for (int tile = 0; tile < tiling.tiles && !packed; tile++) {
          const int row = tiling.first(tile);
          ops->pack(weight.format, call.x + head * call.x_stride + row * call.ldx, call.ldx, nullptr, tiling.height(tile), 0, weight.k,
                    tiles + (size_t)row * row_bytes);
        }
        packed = call.x_stride == 0;
        work.run(Range{(int)from, (int)to});
      }
    });
  });
}

} // namespace sy
