/* Norms, rotary positions, elementwise ops: every row, width and split must give the oracle's bits. */
#include <cmath>

#include "conformance.h"
#include "float_environment.h"
#include "vector.h"

namespace sy::conformance {
namespace {

const int widths[] = {1, 2, 5, 15, 16, 17, 31, 32, 33, 64, 96, 130};

/* Values that kernels meet at their worst: zeros, denormals, infinities and NaN among ordinary numbers. */
void spoil(Random &random, std::vector<float> &values, int every) {
  const float odd[] = {0.0f, -0.0f, 1e-40f, -1e-40f, 3e38f, -3e38f, INFINITY, -INFINITY, NAN};
  for (float &v : values)
    if (random.below(every) == 0) v = odd[random.below(9)];
}

/* Runs a kernel over rows [0, rows) whole, and cut in two, on copies of the same buffer. */
template <class Kernel> void compare(Check &check, const std::vector<float> &before, int rows, const Kernel &kernel, const std::string &what) {
  const FlushDenormals flush;
  std::vector<float> want = before;
  kernel(vector_kernels(Isa::ref), want.data(), 0, rows);
  for (const Isa isa : simd_isas()) {
    std::vector<float> whole = before, cut = before;
    kernel(vector_kernels(isa), whole.data(), 0, rows);
    check.equal(whole.data(), want.data(), want.size(), what + " " + name_of(isa));
    kernel(vector_kernels(isa), cut.data(), rows / 2, rows);
    kernel(vector_kernels(isa), cut.data(), 0, rows / 2);
    check.equal(cut.data(), want.data(), want.size(), what + " cut " + name_of(isa));
  }
}

SY_SUITE(norm) {
  Random random(11);
  for (const int width : widths)
    for (const NormKind kind : {NormKind::rms, NormKind::layer, NormKind::l2})
      for (const int groups : {1, 3})
        for (const int rows : {1, 6}) {
          const int stride = width + 3, ld = groups * stride + 2, out_at = rows * ld;
          std::vector<float> values = random.normals((size_t)(2 * rows * ld), 2.0f);
          if (width == 33) spoil(random, values, 40);
          const std::vector<float> weight = random.normals((size_t)(groups * width), 1.0f), bias = random.normals((size_t)(groups * width), 1.0f);
          const bool shared = groups == 3 && width % 2 == 0;
          compare(
              check, values, rows,
              [&](const VectorKernels &kernels, float *at, int begin, int end) {
                const bool plain = kind == NormKind::l2;
                kernels.norm({at + 1, ld, at + out_at, ld, plain ? nullptr : weight.data(), kind == NormKind::layer ? bias.data() : nullptr, groups, width,
                              stride, stride, shared ? 0 : width, kind, 1e-5f, kind == NormKind::rms ? 1.0f : 0.0f},
                             begin, end);
              },
              text("norm kind %d, %d groups of %d, %d rows", (int)kind, groups, width, rows));
        }
}

SY_SUITE(rope) {
  Random random(12);
  for (const int rot : {2, 6, 16, 32, 48, 64, 80, 128})
    for (const bool interleaved : {false, true}) {
      const int heads = 3, stride = rot + 5, rows = 5, ld = heads * stride, max_pos = 20, variants = 2;
      std::vector<float> values = random.normals((size_t)(rows * ld), 1.0f);
      std::vector<float> table((size_t)(variants * max_pos * rot));
      for (float &entry : table) entry = random.uniform(-1.0f, 1.0f);
      int32_t position[rows], variant[rows];
      for (int t = 0; t < rows; t++) position[t] = random.below(max_pos), variant[t] = random.below(variants);
      compare(
          check, values, rows,
          [&](const VectorKernels &kernels, float *at, int begin, int end) {
            kernels.rope({at, ld, table.data(), position, variant, heads, stride, rot, max_pos, interleaved}, begin, end);
          },
          text("rope %d %s", rot, interleaved ? "interleaved" : "half"));
    }
}

SY_SUITE(elementwise) {
  Random random(13);
  for (const int width : widths)
    for (const int rows : {1, 5}) {
      const int ld = 4 * width + 3, size = rows * ld;
      std::vector<float> values = random.normals((size_t)(2 * size), 6.0f);
      if (width >= 31) spoil(random, values, 25);
      const std::string shape = text(" [%d, %d]", rows, width);
      compare(
          check, values, rows,
          [&](const VectorKernels &kernels, float *at, int begin, int end) { kernels.clamp({at + 1, ld, width, -2.5f, 3.0f}, begin, end); },
          "clamp" + shape);
      compare(
          check, values, rows,
          [&](const VectorKernels &kernels, float *at, int begin, int end) { kernels.add({at + size, ld, at, ld, width, 0.37f}, begin, end); },
          "add" + shape);
      for (const int step : {0, 1})
        compare(
            check, values, rows,
            [&](const VectorKernels &kernels, float *at, int begin, int end) { kernels.mul_sigmoid({at + size, ld, at, ld, width, step}, begin, end); },
            text("mul_sigmoid step %d", step) + shape);
      for (const int activation : {SY_ACT_SILU, SY_ACT_GPT_OSS})
        for (const int step : {1, 2})
          compare(
              check, values, rows,
              [&](const VectorKernels &kernels, float *at, int begin, int end) {
                kernels.gated({at, step == 1 ? at + width : at + 1, ld, at + size, ld, width, step, activation, 1.702f, 7.0f}, begin, end);
              },
              text("gated %d step %d", activation, step) + shape);
      // In place over the gates, as dense layers do.
      compare(
          check, values, rows,
          [&](const VectorKernels &kernels, float *at, int begin, int end) {
            kernels.gated({at, at + width, ld, at, ld, width, 1, SY_ACT_SILU, 0.0f, 0.0f}, begin, end);
          },
          "gated in place" + shape);
    }
}

} // namespace
} // namespace sy::conformance
