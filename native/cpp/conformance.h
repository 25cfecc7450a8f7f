/*
 * Conformance: every instruction set and thread count against the scalar oracle, bit for bit.
 * A suite registers itself with SY_SUITE and receives a Check; the program (conformance.cpp) runs all of them and fails if any comparison did.
 */
#ifndef SWITCHYARD_CONFORMANCE_H
#define SWITCHYARD_CONFORMANCE_H

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "accelerator.h"
#include "kernels.h"
#include "region.h"

namespace sy::conformance {

/* A fixed stream of numbers from a seed (SplitMix64), so that a failure can be repeated. */
class Random {
public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int limit) { return (int)(bits() % (uint64_t)limit); }
  float uniform(float from, float to) { return from + (to - from) * (float)(bits() >> 40) * (1.0f / 16777216.0f); }
  /* Roughly normal with the given deviation. */
  float normal(float deviation);
  std::vector<float> normals(size_t count, float deviation);

private:
  uint64_t state_;
};

class Check {
public:
  /* Bits must be equal; any NaN equals any NaN, because their payloads carry nothing. */
  void equal(const float *got, const float *want, size_t count, const std::string &what);
  void equal_bytes(const void *got, const void *want, size_t count, const std::string &what);
  void is_true(bool condition, const std::string &what);
  /* The call must throw a Failure of this status. */
  void fails(sy_status status, const std::function<void()> &call, const std::string &what);

  uint64_t compared = 0, failed = 0;

private:
  void fail(const std::string &text);
};

/* The SIMD instruction sets that this machine can run. */
std::vector<Isa> simd_isas();
const char *name_of(Isa isa);

/* Where experts can be computed: an instruction set and a number of threads, or an accelerator, whose sums are on the CPU. */
struct Place {
  Isa isa;
  int threads;
  Accelerator *accelerator; /* or null */
  std::string name;
};
/* The emulated GPU, and GPU 0 of this machine if there is one. */
std::vector<Place> accelerators();
/* Every instruction set with each of these numbers of threads, then the accelerators. */
std::vector<Place> places(const std::vector<int> &threads);
extern const Place oracle;
/* Pools of 1, 2 and 3 threads, made once. */
Pool &pool_of(int threads);

/* Values kept in memory as if they were a mapped file. */
class MemoryFile : public sy_file {
public:
  explicit MemoryFile(std::vector<uint8_t> content);
  static std::unique_ptr<MemoryFile> of(const std::vector<float> &values);

private:
  std::vector<uint8_t> content_;
};
/* As earlier calls may have left it: full of what must not be read before it is written. */
Region used_workspace(size_t bytes);

/* A dense f32 view [n, k] that begins `first` floats into the file. */
sy_source dense(const MemoryFile &file, int n, int k, size_t first = 0);

struct Suite {
  const char *name;
  void (*run)(Check &check);
};
std::vector<Suite> &suites();
struct Register {
  Register(const char *name, void (*run)(Check &)) { suites().push_back({name, run}); }
};
#define SY_SUITE(name)                                                         \
  static void suite_##name(::sy::conformance::Check &check);                   \
  static const ::sy::conformance::Register register_##name(#name, suite_##name); \
  static void suite_##name(::sy::conformance::Check &check)

std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace sy::conformance
#endif
