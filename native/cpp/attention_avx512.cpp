#include "lanes_avx512.h"
#include "attention_lanes.h"

namespace sy {
namespace {

/* Six queries by four blocks of keys, or by four vectors of value columns: 24 sums and their operands in 32 registers. */
struct Tile : Lanes {
  static constexpr int key_blocks = 4, value_lanes = 4;
};

} // namespace

void attention_tile_avx512(const AttentionTile &tile) { attention_tile<Tile>(tile); }

} // namespace sy
