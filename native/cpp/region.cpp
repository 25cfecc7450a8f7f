#include "region.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include "kernels.h"

namespace sy {
namespace {
constexpr size_t huge_page = 2u << 20;
constexpr size_t mapped_from = 1u << 20; /* below this a huge page would be mostly waste; so would one for a shorter rest */
constexpr __int128 bytes_max = (__int128)1 << 46;
} // namespace

size_t checked_bytes(__int128 bytes, const char *format, ...) {
  if (bytes <= bytes_max) return (size_t)bytes;
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fail(SY_OUT_OF_MEMORY, "%s is beyond 64 TiB", text);
}

Region::Region(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes < mapped_from) {
    const size_t rounded = (bytes + 63) & ~size_t{63};
    data_ = static_cast<uint8_t *>(aligned_alloc(64, rounded));
    if (!data_) fail(SY_OUT_OF_MEMORY, "cannot allocate %zu bytes", bytes);
    memset(data_, 0, rounded);
    return;
  }
  const size_t rest = bytes % huge_page, advised = rest < mapped_from ? bytes : bytes - rest + huge_page;
  mapped_bytes_ = advised + huge_page; // Room to begin at a huge page.
  mapping_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    fail(SY_OUT_OF_MEMORY, "cannot map %zu bytes", bytes);
  }
  const uintptr_t start = (reinterpret_cast<uintptr_t>(mapping_) + huge_page - 1) & ~uintptr_t{huge_page - 1};
  data_ = reinterpret_cast<uint8_t *>(start);
#if defined(MADV_HUGEPAGE)
  madvise(data_, advised, MADV_HUGEPAGE); // Only a hint: the region works without.
#endif
}

Region::~Region() {
  if (mapping_) munmap(mapping_, mapped_bytes_);
  else free(data_);
}

void Region::swap(Region &other) {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
}

void Region::discard(size_t offset, size_t bytes) {
  uint8_t *from = data_ + offset, *to = from + bytes;
#if defined(__linux__)
  if (mapping_) { // Whole pages inside the range go back to the system; the edges are shared with neighbours and only cleared.
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uint8_t *first = reinterpret_cast<uint8_t *>((reinterpret_cast<uintptr_t>(from) + page - 1) & ~(page - 1));
    uint8_t *last = reinterpret_cast<uint8_t *>(reinterpret_cast<uintptr_t>(to) & ~(page - 1));
    if (first < last && madvise(first, (size_t)(last - first), MADV_DONTNEED) == 0) {
      memset(from, 0, (size_t)(first - from));
      memset(last, 0, (size_t)(to - last));
      return;
    }
  }
#endif
  memset(from, 0, bytes);
}

} // namespace sy
