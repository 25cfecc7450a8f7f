/* Sums of contributions and rows on the wire. */
#include <algorithm>
#include <cmath>
#include <cstring>

#include "conformance.h"
#include "float_environment.h"
#include "numeric.h"
#include "sum.h"

namespace sy::conformance {
namespace {

std::vector<int32_t> first_rows(int rows) {
  std::vector<int32_t> row((size_t)rows);
  for (int i = 0; i < rows; i++) row[(size_t)i] = i;
  return row;
}

std::vector<uint8_t> encoded(const RowSum &sum, const std::vector<int32_t> &row) {
  std::vector<uint8_t> bytes(sum_encoded_max((int)row.size(), sum_hidden(sum)));
  bytes.resize(sum_encode(sum, (int)row.size(), row.data(), bytes.data(), bytes.size()));
  return bytes;
}

/* A sum whose rows need different widths: small, int32 and int64 elements. */
RowSumPtr filled(Random &random, Isa isa, int rows, int hidden) {
  RowSumPtr sum = sum_create(isa, SY_SUM_EXACT, rows, hidden);
  for (int row = 0; row < rows; row++) {
    const int bits = (row % 4 == 0 ? 13 : row % 4 == 1 ? 30 : row % 4 == 2 ? 50 : 1);
    for (int i = 0; i < hidden; i++) sum->exact(row)[i] = (int64_t)(random.bits() >> (64 - bits)) - (int64_t{1} << (bits - 1));
  }
  return sum;
}

} // namespace

SY_SUITE(sum_wire) {
  Random random(21);
  for (const int hidden : {1, 3, 4, 33, 256}) {
    const int rows = 11;
    const RowSumPtr a = filled(random, Isa::ref, rows, hidden);
    std::vector<int32_t> row = first_rows(rows);
    std::reverse(row.begin(), row.end());
    row[2] = 0; // A row may be sent twice.
    const std::vector<uint8_t> bytes = encoded(*a, row);
    check.is_true(bytes.size() % 8 == 0 && bytes.size() <= sum_encoded_max(rows, hidden), "encoded size");
    const RowSumPtr b = sum_create(Isa::ref, SY_SUM_EXACT, rows, hidden);
    sum_add_encoded(*b, rows, first_rows(rows).data(), bytes.data(), bytes.size());
    for (int i = 0; i < rows; i++) check.equal_bytes(b->exact(i), a->exact(row[(size_t)i]), (size_t)hidden * 8, text("row %d comes back, hidden %d", i, hidden));

    // The narrowest width that holds the row, at its exact edges.
    const struct { int64_t value; int width; } edges[] = {{32767, 2}, {-32768, 2}, {32768, 4}, {-32769, 4}, {2147483647, 4}, {-2147483648ll, 4}, {2147483648ll, 8}, {-2147483649ll, 8}};
    for (const auto &edge : edges) {
      const RowSumPtr one = sum_create(Isa::ref, SY_SUM_EXACT, 1, hidden);
      one->exact(0)[hidden / 2] = edge.value;
      check.is_true(encoded(*one, {0})[0] == edge.width, text("width of %lld", (long long)edge.value));
    }
  }
}

/* Any order and any grouping of the same contributions gives the same bytes. */
SY_SUITE(sum_order) {
  Random random(22);
  const int hidden = 70, parts = 9;
  for (int round = 0; round < 20; round++) {
    std::vector<std::vector<uint8_t>> part(parts);
    for (auto &bytes : part) bytes = encoded(*filled(random, Isa::ref, 4, hidden), {random.below(4)});
    std::vector<uint8_t> want;
    for (int order = 0; order < 8; order++) {
      for (int i = parts - 1; i > 0; i--) std::swap(part[(size_t)i], part[(size_t)random.below(i + 1)]);
      // Hops: rows 0 and 1 collect some parts each, then row 1 travels and is added to row 0.
      const RowSumPtr sum = sum_create(Isa::ref, SY_SUM_EXACT, 2, hidden);
      for (const auto &bytes : part) {
        const int32_t to = random.below(2);
        sum_add_encoded(*sum, 1, &to, bytes.data(), bytes.size());
      }
      const std::vector<uint8_t> hop = encoded(*sum, {1});
      const int32_t zero = 0;
      sum_add_encoded(*sum, 1, &zero, hop.data(), hop.size());
      const std::vector<uint8_t> got = encoded(*sum, {0});
      if (order == 0) want = got;
      check.is_true(got == want, text("order %d of round %d", order, round));
    }
  }
}

/* Bytes from a peer are hostile: whatever does not parse exactly changes nothing. */
SY_SUITE(sum_corrupt) {
  Random random(23);
  const int rows = 5, hidden = 9;
  const RowSumPtr source = filled(random, Isa::ref, rows, hidden), target = filled(random, Isa::ref, rows, hidden);
  const std::vector<uint8_t> good = encoded(*source, first_rows(rows)), before = encoded(*target, first_rows(rows));
  const auto refused = [&](std::vector<uint8_t> bytes, const std::string &what) {
    const std::vector<int32_t> row = first_rows(rows);
    check.fails(SY_CORRUPT, [&] { sum_add_encoded(*target, rows, row.data(), bytes.data(), bytes.size()); }, what);
    check.is_true(encoded(*target, row) == before, what + " left the sum alone");
  };
  for (size_t cut = 0; cut < good.size(); cut++) refused(std::vector<uint8_t>(good.begin(), good.begin() + (long)cut), text("cut at %zu", cut));
  std::vector<uint8_t> bytes = good;
  bytes.insert(bytes.end(), 8, 0);
  refused(bytes, "eight bytes too many");
  for (int code = 0; code < 256; code++) {
    if (code == 2 || code == 4 || code == 8) continue;
    bytes = good;
    bytes[3] = (uint8_t)code;
    refused(bytes, text("code %d", code));
  }
  bytes = good;
  bytes[6] = 1;
  refused(bytes, "padding of the codes");
  bytes = good;
  bytes[8 + hidden * 2] = 1;
  refused(bytes, "padding of row 0");
  const RowSumPtr huge = sum_create(Isa::ref, SY_SUM_EXACT, rows, hidden);
  huge->exact(1)[2] = wire_limit;
  refused(encoded(*huge, first_rows(rows)), "an element beyond 2^62");
  const std::vector<int32_t> outside = {0, 1, 2, 3, 5};
  check.fails(SY_INVALID_ARGUMENT, [&] { sum_add_encoded(*target, rows, outside.data(), good.data(), good.size()); }, "row outside the sum");
  check.fails(SY_INVALID_ARGUMENT, [&] { sum_encode(*source, rows, outside.data(), bytes.data(), bytes.size()); }, "encoded row outside the sum");
  check.fails(SY_INVALID_ARGUMENT, [&] { sum_encode(*source, rows, first_rows(rows).data(), bytes.data(), good.size() - 1); }, "capacity one byte short");
  source->poison(2);
  const std::vector<uint8_t> with_poison = encoded(*source, first_rows(rows));
  check.is_true(with_poison[2] == 0, "a poisoned row travels as a code alone");
  sum_clear(*target, rows);
  sum_add_encoded(*target, rows, first_rows(rows).data(), with_poison.data(), with_poison.size());
  for (int row = 0; row < rows; row++) {
    check.is_true((target->poisoned.data()[row] != 0) == (row == 2), "only the poisoned row arrives poisoned");
    if (row != 2) check.equal_bytes(target->exact(row), source->exact(row), (size_t)hidden * 8, "rows beside a poisoned one");
  }
  sum_clear(*source, 3);
  check.is_true(encoded(*source, {2})[0] == 2, "clearing heals a poisoned row");
}

SY_SUITE(combine) {
  Random random(24);
  for (const int hidden : {1, 15, 16, 50, 256})
    for (const int mode : {(int)SY_SUM_EXACT, (int)SY_SUM_FAST})
      for (const int rows : {1, 7, 300}) {
        const int64_t ldr = hidden + 2, lds = hidden + 1;
        const std::vector<float> residual = random.normals((size_t)(rows * ldr), 1.0f), shared = random.normals((size_t)(rows * lds), 1.0f);
        std::vector<float> fast = random.normals((size_t)rows * hidden, 1.0f);
        const uint64_t seed = random.bits();
        for (const bool with_shared : {false, true}) {
          const auto run = [&](Isa isa) {
            Random again(seed);
            const RowSumPtr sum = mode == SY_SUM_EXACT ? filled(again, isa, rows, hidden) : sum_create(isa, mode, rows, hidden);
            if (mode == SY_SUM_FAST)
              for (int row = 0; row < rows; row++) std::copy_n(fast.begin() + (long)row * hidden, hidden, sum->fast(row));
            std::vector<float> out = residual;
            std::vector<int32_t> status((size_t)rows);
            combine(pool_of(2), *sum, {rows, -24, 0.75f, out.data(), ldr, with_shared ? shared.data() : nullptr, lds, {status.data(), 1}});
            return out;
          };
          const std::vector<float> want = run(Isa::ref);
          for (const Isa isa : simd_isas())
            check.equal(run(isa).data(), want.data(), want.size(), text("combine %s mode %d hidden %d rows %d", name_of(isa), mode, hidden, rows));
        }
      }
  const RowSumPtr sum = sum_create(Isa::ref, SY_SUM_EXACT, 4, 3);
  std::vector<float> residual(12);
  sum->poison(3);
  std::vector<int32_t> status = {5, 0, 0, 0};
  combine(pool_of(1), *sum, {4, 0, 1.0f, residual.data(), 3, nullptr, 0, {status.data(), 9}});
  check.is_true(status == std::vector<int32_t>{5, 0, 0, 9}, "combining marks a poisoned row, and no other");
  check.fails(SY_INVALID_ARGUMENT, [&] { combine(pool_of(1), *sum, {1, 121, 1.0f, residual.data(), 3, nullptr, 0, {status.data(), 9}}); }, "grid beyond the limit");
}

/* What a row turns into on its way, by definition: value by value. */
std::vector<float> row_after(int dtype, const float *x, int width) {
  std::vector<float> out(x, x + width);
  if (dtype == SY_ROW_BF16)
    for (float &v : out) v = from_bf16(to_bf16(v));
  const int group = dtype == SY_ROW_I8 ? width : SY_ROW_F8_GROUP;
  if (dtype != SY_ROW_I8 && dtype != SY_ROW_F8) return out;
  for (int begin = 0; begin < width; begin += group) {
    const int end = std::min(begin + group, width);
    float largest = 0.0f;
    bool finite = true;
    for (int i = begin; i < end; i++) {
      finite = finite && is_finite(x[i]);
      largest = std::max(largest, std::fabs(x[i]));
    }
    const GroupScale scale = group_scale(largest, finite, dtype == SY_ROW_I8 ? 127.0f : 448.0f);
    for (int i = begin; i < end; i++) {
      const float steps = scale.inverse == 0.0f ? 0.0f : x[i] * scale.inverse;
      float nearest = dtype == SY_ROW_I8 ? (float)(int)nearbyintf(steps) : 0.0f;
      if (dtype == SY_ROW_F8) {
        float distance = INFINITY;
        for (int code = 0; code < 0x7f; code++) { // Of two equally near, the even code.
          const float value = from_f8_e4m3((uint8_t)code), off = std::fabs(std::fabs(steps) - value);
          if (off < distance || (off == distance && code % 2 == 0)) distance = off, nearest = value;
        }
        nearest = std::copysign(nearest, steps);
      }
      out[(size_t)i] = nearest * scale.scale;
    }
  }
  return out;
}

SY_SUITE(rows_wire) {
  const FlushDenormals flush;
  Random random(25);
  const uint64_t scale_bytes = 4;
  for (const int width : {1, 5, 64, 128, 300}) {
    const int rows = 6;
    std::vector<float> x = random.normals((size_t)rows * width, 3.0f);
    for (int j = 0; j < width; j++) x[(size_t)(2 * width + j)] = 0.0f;
    x[(size_t)(3 * width)] = 1e30f;
    for (int j = 1; j < width; j++) x[(size_t)(3 * width + j)] *= 0x1p-100f; // Steps far below one.
    for (int j = 0; j < width; j++) x[(size_t)(4 * width + j)] = (float)(j % 9) - 4.0f + 0.0625f * (float)(j % 17); // Ties.
    x[(size_t)(5 * width + width / 2)] = width == 5 ? NAN : -INFINITY;
    const std::vector<int32_t> row = {5, 0, 0, 3, 1, 2, 4};
    for (const int dtype : {(int)SY_ROW_F32, (int)SY_ROW_BF16, (int)SY_ROW_I8, (int)SY_ROW_F8}) {
      const int sent = (int)row.size();
      std::vector<uint8_t> bytes((size_t)sent * ((size_t)width * 4 + 4));
      const uint64_t written = rows_encode(x.data(), rows, width, sent, row.data(), dtype, bytes.data(), bytes.size());
      const uint64_t scales = dtype == SY_ROW_I8 ? 1 : dtype == SY_ROW_F8 ? (uint64_t)(width + 127) / 128 : 0;
      const uint64_t element = dtype == SY_ROW_F32 ? 4 : dtype == SY_ROW_BF16 ? 2 : 1;
      check.is_true(written == (uint64_t)sent * (width * element + scales * scale_bytes), "bytes written");
      std::vector<float> back((size_t)sent * width);
      rows_decode(back.data(), sent, width, sent, dtype, bytes.data(), written);
      for (int i = 0; i < sent; i++) {
        const std::vector<float> want = row_after(dtype, x.data() + (size_t)row[(size_t)i] * width, width);
        check.equal(&back[(size_t)i * width], want.data(), (size_t)width, text("row %d of width %d as dtype %d", i, width, dtype));
      }
      check.fails(SY_INVALID_ARGUMENT, [&] { rows_encode(x.data(), rows, width, sent, row.data(), dtype, bytes.data(), written - 1); }, "capacity");
      check.fails(SY_CORRUPT, [&] { rows_decode(back.data(), sent, width, sent, dtype, bytes.data(), written - 1); }, "a byte missing");
      check.fails(SY_INVALID_ARGUMENT, [&] { rows_decode(back.data(), sent, width, sent + 1, dtype, bytes.data(), written); }, "too many rows");
      check.fails(SY_INVALID_ARGUMENT, [&] { rows_encode(x.data(), rows - 1, width, sent, row.data(), dtype, bytes.data(), bytes.size()); }, "row outside");
    }
    check.fails(SY_INVALID_ARGUMENT, [&] { rows_encode(x.data(), rows, width, 0, nullptr, 4, nullptr, 0); }, "dtype");
  }
}

} // namespace sy::conformance
