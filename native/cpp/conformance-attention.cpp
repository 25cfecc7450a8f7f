/* Attention over paged caches: head counts, widths, windows, chunks, sinks, dtypes, threads, and prompts cut in pieces, against the oracle. */
#include <cmath>

#include "attention.h"
#include "conformance.h"
#include "float_environment.h"

namespace sy::conformance {
namespace {

struct Case {
  int heads, kv_heads, k_dim, v_dim;
  bool bf16, shared, sinks;
  int window, chunk;
};
const Case cases[] = {
    {4, 4, 64, 64, false, false, false, 0, 0},   {8, 2, 64, 64, true, false, false, 0, 0},   {8, 1, 128, 128, true, false, true, 0, 0},
    {6, 3, 16, 16, false, false, true, 7, 0},    {4, 2, 32, 32, true, false, false, 16, 0},  {4, 2, 32, 32, true, false, false, 0, 10},
    {2, 1, 5, 3, false, false, false, 0, 0},     {3, 3, 17, 33, true, false, true, 20, 0},   {16, 1, 96, 64, true, true, false, 0, 0},
    {16, 1, 96, 64, false, true, false, 0, 0},   {5, 1, 48, 40, false, true, true, 0, 32},   {7, 1, 80, 80, false, false, false, 1, 0},
    {14, 2, 128, 128, true, false, false, 100, 0}, {2, 2, 576, 512, true, true, false, 0, 0},
    {6, 2, 33, 40, false, false, true, 130, 0},    {4, 1, 48, 33, true, true, false, 0, 150},
};

/* First position and rows of each sequence. The last batch goes through values in several stretches. */
const std::vector<std::vector<std::pair<int, int>>> batches = {{{0, 1}}, {{37, 1}, {0, 5}, {100, 1}}, {{0, 70}, {13, 9}}, {{300, 1}, {251, 12}, {0, 10}}};

/* One batch of sequences, with their positions and scattered blocks. */
struct Batch {
  std::vector<int32_t> row{0}, pos, variant, block;
  int max_blocks = 0, blocks = 0;
  Batch(Random &random, const std::vector<std::pair<int, int>> &pos_and_rows) {
    for (const auto &[first, rows] : pos_and_rows) {
      pos.push_back(first);
      variant.push_back(0);
      row.push_back(row.back() + rows);
      max_blocks = std::max(max_blocks, (first + rows + kv_block - 1) / kv_block);
    }
    for (int i = 0; i < (int)pos.size() * max_blocks; i++) block.push_back(i);
    blocks = (int)block.size();
    for (int i = blocks - 1; i > 0; i--) std::swap(block[(size_t)i], block[(size_t)random.below(i + 1)]);
  }
  sy_batch view() const {
    return {row.back(), (int32_t)pos.size(), 0, max_blocks, nullptr, row.data(), pos.data(), variant.data(), block.data(), nullptr, nullptr};
  }
};

/* Fills every position up to the batch's last; what lies behind it is NaN, which must not leak into any result. */
void fill(Random &random, KvCache &kv, const Batch &batch) {
  const KvShape &shape = kv.shape;
  for (size_t s = 0; s < batch.pos.size(); s++) {
    const int written = batch.pos[s] + batch.row[s + 1] - batch.row[s];
    for (int j = 0; j < batch.max_blocks * kv_block; j++)
      for (int h = 0; h < shape.kv_heads; h++) {
        std::vector<float> k = random.normals((size_t)shape.k_dim, 1.0f), v = random.normals((size_t)shape.v_dim, 1.0f);
        if (j >= written) k.assign(k.size(), NAN), v.assign(v.size(), INFINITY);
        kv.write(batch.block[s * (size_t)batch.max_blocks + (size_t)(j / kv_block)], h, j % kv_block, k.data(), shape.v_shares_k ? nullptr : v.data());
      }
  }
}

void run(Isa isa, int threads, const AttentionCall &call, const sy_batch &batch, int max_context) {
  const Region workspace = used_workspace(attention_workspace_bytes(max_context, threads));
  attention(pool_of(threads), isa, call, batch, max_context, workspace.data());
}

SY_SUITE(attention) {
  const FlushDenormals flush;
  Random random(31);
  for (const Case &c : cases)
    for (const auto &sequences : batches) {
      const Batch batch(random, sequences);
      KvCache kv({batch.blocks, c.kv_heads, c.k_dim, c.v_dim, c.bf16, c.shared});
      fill(random, kv, batch);
      const int rows = batch.row.back(), max_context = 310, q_stride = c.k_dim + 1, out_stride = c.v_dim + 2;
      const std::vector<float> q = random.normals((size_t)(rows * c.heads * q_stride), 1.5f), sinks = random.normals((size_t)c.heads, 3.0f);
      std::vector<float> want((size_t)(rows * c.heads * out_stride), 0.5f);
      AttentionCall call{q.data(), (int64_t)c.heads * q_stride, q_stride, want.data(), (int64_t)c.heads * out_stride, out_stride,
                         c.heads,  c.window, c.chunk, 0.2f, c.sinks ? sinks.data() : nullptr, &kv};
      run(Isa::ref, 1, call, batch.view(), max_context);
      bool finite = true;
      for (const float o : want) finite = finite && std::isfinite(o);
      check.is_true(finite, "what was not written leaked into the oracle's result");
      for (const Isa isa : simd_isas())
        for (const int threads : {1, 3}) {
          std::vector<float> got(want.size(), 0.5f);
          call.out = got.data();
          run(isa, threads, call, batch.view(), max_context);
          check.equal(got.data(), want.data(), want.size(),
                      text("attention %d/%d heads of %d/%d%s, window %d, chunk %d, %d rows, %d threads, ", c.heads, c.kv_heads, c.k_dim, c.v_dim,
                           c.bf16 ? " bf16" : "", c.window, c.chunk, rows, threads) +
                          name_of(isa));
        }
    }
}

/* A row's result does not depend on how many rows came with it. */
SY_SUITE(attention_chunking) {
  const FlushDenormals flush;
  Random random(32);
  const int all = 200;
  const Batch whole(random, {{0, all}});
  KvCache kv({whole.blocks, 2, 64, 64, true, false});
  fill(random, kv, whole);
  const std::vector<float> q = random.normals((size_t)all * 8 * 64, 1.0f);
  std::vector<float> want(q.size()), got(q.size());
  for (const Isa isa : simd_isas()) {
    run(isa, 2, {q.data(), 512, 64, want.data(), 512, 64, 8, 0, 0, 0.125f, nullptr, &kv}, whole.view(), all);
    for (int from = 0, rows = 1; from < all; from += rows, rows = std::min(all - from, 1 + random.below(40))) {
      const int32_t row[2] = {0, rows}, pos = from, variant = 0;
      const sy_batch part{rows, 1, 0, whole.max_blocks, nullptr, row, &pos, &variant, whole.block.data(), nullptr, nullptr};
      run(isa, 1, {q.data() + from * 512, 512, 64, got.data() + from * 512, 512, 64, 8, 0, 0, 0.125f, nullptr, &kv}, part, all);
    }
    check.equal(got.data(), want.data(), want.size(), std::string("attention in chunks, ") + name_of(isa));
  }
}

} // namespace
} // namespace sy::conformance
