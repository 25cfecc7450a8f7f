/*
 * Zeroed, aligned memory for weights and workspaces.
 * Large regions start at a huge page, so that streaming them does not pay for address translation, and cost memory only where they were written.
 */
#ifndef SWITCHYARD_REGION_H
#define SWITCHYARD_REGION_H

#include <cstddef>
#include <cstdint>

namespace sy {

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

} // namespace sy
#endif
