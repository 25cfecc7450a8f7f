#include "pool.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <system_error>

#include "float_environment.h"
#include "kernels.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sy {
namespace {

constexpr std::chrono::microseconds spin_time{30}, patient_spin_time{20'000};
constexpr std::chrono::microseconds call_again_after = patient_spin_time / 2; /* whoever is called twice while it spins stays for both */
constexpr int most_threads = 1024; /* more is a mistake in a configuration, not a machine */

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#if defined(__linux__)
constexpr size_t affinity_words = 1024 / 64;

long affinity_of_caller(std::vector<uint64_t> &mask) {
  mask.assign(affinity_words, 0);
  return syscall(SYS_sched_getaffinity, 0, affinity_words * sizeof(uint64_t), mask.data());
}
long set_affinity_of_caller(const std::vector<uint64_t> &mask) {
  return syscall(SYS_sched_setaffinity, 0, mask.size() * sizeof(uint64_t), mask.data());
}
std::vector<uint64_t> only(int cpu) {
  std::vector<uint64_t> mask(affinity_words, 0);
  mask[(size_t)cpu / 64] = uint64_t{1} << (cpu % 64);
  return mask;
}
void check_cpu(int cpu, int index) {
  if (cpu < 0 || cpu >= (int)(affinity_words * 64)) fail(SY_INVALID_ARGUMENT, "cpus[%d] = %d: a CPU number is 0..%zu", index, cpu, affinity_words * 64 - 1);
}

/* Pools to whose first CPU this thread was pinned, in the order of their making. */
struct Pins {
  struct Pin {
    const Pool *pool;
    int cpu;
  };
  std::vector<Pin> pools;
  std::vector<uint64_t> before; /* what the thread was allowed before the first of them */
};
thread_local Pins pins_of_thread;

bool forget(Pins &pins, const Pool *pool) {
  const auto at = std::find_if(pins.pools.begin(), pins.pools.end(), [pool](const Pins::Pin &pin) { return pin.pool == pool; });
  if (at == pins.pools.end()) return false;
  pins.pools.erase(at);
  return true;
}
#endif

} // namespace

bool WaitWord::changes_while_spinning(uint32_t old, const std::atomic<bool> &patient) const {
  const auto start = std::chrono::steady_clock::now();
  for (auto waited = start - start; waited < spin_time || (patient.load(std::memory_order_relaxed) && waited < patient_spin_time);
       waited = std::chrono::steady_clock::now() - start) {
    if (waited >= spin_time) std::this_thread::yield();
    for (int i = 0; i < 32; i++) {
      if (load() != old) return true;
      relax();
    }
  }
  return false;
}

void WaitWord::wait_while(uint32_t old, const std::atomic<bool> &patient, std::atomic<int> *spinning) {
  if (spinning) spinning->fetch_add(1, std::memory_order_release);
  const bool changed = changes_while_spinning(old, patient);
  if (spinning) spinning->fetch_sub(1, std::memory_order_relaxed);
  if (changed) return;
#if defined(__linux__)
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == old)
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&value_), FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
#else
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  changed_.wait(lock, [&] { return value_.load(std::memory_order_seq_cst) != old; });
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
#endif
}

void WaitWord::advance(uint32_t value) {
  // Sequentially consistent on both sides: either the sleeper sees the new value, or we see the sleeper.
  value_.store(value, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t *>(&value_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  std::lock_guard<std::mutex> lock(mutex_);
  changed_.notify_all();
#endif
}

Pool::Pool(int threads, const int32_t *cpus) : threads_(threads) {
  if (threads < 1 || threads > most_threads) fail(SY_INVALID_ARGUMENT, "threads = %d: must be 1..%d", threads, most_threads);
#if defined(__linux__)
  if (cpus) {
    for (int i = 0; i < threads; i++) check_cpu(cpus[i], i);
    std::vector<uint64_t> before;
    if (affinity_of_caller(before) < 0) fail(SY_IO, "cannot read the CPUs this thread may use: %s", strerror(errno));
    Pins &pins = pins_of_thread;
    pins.pools.reserve(pins.pools.size() + 1);
    // Each CPU is tried on the caller first: a number that this machine lacks must fail here, not in a helper.
    for (int i = threads - 1; i >= 0; i--) {
      if (set_affinity_of_caller(only(cpus[i])) < 0) {
        set_affinity_of_caller(before);
        fail(SY_INVALID_ARGUMENT, "cpus[%d] = %d: this process cannot run on that CPU", i, cpus[i]);
      }
    }
    forget(pins, this); // Left by a pool that went on another thread.
    if (pins.pools.empty()) pins.before = before;
    pins.pools.push_back({this, cpus[0]});
    pinned_ = true;
  }
#else
  if (cpus) fail(SY_UNSUPPORTED, "cpus: threads can be pinned on Linux only");
#endif
  try {
    helpers_.reserve((size_t)threads - 1);
    for (int i = 1; i < threads; i++) {
      const int cpu = cpus ? cpus[i] : -1;
      helpers_.emplace_back([this, i, cpu] {
#if defined(__linux__)
        if (cpu >= 0) set_affinity_of_caller(only(cpu));
#else
        (void)cpu;
#endif
        serve(i);
      });
    }
  } catch (const std::system_error &error) {
    const size_t started = helpers_.size(); // Before stop() forgets them.
    stop();
    fail(SY_OUT_OF_MEMORY, "threads = %d: cannot start thread %zu: %s", threads, started + 1, error.what());
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stopping_.store(true, std::memory_order_release);
  calls_.advance(calls_.load() + 1);
  for (std::thread &helper : helpers_) helper.join();
  helpers_.clear();
  unpin_caller();
}

/* Pools may go in any order: the thread stays pinned for the youngest that is left, and with the last it may run where it could before. */
void Pool::unpin_caller() {
#if defined(__linux__)
  if (!pinned_) return;
  pinned_ = false;
  const Pins &pins = pins_of_thread;
  if (!forget(pins_of_thread, this)) return; // It was another thread.
  set_affinity_of_caller(pins.pools.empty() ? pins.before : only(pins.pools.back().cpu));
#endif
}

void Pool::serve(int thread) {
  const FlushDenormals flush;
  for (uint32_t served = 0;;) {
    const uint32_t called = calls_.load(); // Before looking what for: whoever comes later changes it.
    if (stopping_.load(std::memory_order_acquire)) return;
    if (runs_.load(std::memory_order_acquire) == served) {
      calls_.wait_while(called, patient_, &watching_);
      continue;
    }
    served++; // A run ends when all have served it, so the count moved by exactly one.
    fn_(ctx_, thread);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) finished_.advance(served);
  }
}

void Pool::call(double patience_us) {
  if (ready()) return;
  called_ = std::chrono::steady_clock::now();
  calls_.advance(calls_.load() + 1);
  const auto until = called_ + std::chrono::duration<double, std::micro>(patience_us);
  while (!ready() && std::chrono::steady_clock::now() < until) relax();
}

void Pool::call_again() {
  const auto now = std::chrono::steady_clock::now();
  if (now - called_ < call_again_after) return;
  called_ = now;
  calls_.advance(calls_.load() + 1);
}

void Pool::run(void (*fn)(void *, int), void *ctx) {
  const FlushDenormals flush;
  if (active_ == 1) {
    fn(ctx, 0);
    return;
  }
  fn_ = fn;
  ctx_ = ctx;
  unfinished_.store(threads_ - 1, std::memory_order_relaxed);
  const uint32_t before = runs_.load(std::memory_order_relaxed);
  runs_.store(before + 1, std::memory_order_release);
  calls_.advance(calls_.load() + 1);
  fn(ctx, 0);
  finished_.wait_while(before, patient_);
}

void Pool::barrier() {
  if (active_ == 1) return;
  const uint32_t passed = barriers_.load();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    barriers_.advance(passed + 1);
  } else {
    barriers_.wait_while(passed, patient_);
  }
}

} // namespace sy
