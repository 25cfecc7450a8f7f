/* Packing whole squares at once must give the bytes that packing row by row gives, for every number that a file can hold. */
#include <cstring>

#include "conformance.h"
#include "numeric.h"
#include "pack.h"

namespace sy::conformance {
namespace {

/* Rows of any bf16 there is, denormals and NaN too, in an order of their own. */
std::vector<uint16_t> patterns(Random &random, int count, bool finite) {
  std::vector<uint16_t> values((size_t)count);
  for (uint16_t &v : values) {
    v = (uint16_t)random.bits();
    if (finite && (v & 0x7f80) == 0x7f80) v &= 0xbfff;
    if (random.below(4) == 0) v &= 0x80ff; // Denormals and the smallest numbers.
  }
  return values;
}

std::vector<uint8_t> packed(int format, int n, int k, const sy_source &source, bool row_by_row) {
  WeightPtr weight = weight_create(Isa::avx2, format, n, k);
  if (!row_by_row) weight_set(*weight, pool_of(2), 0, source);
  for (int row = 0; row_by_row && row < n; row++) {
    sy_source one = source;
    one.n = 1;
    one.offset += (uint64_t)(row * source.stride_n) * (source.dtype == SY_BF16 ? 2 : 4);
    weight_set(*weight, pool_of(1), row, one);
  }
  return std::vector<uint8_t>(weight->memory.data(), weight->memory.data() + panels_bytes(format, n, k));
}

SY_SUITE(pack) {
  Random random(32);
  for (const auto &[n, k] : {std::pair{32, 64}, {64, 256}, {70, 130}, {352, 1024}})
    for (const bool finite : {true, false}) {
      const std::vector<uint16_t> stored = patterns(random, n * k, finite);
      std::vector<float> widened(stored.size());
      for (size_t i = 0; i < stored.size(); i++) widened[i] = float_of((uint32_t)stored[i] << 16 | (uint32_t)(random.bits() & 0xffff));
      for (const int dtype : {(int)SY_BF16, (int)SY_F32}) {
        sy_file file;
        file.data = dtype == SY_BF16 ? reinterpret_cast<const uint8_t *>(stored.data()) : reinterpret_cast<const uint8_t *>(widened.data());
        file.bytes = stored.size() * (dtype == SY_BF16 ? 2 : 4);
        sy_source source{};
        source.file = &file, source.stride_n = k, source.stride_k = 1, source.dtype = dtype, source.n = n, source.k = k;
        for (int format = SY_W_F32; format <= SY_W_I4; format++) {
          const std::vector<uint8_t> want = packed(format, n, k, source, true), got = packed(format, n, k, source, false);
          check.equal_bytes(got.data(), want.data(), want.size(), text("[%d, %d] dtype %d as format %d", n, k, dtype, format));
        }
      }
    }
}

} // namespace
} // namespace sy::conformance
