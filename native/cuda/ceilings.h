/* What a GPU reads and computes at best: kernels that do nothing else, timed. */
#ifndef SWITCHYARD_CUDA_CEILINGS_H
#define SWITCHYARD_CUDA_CEILINGS_H

#include <algorithm>
#include <chrono>
#include <cmath>

#include "../cpp/accelerator.h"
#include "gpu.h"

namespace sy::SY_GPU {

constexpr int ceiling_threads = 256, ceiling_blocks = 132 * 16;

struct Reading {
  const Float4 *data;
  int64_t count;
  float *never; /* written only if the sum is one that it cannot be, so that the reads are needed */
};
SY_KERNEL void read_all(Reading r) {
  float sum = 0.0f;
  for (int64_t i = (int64_t)block_x() * ceiling_threads + thread_in_block(); i < r.count; i += (int64_t)ceiling_blocks * ceiling_threads) {
    const Float4 v = r.data[i];
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum == 1.0f) *r.never = sum;
}

struct Computing {
  int steps;
  float factor;
  float *never;
};
SY_KERNEL void multiply_all(Computing c) {
  float sums[8];
  for (int i = 0; i < 8; i++) sums[i] = (float)(thread_in_block() + i);
  for (int step = 0; step < c.steps; step++)
    for (int i = 0; i < 8; i++) sums[i] = fmaf(sums[i], c.factor, c.factor);
  float sum = 0.0f;
  for (const float s : sums) sum += s;
  if (sum == 1.25f) *c.never = sum;
}

static inline Ceilings ceilings() {
  const size_t bytes = size_t{2} << 30;
  constexpr int steps = 20000, repeats = 5;
  uint8_t *const memory = static_cast<uint8_t *>(allocate(bytes + 256));
  float *const never = reinterpret_cast<float *>(memory + bytes);
  const auto best_seconds = [](const auto &run) {
    double best = INFINITY;
    for (int i = 0; i < repeats; i++) {
      const auto start = std::chrono::steady_clock::now();
      run();
      finish();
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  };
  const double reading = best_seconds([&] { launch(read_all, {ceiling_blocks, 1}, ceiling_threads, 0, Reading{reinterpret_cast<Float4 *>(memory), (int64_t)(bytes / 16), never}); });
  const double computing = best_seconds([&] { launch(multiply_all, {ceiling_blocks, 1}, ceiling_threads, 0, Computing{steps, 0.5f, never}); });
  release(memory);
  return {(double)bytes / reading, 2.0 * 8 * steps * ceiling_blocks * ceiling_threads / computing};
}

} // namespace sy::SY_GPU
#endif
