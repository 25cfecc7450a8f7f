/* A clock that costs a few nanoseconds, in a unit of its own. */
#ifndef SWITCHYARD_TICKS_H
#define SWITCHYARD_TICKS_H

#include <chrono>
#include <cstdint>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace sy {

static inline uint64_t ticks() {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return (uint64_t)std::chrono::steady_clock::now().time_since_epoch().count();
#endif
}

} // namespace sy
#endif
