/* The CUDA runtime, as gpu.h asks for it. The runtime is linked statically and finds the driver when it is first called, so that a program with this in it
 * starts on machines without one. */
#include "gpu.h"

#include <cstring>

#include "../cpp/kernels.h"

namespace sy::cuda {
namespace {

constexpr int least_major = 8; /* cp.async */

thread_local cudaStream_t current = nullptr;
constexpr int most_devices = 64;
cudaStream_t streams[most_devices] = {}; /* one a device, made when it is opened: calls on one device come from one thread at a time */

[[noreturn]] void fail_with(cudaError_t error, const char *what) {
  fail(error == cudaErrorMemoryAllocation ? SY_OUT_OF_MEMORY : SY_IO, "CUDA, %s: %s", what, cudaGetErrorString(error));
}

} // namespace

void check(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return;
  cudaGetLastError(); // What can be forgotten is: an allocation that failed leaves the device usable.
  fail_with(error, what);
}

cudaStream_t stream() { return current; }

Properties open(int ordinal) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    fail(SY_UNSUPPORTED, "backend = \"cuda\": %s", error == cudaErrorInsufficientDriver ? "there is no NVIDIA driver, or it is too old" : cudaGetErrorString(error));
  }
  if (ordinal >= count || ordinal >= most_devices) fail(SY_UNSUPPORTED, "backend = \"cuda:%d\": there are %d GPUs, numbered from 0", ordinal, count);
  cudaDeviceProp found;
  check(cudaGetDeviceProperties(&found, ordinal), "properties");
  if (found.major < least_major)
    fail(SY_UNSUPPORTED, "backend = \"cuda:%d\": %s has compute capability %d.%d, %d.0 is needed", ordinal, found.name, found.major, found.minor, least_major);
  check(cudaSetDevice(ordinal), "device");
  if (!streams[ordinal]) check(cudaStreamCreateWithFlags(&streams[ordinal], cudaStreamNonBlocking), "stream");
  return {found.name, found.totalGlobalMem};
}

void use(int ordinal) {
  check(cudaSetDevice(ordinal), "device");
  current = streams[ordinal];
}

void *allocate(size_t bytes) {
  void *memory = nullptr;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(SY_OUT_OF_MEMORY, "%zu bytes on the GPU: %zu of %zu are free", bytes, free, total);
  }
  check(cudaMemsetAsync(memory, 0, bytes, current), "clearing");
  return memory;
}
void release(void *memory) { cudaFree(memory); }

void *allocate_pinned(size_t bytes) {
  void *memory = nullptr;
  if (cudaHostAlloc(&memory, bytes, cudaHostAllocMapped) != cudaSuccess) {
    cudaGetLastError();
    fail(SY_OUT_OF_MEMORY, "%zu bytes of pinned host memory", bytes);
  }
  memset(memory, 0, bytes);
  return memory;
}
void release_pinned(void *memory) { cudaFreeHost(memory); }

void upload_now(void *to, const void *from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, current), "upload");
  finish();
}
void upload(void *to, const void *from, size_t bytes) { check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, current), "upload"); }
void download(void *to, const void *from, size_t bytes) { check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, current), "download"); }
void finish() { check(cudaStreamSynchronize(current), "run"); }

} // namespace sy::cuda
