/*
 * A tile of attention over 16 lanes, written once for every instruction set: `L` is its Lanes with two constants more, how many blocks of keys
 * (key_blocks) and vectors of value columns (value_lanes) fit the registers beside 6 queries.
 */
#ifndef SWITCHYARD_ATTENTION_LANES_H
#define SWITCHYARD_ATTENTION_LANES_H

#include <cmath>

#include "attention.h"

namespace sy {
namespace {

/* Not the standard library's: the linker would keep one copy of its templates for files with different instruction sets. */
inline int smaller(int a, int b) { return a < b ? a : b; }
inline int larger(int a, int b) { return a > b ? a : b; }

template <class L, class T> struct TileKernel {
  using V = typename L::V;
  const AttentionTile &tile;
  const KvCache &kv = *tile.kv;
  const int lowest, highest; /* of the positions that any query of the tile sees */
  const int first_block = lowest / kv_block, last_block = highest / kv_block;

  explicit TileKernel(const AttentionTile &t) : tile(t), lowest(least(t.first, t.queries)), highest(most(t.last, t.queries)) {}

  static int least(const int *of, int count) {
    int found = of[0];
    for (int i = 1; i < count; i++) found = smaller(found, of[i]);
    return found;
  }
  static int most(const int *of, int count) {
    int found = of[0];
    for (int i = 1; i < count; i++) found = larger(found, of[i]);
    return found;
  }

  float *scores(int query) const { return tile.scores + query * tile.score_stride; }
  /* Lanes of a block that a query sees. */
  typename L::M seen(int query, int block) const { return L::mask(tile.first[query] - block * kv_block, tile.last[query] - block * kv_block); }

  /* scores[query][position - 16*first_block] for B blocks from `block`. Lanes of unwritten positions may hold anything. */
  template <int Q, int B> void score_blocks(int block) const {
    const T *k[B];
    for (int b = 0; b < B; b++) k[b] = kv.k<T>(tile.block[block + b], tile.kv_head);
    V dot[Q][B];
#pragma GCC unroll 6
    for (int i = 0; i < Q; i++)
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) dot[i][b] = L::zero();
    for (int d = 0; d < kv.shape.k_dim; d++) {
      V key[B];
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) key[b] = L::load(k[b] + d * kv_block);
#pragma GCC unroll 6
      for (int i = 0; i < Q; i++) {
        const V q = L::set1(tile.q[i][d]);
#pragma GCC unroll 4
        for (int b = 0; b < B; b++) dot[i][b] = L::fma(q, key[b], dot[i][b]);
      }
    }
    const V scale = L::set1(tile.scale);
#pragma GCC unroll 6
    for (int i = 0; i < Q; i++)
#pragma GCC unroll 4
      for (int b = 0; b < B; b++) L::store(scores(i) + (block + b - first_block) * kv_block, L::mul(dot[i][b], scale));
  }

  template <int Q> void score() const {
    int block = first_block;
    for (; block + L::key_blocks <= last_block + 1; block += L::key_blocks) score_blocks<Q, L::key_blocks>(block);
    for (; block <= last_block; block++) score_blocks<Q, 1>(block);
  }

  /* Scores become exponentials; returns 1 / their sum. */
  float soften(int query) const {
    float *s = scores(query) - first_block * kv_block;
    const int from = tile.first[query] / kv_block, to = tile.last[query] / kv_block;
    V most = L::set1(tile.sink[query] ? *tile.sink[query] : -INFINITY);
    const V least = L::set1(-INFINITY);
    for (int b = from; b <= to; b++) {
      const V x = L::load(s + b * kv_block);
      most = L::max(most, b == from || b == to ? L::select(seen(query, b), x, least) : x);
    }
    const float maximum = L::max_lane(most);
    const V shift = L::set1(maximum);
    V sum = L::zero();
    for (int b = from; b <= to; b++) {
      V p = L::exp(L::sub(L::load(s + b * kv_block), shift));
      if (b == from || b == to) p = L::select(seen(query, b), p, L::zero());
      L::store(s + b * kv_block, p);
      sum = L::add(sum, p);
    }
    float total = L::sum_lanes(sum);
    if (tile.sink[query]) total = total + sy_exp(*tile.sink[query] - maximum);
    return 1.0f / total;
  }

  /* Values of one block as L-loadable rows: [position][columns from `column`], `stride` elements apart. */
  struct Values {
    const T *stored;
    const float *transposed;
    int64_t stride;
  };
  Values values(int block, int column, int columns) const {
    if (!kv.shape.v_shares_k) return {kv.v<T>(tile.block[block], tile.kv_head) + column, nullptr, kv.v_stride};
    float *out = tile.scores + attention_tile_queries * tile.score_stride;
    const T *k = kv.k<T>(tile.block[block], tile.kv_head) + (int64_t)column * kv_block;
    const int real = smaller(columns, kv.shape.v_dim - column);
    for (int d = 0; d < columns; d += 16) {
      V row[16]; // Sixteen keys of each of sixteen columns, turned to sixteen columns of each key.
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) row[i] = d + i < real ? L::load(k + (d + i) * kv_block) : L::zero();
      L::transpose(row);
#pragma GCC unroll 16
      for (int j = 0; j < kv_block; j++) L::store(out + j * columns + d, row[j]);
    }
    return {nullptr, out, columns};
  }

  /* Adds positions from..to of one block, both inclusive, of C vectors of columns to the sums of Q queries from `query`, which stay in registers. */
  template <int Q, int C> void add_values(V (&o)[Q][C], int query, const Values &v, int block, int from, int to) const {
    const float *weight[Q];
#pragma GCC unroll 6
    for (int i = 0; i < Q; i++) weight[i] = scores(query + i) - first_block * kv_block;
    for (int position = from; position <= to; position++) {
      V value[C];
      const int j = position - block * kv_block;
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) value[c] = v.transposed ? L::load(v.transposed + j * v.stride + c * 16) : L::load(v.stored + j * v.stride + c * 16);
#pragma GCC unroll 6
      for (int i = 0; i < Q; i++) {
        const V p = L::set1(weight[i][position]);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) o[i][c] = L::fma(p, value[c], o[i][c]);
      }
    }
  }

  template <int Q, int C> static void load_sums(V (&o)[Q][C], float *const *sums) {
#pragma GCC unroll 6
    for (int i = 0; i < Q; i++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) o[i][c] = L::load(sums[i] + c * 16);
  }
  template <int Q, int C> static void store_sums(const V (&o)[Q][C], float *const *sums) {
#pragma GCC unroll 6
    for (int i = 0; i < Q; i++)
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) L::store(sums[i] + c * 16, o[i][c]);
  }

  /* sums[Q][C*16] += positions from..to, which all Q queries see. */
  template <int Q, int C> void add_common(float *const *sums, int column, int from, int to) const {
    V o[Q][C];
    load_sums(o, sums);
    for (int block = from / kv_block; block <= to / kv_block; block++)
      add_values(o, 0, values(block, column, C * 16), block, larger(from, block * kv_block), smaller(to, block * kv_block + kv_block - 1));
    store_sums(o, sums);
  }

  /* The same for positions that only some of the queries see: each takes its own. */
  template <int Q, int C> void add_each(float *const *sums, int column, int from, int to) const {
    for (int block = from / kv_block; block <= to / kv_block; block++) {
      const Values v = values(block, column, C * 16);
      for (int i = 0; i < Q; i++) {
        const int own_from = larger(larger(from, tile.first[i]), block * kv_block), own_to = smaller(smaller(to, tile.last[i]), block * kv_block + kv_block - 1);
        if (own_from > own_to) continue;
        V o[1][C];
        load_sums(o, sums + i);
        add_values(o, i, v, block, own_from, own_to);
        store_sums(o, sums + i);
      }
    }
  }

  /* Positions from..to, ascending for every query: those before the first that all see, those that all see, the rest. */
  template <int Q, int C> void add(float *const *sums, int column, int from, int to) const {
    const int first = larger(from, most(tile.first, Q)), last = smaller(to, least(tile.last, Q));
    if (first > last) return add_each<Q, C>(sums, column, from, to);
    if (from < first) add_each<Q, C>(sums, column, from, first - 1);
    add_common<Q, C>(sums, column, first, last);
    if (last < to) add_each<Q, C>(sums, column, last + 1, to);
  }

  /* The outputs, summed where they are to lie: so many positions at a time that their values and exponentials stay in the nearest caches while all columns
   * pass over them. Columns that fill no vector are summed beside. */
  template <int Q> void weigh(const float *inverse) const {
    constexpr int wide = L::value_lanes * 16, positions = 8 * kv_block;
    const int whole = kv.shape.v_dim / 16 * 16, rest = kv.shape.v_dim - whole;
    alignas(64) float beside[Q][16] = {};
    float *sums[Q], *besides[Q];
    for (int i = 0; i < Q; i++) {
      besides[i] = beside[i];
      for (int d = 0; d < whole; d += 16) L::store(tile.out[i] + d, L::zero());
    }
    const auto at = [&](int column) {
      for (int i = 0; i < Q; i++) sums[i] = tile.out[i] + column;
      return sums;
    };
    for (int from = lowest; from <= highest; from += positions) {
      const int to = smaller(highest, from + positions - 1);
      int column = 0;
      for (; column + wide <= whole; column += wide) add<Q, L::value_lanes>(at(column), column, from, to);
      for (; column < whole; column += 16) add<Q, 1>(at(column), column, from, to);
      if (rest > 0) add<Q, 1>(besides, whole, from, to);
    }
    for (int i = 0; i < Q; i++) {
      const V by = L::set1(inverse[i]);
      for (int d = 0; d < whole; d += 16) L::store(tile.out[i] + d, L::mul(L::load(tile.out[i] + d), by));
      for (int d = 0; d < rest; d++) tile.out[i][whole + d] = beside[i][d] * inverse[i];
    }
  }

  template <int Q> void run() const {
    score<Q>();
    float inverse[Q];
    for (int i = 0; i < Q; i++) inverse[i] = soften(i);
    weigh<Q>(inverse);
  }

  void run() const {
    static_assert(attention_tile_queries == 6, "one case per number of queries");
    switch (tile.queries) {
    case 1: return run<1>();
    case 2: return run<2>();
    case 3: return run<3>();
    case 4: return run<4>();
    case 5: return run<5>();
    default: return run<6>();
    }
  }
};

template <class L> void attention_tile(const AttentionTile &tile) {
  if (tile.kv->shape.bf16) TileKernel<L, uint16_t>(tile).run();
  else TileKernel<L, float>(tile).run();
}

} // namespace
} // namespace sy
#endif
