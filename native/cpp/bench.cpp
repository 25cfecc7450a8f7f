/*
 * Micro benchmarks of the matrix kernels against what this machine can do, measured in the same run: the rate at which memory can be read, and the rate
 * of fused multiply-adds. Usage: bench [threads] [word ...]: only subjects that match are measured. Words of a kind exclude the others of it: ref, avx2,
 * avx512, cuda; linear, experts; a format (f32, bf16-x16, int8, ...); tiny, middle, large. What cuda is compared with is GPU 0's own memory and arithmetic.
 */
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "accelerator.h"
#include "float_environment.h"
#include "kernels.h"
#include "pack.h"
#include "region.h"
#include "tiles.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace sy;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/* Seconds of one call: the lower quartile over about `budget` seconds, because other programs only ever make a call slower. */
double call_seconds(const std::function<void()> &call, double budget = 0.25) {
  call();
  std::vector<double> times;
  const double start = seconds();
  do {
    const double before = seconds();
    call();
    times.push_back(seconds() - before);
  } while (seconds() - start < budget || times.size() < 5);
  std::nth_element(times.begin(), times.begin() + (long)times.size() / 4, times.end());
  return times[times.size() / 4];
}

/* ---- ceilings ---- */

volatile uint64_t sink;

/* Bytes a second that the pool reads from memory, each thread in so many streams side by side. */
template <int Streams> double stream_rate(Pool &pool) {
  const size_t words = (size_t)(256u << 20) / 8 / (size_t)(pool.threads() * Streams) / 8 * 8; /* of a stream */
  const size_t all = words * (size_t)(pool.threads() * Streams) * 8;
  const Region region(all);
  memset(region.data(), 1, all);
  const double time = call_seconds([&] {
    pool.each([&](int thread) {
      const uint64_t *at = reinterpret_cast<const uint64_t *>(region.data()) + words * (size_t)(thread * Streams);
      uint64_t sums[8] = {};
      for (size_t i = 0; i < words; i += 8)
        for (int stream = 0; stream < Streams; stream++)
          for (size_t j = 0; j < 8; j++) sums[j] += at[(size_t)stream * words + i + j];
      sink = sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    });
  });
  return (double)all / time;
}
double stream_rate(Pool &pool) { return std::max(stream_rate<1>(pool), stream_rate<side_by_side>(pool)); }

#if defined(__x86_64__)
constexpr int chains = 12, fma_steps = 200000;
__attribute__((target("avx2,fma"))) float fma_avx2() {
  __m256 acc[chains];
  for (__m256 &a : acc) a = _mm256_set1_ps(1.0f);
  const __m256 x = _mm256_set1_ps(0.999f);
  for (int i = 0; i < fma_steps; i++)
#pragma GCC unroll 12
    for (int c = 0; c < chains; c++) acc[c] = _mm256_fmadd_ps(acc[c], x, x);
  for (int c = 1; c < chains; c++) acc[0] = _mm256_add_ps(acc[0], acc[c]);
  return _mm256_cvtss_f32(acc[0]);
}
__attribute__((target("avx512f"))) float fma_avx512() {
  __m512 acc[chains];
  for (__m512 &a : acc) a = _mm512_set1_ps(1.0f);
  const __m512 x = _mm512_set1_ps(0.999f);
  for (int i = 0; i < fma_steps; i++)
#pragma GCC unroll 12
    for (int c = 0; c < chains; c++) acc[c] = _mm512_fmadd_ps(acc[c], x, x);
  for (int c = 1; c < chains; c++) acc[0] = _mm512_add_ps(acc[0], acc[c]);
  return _mm512_cvtss_f32(acc[0]);
}
/* Multiply-adds a second, times two. */
double fma_rate(Pool &pool, Isa isa) {
  const int lanes = isa == Isa::avx512 ? 16 : 8;
  const double time = call_seconds([&] { pool.each([&](int) { sink = (uint64_t)(isa == Isa::avx512 ? fma_avx512() : fma_avx2()); }); }, 0.1);
  return 2.0 * lanes * chains * fma_steps * pool.threads() / time;
}
#else
double fma_rate(Pool &, Isa) { return 0; }
#endif

/* How much more than plain f32 multiply-adds the best instruction for a format does per cycle. */
double speedup_of(Isa isa, int format) {
  if (isa != Isa::avx512) return 1;
  return format == SY_W_BF16_X16 ? 2 : quantised(format) ? 4 : 1;
}

/* ---- subjects ---- */

const char *const format_names[] = {"f32", "f16", "bf16", "bf16-x16", "int8", "int4"};

struct Values : sy_file {
  std::vector<float> floats;
  explicit Values(size_t count) : floats(count) {
    uint32_t state = 1;
    for (float &v : floats) v = (float)(int32_t)(state = state * 1664525u + 1013904223u) * 1e-11f;
    data = reinterpret_cast<const uint8_t *>(floats.data());
    bytes = count * 4;
  }
  sy_source dense(int n, int k) const {
    sy_source s{};
    s.file = this;
    s.stride_n = k;
    s.stride_k = 1;
    s.n = n;
    s.k = k;
    return s;
  }
};

void bench_linear(Pool &pool, Isa isa, const Ceilings &ceilings, int format) {
  const int n = 2048, k = 1024;
  const Values values((size_t)n * k);
  const int most_rows = isa == Isa::ref ? 1 : 512;
  const double bytes = (double)panels_bytes(format, n, k);
  const int copies = isa == Isa::ref ? 1 : std::max(2, (int)(200e6 / bytes)); // More than the caches hold.
  std::vector<WeightPtr> weights;
  for (int i = 0; i < copies; i++) {
    weights.push_back(weight_create(isa, format, n, k));
    weight_set(*weights.back(), pool, 0, values.dense(n, k));
  }
  const Region x((size_t)most_rows * k * 4), out((size_t)most_rows * n * 4), workspace(linear_workspace_bytes(*weights[0], most_rows, pool.threads()));
  for (int i = 0; i < most_rows * k; i++) reinterpret_cast<float *>(x.data())[i] = (float)(i % 255) * 0.01f - 1.0f;
  printf("%-7s %-9s [%d, %d]", isa == Isa::ref ? "ref" : isa == Isa::avx2 ? "avx2" : "avx512", format_names[format], n, k);
  for (const int rows : {1, 4, 16, 64, 512}) {
    if (rows > most_rows) continue;
    size_t next = 0;
    const double time = call_seconds([&] {
      linear(pool, *weights[next++ % weights.size()],
             {reinterpret_cast<float *>(x.data()), k, reinterpret_cast<float *>(out.data()), n, rows, nullptr, false, 1.0f}, workspace.data());
    });
    const double rate = bytes / time, flops = 2.0 * n * k * rows / time;
    if (rows <= 4) printf(" | M=%d %.0f us %.1f GB/s (%.0f%%)", rows, time * 1e6, rate * 1e-9, 100 * rate / ceilings.read);
    else printf(" | M=%d %.0f GFLOP/s (%.0f%%)", rows, flops * 1e-9, 100 * flops / (ceilings.compute * speedup_of(isa, format)));
  }
  printf("\n");
  fflush(stdout);
}

struct Model {
  const char *name;
  int layers, experts, k, hidden, inter;
};

/* One layer's experts for a batch whose rows choose at random; layers in turn, as a model would run them. */
void bench_experts(Pool &pool, Isa isa, Accelerator *accelerator, const Ceilings &ceilings, const Model &m, int format) {
  const Values values((size_t)m.hidden * m.inter);
  const sy_source gate = values.dense(m.inter, m.hidden), down = values.dense(m.hidden, m.inter);
  std::vector<ExpertsPtr> layers;
  for (int layer = 0; layer < m.layers; layer++) {
    layers.push_back(experts_create(isa, {m.experts, m.hidden, m.inter, format, SY_ACT_SILU, 0, 0.0f, 0.0f}, nullptr, accelerator));
    for (int slot = 0; slot < m.experts; slot++) experts_set(*layers.back(), pool, slot, &gate, &gate, &down, nullptr, nullptr, nullptr);
  }
  std::vector<int32_t> slots((size_t)m.experts);
  for (int i = 0; i < m.experts; i++) slots[(size_t)i] = i;
  const double expert_bytes = 2.0 * (double)panels_bytes(format, m.inter, m.hidden) + (double)panels_bytes(format, m.hidden, m.inter);
  printf("%-7s %-9s %s experts", accelerator ? "cuda" : isa == Isa::avx2 ? "avx2" : "avx512", format_names[format], m.name);
  for (const int rows : {1, 8, 32, 512, 4096}) {
    if (rows > 512 && !accelerator) continue;
    std::vector<float> x((size_t)rows * m.hidden, 0.5f), weights((size_t)rows * m.k, 0.25f);
    const int batches = m.hidden > 512 ? 8 : 1; // A large model must not find the experts of the last step in a cache.
    std::vector<std::vector<int32_t>> ids((size_t)(m.layers * batches));
    uint64_t state = 7;
    double active = 0;
    for (auto &layer : ids) {
      std::vector<uint8_t> used((size_t)m.experts);
      for (int row = 0; row < rows; row++)
        for (int i = 0; i < m.k; i++) {
          state = state * 6364136223846793005u + 1442695040888963407u;
          const int width = m.experts / m.k, id = i * width + (int)((state >> 33) % (uint64_t)width); // k distinct experts a row
          layer.push_back(id);
          used[(size_t)id] = 1;
        }
      for (const uint8_t u : used) active += u;
    }
    active /= m.layers * batches;
    const RowSumPtr sum = sum_create(isa, SY_SUM_EXACT, rows, m.hidden);
    size_t batch = 0;
    const auto step = [&] {
      const std::vector<int32_t> *routed = &ids[(batch++ % (size_t)batches) * (size_t)m.layers];
      for (size_t layer = 0; layer < layers.size(); layer++)
        experts_run_routed(*layers[layer], pool, {x.data(), m.hidden, rows, m.k, routed[layer].data(), m.k, weights.data(), m.k, slots.data(), m.experts, -20}, *sum);
    };
    const double time = call_seconds(step) / m.layers;
    const double rate = active * expert_bytes / time, flops = 6.0 * m.hidden * m.inter * rows * m.k / time;
    printf(" | T=%d %.1f us, %.1f GB/s (%.0f%%), %.0f GFLOP/s (%.0f%%)", rows, time * 1e6, rate * 1e-9, 100 * rate / ceilings.read, flops * 1e-9,
           100 * flops / (ceilings.compute * (accelerator ? 1 : speedup_of(isa, format))));
  }
  printf("\n");
  fflush(stdout);
}

} // namespace

int main(int count, char **words) {
  const FlushDenormals scope;
  const int threads = count > 1 ? std::max(1, atoi(words[1])) : 1;
  Pool pool(threads, nullptr);
  // Among words of one kind a subject must be named, unless none is.
  const auto wanted = [&](const char *name, const std::vector<const char *> &kind) {
    bool any = false;
    for (int i = 2; i < count; i++) {
      if (strcmp(words[i], name) == 0) return true;
      for (const char *other : kind) any = any || strcmp(words[i], other) == 0;
    }
    return !any;
  };
  const std::vector<const char *> isas{"ref", "avx2", "avx512", "cuda"}, parts{"linear", "experts"}, formats(format_names, format_names + 6),
      models{"tiny", "middle", "large"};
  printf("%d thread(s), memory read %.1f GB/s in one stream a thread, %.1f GB/s in %d\n", threads, stream_rate<1>(pool) * 1e-9,
         stream_rate<side_by_side>(pool) * 1e-9, side_by_side);
  const auto every_format = [&](const auto &measure) {
    for (int format = SY_W_F32; format <= SY_W_I4; format++)
      if (wanted(format_names[format], formats)) measure(format);
  };
  if (wanted("ref", isas) && wanted("linear", parts)) {
    const Ceilings ceilings{stream_rate(pool), fma_rate(pool, Isa::avx2)};
    every_format([&](int format) { bench_linear(pool, Isa::ref, ceilings, format); });
  }
  const auto bench_models = [&](Isa isa, Accelerator *accelerator, const Ceilings &ceilings) {
    if (!wanted("experts", parts)) return;
    every_format([&](int format) {
      for (const Model &model : {Model{"tiny 256/96 4 of 32", 6, 32, 4, 256, 96}, Model{"middle 1024/384 8 of 64", 2, 64, 8, 1024, 384},
                                 Model{"large 2048/768 8 of 128", 1, 128, 8, 2048, 768}})
        if (wanted(std::string(model.name).substr(0, std::string(model.name).find(' ')).c_str(), models)) bench_experts(pool, isa, accelerator, ceilings, model, format);
    });
  };
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    if (!isa_supported(isa) || !wanted(isa == Isa::avx2 ? "avx2" : "avx512", isas)) continue;
    const Ceilings ceilings{stream_rate(pool), fma_rate(pool, isa)};
    printf("%s: memory read %.1f GB/s, fma %.0f GFLOP/s\n", isa == Isa::avx2 ? "avx2" : "avx512", ceilings.read * 1e-9, ceilings.compute * 1e-9);
    if (wanted("linear", parts)) every_format([&](int format) { bench_linear(pool, isa, ceilings, format); });
    bench_models(isa, nullptr, ceilings);
  }
  if (wanted("cuda", isas)) {
    try {
      const std::unique_ptr<Accelerator> gpu = accelerator_open("cuda");
      const Ceilings ceilings = gpu->measure_ceilings();
      printf("%s: memory read %.0f GB/s, fma %.0f GFLOP/s\n", gpu->name.c_str(), ceilings.read * 1e-9, ceilings.compute * 1e-9);
      bench_models(isa_supported(Isa::avx512) ? Isa::avx512 : isa_supported(Isa::avx2) ? Isa::avx2 : Isa::ref, gpu.get(), ceilings);
    } catch (const Failure &failure) {
      printf("cuda: %s\n", failure.message.c_str());
    }
  }
  return 0;
}
