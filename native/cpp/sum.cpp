#include "sum.h"

#include <algorithm>
#include <cstring>

#include "numeric.h"
#include "team.h"
#include "tiles.h"

namespace sy {
namespace {

constexpr uint64_t wire_align = 8;
uint64_t padded(uint64_t bytes) { return (bytes + wire_align - 1) & ~(wire_align - 1); }

enum Code : uint8_t { code_poisoned = 0, code_f32 = 1, code_i16 = 2, code_i32 = 4, code_i64 = 8 };
uint64_t element_bytes(uint8_t code) { return code == code_f32 ? 4 : code; }

/* The narrowest integer that holds every element. v ^ (v >> 63) has the same highest bit for v and -v-1. */
uint8_t narrowest(const int64_t *row, int hidden) {
  uint64_t magnitude = 0;
  for (int i = 0; i < hidden; i++) magnitude |= (uint64_t)(row[i] ^ (row[i] >> 63));
  return magnitude < 0x8000u ? code_i16 : magnitude < 0x80000000u ? code_i32 : code_i64;
}

template <class T> void narrow(const int64_t *row, int hidden, uint8_t *out) {
  for (int i = 0; i < hidden; i++) {
    const T value = (T)row[i];
    memcpy(out + (size_t)i * sizeof(T), &value, sizeof(T));
  }
}

template <class T> void widen_add(const uint8_t *in, int hidden, int64_t *row) {
  for (int i = 0; i < hidden; i++) {
    T value;
    memcpy(&value, in + (size_t)i * sizeof(T), sizeof(T));
    row[i] = (int64_t)((uint64_t)row[i] + (uint64_t)(int64_t)value); // Unsigned: an overflow, which no honest peer can cause, stays defined.
  }
}

bool all_zero(const uint8_t *bytes, uint64_t count) {
  return std::all_of(bytes, bytes + count, [](uint8_t b) { return b == 0; });
}

bool within_wire_limit(const uint8_t *in, int hidden) {
  for (int i = 0; i < hidden; i++) {
    int64_t value;
    memcpy(&value, in + (size_t)i * 8, 8);
    if (value >= wire_limit || value <= -wire_limit) return false;
  }
  return true;
}

void require_rows(const RowSum &sum, int32_t rows, const int32_t *row) {
  if (rows < 0) fail(SY_INVALID_ARGUMENT, "rows %d is negative", rows);
  for (int i = 0; i < rows; i++)
    if (row[i] < 0 || row[i] >= sum.max_rows) fail(SY_INVALID_ARGUMENT, "row[%d] %d is not below %d", i, row[i], sum.max_rows);
}

/* Checks that `in` is exactly `rows` encoded rows, before anything is added. */
void parse(const RowSum &sum, int32_t rows, const uint8_t *in, uint64_t bytes) {
  uint64_t at = padded((uint64_t)rows);
  if (bytes < at) fail(SY_CORRUPT, "encoded rows: %llu bytes cannot hold the codes of %d rows", (unsigned long long)bytes, rows);
  if (!all_zero(in + rows, at - (uint64_t)rows)) fail(SY_CORRUPT, "encoded rows: padding after the codes is not zero");
  for (int i = 0; i < rows; i++) {
    const uint8_t code = in[i];
    const bool known = sum.mode == SY_SUM_FAST ? code == code_f32 : code == code_poisoned || code == code_i16 || code == code_i32 || code == code_i64;
    if (!known) fail(SY_CORRUPT, "encoded rows: code %d of row %d is not one of this sum's", code, i);
    const uint64_t payload = (uint64_t)sum.hidden * element_bytes(code), end = padded(payload);
    if (bytes - at < end) fail(SY_CORRUPT, "encoded rows: row %d ends at byte %llu of %llu", i, (unsigned long long)(at + end), (unsigned long long)bytes);
    if (!all_zero(in + at + payload, end - payload)) fail(SY_CORRUPT, "encoded rows: padding of row %d is not zero", i);
    if (code == code_i64 && !within_wire_limit(in + at, sum.hidden)) fail(SY_CORRUPT, "encoded rows: row %d has an element beyond 2^62", i);
    at += end;
  }
  if (at != bytes) fail(SY_CORRUPT, "encoded rows: %llu bytes follow the last row", (unsigned long long)(bytes - at));
}

/* The whole definition of COMBINE for one row. */
SY_FMA_CLONES void combine_row_ref(const RowSum &sum, int row, float unit, float multiplier, const float *shared, float *residual) {
  for (int i = 0; i < sum.hidden; i++) {
    float m = sum.mode == SY_SUM_EXACT ? (float)sum.exact(row)[i] * unit : sum.fast(row)[i];
    if (shared) m = m + shared[i];
    residual[i] = __builtin_fmaf(multiplier, m, residual[i]);
  }
}

} // namespace

void validate_grid(int grid) {
  if (grid < -grid_limit || grid > grid_limit) fail(SY_INVALID_ARGUMENT, "grid %d is not within +-%d", grid, grid_limit);
}

RowSumPtr sum_create(Isa isa, int32_t mode, int32_t max_rows, int32_t hidden) {
  if (mode != SY_SUM_EXACT && mode != SY_SUM_FAST) fail(SY_INVALID_ARGUMENT, "sum mode %d is not one of 0..%d", mode, SY_SUM_FAST);
  if (max_rows < 1 || hidden < 1) fail(SY_INVALID_ARGUMENT, "sum shape [%d, %d] must be at least [1, 1]", max_rows, hidden);
  if (max_rows > dimension_max || hidden > dimension_max)
    fail(SY_INVALID_ARGUMENT, "sum shape [%d, %d]: neither may exceed %d", max_rows, hidden, dimension_max);
  RowSumPtr sum(new RowSum{isa, mode, max_rows, hidden, sum_stride(hidden), {}, {}});
  sum->memory = Region(checked_bytes((__int128)max_rows * sum->stride * (mode == SY_SUM_EXACT ? 8 : 4), "a sum [%d, %d]", max_rows, hidden));
  sum->poisoned = Region((size_t)max_rows);
  return sum;
}

void RowSumDeleter::operator()(RowSum *sum) const { delete sum; }

int sum_max_rows(const RowSum &sum) { return sum.max_rows; }
int sum_hidden(const RowSum &sum) { return sum.hidden; }

void sum_clear(RowSum &sum, int32_t rows) {
  if (rows < 0 || rows > sum.max_rows) fail(SY_INVALID_ARGUMENT, "rows %d is not within 0..%d", rows, sum.max_rows);
  memset(sum.memory.data(), 0, (size_t)rows * (size_t)sum.stride * (sum.mode == SY_SUM_EXACT ? 8 : 4));
  memset(sum.poisoned.data(), 0, (size_t)rows);
}

uint64_t sum_encoded_max(int32_t rows, int32_t hidden) {
  if (rows < 1 || hidden < 1) return 0;
  const __int128 bytes = (__int128)padded((uint64_t)rows) + (__int128)rows * hidden * 8;
  return bytes > (__int128)UINT64_MAX ? UINT64_MAX : (uint64_t)bytes;
}

uint64_t sum_encode(const RowSum &sum, int32_t rows, const int32_t *row, uint8_t *out, uint64_t capacity) {
  require_rows(sum, rows, row);
  const uint64_t most = sum_encoded_max(rows, sum.hidden); // No size below exceeds it.
  if (most == UINT64_MAX) fail(SY_INVALID_ARGUMENT, "rows %d of %d elements: their wire form has no size", rows, sum.hidden);
  require_apart(rows, row, out, std::min(capacity, most));
  uint64_t bytes = padded((uint64_t)rows);
  if (capacity < bytes) fail(SY_INVALID_ARGUMENT, "capacity %llu cannot hold the codes of %d rows", (unsigned long long)capacity, rows);
  memset(out, 0, bytes);
  for (int i = 0; i < rows; i++) {
    const bool poisoned = sum.poisoned.data()[row[i]] != 0;
    out[i] = poisoned ? (uint8_t)code_poisoned : sum.mode == SY_SUM_FAST ? (uint8_t)code_f32 : narrowest(sum.exact(row[i]), sum.hidden);
    bytes += padded((uint64_t)sum.hidden * element_bytes(out[i]));
  }
  if (capacity < bytes) fail(SY_INVALID_ARGUMENT, "capacity %llu is below the %llu bytes of %d rows", (unsigned long long)capacity, (unsigned long long)bytes, rows);
  uint8_t *at = out + padded((uint64_t)rows);
  for (int i = 0; i < rows; i++) {
    const uint64_t payload = (uint64_t)sum.hidden * element_bytes(out[i]);
    switch (out[i]) {
    case code_poisoned: break;
    case code_f32: memcpy(at, sum.fast(row[i]), payload); break;
    case code_i16: narrow<int16_t>(sum.exact(row[i]), sum.hidden, at); break;
    case code_i32: narrow<int32_t>(sum.exact(row[i]), sum.hidden, at); break;
    default: memcpy(at, sum.exact(row[i]), payload);
    }
    memset(at + payload, 0, padded(payload) - payload);
    at += padded(payload);
  }
  return bytes;
}

void sum_add_encoded(RowSum &sum, int32_t rows, const int32_t *row, const uint8_t *in, uint64_t bytes) {
  require_rows(sum, rows, row);
  parse(sum, rows, in, bytes);
  const uint8_t *at = in + padded((uint64_t)rows);
  for (int i = 0; i < rows; i++) {
    switch (in[i]) {
    case code_poisoned: sum.poison(row[i]); break;
    case code_f32:
      for (int j = 0; j < sum.hidden; j++) {
        float value;
        memcpy(&value, at + (size_t)j * 4, 4);
        sum.fast(row[i])[j] += value;
      }
      break;
    case code_i16: widen_add<int16_t>(at, sum.hidden, sum.exact(row[i])); break;
    case code_i32: widen_add<int32_t>(at, sum.hidden, sum.exact(row[i])); break;
    default: widen_add<int64_t>(at, sum.hidden, sum.exact(row[i]));
    }
    at += padded((uint64_t)sum.hidden * element_bytes(in[i]));
  }
}

void combine(Pool &pool, const RowSum &sum, const CombineCall &call) {
  validate_grid(call.grid);
  for (int row = 0; row < call.rows; row++)
    if (sum.poisoned.data()[row]) call.marks.mark(row);
  const float unit = power_of_two(call.grid);
  const TileOps *ops = tile_ops(sum.isa);
  const bool alone = !ops || (int64_t)call.rows * sum.hidden < combine_alone_below;
  share(pool, alone, [&](const Team &team) {
    const Range rows = team.part(call.rows);
    for (int row = rows.begin; row < rows.end; row++) {
      const float *shared = call.shared ? call.shared + row * call.lds : nullptr;
      float *residual = call.residual + row * call.ldr;
      if (!ops) combine_row_ref(sum, row, unit, call.multiplier, shared, residual);
      else if (sum.mode == SY_SUM_EXACT) ops->combine_exact(sum.exact(row), sum.hidden, unit, call.multiplier, shared, residual);
      else ops->combine_fast(sum.fast(row), sum.hidden, call.multiplier, shared, residual);
    }
  });
}

} // namespace sy
