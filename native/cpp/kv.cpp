#include "kv.h"


#include "kernels.h"

namespace sy {
namespace {

constexpr int dim_max = 65536;      /* of a key or value; larger is a corrupt configuration */
constexpr int kv_heads_max = 65536;

int64_t padded(int64_t width) { return (width + 15) & ~int64_t{15}; }

inline void store(float &to, float value) { to = value; }
inline void store(uint16_t &to, float value) { to = to_bf16(value); }

const KvShape &checked(const KvShape &shape) {
  if (shape.blocks < 1) fail(SY_INVALID_ARGUMENT, "kv blocks = %d: must be at least 1", shape.blocks);
  if (shape.kv_heads < 1 || shape.kv_heads > kv_heads_max) fail(SY_INVALID_ARGUMENT, "kv_heads = %d: must be 1..%d", shape.kv_heads, kv_heads_max);
  if (shape.k_dim < 1 || shape.k_dim > dim_max) fail(SY_INVALID_ARGUMENT, "k_dim = %d: must be 1..%d", shape.k_dim, dim_max);
  if (shape.v_dim < 1 || shape.v_dim > dim_max) fail(SY_INVALID_ARGUMENT, "v_dim = %d: must be 1..%d", shape.v_dim, dim_max);
  if (shape.v_shares_k && shape.v_dim > shape.k_dim)
    fail(SY_INVALID_ARGUMENT, "v_dim = %d: v is the first part of k, whose k_dim is %d", shape.v_dim, shape.k_dim);
  return shape;
}

size_t bytes_of(const KvShape &shape, int64_t block_stride) {
  return checked_bytes((__int128)shape.blocks * block_stride * (shape.bf16 ? 2 : 4), "a KV cache of %d blocks of %lld elements", shape.blocks,
                       (long long)block_stride);
}

} // namespace

KvCache::KvCache(const KvShape &wanted)
    : shape(checked(wanted)), v_stride(padded(shape.v_dim)), head_stride((int64_t)kv_block * (shape.k_dim + (shape.v_shares_k ? 0 : v_stride))),
      block_stride(head_stride * shape.kv_heads), memory_(bytes_of(shape, block_stride)) {}

template <class T> void KvCache::write_as(int block, int head, int position, const float *k, const float *v) {
  T *k_out = data<T>() + block * block_stride + head * head_stride + position;
  for (int d = 0; d < shape.k_dim; d++) store(k_out[d * kv_block], k[d]);
  if (!v) return;
  T *v_out = data<T>() + block * block_stride + head * head_stride + (int64_t)shape.k_dim * kv_block + position * v_stride;
  for (int d = 0; d < shape.v_dim; d++) store(v_out[d], v[d]);
}

void KvCache::write(int block, int head, int position, const float *k, const float *v) {
  if (shape.bf16) write_as<uint16_t>(block, head, position, k, v);
  else write_as<float>(block, head, position, k, v);
}

} // namespace sy
