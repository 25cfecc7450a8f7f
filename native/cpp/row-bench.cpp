/*
 * Micro benchmarks of attention and of the row ops. Usage: row-bench [threads] [isa]
 * Attention is given in GFLOP/s and as a share of the fused multiply-adds that the same threads did just before; row ops in microseconds, one thread.
 * The fastest twentieth of the calls counts: other programs only ever make a call slower.
 */
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "attention.h"
#include "float_environment.h"
#include "vector.h"

namespace {

using namespace sy;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double call_seconds(const std::function<void()> &call, double budget) {
  call();
  std::vector<double> times;
  const double start = seconds();
  do {
    const double before = seconds();
    call();
    times.push_back(seconds() - before);
  } while (seconds() - start < budget || times.size() < 5);
  std::nth_element(times.begin(), times.begin() + (long)times.size() / 20, times.end());
  return times[times.size() / 20];
}

volatile float sink;

/* Multiply-adds a second, times two, of vectors of eight: twelve chains that no compiler can merge. */
#if defined(__x86_64__)
typedef float Eight __attribute__((vector_size(32)));
__attribute__((target("avx2,fma"), optimize("fp-contract=fast"))) float multiply_adds(int steps, float factor) {
  Eight chain[12];
  for (int c = 0; c < 12; c++) chain[c] = Eight{} + (float)c;
  for (int i = 0; i < steps; i++)
#pragma GCC unroll 12
    for (int c = 0; c < 12; c++) chain[c] = chain[c] * factor + factor;
  for (int c = 1; c < 12; c++) chain[0] += chain[c];
  return chain[0][0];
}
double fma_rate(Pool &pool) {
  constexpr int steps = 100000;
  const double time = call_seconds([&] { pool.each([&](int) { sink = multiply_adds(steps, 0.999f); }); }, 0.05);
  return 2.0 * 8 * 12 * steps * pool.threads() / time;
}
#else
double fma_rate(Pool &) { return 0; }
#endif

std::vector<float> numbers(size_t count) {
  std::vector<float> values(count);
  uint32_t state = 1;
  for (float &v : values) v = (float)(int32_t)(state = state * 1664525u + 1013904223u) * 1e-9f;
  return values;
}

struct Subject {
  int heads, kv_heads, k_dim, v_dim;
  bool bf16, shared;
  int rows, position;
};
const Subject subjects[] = {
    {16, 16, 64, 64, false, false, 512, 0}, {16, 4, 64, 64, true, false, 512, 0},   {32, 4, 128, 128, true, false, 512, 0},
    {16, 1, 576, 512, true, true, 128, 0},  {16, 4, 64, 64, true, false, 1, 1023},  {32, 4, 128, 128, true, false, 1, 1023},
    {16, 1, 576, 512, true, true, 1, 1023}, {4, 2, 64, 64, true, false, 1, 100},
};

void bench_attention(Pool &pool, Isa isa, const Subject &s) {
  const int context = s.position + s.rows, blocks = (context + kv_block - 1) / kv_block;
  KvCache kv({blocks, s.kv_heads, s.k_dim, s.v_dim, s.bf16, s.shared});
  const std::vector<float> row = numbers((size_t)(s.k_dim + s.v_dim));
  for (int p = 0; p < context; p++)
    for (int h = 0; h < s.kv_heads; h++) kv.write(p / kv_block, h, p % kv_block, row.data(), s.shared ? nullptr : row.data() + s.k_dim);
  const std::vector<float> q = numbers((size_t)s.rows * s.heads * s.k_dim);
  std::vector<float> out((size_t)s.rows * s.heads * s.v_dim);
  std::vector<int32_t> block((size_t)blocks);
  for (int b = 0; b < blocks; b++) block[(size_t)b] = b;
  const int32_t seq_row[2] = {0, s.rows}, seq_pos = s.position, variant = 0;
  const sy_batch batch{s.rows, 1, 0, blocks, nullptr, seq_row, &seq_pos, &variant, block.data(), nullptr, nullptr};
  const Region workspace(attention_workspace_bytes(context, pool.threads()));
  const AttentionCall call{q.data(), (int64_t)s.heads * s.k_dim, s.k_dim, out.data(), (int64_t)s.heads * s.v_dim, s.v_dim, s.heads, 0, 0, 0.1f, nullptr, &kv};
  const double ceiling = fma_rate(pool);
  const double time = call_seconds([&] { attention(pool, isa, call, batch, context, workspace.data()); }, 0.3);
  const double visible = (double)s.rows * s.position + 0.5 * s.rows * (s.rows + 1);
  const double flops = 2.0 * visible * s.heads * (s.k_dim + s.v_dim) / time;
  printf("  attention %d/%d heads of %d/%d %s, %d rows at %d: %.1f us, %.0f GFLOP/s (%.0f%% of fma)\n", s.heads, s.kv_heads, s.k_dim, s.v_dim,
         s.bf16 ? "bf16" : "f32", s.rows, s.position, time * 1e6, flops * 1e-9, 100 * flops / ceiling);
  fflush(stdout);
}

void bench_rows(Isa isa) {
  const VectorKernels &kernels = vector_kernels(isa);
  constexpr int rows = 512, width = 2048;
  const std::vector<float> x = numbers((size_t)rows * width), weight = numbers(width);
  std::vector<float> out(x.size());
  const auto report = [](const char *name, const std::function<void(int)> &run) {
    const double one = call_seconds([&] { run(1); }, 0.05), many = call_seconds([&] { run(rows); }, 0.1);
    printf("  %-28s 1 row %.2f us, %d rows %.1f us\n", name, one * 1e6, rows, many * 1e6);
    fflush(stdout);
  };
  report("norm 1024", [&](int count) {
    kernels.norm({x.data(), width, out.data(), width, weight.data(), nullptr, 1, 1024, 1024, 1024, 0, NormKind::rms, 1e-6f, 0.0f}, 0, count);
  });
  report("gated silu 1024", [&](int count) { kernels.gated({x.data(), x.data() + 1024, width, out.data(), width, 1024, 1, SY_ACT_SILU, 0, 0}, 0, count); });
  std::vector<int32_t> ids((size_t)rows * 8);
  std::vector<float> weights(ids.size());
  for (const int experts : {32, 64, 128, 256}) {
    RouteCall call{};
    call.logits = x.data(), call.ld_logits = width, call.ids = ids.data(), call.ld_ids = 8, call.weights = weights.data(), call.ld_weights = 8;
    call.experts = experts, call.k = 8, call.renorm = true, call.scale = 1.0f;
    const bool grouped = experts == 256;
    if (grouped) call.score = RouteScore::sigmoid, call.groups = 8, call.top_groups = 4, call.group_sum_of_two = true, call.select_bias = weight.data();
    char name[64];
    snprintf(name, sizeof name, "route 8 of %d%s", experts, grouped ? ", 8 groups" : "");
    report(name, [&](int count) { kernels.route(call, 0, count); });
  }
}

} // namespace

int main(int count, char **words) {
  const FlushDenormals scope;
  Pool pool(count > 1 ? std::max(1, atoi(words[1])) : 1, nullptr);
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    const char *name = isa == Isa::avx2 ? "avx2" : "avx512";
    if (!isa_supported(isa) || (count > 2 && strcmp(words[2], name) != 0)) continue;
    printf("%s, %d thread(s)\n", name, pool.threads());
    for (const Subject &subject : subjects) bench_attention(pool, isa, subject);
    bench_rows(isa);
  }
  return 0;
}
