/* The pool: every thread runs every time, barriers hold, and the floating-point environment stays inside. */
#include <atomic>
#include <chrono>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

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
  const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (pool.threads() < threads && std::chrono::steady_clock::now() < until) {
    called.gather();
    std::this_thread::yield(); // There may be fewer cores than threads.
  }
  calls = 0;
  pool.each(count);
  check.is_true(calls == threads, text("a session that %d threads have come to", threads));
  if (threads == 1) return;
  // Those that came are kept waiting for one who never does, until they sleep: then they are called again.
  Pool other(threads, nullptr);
  Pool::Session alone(other, true, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(50)); // Longer than helpers spin.
  const auto late = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (other.threads() < threads && std::chrono::steady_clock::now() < late) {
    alone.gather();
    std::this_thread::yield();
  }
  check.is_true(other.threads() == threads, text("a session to which %d threads come after they slept", threads));
}

/* In whatever order pinned pools go, the caller is pinned for the youngest left and free with the last. */
void check_pinning(Check &check) {
#if defined(__linux__)
  const auto allowed = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    return set;
  };
  const cpu_set_t before = allowed();
  std::vector<int32_t> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &before)) cpus.push_back(cpu);
  const int32_t first = cpus.front(), last = cpus.back();
  const auto pinned_to = [&](int32_t cpu) {
    const cpu_set_t now = allowed();
    return CPU_COUNT(&now) == 1 && CPU_ISSET(cpu, &now);
  };
  const auto free_again = [&] {
    const cpu_set_t now = allowed();
    return CPU_EQUAL(&now, &before) != 0;
  };
  for (const bool older_first : {true, false}) {
    auto older = std::make_unique<Pool>(1, &first), younger = std::make_unique<Pool>(1, &last);
    check.is_true(pinned_to(last), "pinned for the younger pool");
    (older_first ? older : younger).reset();
    check.is_true(pinned_to(older_first ? last : first), "pinned for the pool that is left");
    (older_first ? younger : older).reset();
    check.is_true(free_again(), "free when both are gone");
  }
#else
  (void)check;
#endif
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
  check_pinning(check);
}

} // namespace
} // namespace sy::conformance
