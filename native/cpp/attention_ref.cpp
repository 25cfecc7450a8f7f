#include <cmath>

#include "attention.h"
#include "exp.h"

namespace sy {

/* The oracle: one query at a time, as the header's text reads. */
SY_FMA_CLONES void attention_tile_ref(const AttentionTile &tile) {
  const KvCache &kv = *tile.kv;
  const auto block_of = [&](int position) { return tile.block[position / kv_block]; };
  for (int i = 0; i < tile.queries; i++) {
    float *scores = tile.scores;
    float most = tile.sink[i] ? *tile.sink[i] : -INFINITY;
    for (int j = tile.first[i]; j <= tile.last[i]; j++) {
      float dot = 0.0f;
      for (int d = 0; d < kv.shape.k_dim; d++) dot = __builtin_fmaf(tile.q[i][d], kv.k_at(block_of(j), tile.kv_head, j % kv_block, d), dot);
      scores[j - tile.first[i]] = dot * tile.scale;
      if (scores[j - tile.first[i]] > most) most = scores[j - tile.first[i]];
    }
    float lane[16] = {};
    for (int j = tile.first[i]; j <= tile.last[i]; j++) {
      float &p = scores[j - tile.first[i]];
      p = sy_exp(p - most);
      lane[j % 16] += p;
    }
    for (int width = 8; width >= 1; width /= 2)
      for (int l = 0; l < width; l++) lane[l] = lane[l] + lane[l + width];
    float total = lane[0];
    if (tile.sink[i]) total = total + sy_exp(*tile.sink[i] - most);
    const float inverse = 1.0f / total;
    for (int d = 0; d < kv.shape.v_dim; d++) {
      float o = 0.0f;
      for (int j = tile.first[i]; j <= tile.last[i]; j++) o = __builtin_fmaf(scores[j - tile.first[i]], kv.v_at(block_of(j), tile.kv_head, j % kv_block, d), o);
      tile.out[i][d] = o * inverse;
    }
  }
}

} // namespace sy
