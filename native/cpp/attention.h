/*
 * Paged attention (ATTENTION in the header): driver in attention.cpp, tiles in attention_ref.cpp (oracle), attention_avx2.cpp, attention_avx512.cpp.
 *
 * One task is one sequence, one kv head and a run of queries; a tile is up to `attention_tile_queries` (row, head) pairs of a task, so that a loaded
 * block of keys or values serves all of them. All scores of a tile are kept: an exact maximum, exponentials, a sum in 16 lanes by absolute position,
 * then values, keys ascending. No running maximum and no rescaling, hence nothing that depends on how a prompt was cut into chunks.
 * Keys that a query does not see are skipped, never multiplied by zero: what lies there may be anything.
 */
#ifndef SWITCHYARD_ATTENTION_H
#define SWITCHYARD_ATTENTION_H

#include <cstddef>
#include <cstdint>

#include "../include/switchyard.h"
#include "kernels.h"
#include "kv.h"

namespace sy {

constexpr int attention_tile_queries = 6;

struct AttentionTile {
  const KvCache *kv;
  int kv_head;
  const int32_t *block; /* block numbers of the sequence */
  int queries;          /* 1 .. attention_tile_queries */
  const float *q[attention_tile_queries]; /* k_dim each */
  float *out[attention_tile_queries];     /* v_dim each */
  int first[attention_tile_queries], last[attention_tile_queries]; /* visible positions, both inclusive */
  const float *sink[attention_tile_queries];                       /* or null */
  float scale;
  float *scores;        /* [queries, score_stride], 64-byte aligned; then attention_value_scratch floats */
  int64_t score_stride; /* multiple of 32 */
};

/* f32 values of one block and 64 columns, for caches whose values lie transposed inside the keys. */
constexpr int attention_value_scratch = kv_block * 64;

struct AttentionCall {
  const float *q;    /* [rows, ldq], first column of head 0 */
  int64_t ldq, q_stride;
  float *out;
  int64_t ldo, out_stride;
  int heads, window, chunk;
  float scale;
  const float *sinks; /* [heads] or null */
  const KvCache *kv;
};

/* 64-byte aligned scratch for attention() on `threads` threads, contexts up to max_context. */
size_t attention_workspace_bytes(int max_context, int threads);
void attention(Pool &pool, Isa isa, const AttentionCall &call, const sy_batch &batch, int max_context, void *workspace);

void attention_tile_ref(const AttentionTile &tile);
void attention_tile_avx2(const AttentionTile &tile);
void attention_tile_avx512(const AttentionTile &tile);

} // namespace sy
#endif
