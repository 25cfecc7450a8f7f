/* The CUDA runtime, as gpu.h asks for it. The runtime is linked statically and finds the driver when it is first called, so that a program with this in it
 * starts on machines without one. */
#include "gpu.h"

#include <cstring>

#include "../cpp/kernels.h"

namespace sy::cuda {
namespace {

constexpr int least_major = 8; /* cp.async */

thread_local cudaStream_t current = nullptr;

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

Device::Device(int number) : ordinal(number) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    fail(SY_UNSUPPORTED, "backend = \"cuda:%d\": %s", ordinal,
         error == cudaErrorInsufficientDriver ? "there is no NVIDIA driver, or it is too old" : cudaGetErrorString(error));
  }
  if (ordinal >= count) fail(SY_UNSUPPORTED, "backend = \"cuda:%d\": the GPUs of this machine are numbered from 0, and there %s %d", ordinal, count == 1 ? "is" : "are", count);
  cudaDeviceProp found;
  check(cudaGetDeviceProperties(&found, ordinal), "properties");
  if (found.major < least_major)
    fail(SY_UNSUPPORTED, "backend = \"cuda:%d\": %s has compute capability %d.%d, %d.0 is needed", ordinal, found.name, found.major, found.minor, least_major);
  name = found.name;
  for (const char byte : found.uuid.bytes) identity += "0123456789abcdef"[byte >> 4 & 15], identity += "0123456789abcdef"[byte & 15];
  memory_bytes = found.totalGlobalMem;
  check(cudaSetDevice(ordinal), "device");
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "opening the device");
  queue_ = stream;
}
Device::~Device() {
  use_if_possible();
  cudaStreamDestroy(static_cast<cudaStream_t>(queue_));
}
void Device::use() const {
  check(cudaSetDevice(ordinal), "device");
  current = static_cast<cudaStream_t>(queue_);
}

void Device::use_if_possible() const noexcept {
  cudaSetDevice(ordinal);
  current = static_cast<cudaStream_t>(queue_);
}

void *allocate(size_t bytes) {
  void *memory = nullptr;
  if (const cudaError_t error = cudaMalloc(&memory, bytes); error != cudaSuccess) {
    cudaGetLastError();
    if (error != cudaErrorMemoryAllocation) check(error, "allocation"); // A GPU that is lost lacks no memory.
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail(SY_OUT_OF_MEMORY, "%zu bytes are needed on the GPU: %zu of %zu are free", bytes, free, total);
  }
  if (const cudaError_t error = cudaMemsetAsync(memory, 0, bytes, current); error != cudaSuccess) {
    cudaFree(memory);
    check(error, "clearing");
  }
  return memory;
}
void release(void *memory) { cudaFree(memory); }

void *allocate_pinned(size_t bytes) {
  void *memory = nullptr;
  if (const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocMapped); error != cudaSuccess) {
    cudaGetLastError();
    if (error != cudaErrorMemoryAllocation) check(error, "allocation of pinned memory");
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
void settle() {
  cudaStreamSynchronize(current);
  cudaGetLastError();
}

} // namespace sy::cuda
