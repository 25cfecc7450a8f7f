/* A GPU of fibers: gpu.h for machines without one. Blocks run one after the other, a block's threads in turn, each until its next barrier. Needs glibc. */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>
#ifdef __GLIBC__
#include <ucontext.h>
#endif

#include "../cpp/kernels.h"
#include "../cpp/numeric.h"
#include "gpu.h"

namespace sy::emulated {
namespace {

void *zeroed(size_t bytes) {
  void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory) fail(SY_OUT_OF_MEMORY, "%zu bytes", bytes);
  return memset(memory, 0, bytes);
}

} // namespace

void copy16(void *to, const void *from) { memcpy(to, from, 16); }
int dot4(int a, int b, int sum) {
  for (int byte = 0; byte < 4; byte++) sum += (int)(int8_t)(a >> 8 * byte) * (int)(int8_t)(b >> 8 * byte);
  return sum;
}
float half_to_float(uint16_t h) { return from_f16(h); }

#ifdef __GLIBC__

namespace {

constexpr size_t stack_bytes = 128 * 1024;

enum class State { ready, at_warp_barrier, at_block_barrier, done };

struct Fiber {
  ucontext_t context;
  State state;
};

/* The block that is running. */
struct Block {
  void (*body)(const void *);
  const void *arguments;
  int x, y, threads;
  std::vector<Fiber> fibers;
  std::vector<uint8_t> stacks;
  std::vector<Float4> shared;
  int current;
  ucontext_t scheduler;
};
thread_local Block block;

void enter() {
  block.body(block.arguments);
  block.fibers[(size_t)block.current].state = State::done;
}

void wait(State barrier) {
  Fiber &fiber = block.fibers[(size_t)block.current];
  fiber.state = barrier;
  swapcontext(&fiber.context, &block.scheduler);
}

/* Lets threads first .. end go on if all that have not ended wait there. */
bool open_barrier(State barrier, int first, int end) {
  bool any = false;
  for (int t = first; t < end; t++) {
    const State state = block.fibers[(size_t)t].state;
    if (state == State::done) continue;
    if (state != barrier) return false;
    any = true;
  }
  for (int t = first; any && t < end; t++)
    if (block.fibers[(size_t)t].state == barrier) block.fibers[(size_t)t].state = State::ready;
  return any;
}

void begin(Fiber &fiber, uint8_t *stack) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = stack_bytes;
  fiber.context.uc_link = &block.scheduler;
  fiber.state = State::ready;
  makecontext(&fiber.context, enter, 0);
}

void run_block() {
  for (int t = 0; t < block.threads; t++) begin(block.fibers[(size_t)t], block.stacks.data() + (size_t)t * stack_bytes);
  for (;;) {
    bool moved = false;
    for (block.current = 0; block.current < block.threads; block.current++) {
      Fiber &fiber = block.fibers[(size_t)block.current];
      if (fiber.state != State::ready) continue;
      moved = true;
      swapcontext(&block.scheduler, &fiber.context);
    }
    for (int first = 0; first < block.threads; first += warp_threads) moved |= open_barrier(State::at_warp_barrier, first, std::min(first + warp_threads, block.threads));
    moved |= open_barrier(State::at_block_barrier, 0, block.threads);
    if (moved) continue;
    for (const Fiber &fiber : block.fibers)
      if (&fiber < block.fibers.data() + block.threads && fiber.state != State::done) abort(); // Threads wait for one another at different barriers.
    return;
  }
}

} // namespace

void run_blocks(void (*body)(const void *), const void *arguments, Grid grid, int threads, size_t shared_bytes) {
  block.body = body, block.arguments = arguments, block.threads = threads;
  if (block.fibers.size() < (size_t)threads) {
    block.fibers.resize((size_t)threads);
    block.stacks.resize((size_t)threads * stack_bytes);
  }
  for (block.y = 0; block.y < grid.y; block.y++)
    for (block.x = 0; block.x < grid.x; block.x++) {
      block.shared.assign((shared_bytes + 15) / 16, Float4{NAN, NAN, NAN, NAN}); // Shared memory begins with anything.
      run_block();
    }
}

int thread_in_block() { return block.current; }
int block_x() { return block.x; }
int block_y() { return block.y; }
uint8_t *shared_memory() { return reinterpret_cast<uint8_t *>(block.shared.data()); }
void sync_block() { wait(State::at_block_barrier); }
void sync_warp() { wait(State::at_warp_barrier); }

#else

/* Device refuses to exist there. */
void run_blocks(void (*)(const void *), const void *, Grid, int, size_t) { abort(); }
int thread_in_block() { return 0; }
int block_x() { return 0; }
int block_y() { return 0; }
uint8_t *shared_memory() { return nullptr; }
void sync_block() {}
void sync_warp() {}

#endif

Device::Device(int number) : ordinal(number), name("emulated GPU") {
  if (ordinal != 0) fail(SY_UNSUPPORTED, "backend = \"cuda-emulated:%d\": there is one, number 0", ordinal);
#ifndef __GLIBC__
  fail(SY_UNSUPPORTED, "backend = \"cuda-emulated\": this system's C library has no contexts to switch between");
#endif
}
Device::~Device() = default;
void Device::use() const {}
void Device::use_if_possible() const noexcept {}
void *allocate(size_t bytes) { return zeroed(bytes); }
void release(void *memory) { free(memory); }
void *allocate_pinned(size_t bytes) { return zeroed(bytes); }
void release_pinned(void *memory) { free(memory); }
void upload_now(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
void upload(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
void download(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
void finish() {}
void settle() {}

} // namespace sy::emulated
