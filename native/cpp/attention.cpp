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

/* Rounded to two blocks, which the widest tile scores at once. */
int64_t score_stride(int max_context) { return ((int64_t)max_context + 31) / 32 * 32; }
size_t thread_floats(int max_context) { return (size_t)(attention_tile_queries * score_stride(max_context) + attention_value_scratch); }

/* Rows of a task: enough tiles to keep a block of keys in the nearest cache, few enough that the last tasks even out over the threads. */
constexpr int task_rows = 24;
/* Key-query pairs below which waking the pool costs more than it saves. */
constexpr int64_t alone_below = 4096;

struct Task {
  int seq, kv_head, row, rows;
};

/* Tasks of a batch are numbered sequence by sequence, kv head by kv head, so that a number is enough to find one. */
int tasks_of(int rows) { return (rows + task_rows - 1) / task_rows; }

void run_task(const Task &task, TileFn tile_fn, const AttentionCall &call, const sy_batch &batch, int64_t stride, float *scores) {
  const int group = call.heads / call.kv->shape.kv_heads;
  const int first_row = batch.seq_row[task.seq];
  AttentionTile tile{};
  tile.kv = call.kv;
  tile.kv_head = task.kv_head;
  tile.block = batch.block + (int64_t)task.seq * batch.max_blocks;
  tile.scale = call.scale;
  tile.scores = scores;
  tile.score_stride = stride;
  const int queries = task.rows * group;
  for (int done = 0; done < queries; done += tile.queries) {
    tile.queries = std::min(attention_tile_queries, queries - done);
    for (int i = 0; i < tile.queries; i++) {
      const int row = task.row + (done + i) / group;
      const int head = task.kv_head * group + (done + i) % group;
      const int position = batch.seq_pos[task.seq] + (row - first_row);
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
  const int kv_heads = call.kv->shape.kv_heads;
  int64_t pairs = 0;
  int tasks = 0;
  for (int s = 0; s < batch.seqs; s++) {
    const int rows = batch.seq_row[s + 1] - batch.seq_row[s];
    const int64_t keys = batch.seq_pos[s] + rows;
    pairs += rows * (call.window > 0 ? std::min<int64_t>(keys, call.window) : keys) * call.heads;
    tasks += tasks_of(rows) * kv_heads;
  }
  std::atomic<int> next{0};
  share(pool, pairs < alone_below || tasks < 2, [&](const Team &team) {
    float *scores = static_cast<float *>(workspace) + (size_t)team.thread * thread_floats(max_context);
    int seq = 0, before = 0; // tasks of the sequences before `seq`
    for (int number = next.fetch_add(1, std::memory_order_relaxed); number < tasks; number = next.fetch_add(1, std::memory_order_relaxed)) {
      int rows = batch.seq_row[seq + 1] - batch.seq_row[seq];
      while (number >= before + tasks_of(rows) * kv_heads) {
        before += tasks_of(rows) * kv_heads;
        seq++;
        rows = batch.seq_row[seq + 1] - batch.seq_row[seq];
      }
      // Long tasks first: the last rows of a prompt see the most keys.
      const int index = tasks_of(rows) * kv_heads - 1 - (number - before);
      const int from = index / kv_heads * task_rows;
      const Task task{seq, index % kv_heads, batch.seq_row[seq] + from, std::min(task_rows, rows - from)};
      run_task(task, tile_fn, call, batch, score_stride(max_context), scores);
    }
  });
}

} // namespace sy
