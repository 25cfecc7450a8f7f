/* Sources, packing, linear and head-linear layers. */
#include <cstring>

#include "conformance.h"
#include "numeric.h"

namespace sy::conformance {
namespace {

constexpr int formats = SY_W_I4 + 1;

/* Weights with everything that a format must survive: denormals, infinities' neighbours, exact zeros, whole zero groups. */
std::vector<float> weights(Random &random, int n, int k) {
  std::vector<float> w = random.normals((size_t)n * k, 0.05f);
  for (size_t i = 0; i < w.size(); i++)
    if (random.below(97) == 0) w[i] = float_of((uint32_t)random.bits() & 0x807fffffu);
  if (k >= 64)
    for (int i = 0; i < 64; i++) w[(size_t)i] = 0.0f;
  return w;
}

std::vector<float> inputs(Random &random, size_t count, bool extreme) {
  std::vector<float> x = random.normals(count, 1.0f);
  for (float &v : x) {
    const int kind = random.below(extreme ? 40 : 400);
    if (kind == 0) v = float_of((uint32_t)random.bits() & 0x807fffffu);
    else if (kind == 1) v = -0.0f;
    else if (extreme && kind == 2) v *= 1e30f;
    else if (extreme && kind == 3) v *= 1e-36f;
    else if (extreme && kind == 4 && random.below(20) == 0) v = INFINITY;
    else if (extreme && kind == 5 && random.below(20) == 0) v = NAN;
  }
  return x;
}

struct LinearCase {
  int format, rows, n, k, threads;
  bool bias, add, extreme;
  float scale;
};

std::string describe(const char *op, Isa isa, const LinearCase &c) {
  return text("%s %s format %d rows %d n %d k %d threads %d bias %d add %d extreme %d", op, name_of(isa), c.format, c.rows, c.n, c.k, c.threads, c.bias, c.add,
              c.extreme);
}

std::vector<float> run_linear(Isa isa, const LinearCase &c, const MemoryFile &file, const std::vector<float> &x, const std::vector<float> &bias,
                              const std::vector<float> &before) {
  Pool &pool = pool_of(c.threads);
  const WeightPtr weight = weight_create(isa, c.format, c.n, c.k);
  const int half = c.n / 2; // Two parts, so that a matrix may begin inside a panel.
  if (half > 0) weight_set(*weight, pool, 0, dense(file, half, c.k));
  weight_set(*weight, pool, half, dense(file, c.n - half, c.k, (size_t)half * c.k));
  std::vector<float> out = before;
  const Region workspace = used_workspace(linear_workspace_bytes(*weight, c.rows, c.threads));
  LinearCall call{x.data(), c.k + 3, out.data() + 1, c.n + 5, c.rows, c.bias ? bias.data() : nullptr, c.add, c.scale};
  linear(pool, *weight, call, workspace.data());
  return out;
}

void check_linear(Check &check, Random &random, const LinearCase &c) {
  const auto file = MemoryFile::of(weights(random, c.n, c.k));
  const std::vector<float> x = inputs(random, (size_t)c.rows * (c.k + 3), c.extreme), bias = random.normals((size_t)c.n, 1.0f);
  const std::vector<float> before = random.normals((size_t)c.rows * (c.n + 5) + 1, 1.0f);
  const std::vector<float> want = run_linear(Isa::ref, c, *file, x, bias, before);
  for (const Isa isa : simd_isas()) {
    const std::vector<float> got = run_linear(isa, c, *file, x, bias, before);
    check.equal(got.data(), want.data(), got.size(), describe("linear", isa, c)); // Includes the columns that must not be written.
  }
}

} // namespace

SY_SUITE(linear) {
  Random random(11);
  const int columns[] = {1, 7, 16, 31, 32, 33, 96, 200}, depths[] = {1, 2, 3, 15, 16, 63, 64, 65, 96, 130, 256};
  for (int format = 0; format < formats; format++) {
    for (int rows = 1; rows <= 40; rows++) {
      const int n = columns[random.below(8)], k = depths[random.below(11)];
      check_linear(check, random, {format, rows, n, k, 1 + rows % 3, rows % 2 == 0, rows % 5 == 0, rows % 7 == 0, rows % 3 ? 1.0f : 0.37f});
    }
    for (const int n : columns)
      for (const int k : depths) check_linear(check, random, {format, 1 + random.below(3), n, k, 1 + random.below(3), false, false, false, 1.0f});
    check_linear(check, random, {format, 97, 160, 192, 3, true, true, false, 0.5f});
    check_linear(check, random, {format, 160, 96, 130, 3, true, true, false, 0.5f}); // Divided by rows, also where tiles are highest.
    check_linear(check, random, {format, 13, 700, 1030, 2, true, false, true, 1.0f}); // Large enough to be shared out.
    check_linear(check, random, {format, 1, 2050, 770, 3, false, true, false, 1.0f});
    check_linear(check, random, {format, 2, 1500, 1026, 2, true, false, false, 1.0f});
  }
  check_linear(check, random, {SY_W_F32, 160, 1100, 4096, 3, true, false, false, 1.0f}); // Too large for a cache: rows are divided into as many groups as threads.
}

/* A row's result must be the same alone and among others, wherever it stands. */
SY_SUITE(linear_rows) {
  Random random(12);
  const int n = 96, k = 160, rows = 37;
  for (const Isa isa : simd_isas())
    for (int format = 0; format < formats; format++) {
      const auto file = MemoryFile::of(weights(random, n, k));
      const WeightPtr weight = weight_create(isa, format, n, k);
      weight_set(*weight, pool_of(2), 0, dense(*file, n, k));
      const std::vector<float> x = inputs(random, (size_t)rows * k, false);
      std::vector<float> together((size_t)rows * n), alone((size_t)n);
      const Region workspace = used_workspace(linear_workspace_bytes(*weight, rows, 3));
      linear(pool_of(3), *weight, {x.data(), k, together.data(), n, rows, nullptr, false, 1.0f}, workspace.data());
      for (int row = 0; row < rows; row++) {
        linear(pool_of(1), *weight, {x.data() + (size_t)row * k, k, alone.data(), n, 1, nullptr, false, 1.0f}, workspace.data());
        check.equal(together.data() + (size_t)row * n, alone.data(), (size_t)n, text("row %d alone, %s format %d", row, name_of(isa), format));
      }
    }
}

SY_SUITE(head_linear) {
  Random random(13);
  // The last is too large for a cache; its many rows would only take time.
  const struct { int heads, out_dim, k, most_rows; } shapes[] = {{1, 32, 64, 40}, {3, 20, 33, 40}, {4, 64, 128, 40}, {5, 48, 16, 40}, {2, 7, 66, 40}, {16, 128, 96, 40}, {5, 100, 2300, 2}};
  for (const auto &shape : shapes)
    for (const int rows : {1, 2, 6, 7, 12, 13, 25, 40})
      for (int format = 0; format < formats && rows <= shape.most_rows; format++) {
        const int n = shape.heads * shape.out_dim, threads = 1 + rows % 3;
        const auto file = MemoryFile::of(weights(random, n, shape.k));
        const bool same_input = (rows + format) % 2 == 0; // For all heads.
        const int64_t x_stride = same_input ? 0 : shape.k + 2, ldx = shape.heads * (shape.k + 2) + 1, out_stride = shape.out_dim + 3, ldo = shape.heads * out_stride + 2;
        const std::vector<float> x = inputs(random, (size_t)(rows * ldx), rows == 7), before = random.normals((size_t)(rows * ldo), 1.0f);
        const auto run = [&](Isa isa) {
          const WeightPtr weight = weight_create(isa, format, n, shape.k);
          weight_set(*weight, pool_of(threads), 0, dense(*file, n, shape.k));
          std::vector<float> out = before;
          const Region workspace = used_workspace(head_linear_workspace_bytes(*weight, rows, shape.heads, threads));
          head_linear(pool_of(threads), *weight, {x.data(), ldx, x_stride, out.data(), ldo, out_stride, rows, shape.heads, shape.out_dim}, workspace.data());
          return out;
        };
        const std::vector<float> want = run(Isa::ref);
        for (const Isa isa : simd_isas())
          check.equal(run(isa).data(), want.data(), want.size(),
                      text("head linear %s format %d heads %d out %d k %d rows %d", name_of(isa), format, shape.heads, shape.out_dim, shape.k, rows));
      }
}

/* Scalars that the oracle itself stands on. */
SY_SUITE(numeric) {
  for (uint32_t h = 0; h < 0x10000u; h++) {
    const float f = from_f16((uint16_t)h);
    if (f == f) check.is_true(to_f16(f) == h, text("f16 %04x survives f32", h));
    const float b = from_bf16((uint16_t)h);
    const bool denormal = (h & 0x7f80u) == 0;
    if (b == b) check.is_true(to_bf16(b) == (denormal ? (h & 0x8000u) : h), text("bf16 %04x survives f32", h));
  }
  check.is_true(to_f16(65519.0f) == 0x7bff && to_f16(65520.0f) == 0x7c00, "f16 rounds to infinity at 65520");
  check.is_true(to_f16(0x1p-25f) == 0 && to_f16(0x1.8p-25f) == 1 && to_f16(0x1.8p-24f) == 2, "f16 denormals tie to even");
  check.is_true(to_bf16(float_of(0x3f808000u)) == 0x3f80 && to_bf16(float_of(0x3f818000u)) == 0x3f82, "bf16 ties to even");
  check.is_true(from_f8_e4m3(0x7e) == 448.0f && from_f8_e4m3(0x01) == 0x1p-9f && from_f8_e4m3(0xb8) == -1.0f, "e4m3 values");
  check.is_true(from_f8_e4m3(0x7f) != from_f8_e4m3(0x7f), "e4m3 0x7f is NaN");
  check.is_true(quantise(0.5f, 1.0f, 127) == 0 && quantise(1.5f, 1.0f, 127) == 2 && quantise(-200.0f, 1.0f, 127) == -127, "steps tie to even and stay in range");
}

SY_SUITE(source) {
  Random random(14);
  std::vector<uint8_t> bytes(4096);
  for (uint8_t &b : bytes) b = (uint8_t)random.bits();
  const MemoryFile file(bytes);
  float out[64];
  sy_source s{};
  s.file = &file;
  s.dtype = SY_BF16;
  s.offset = 10;
  s.stride_n = 1;
  s.stride_k = 9;
  s.n = 9;
  s.k = 20;
  validate(s, "transposed");
  load_f32(s, 4, 3, 17, out);
  for (int i = 0; i < 17; i++) {
    uint16_t b;
    memcpy(&b, bytes.data() + 10 + (4 + 9 * (3 + i)) * 2, 2);
    const float want = from_bf16(b);
    check.equal(&out[i], &want, 1, "transposed bf16");
  }

  s = {};
  s.file = s.scale_file = &file;
  s.dtype = SY_F8_E4M3;
  s.stride_n = 40;
  s.stride_k = 1;
  s.n = 6;
  s.k = 40;
  s.scale_offset = 1000;
  s.scale_stride = 5;
  s.block_n = 4;
  s.block_k = 16;
  s.n0 = 3;
  s.k0 = 10;
  validate(s, "f8");
  load_f32(s, 5, 2, 38, out);
  for (int i = 0; i < 38; i++) {
    float scale;
    memcpy(&scale, bytes.data() + 1000 + (((3 + 5) / 4) * 5 + (10 + 2 + i) / 16) * 4, 4);
    const float want = from_f8_e4m3(bytes[(size_t)(5 * 40 + 2 + i)]) * scale;
    check.equal(&out[i], &want, 1, "f8 with block scales");
  }

  s = {};
  s.file = s.scale_file = &file;
  s.dtype = SY_MXFP4;
  s.stride_n = 32;
  s.n = 3;
  s.k = 64;
  s.scale_offset = 2000;
  s.scale_stride = 2;
  bytes[2000 + 2 * 2 + 1] = 120;
  const MemoryFile scaled(bytes);
  s.file = s.scale_file = &scaled;
  validate(s, "mxfp4");
  load_f32(s, 2, 32, 32, out);
  for (int i = 0; i < 32; i++) {
    const uint8_t byte = bytes[(size_t)(2 * 32 + (32 + i) / 2)];
    const float want = from_f4_e2m1(i % 2 ? byte >> 4 : byte & 15u) * 0x1p-7f;
    check.equal(&out[i], &want, 1, "mxfp4");
  }

  const auto refused = [&](const char *what, const std::function<void(sy_source &)> &spoil) {
    sy_source bad = dense(file, 8, 16);
    spoil(bad);
    check.fails(SY_INVALID_ARGUMENT, [&] { validate(bad, "source"); }, what);
  };
  validate(dense(file, 64, 16), "whole file");
  refused("one row too many", [](sy_source &b) { b.n = 65; });
  refused("offset at the end", [](sy_source &b) { b.offset = 4096; });
  refused("offset wraps", [](sy_source &b) { b.offset = UINT64_MAX - 3; });
  refused("stride wraps", [](sy_source &b) { b.stride_n = INT64_MAX; });
  refused("negative stride leaves the file", [](sy_source &b) { b.stride_n = -16; });
  refused("no rows", [](sy_source &b) { b.n = 0; });
  refused("unknown dtype", [](sy_source &b) { b.dtype = 6; });
  refused("no file", [](sy_source &b) { b.file = nullptr; });
  refused("f8 without scales", [](sy_source &b) { b.dtype = SY_F8_E4M3; b.block_n = b.block_k = 128; });
  refused("f8 without blocks", [](sy_source &b) { b.dtype = SY_F8_E4M3; b.scale_file = b.file; });
  refused("mxfp4 of the widest rows", [](sy_source &b) { b.dtype = SY_MXFP4; b.scale_file = b.file; b.k = INT32_MAX; });
  refused("mxfp4 scales outside", [](sy_source &b) { b.dtype = SY_MXFP4; b.scale_file = b.file; b.scale_offset = 4096; });
}

} // namespace sy::conformance
