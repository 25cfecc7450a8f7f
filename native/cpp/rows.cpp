/* Rows of activations as bytes between workers. */
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "numeric.h"

namespace sy {
namespace {

constexpr int fp8_group = SY_ROW_F8_GROUP;
constexpr float fp8_largest = 448.0f;
static_assert(dimension_max <= INT32_MAX - fp8_group, "the end of a row's last group is an int");

int fp8_groups(int width) { return (width + fp8_group - 1) / fp8_group; }

/* E4M3 of |v| <= 448 (a little more rounds to 448), nearest even. */
inline uint8_t to_f8_e4m3(float v) {
  const uint32_t u = bits_of(v), magnitude = u & 0x7fffffffu;
  const uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
  const uint32_t small = (uint32_t)(int32_t)lrintf(float_of(magnitude) * 512.0f); // Multiples of 2^-9 up to 8, the smallest normal.
  return (uint8_t)((u >> 24 & 0x80u) | (magnitude < 0x3c800000u ? small : normal));
}

/* Values of all bytes; a worker decodes millions. */
const float *fp8_values() {
  static const struct Table {
    float of[256];
    Table() {
      for (int b = 0; b < 256; b++) of[b] = from_f8_e4m3((uint8_t)b);
    }
  } table;
  return table.of;
}

/* Of the largest magnitude among n values, for `steps` steps. */
SY_AVX2_CLONES GroupScale scale_of(const float *x, int n, float steps) {
  uint32_t largest = 0; // Magnitudes order as their bits do, infinities and NaN above all numbers.
  for (int i = 0; i < n; i++) largest = std::max(largest, bits_of(x[i]) & 0x7fffffffu);
  return group_scale(float_of(largest), is_finite(float_of(largest)), steps);
}

SY_AVX2_CLONES void to_bytes_bf16(const float *x, int width, uint8_t *out) {
  for (int i = 0; i < width; i++) {
    const uint16_t value = to_bf16(x[i]);
    memcpy(out + (size_t)i * 2, &value, 2);
  }
}

SY_AVX2_CLONES void to_bytes_i8(const float *x, int width, uint8_t *out) {
  const GroupScale scale = scale_of(x, width, 127.0f);
  memcpy(out, &scale.scale, 4);
  for (int i = 0; i < width; i++) out[4 + i] = (uint8_t)(int8_t)quantise(x[i], scale.inverse, 127);
}

SY_AVX2_CLONES void to_bytes_f8(const float *x, int width, uint8_t *out) {
  uint8_t *values = out + (size_t)fp8_groups(width) * 4;
  for (int begin = 0; begin < width; begin += fp8_group, out += 4) {
    const int count = std::min(fp8_group, width - begin);
    const GroupScale scale = scale_of(x + begin, count, fp8_largest);
    memcpy(out, &scale.scale, 4);
    for (int i = begin; i < begin + count; i++) values[i] = scale.inverse == 0.0f ? 0 : to_f8_e4m3(x[i] * scale.inverse);
  }
}

void from_bytes_i8(const uint8_t *in, int width, float *x) {
  float scale;
  memcpy(&scale, in, 4);
  for (int i = 0; i < width; i++) x[i] = (float)(int8_t)in[4 + i] * scale;
}

void from_bytes_f8(const uint8_t *in, int width, float *x) {
  const float *value_of = fp8_values();
  const uint8_t *values = in + (size_t)fp8_groups(width) * 4;
  for (int begin = 0; begin < width; begin += fp8_group, in += 4) {
    float scale;
    memcpy(&scale, in, 4);
    for (int i = begin; i < std::min(begin + fp8_group, width); i++) x[i] = value_of[values[i]] * scale;
  }
}

uint64_t row_bytes(int32_t dtype, int32_t width) {
  switch (dtype) {
  case SY_ROW_F32: return (uint64_t)width * 4;
  case SY_ROW_BF16: return (uint64_t)width * 2;
  case SY_ROW_I8: return (uint64_t)width + 4;
  case SY_ROW_F8: return (uint64_t)width + (uint64_t)fp8_groups(width) * 4;
  default: fail(SY_INVALID_ARGUMENT, "row dtype %d: rows travel as f32 (%d), bf16 (%d), int8 (%d) or fp8 (%d)", dtype, SY_ROW_F32, SY_ROW_BF16, SY_ROW_I8, SY_ROW_F8);
  }
}

} // namespace

void require_apart(int32_t rows, const int32_t *row, const uint8_t *out, uint64_t bytes) {
  const uintptr_t read = reinterpret_cast<uintptr_t>(row), written = reinterpret_cast<uintptr_t>(out);
  if (read < written + bytes && written < read + (uint64_t)rows * sizeof *row) fail(SY_INVALID_ARGUMENT, "out overlaps row: %d row numbers are read while it is written", rows);
}

uint64_t rows_encode(const float *x, int32_t x_rows, int32_t width, int32_t rows, const int32_t *row, int32_t dtype, uint8_t *out, uint64_t capacity) {
  if (rows < 0) fail(SY_INVALID_ARGUMENT, "rows %d is negative", rows);
  const uint64_t each = row_bytes(dtype, width), bytes = each * (uint64_t)rows;
  if (capacity < bytes) fail(SY_INVALID_ARGUMENT, "capacity %llu is below the %llu bytes of %d rows", (unsigned long long)capacity, (unsigned long long)bytes, rows);
  for (int i = 0; i < rows; i++)
    if (row[i] < 0 || row[i] >= x_rows) fail(SY_INVALID_ARGUMENT, "row[%d] %d is not below %d", i, row[i], x_rows);
  require_apart(rows, row, out, bytes);
  for (int i = 0; i < rows; i++, out += each) {
    const float *from = x + (int64_t)row[i] * width;
    if (dtype == SY_ROW_F32) memcpy(out, from, each);
    else if (dtype == SY_ROW_BF16) to_bytes_bf16(from, width, out);
    else if (dtype == SY_ROW_I8) to_bytes_i8(from, width, out);
    else to_bytes_f8(from, width, out);
  }
  return bytes;
}

void rows_decode(float *x, int32_t x_rows, int32_t width, int32_t rows, int32_t dtype, const uint8_t *in, uint64_t bytes) {
  const uint64_t each = row_bytes(dtype, width);
  if (rows < 0 || rows > x_rows) fail(SY_INVALID_ARGUMENT, "rows %d is not within 0..%d", rows, x_rows);
  if (bytes != each * (uint64_t)rows) fail(SY_CORRUPT, "%llu bytes are not %d rows of %llu", (unsigned long long)bytes, rows, (unsigned long long)each);
  if (dtype == SY_ROW_F32) {
    memcpy(x, in, bytes);
    return;
  }
  if (dtype != SY_ROW_BF16) {
    for (int i = 0; i < rows; i++, in += each, x += width)
      if (dtype == SY_ROW_I8) from_bytes_i8(in, width, x);
      else from_bytes_f8(in, width, x);
    return;
  }
  for (uint64_t i = 0; i < (uint64_t)rows * (uint64_t)width; i++) {
    uint16_t value;
    memcpy(&value, in + i * 2, 2);
    x[i] = from_bf16(value);
  }
}

} // namespace sy
