/*
 * The paged KV cache of one layer. A block holds SY_KV_BLOCK positions of every kv head:
 *   K transposed, [k_dim][16 positions]: sixteen keys are SIMD lanes and the sum over d is sequential;
 *   V as it comes, [16 positions][v_dim padded to 16]: d is in lanes and the sum over keys is sequential.
 * When V is the first v_dim of K (MLA), only K is stored.
 */
#ifndef SWITCHYARD_KV_H
#define SWITCHYARD_KV_H

#include <cstdint>

#include "numeric.h"
#include "region.h"

namespace sy {

constexpr int kv_block = 16;

struct KvShape {
  int blocks, kv_heads, k_dim, v_dim;
  bool bf16, v_shares_k;
};

class KvCache {
public:
  explicit KvCache(const KvShape &shape); /* throws */

  const KvShape shape;
  /* In elements. */
  const int64_t v_stride;     /* from one position's V to the next */
  const int64_t head_stride;  /* K and V of one head of one block */
  const int64_t block_stride; /* all heads of one block */

  /* First element of K [k_dim][16] and of V [16][v_stride] of a head of a block. T is float or uint16_t (bf16). */
  template <class T> const T *k(int block, int head) const { return data<T>() + block * block_stride + head * head_stride; }
  template <class T> const T *v(int block, int head) const { return k<T>(block, head) + (int64_t)shape.k_dim * kv_block; }

  /* One cached number as f32, whatever the layout. */
  float k_at(int block, int head, int position, int d) const { return element(block * block_stride + head * head_stride + d * kv_block + position); }
  float v_at(int block, int head, int position, int d) const {
    if (shape.v_shares_k) return k_at(block, head, position, d);
    return element(block * block_stride + head * head_stride + (int64_t)shape.k_dim * kv_block + position * v_stride + d);
  }

  /* Stores one head of one position (0..15 of the block): k [k_dim], v [v_dim] or null when the cache shares k. */
  void write(int block, int head, int position, const float *k, const float *v);

private:
  template <class T> T *data() const { return reinterpret_cast<T *>(memory_.data()); }
  template <class T> void write_as(int block, int head, int position, const float *k, const float *v);
  float element(int64_t at) const { return shape.bf16 ? from_bf16(data<uint16_t>()[at]) : data<float>()[at]; }

  Region memory_;
};

} // namespace sy
#endif
