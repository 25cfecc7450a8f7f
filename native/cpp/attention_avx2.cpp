#include "lanes_avx2.h"
#include "attention_lanes.h"

namespace sy {
namespace {

/* Six queries by one block of keys, or by one vector of value columns: 12 registers of sums, of 16. */
struct Tile : Lanes {
  static constexpr int key_blocks = 1, value_lanes = 1;
};

} // namespace

void attention_tile_avx2(const AttentionTile &tile) { attention_tile<Tile>(tile); }

} // namespace sy
