/*
 * The threads of one device. The caller is thread 0; `threads - 1` helpers wait for it. With one thread everything runs inline.
 *
 * Between runs helpers spin for about 30 us and then sleep on a futex, so that an idle worker uses no CPU. Inside a session (one step of a model) they
 * spin up to 20 ms, because waking a sleeper takes longer than many an op, and because whoever sleeps cannot be counted on; beyond the first 30 us every
 * turn offers the core to others.
 * A session begins with whoever is there: helpers are called, and until all have come the caller works alone. Between two steps others take their cores
 * (whoever reads the tokens of the last one), and a run that needs everybody would stand still for as long. They are called again every 10 ms: those that came
 * early may have gone back to sleep before the last one was there.
 * Runs do not nest, come from one thread at a time, and the function must not throw.
 */
#ifndef SWITCHYARD_POOL_H
#define SWITCHYARD_POOL_H

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace sy {

/* A word that threads wait on: a futex on Linux, a condition variable elsewhere. */
class WaitWord {
public:
  uint32_t load() const { return value_.load(std::memory_order_acquire); }
  /* Returns when the value is no longer `old`: spins first, longer while `patient`, then sleeps. `spinning`, if any, counts those that do. */
  void wait_while(uint32_t old, const std::atomic<bool> &patient, std::atomic<int> *spinning = nullptr);
  /* Changes the value and wakes whoever sleeps on it. */
  void advance(uint32_t value);

private:
  bool changes_while_spinning(uint32_t old, const std::atomic<bool> &patient) const;

  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
#if !defined(__linux__)
  std::mutex mutex_;
  std::condition_variable changed_;
#endif
};

class Pool {
public:
  /* cpus: `threads` CPU numbers, or null. The caller is pinned to the first of them until the pool is destroyed, on the same thread. Throws Failure. */
  Pool(int threads, const int32_t *cpus);
  ~Pool();
  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  /* That take part in a run now: all, or the caller alone. It changes between runs only, in a session's constructor, gather() and destructor. */
  int threads() const { return active_; }

  /* A series of runs. `together` = false leaves the helpers asleep: everything runs inline. */
  class Session {
  public:
    /* Every run waits for all. */
    Session(Pool &pool, bool together) : pool_(pool), together_(together) {
      if (together) pool_.patient_.store(true, std::memory_order_relaxed);
      else pool_.active_ = 1;
    }
    /* The caller waits so long for the others, and then begins alone. */
    Session(Pool &pool, bool together, double patience_us) : Session(pool, together) {
      if (!together) return;
      pool_.active_ = 1;
      pool_.call(patience_us);
      gather();
    }
    /* Between two runs: from now on with the helpers, if all have come. */
    void gather() {
      if (!together_ || pool_.active_ != 1) return;
      if (pool_.ready()) pool_.active_ = pool_.threads_;
      else pool_.call_again();
    }
    ~Session() {
      pool_.patient_.store(false, std::memory_order_relaxed);
      pool_.active_ = pool_.threads_;
    }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

  private:
    Pool &pool_;
    const bool together_;
  };

  /* Calls fn(ctx, thread) once on every thread and returns when all have returned. Denormals are flushed in all of them. */
  void run(void (*fn)(void *ctx, int thread), void *ctx);
  /* run() for a callable of (int thread). */
  template <class Fn> void each(Fn &&fn) {
    run([](void *ctx, int thread) { (*static_cast<std::remove_reference_t<Fn> *>(ctx))(thread); }, &fn);
  }
  /* Inside a run: returns when every thread has called it. What was written before is visible after. */
  void barrier();

private:
  void serve(int thread);
  void stop();
  void unpin_caller();
  /* Wakes the helpers and returns when they are ready, or after that long. */
  void call(double patience_us);
  /* Wakes them if the last call is long ago, and returns at once. */
  void call_again();
  bool ready() const { return watching_.load(std::memory_order_acquire) == threads_ - 1; }

  const int threads_;
  int active_ = threads_;
  bool pinned_ = false; /* the caller */
  std::atomic<bool> patient_{false};
  std::chrono::steady_clock::time_point called_{}; /* when helpers were last called to a session */
  void (*fn_)(void *, int) = nullptr;
  void *ctx_ = nullptr;
  std::atomic<bool> stopping_{false};
  alignas(64) WaitWord calls_;                 /* for helpers: a run has started, or one will soon */
  std::atomic<uint32_t> runs_{0};              /* number of runs started */
  alignas(64) std::atomic<int> watching_{0};   /* helpers that would see a run at once */
  alignas(64) std::atomic<int> unfinished_{0}; /* helpers still inside the current run */
  WaitWord finished_;                          /* number of runs finished by all helpers */
  alignas(64) std::atomic<int> arrived_{0};
  WaitWord barriers_; /* number of barriers passed */
  std::vector<std::thread> helpers_;
};

} // namespace sy
#endif
