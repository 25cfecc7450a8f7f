/*
 * The words that the kernels of this folder are written in, so that one text is compiled twice: by nvcc for a GPU, and by the C++ compiler for an emulation
 * that runs a block's threads as fibers, one after the other (emulated.cpp). The emulation computes the same bits and catches whoever reads out of bounds
 * under a sanitizer; it says nothing about speed, nor about races, because its threads only change places at barriers.
 *
 * A kernel is `SY_KERNEL void name(Arguments)`, launched by launch(). Warps have 32 threads.
 */
#ifndef SWITCHYARD_GPU_H
#define SWITCHYARD_GPU_H

#include <cstddef>
#include <cstdint>
#include <string>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define SY_GPU cuda
#define SY_KERNEL __global__
#define SY_KERNEL_BLOCKS(threads, blocks) __global__ __launch_bounds__(threads, blocks) /* so many blocks fit a multiprocessor's registers */
#define SY_GPU_CODE __device__ __forceinline__
#else
#define SY_GPU emulated
#define SY_KERNEL static
#define SY_KERNEL_BLOCKS(threads, blocks) static
#define SY_GPU_CODE static inline
#endif

namespace sy::SY_GPU {

constexpr int warp_threads = 32;

struct Grid {
  int x, y;
};

/* ---- the host's side: gpu.cu, emulated.cpp ---- */

/* A GPU of this machine, with a queue of launches and copies of its own. */
class Device {
public:
  explicit Device(int ordinal); /* throws SY_UNSUPPORTED with the reason where there is none */
  ~Device();
  Device(const Device &) = delete;
  Device &operator=(const Device &) = delete;
  /* Every call below is for the device that the calling thread named last. */
  void use() const;
  void use_if_possible() const noexcept; /* for destructors */

  const int ordinal;
  std::string name;
  std::string identity; /* the same from whichever process or container it is seen; empty: it has none of its own */
  uint64_t memory_bytes = 0;

private:
  void *queue_ = nullptr;
};

void *allocate(size_t bytes);             /* device memory, zeroed. Throws SY_OUT_OF_MEMORY */
void release(void *memory);
void *allocate_pinned(size_t bytes);      /* host memory, zeroed, that the device can write to at the same address. Throws SY_OUT_OF_MEMORY */
void release_pinned(void *memory);
void upload_now(void *to, const void *from, size_t bytes);
/* In the order of the launches around them. `from` and `to` on the host's side are pinned. */
void upload(void *to, const void *from, size_t bytes);
void download(void *to, const void *from, size_t bytes);
void finish(); /* returns when all launches and copies are done. Throws SY_IO where one failed: such a device is of no use any more, until the process ends. */
void settle(); /* finish(), whatever became of them */

#ifdef __CUDACC__
void check(cudaError_t error, const char *what); /* throws */
cudaStream_t stream();

/* Once for each kernel and device: its blocks may have so much shared memory. Without asking they have 48 KiB. */
template <class Arguments> void allow_shared(void (*kernel)(Arguments), size_t bytes) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "shared memory");
}
template <class Arguments> void launch(void (*kernel)(Arguments), Grid grid, int threads, size_t shared_bytes, const Arguments &arguments) {
  kernel<<<dim3((unsigned)grid.x, (unsigned)grid.y), (unsigned)threads, shared_bytes, stream()>>>(arguments);
  check(cudaGetLastError(), "launch");
}
#else
void run_blocks(void (*body)(const void *arguments), const void *arguments, Grid grid, int threads, size_t shared_bytes);
template <class Arguments> void allow_shared(void (*)(Arguments), size_t) {}
template <class Arguments> struct Launched {
  void (*kernel)(Arguments);
  Arguments arguments;
};
template <class Arguments> void launch(void (*kernel)(Arguments), Grid grid, int threads, size_t shared_bytes, const Arguments &arguments) {
  const Launched<Arguments> launched{kernel, arguments};
  run_blocks([](const void *at) { static_cast<const Launched<Arguments> *>(at)->kernel(static_cast<const Launched<Arguments> *>(at)->arguments); },
             &launched, grid, threads, shared_bytes);
}
#endif

/* ---- the device's side ---- */

#ifdef __CUDACC__
SY_GPU_CODE int thread_in_block() { return (int)threadIdx.x; }
SY_GPU_CODE int block_x() { return (int)blockIdx.x; }
SY_GPU_CODE int block_y() { return (int)blockIdx.y; }
SY_GPU_CODE uint8_t *shared_memory() {
  extern __shared__ __align__(16) uint8_t memory[];
  return memory;
}
SY_GPU_CODE void sync_block() { __syncthreads(); }
SY_GPU_CODE void sync_warp() { __syncwarp(); }
/* Sixteen bytes from global to shared memory, arriving some time before the wait_copies() that covers its group returns. */
SY_GPU_CODE void copy16(void *to, const void *from) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
SY_GPU_CODE void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* All but the last `newer` groups of this thread's copies have arrived. */
template <int newer> SY_GPU_CODE void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(newer) : "memory"); }
SY_GPU_CODE int dot4(int a, int b, int sum) { return __dp4a(a, b, sum); } /* of four signed bytes each */
SY_GPU_CODE float half_to_float(uint16_t h) { return __half2float(__ushort_as_half(h)); }
struct alignas(16) Float4 {
  float x, y, z, w;
};
struct alignas(16) Int4 {
  int x, y, z, w;
};
#else
int thread_in_block();
int block_x();
int block_y();
uint8_t *shared_memory();
void sync_block();
void sync_warp();
void copy16(void *to, const void *from);
static inline void end_group() {}
template <int newer> static inline void wait_copies() {}
int dot4(int a, int b, int sum);
float half_to_float(uint16_t h);
struct alignas(16) Float4 {
  float x, y, z, w;
};
struct alignas(16) Int4 {
  int x, y, z, w;
};
#endif

} // namespace sy::SY_GPU
#endif
