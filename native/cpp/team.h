/* How the kernels share work over a pool: one lambda, run by every thread of the team, or by the caller alone when the work is too small to wake anyone. */
#ifndef SWITCHYARD_TEAM_H
#define SWITCHYARD_TEAM_H

#include <cstdint>

#include "pool.h"

namespace sy {

struct Range {
  int begin, end;
};

struct Team {
  Pool *pool; /* null: the caller alone */
  int thread, threads;

  void barrier() const {
    if (pool) pool->barrier();
  }
  /* This thread's contiguous part of 0..count. */
  Range part(int count) const { return {(int)((int64_t)count * thread / threads), (int)((int64_t)count * (thread + 1) / threads)}; }
};

template <class Work> void share(Pool &pool, bool alone, const Work &work) {
  if (alone || pool.threads() == 1) return work(Team{nullptr, 0, 1});
  struct Context {
    Pool *pool;
    const Work *work;
  } context{&pool, &work};
  pool.run(
      [](void *at, int thread) {
        const Context &c = *static_cast<const Context *>(at);
        (*c.work)(Team{c.pool, thread, c.pool->threads()});
      },
      &context);
}

/* Work below these takes the caller about ten microseconds and stays with it: a helper costs some of that to reach when it is awake, and far more
 * when it sleeps or another program has its core. Results do not depend on them. */
constexpr int64_t combine_alone_below = 32 * 1024;      /* elements */
constexpr int64_t weights_alone_below = 640 * 1024;     /* bytes of weights read */
constexpr int64_t products_alone_below = 1024 * 1024;   /* multiply-adds */

/* Weights up to this size are taken to live in a cache, where several panels at once are faster; larger ones are read as one linear stream. */
constexpr int64_t cached_below = 1024 * 1024;

} // namespace sy
#endif
