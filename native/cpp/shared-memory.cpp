#include "shared-memory.h"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels.h"

namespace sy {

#if defined(__linux__) && defined(F_ADD_SEALS)

namespace {
constexpr int size_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

/* Of all threads of JavaScript: they share the addon. */
std::mutex mappings_mutex;
auto &mappings = *new std::map<uintptr_t, uintptr_t>; /* begin, end; never destroyed: a thread may unmap while the process ends */
std::atomic<size_t> mappings_count{0};   /* most programs have none, and do not lock */

void note(const void *memory, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
  const std::lock_guard<std::mutex> lock(mappings_mutex);
  mappings[begin] = begin + bytes;
  mappings_count = mappings.size();
}
void forget(const void *memory) {
  const std::lock_guard<std::mutex> lock(mappings_mutex);
  mappings.erase(reinterpret_cast<uintptr_t>(memory));
  mappings_count = mappings.size();
}
} // namespace

int shared_create(size_t bytes) {
  const int descriptor = memfd_create("switchyard", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (descriptor < 0) fail(SY_UNSUPPORTED, "memfd_create: %s", strerror(errno));
  /* Reserved now: memory that runs out later would be a SIGBUS in whoever touches it. */
  int full;
  do full = posix_fallocate(descriptor, 0, (off_t)bytes);
  while (full == EINTR);
  if (full != 0 || fcntl(descriptor, F_ADD_SEALS, size_seals) != 0) {
    const int error = full != 0 ? full : errno;
    close(descriptor);
    fail(SY_OUT_OF_MEMORY, "cannot reserve %zu bytes of shared memory: %s", bytes, strerror(error));
  }
  return descriptor;
}

void *shared_map(int descriptor, size_t bytes) {
  struct stat found;
  if (fstat(descriptor, &found) != 0) fail(SY_INVALID_ARGUMENT, "shared memory: %s", strerror(errno));
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals < 0 || (seals & size_seals) != size_seals || (seals & F_SEAL_WRITE) != 0)
    fail(SY_INVALID_ARGUMENT, "shared memory: the file's size is not sealed");
  if ((size_t)found.st_size != bytes)
    fail(SY_INVALID_ARGUMENT, "shared memory has %lld bytes: must be %zu", (long long)found.st_size, bytes);
  void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) fail(errno == ENOMEM ? SY_OUT_OF_MEMORY : SY_INVALID_ARGUMENT, "cannot map %zu bytes of shared memory: %s", bytes, strerror(errno));
  try {
    note(memory, bytes);
  } catch (...) {
    munmap(memory, bytes);
    throw;
  }
  return memory;
}

void shared_unmap(void *memory, size_t bytes) {
  forget(memory); // First: once it is unmapped, another thread may get the address for something else.
  munmap(memory, bytes);
}

bool shared_holds(const void *address) {
  if (mappings_count == 0) return false;
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  const std::lock_guard<std::mutex> lock(mappings_mutex);
  const auto after = mappings.upper_bound(at);
  return after != mappings.begin() && at < std::prev(after)->second;
}

#else

int shared_create(size_t) { fail(SY_UNSUPPORTED, "shared memory between processes needs Linux"); }
void *shared_map(int, size_t) { fail(SY_UNSUPPORTED, "shared memory between processes needs Linux"); }
void shared_unmap(void *, size_t) {}
bool shared_holds(const void *) { return false; }

#endif

} // namespace sy
