/* Rows of activations as bytes between workers. */
#include <cstring>

#include "kernels.h"
#include "numeric.h"

namespace sy {
namespace {

uint64_t element_bytes(int32_t dtype) {
  if (dtype == SY_F32) return 4;
  if (dtype == SY_BF16) return 2;
  fail(SY_INVALID_ARGUMENT, "rows travel as f32 or bf16, not as dtype %d", dtype);
}

SY_AVX2_CLONES void round_row(const float *x, int width, uint8_t *out) {
  for (int i = 0; i < width; i++) {
    const uint16_t value = to_bf16(x[i]);
    memcpy(out + (size_t)i * 2, &value, 2);
  }
}

} // namespace

uint64_t rows_encode(const float *x, int32_t x_rows, int32_t width, int32_t rows, const int32_t *row, int32_t dtype, uint8_t *out, uint64_t capacity) {
  if (rows < 0) fail(SY_INVALID_ARGUMENT, "rows %d is negative", rows);
  const uint64_t row_bytes = (uint64_t)width * element_bytes(dtype), bytes = row_bytes * (uint64_t)rows;
  if (capacity < bytes) fail(SY_INVALID_ARGUMENT, "capacity %llu is below the %llu bytes of %d rows", (unsigned long long)capacity, (unsigned long long)bytes, rows);
  for (int i = 0; i < rows; i++)
    if (row[i] < 0 || row[i] >= x_rows) fail(SY_INVALID_ARGUMENT, "row[%d] %d is not below %d", i, row[i], x_rows);
  for (int i = 0; i < rows; i++, out += row_bytes) {
    const float *from = x + (int64_t)row[i] * width;
    if (dtype == SY_F32) memcpy(out, from, row_bytes);
    else round_row(from, width, out);
  }
  return bytes;
}

void rows_decode(float *x, int32_t x_rows, int32_t width, int32_t rows, int32_t dtype, const uint8_t *in, uint64_t bytes) {
  const uint64_t row_bytes = (uint64_t)width * element_bytes(dtype);
  if (rows < 0 || rows > x_rows) fail(SY_INVALID_ARGUMENT, "rows %d is not within 0..%d", rows, x_rows);
  if (bytes != row_bytes * (uint64_t)rows)
    fail(SY_CORRUPT, "%llu bytes are not %d rows of %llu", (unsigned long long)bytes, rows, (unsigned long long)row_bytes);
  if (dtype == SY_F32) {
    memcpy(x, in, bytes);
    return;
  }
  for (uint64_t i = 0; i < (uint64_t)rows * (uint64_t)width; i++) {
    uint16_t value;
    memcpy(&value, in + i * 2, 2);
    x[i] = from_bf16(value);
  }
}

} // namespace sy
