/*
 * Zeroed, aligned memory for weights and workspaces.
 * Large regions start at a huge page, so that streaming them does not pay for address translation, and cost memory only where they were written.
 */
#ifndef SWITCHYARD_REGION_H
#define SWITCHYARD_REGION_H

#include <cstddef>
#include <cstdint>

namespace sy {

/* Rows and columns of every object: rounded up to whatever a kernel pads to (panels, groups, lanes), they stay an int. */
constexpr int dimension_max = INT32_MAX - 128;

/* A size in bytes that was computed wide enough not to wrap. Throws SY_OUT_OF_MEMORY beyond 64 TiB, half of what a process can address; the text names whose
 * size it is. */
size_t checked_bytes(__int128 bytes, const char *format, ...) __attribute__((format(printf, 2, 3)));

class Region {
public:
  Region() = default;
  explicit Region(size_t bytes); /* throws SY_OUT_OF_MEMORY */
  ~Region();
  Region(Region &&other) noexcept { swap(other); }
  Region &operator=(Region &&other) noexcept {
    swap(other);
    return *this;
  }
  Region(const Region &) = delete;
  Region &operator=(const Region &) = delete;

  uint8_t *data() const { return data_; }
  size_t bytes() const { return bytes_; }
  /* Gives the memory of [offset, offset + bytes) back; it reads as zero afterwards. */
  void discard(size_t offset, size_t bytes);

private:
  void swap(Region &other);
  uint8_t *data_ = nullptr;
  size_t bytes_ = 0;
  void *mapping_ = nullptr; /* null: the C heap */
  size_t mapped_bytes_ = 0;
};

/*
 * Scratch that every call may use and none may keep: calls on one device come from one thread at a time, so all its programs and experts share the
 * largest that any of them needs. It grows when objects are created, never during a call that reserved before.
 */
class Workspace {
public:
  void reserve(size_t bytes) {
    if (bytes > memory_.bytes()) memory_ = Region(bytes);
  }
  uint8_t *data() const { return memory_.data(); }

private:
  Region memory_;
};

} // namespace sy
#endif
