/*
 * Paged attention and the cache that it reads (ATTENTION, KV_WRITE in the header). One task is one sequence, one kv head and a run of queries; a tile
 * is up to `attention_tile_queries` (row, head) pairs of a task, so that a loaded block of keys or values serves all of them.
 *
 * All scores of a tile are kept: an exact maximum, exponentials, a sum in 16 lanes by absolute position, then values, keys ascending. No running
 * maximum, no rescaling, hence nothing that depends on how a prompt was cut into chunks. Keys that are not visible are never multiplied.
 */
#ifndef SWITCHYARD_ATTENTION_H
#define SWITCHYARD_ATTENTION_H

#include <cstddef>
#include <cstdint>

#include "../include/switchyard.h"
#include "kernels.h"

namespace sy {

/* Blocks of 16 positions. Keys lie transposed so that positions are lanes; values lie by position so that columns are lanes:
 *   k (block, head, d, j) at ((block*heads + head)*k_dim + d)*16 + j        v (block, head, j, d) at ((block*heads + head)*16 + j)*v_dim + d */
struct KvView {
  void *k, *v;
  int heads, k_dim, v_dim;
  bool bf16;
};

constexpr int attention_tile_queries = 6;

struct AttentionTile {
  KvView kv;
  int kv_head;
  const int32_t *block; /* block numbers of the sequence */
  int queries;
  const float *q[attention_tile_queries]; /* k_dim each */
  float *out[attention_tile_queries];     /* v_dim each */
  int first[attention_tile_queries], last[attention_tile_queries]; /* visible positions, both inclusive */
  const float *sink[attention_tile_queries];                       /* or null */
  float scale;
  float *scores; /* [queries, score_stride], 64-byte aligned */
  int64_t score_stride;
};

struct AttentionCall {
  const float *q;
  int64_t ldq, q_stride;
  float *out;
  int64_t ldo, out_stride;
  int heads, window, chunk;
  float scale;
  const float *sinks; /* [heads] or null */
  KvView kv;
};

/* Scratch for attention() on `threads` threads with contexts up to max_context. */
size_t attention_workspace_bytes(int max_context, int threads);
void attention(Pool &pool, Isa isa, const AttentionCall &call, const sy_batch &batch, int max_context, void *workspace);

struct KvWriteCall {
  const float *k;
  int64_t ldk, k_stride;
  const float *v; /* null: v is the first v_dim of k */
  int64_t ldv, v_stride;
  KvView kv;
};
void kv_write(const KvWriteCall &call, const sy_batch &batch);

void attention_tile_ref(const AttentionTile &tile);
void attention_tile_avx2(const AttentionTile &tile);
void attention_tile_avx512(const AttentionTile &tile);

} // namespace sy
#endif
