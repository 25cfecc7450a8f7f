/* The pool: every thread runs every time, barriers hold, and the floating-point environment stays inside. */
#include <atomic>

#include "conformance.h"
#include "numeric.h"

namespace sy::conformance {
namespace {

/* Denormals survive this addition only if they are not flushed; volatile, so that it happens here. */
bool flushes() {
  volatile float tiny = float_of(1), sum = tiny + tiny;
  return sum == 0.0f;
}

SY_SUITE(pool) {
  for (int threads = 1; threads <= 3; threads++) {
    Pool &pool = pool_of(threads);
    check.is_true(pool.threads() == threads, text("a pool of %d", threads));
    std::atomic<int> calls[3] = {}, flushed{0};
    int written[3] = {};
    bool seen = true;
    constexpr int runs = 200;
    for (int run = 0; run < runs; run++)
      pool.each([&](int thread) {
        calls[thread]++;
        flushed += flushes();
        written[thread] = run + 1;
        pool.barrier();
        for (int other = 0; other < threads; other++)
          if (written[other] != run + 1) seen = false; // Not atomic on purpose: a barrier must order it.
        pool.barrier();
      });
    for (int thread = 0; thread < threads; thread++) check.is_true(calls[thread] == runs, text("thread %d of %d ran each time", thread, threads));
    check.is_true(seen, text("barriers of %d threads", threads));
    check.is_true(flushed == runs * threads, "denormals are flushed on every thread");
  }
  check.fails(SY_INVALID_ARGUMENT, [] { Pool none(0, nullptr); }, "a pool of no threads");
  const int32_t cpus[2] = {0, 100000};
  check.fails(SY_INVALID_ARGUMENT, [&] { Pool pinned(2, cpus); }, "a CPU that does not exist");
}

} // namespace
} // namespace sy::conformance
