/* The pool: every thread runs every time, barriers hold, and the floating-point environment stays inside. */
#include <atomic>
#include <chrono>
#include <thread>

#include "conformance.h"
#include "numeric.h"

namespace sy::conformance {
namespace {

/* Denormals survive this addition only if they are not flushed; volatile, so that it happens here. */
bool flushes() {
  volatile float tiny = float_of(1), sum = tiny + tiny;
  return sum == 0.0f;
}

/* Sessions that begin while helpers sleep: the caller works alone until all have come, and no run is lost or served twice whenever they come. */
void check_sessions(Check &check, Pool &pool, int threads) {
  std::atomic<int> calls{0};
  auto count = [&](int) { calls++; };
  int expected = 0;
  for (int session = 0; session < 100; session++) {
    if (session % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1)); // They fall asleep.
    {
      Pool::Session called(pool, true, 0);
      for (int run = 0; run < session % 4; run++) { // Some end before anybody comes.
        expected += pool.threads();
        pool.each(count);
        called.gather();
      }
    }
    expected += threads;
    pool.each(count);
  }
  check.is_true(calls == expected, text("runs of sessions that %d threads come late to", threads));
  Pool::Session called(pool, true, 0);
  while (pool.threads() < threads) called.gather();
  calls = 0;
  pool.each(count);
  check.is_true(calls == threads, text("a session that %d threads have come to", threads));
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
    check_sessions(check, pool, threads);
  }
  check.fails(SY_INVALID_ARGUMENT, [] { Pool none(0, nullptr); }, "a pool of no threads");
  const int32_t cpus[2] = {0, 100000};
  check.fails(SY_INVALID_ARGUMENT, [&] { Pool pinned(2, cpus); }, "a CPU that does not exist");
}

} // namespace
} // namespace sy::conformance
