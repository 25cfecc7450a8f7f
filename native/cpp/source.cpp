/* Reading 2-D views of tensors in mapped files, whatever they are stored as. */
#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "numeric.h"

namespace sy {
namespace {

using Wide = __int128; // Offsets and strides come from files: 64 bits could overflow before they are compared.

struct Span {
  Wide first, last; /* addresses of the first and last byte */
};

/* Bytes touched by elements (i, j) of a strided grid, i < rows, j < columns. */
Span strided(uint64_t offset, Wide row_bytes, Wide column_bytes, int64_t rows, int64_t columns, int element_bytes) {
  const Wide down = (Wide)(rows - 1) * row_bytes, across = (Wide)(columns - 1) * column_bytes;
  Span span{(Wide)offset, (Wide)offset + element_bytes - 1};
  (down < 0 ? span.first : span.last) += down;
  (across < 0 ? span.first : span.last) += across;
  return span;
}

void require_inside(const sy_file *file, const Span &span, const char *name, const char *what) {
  if (!file || !file->data) fail(SY_INVALID_ARGUMENT, "%s: %s has no file", name, what);
  if (span.first < 0 || span.last >= (Wide)file->bytes)
    fail(SY_INVALID_ARGUMENT, "%s: %s reads bytes %lld..%lld of a file of %llu", name, what, (long long)span.first, (long long)span.last,
         (unsigned long long)file->bytes);
}

int element_bytes(int dtype) {
  switch (dtype) {
  case SY_F32: case SY_I32: return 4;
  case SY_F16: case SY_BF16: return 2;
  default: return 1;
  }
}

template <class T> T read(const uint8_t *at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}

/* Elements 0, 1, .. of a strided run, converted. The unit stride is written apart so that it vectorises. */
template <class T, class Convert> void run(const uint8_t *at, int64_t stride, int count, float *out, Convert convert) {
  if (stride == 1)
    for (int i = 0; i < count; i++) out[i] = convert(read<T>(at + (size_t)i * sizeof(T)));
  else
    for (int i = 0; i < count; i++) out[i] = convert(read<T>(at + (int64_t)i * stride * (int64_t)sizeof(T)));
}

struct F8Values {
  float of[256];
  F8Values() {
    for (int b = 0; b < 256; b++) of[b] = from_f8_e4m3((uint8_t)b);
  }
};

void load_f8(const sy_source &s, const uint8_t *at, int row, int k0, int count, float *out) {
  static const F8Values values;
  run<uint8_t>(at, s.stride_k, count, out, [](uint8_t b) { return values.of[b]; });
  const uint8_t *scales = s.scale_file->data + s.scale_offset + (int64_t)((s.n0 + row) / s.block_n) * s.scale_stride * 4;
  const int64_t first = (int64_t)s.k0 + k0; // column of out[0] in the scaled tensor
  for (int i = 0; i < count;) {
    const int64_t block = (first + i) / s.block_k;
    const int end = (int)std::min<int64_t>(count, (block + 1) * s.block_k - first);
    const float scale = read<float>(scales + block * 4);
    for (; i < end; i++) out[i] *= scale;
  }
}

/* 2^(e-127) in f64, where also 2^-127 is a normal number and the product with an element is exact. 255 is the NaN of E8M0. */
double power_of_e8m0(uint8_t e) {
  const uint64_t bits = e == 255 ? 0x7ff8000000000000u : (uint64_t)(e + 1023 - 127) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return power;
}

constexpr int mxfp4_block = 32; /* elements that share a scale (OCP Microscaling Formats 1.0, 5.1) */

void load_mxfp4(const sy_source &s, int row, int k0, int count, float *out) {
  const uint8_t *nibbles = s.file->data + s.offset + (int64_t)row * s.stride_n;
  const uint8_t *scales = s.scale_file->data + s.scale_offset + (int64_t)row * s.scale_stride;
  for (int i = 0; i < count;) {
    const int block = (k0 + i) / mxfp4_block, end = (int)std::min<int64_t>(count, (int64_t)(block + 1) * mxfp4_block - k0);
    const double power = power_of_e8m0(scales[block]);
    float values[16];
    for (unsigned nibble = 0; nibble < 16; nibble++) values[nibble] = (float)((double)from_f4_e2m1(nibble) * power);
    for (; i < end; i++) out[i] = values[nibbles[(k0 + i) >> 1] >> (((k0 + i) & 1) * 4) & 15];
  }
}

} // namespace

void validate(const sy_source &s, const char *name) {
  if (s.n < 1 || s.k < 1) fail(SY_INVALID_ARGUMENT, "%s: shape [%d, %d] must be at least [1, 1]", name, s.n, s.k);
  if (s.dtype < SY_F32 || s.dtype > SY_I32) fail(SY_INVALID_ARGUMENT, "%s: dtype %d is not one of 0..%d", name, s.dtype, SY_I32);
  if (s.dtype == SY_MXFP4) {
    require_inside(s.file, strided(s.offset, s.stride_n, 1, s.n, (s.k - 1) / 2 + 1, 1), name, "data");
    require_inside(s.scale_file, strided(s.scale_offset, s.scale_stride, 1, s.n, (s.k - 1) / mxfp4_block + 1, 1), name, "scales");
    return;
  }
  const int bytes = element_bytes(s.dtype);
  require_inside(s.file, strided(s.offset, (Wide)s.stride_n * bytes, (Wide)s.stride_k * bytes, s.n, s.k, bytes), name, "data");
  if (s.dtype != SY_F8_E4M3) return;
  if (s.block_n < 1 || s.block_k < 1) fail(SY_INVALID_ARGUMENT, "%s: scale block [%d, %d] must be at least [1, 1]", name, s.block_n, s.block_k);
  if (s.n0 < 0 || s.k0 < 0 || s.n0 > INT32_MAX - s.n || s.k0 > INT32_MAX - s.k)
    fail(SY_INVALID_ARGUMENT, "%s: scale origin [%d, %d] is out of range", name, s.n0, s.k0);
  if (s.scale_stride < 0) fail(SY_INVALID_ARGUMENT, "%s: scale stride %lld is negative", name, (long long)s.scale_stride);
  const Wide row_bytes = (Wide)s.scale_stride * 4;
  Span span = strided(s.scale_offset, row_bytes, 4, (s.n0 + s.n - 1) / s.block_n + 1, (s.k0 + s.k - 1) / s.block_k + 1, 4);
  span.first += (s.n0 / s.block_n) * row_bytes + (Wide)(s.k0 / s.block_k) * 4;
  require_inside(s.scale_file, span, name, "scales");
}

void load_f32(const sy_source &s, int row, int k0, int count, float *out) {
  if (s.dtype == SY_MXFP4) return load_mxfp4(s, row, k0, count, out);
  const int bytes = element_bytes(s.dtype);
  const uint8_t *at = s.file->data + s.offset + ((int64_t)row * s.stride_n + (int64_t)k0 * s.stride_k) * bytes;
  switch (s.dtype) {
  case SY_F32: return run<float>(at, s.stride_k, count, out, [](float v) { return v; });
  case SY_F16: return run<uint16_t>(at, s.stride_k, count, out, from_f16);
  case SY_BF16: return run<uint16_t>(at, s.stride_k, count, out, from_bf16);
  case SY_I32: return run<int32_t>(at, s.stride_k, count, out, [](int32_t v) { return (float)v; });
  default: return load_f8(s, at, row, k0, count, out);
  }
}

} // namespace sy
