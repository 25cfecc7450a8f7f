/*
 * A device beside the CPU that takes over the matrices of experts: their weights live in its memory, rows go there and sums come back. All else (attention,
 * routers, norms, sums of several workers) stays on the CPU, whose threads the device object has as well. It gives the same bits, so that experts on GPUs
 * and on CPUs mix in one model.
 */
#ifndef SWITCHYARD_ACCELERATOR_H
#define SWITCHYARD_ACCELERATOR_H

#include <memory>
#include <string>

#include "kernels.h"

namespace sy {

struct ExpertLayout;
struct ExpertSink;

/* The experts of one layer. Calls come from one thread at a time. */
class AcceleratedExperts {
public:
  virtual ~AcceleratedExperts() = default;
  /* A slot's bytes as ExpertLayout lays them out. The memory of all slots was taken when the experts were created. */
  virtual void set(int slot, const uint8_t *bytes) = 0;
  /* So that no later call with so many pairs and rows allocates. */
  virtual void reserve(int pairs, int rows) = 0;
  /* Runs the plan of `experts` as run_plan() does. Throws SY_IO where the device failed. */
  virtual void run(const Experts &experts, Pool &pool, const float *x, int64_t ldx, const ExpertSink &sink) = 0;
};

/* What a device can do at best, for benchmarks to compare with. */
struct Ceilings {
  double read;    /* bytes a second from its memory */
  double compute; /* f32 operations a second, two for a fused multiply-add */
};

class Accelerator {
public:
  virtual ~Accelerator() = default;
  virtual Ceilings measure_ceilings() = 0;
  virtual std::unique_ptr<AcceleratedExperts> experts(const sy_experts_desc &desc, const ExpertLayout &layout) = 0;

  std::string name;
  std::string identity;      /* the same from whichever process or container it is seen; empty: it is no device of its own */
  uint64_t memory_bytes = 0; /* 0: as much as the host has */
};

/* "cuda", "cuda:N" (GPU N of this machine, from 0), "cuda-emulated" (the same kernels, thread by thread on the CPU: for tests); null for other names.
 * Throws SY_UNSUPPORTED with the reason. */
std::unique_ptr<Accelerator> accelerator_open(const std::string &backend);

namespace cuda {
std::unique_ptr<Accelerator> accelerator(int ordinal); /* where nvcc was found */
}
namespace emulated {
std::unique_ptr<Accelerator> accelerator(int ordinal);
}

} // namespace sy
#endif
