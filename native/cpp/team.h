/* How the kernels share work over a pool: one lambda, run by every thread of the team, or by the caller alone when the work is too small to wake anyone. */
#ifndef SWITCHYARD_TEAM_H
#define SWITCHYARD_TEAM_H

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "pool.h"

namespace sy {

struct Range {
  int begin, end;
};

/* Work below these takes the caller about ten microseconds and stays with it: a helper costs some of that to reach when it is awake, and far more
 * when it sleeps or another program has its core. Results do not depend on them. */
constexpr int64_t combine_alone_below = 32 * 1024;      /* elements */
constexpr int64_t weights_alone_below = 640 * 1024;     /* bytes of weights read */
constexpr int64_t products_alone_below = 1024 * 1024;   /* multiply-adds */
constexpr int64_t pack_alone_below = 128 * 1024;        /* bytes of weights packed */

/* Weights up to this size are taken to live in a cache; larger ones are read from memory (tiles.h: PanelCalls). */
constexpr int64_t cached_below = 1024 * 1024;

/* Weights of one part that is handed out on demand: long enough for a stream, short enough that nobody waits long for the last one. */
constexpr int64_t bytes_of_part = 256 * 1024;
constexpr int most_parts_of_thread = 16;

constexpr int most_phases = 2; /* divisions of work in one run */

struct Team {
  Pool *pool; /* null: the caller alone */
  int thread, threads;
  std::atomic<int> *cursors; /* [most_phases] */

  void barrier() const {
    if (pool) pool->barrier();
  }
  /* This thread's contiguous part of 0..count. */
  Range part(int count) const { return {(int)((int64_t)count * thread / threads), (int)((int64_t)count * (thread + 1) / threads)}; }

  /* Calls work(begin, end) for parts of 0..count until all are done, by whoever comes first: a thread that lost its core for a while does not hold up the
   * others. Small work is divided once and for all, so that a thread finds its weights of the last step in its own cache. `bytes` is what all of it reads,
   * and a part handed out on demand is at least `least` of the count. Each phase of a run has its own number. */
  template <class Work> void divide(int phase, int64_t count, int64_t bytes, int64_t least, const Work &work) const {
    const int64_t most_parts = std::min({bytes / bytes_of_part, (int64_t)threads * most_parts_of_thread, count / least});
    const int64_t parts = most_parts - most_parts % threads; // As many for each, if they are equally fast.
    if (threads == 1 || parts <= threads) return run_part(thread, threads, count, work);
    for (int64_t next; (next = cursors[phase].fetch_add(1, std::memory_order_relaxed)) < parts;) run_part(next, parts, count, work);
  }

private:
  template <class Work> static void run_part(int64_t part, int64_t parts, int64_t count, const Work &work) {
    const int64_t begin = count * part / parts, end = count * (part + 1) / parts;
    if (begin < end) work(begin, end);
  }
};

template <class Work> void share(Pool &pool, bool alone, const Work &work) {
  if (alone || pool.threads() == 1) return work(Team{nullptr, 0, 1, nullptr});
  struct Context {
    Pool *pool;
    const Work *work;
    std::atomic<int> cursors[most_phases];
  } context{&pool, &work, {}};
  pool.run(
      [](void *at, int thread) {
        Context &c = *static_cast<Context *>(at);
        (*c.work)(Team{c.pool, thread, c.pool->threads(), c.cursors});
      },
      &context);
}

} // namespace sy
#endif
