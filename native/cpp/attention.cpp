#include "attention.h"

#include <algorithm>
#include <atomic>

#include "team.h"

namespace sy {
namespace {

using TileFn = void (*)(const AttentionTile &);

TileFn tile_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return attention_tile_avx512;
  if (isa == Isa::avx2) return attention_tile_avx2;
#endif
  (void)isa;
  return attention_tile_ref;
}

/* Rounded to 32 positions, as many as the widest tile scores at once. */
int64_t score_stride(int max_context) { return ((int64_t)max_context + 31) / 32 * 32; }
size_t thread_floats(int max_context) { return (size_t)(attention_tile_queries * score_stride(max_context) + attention_value_scratch); }

/* Tiles of a task: enough to keep a block of keys in the nearest cache, few enough that the last tasks even out over the threads. */
constexpr int task_tiles_max = 16;
constexpr int tasks_per_thread = 4;
/* Key-query pairs below which waking the pool costs more than it saves. */
constexpr int64_t alone_below = 4096;

/* Tiles [tile, tile + tiles) of the queries of one sequence and kv head. Queries are numbered row by row, heads of the group inside a row. */
struct Task {
  int seq, kv_head, tile, tiles;
};

int tiles_of(int queries) { return (queries + attention_tile_queries - 1) / attention_tile_queries; }
int tasks_of(int tiles, int task_tiles) { return (tiles + task_tiles - 1) / task_tiles; }

void run_task(const Task &task, TileFn tile_fn, const AttentionCall &call, const sy_batch &batch, int64_t stride, float *scores) {
  const int group = call.heads / call.kv->shape.kv_heads;
  const int first_row = batch.seq_row[task.seq], queries = (batch.seq_row[task.seq + 1] - first_row) * group;
  AttentionTile tile{};
  tile.kv = call.kv;
  tile.kv_head = task.kv_head;
  tile.block = batch.block + (int64_t)task.seq * batch.max_blocks;
  tile.scale = call.scale;
  tile.scores = scores;
  tile.score_stride = stride;
  // As few tiles as possible, of nearly equal size: eight queries take two tiles of four less time than one of six and one of two.
  const auto first_of = [queries, tiles = tiles_of(queries)](int number) { return (int)((int64_t)queries * number / tiles); };
  for (int number = task.tile; number < task.tile + task.tiles; number++) {
    const int first = first_of(number);
    tile.queries = first_of(number + 1) - first;
    for (int i = 0; i < tile.queries; i++) {
      const int64_t row = first_row + (first + i) / group;
      const int head = task.kv_head * group + (first + i) % group;
      const int position = batch.seq_pos[task.seq] + (first + i) / group;
      tile.q[i] = call.q + row * call.ldq + head * call.q_stride;
      tile.out[i] = call.out + row * call.ldo + head * call.out_stride;
      tile.last[i] = position;
      tile.first[i] = call.window > 0 ? std::max(0, position - call.window + 1) : 0;
      if (call.chunk > 0) tile.first[i] = std::max(tile.first[i], position / call.chunk * call.chunk);
      tile.sink[i] = call.sinks ? call.sinks + head : nullptr;
    }
    tile_fn(tile);
  }
}

} // namespace

size_t attention_workspace_bytes(int max_context, int threads) { return thread_floats(max_context) * sizeof(float) * (size_t)threads; }

void attention(Pool &pool, Isa isa, const AttentionCall &call, const sy_batch &batch, int max_context, void *workspace) {
  const TileFn tile_fn = tile_of(isa);
  const int kv_heads = call.kv->shape.kv_heads, group = call.heads / kv_heads;
  int64_t pairs = 0, all_tiles = 0;
  for (int s = 0; s < batch.seqs; s++) {
    const int rows = batch.seq_row[s + 1] - batch.seq_row[s];
    const int64_t keys = batch.seq_pos[s] + rows;
    pairs += rows * (call.window > 0 ? std::min<int64_t>(keys, call.window) : keys) * call.heads;
    all_tiles += (int64_t)tiles_of(rows * group) * kv_heads;
  }
  const int task_tiles = (int)std::clamp<int64_t>(all_tiles / (pool.threads() * tasks_per_thread), 1, task_tiles_max);
  std::atomic<int64_t> next{0};
  share(pool, pairs < alone_below || all_tiles < 2, [&](const Team &team) {
    float *scores = static_cast<float *>(workspace) + (size_t)team.thread * thread_floats(max_context);
    int64_t before = 0; // Tasks of the sequences before s: tasks are numbered sequence by sequence.
    int64_t number = next.fetch_add(1, std::memory_order_relaxed);
    for (int s = 0; s < batch.seqs; s++) {
      const int tiles = tiles_of((batch.seq_row[s + 1] - batch.seq_row[s]) * group), tasks = tasks_of(tiles, task_tiles);
      for (; number < before + (int64_t)tasks * kv_heads; number = next.fetch_add(1, std::memory_order_relaxed)) {
        // Long tasks first: the last rows of a prompt see the most keys.
        const int64_t index = before + (int64_t)tasks * kv_heads - 1 - number;
        const int tile = (int)(index / kv_heads) * task_tiles;
        run_task({s, (int)(index % kv_heads), tile, std::min(task_tiles, tiles - tile)}, tile_fn, call, batch, score_stride(max_context), scores);
      }
      before += (int64_t)tasks * kv_heads;
    }
  });
}

} // namespace sy
