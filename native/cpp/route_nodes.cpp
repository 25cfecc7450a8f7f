/*
 * A row is routed twice by the model's own rule: freely, to see which nodes its experts weigh most on, and again among the experts of those nodes alone.
 * A row whose free choice needs no more nodes keeps it.
 */
#include "route_nodes.h"

#include <climits>
#include <cmath>

namespace sy {
namespace {

/* The node that covers most of the weight of the experts in `left` (bits by place in ids), ties to the lower number. */
int heaviest_node(const RouteCall &call, const uint64_t *left) {
  int best = -1;
  float most = 0.0f;
  for (int node = 0; node < 32; node++) {
    float sum = 0.0f;
    bool any = false;
    for (int i = 0; i < call.k; i++) {
      if (!(left[i / 64] >> (i % 64) & 1) || !((uint32_t)call.nodes[call.ids[i]] >> node & 1)) continue;
      sum += call.weights[i];
      any = true;
    }
    if (any && (best < 0 || sum > most)) best = node, most = sum;
  }
  return best;
}

/* Nodes that stay, as bits; all of them if they cover every expert of the free choice. */
uint32_t nodes_kept(const RouteCall &call) {
  uint64_t left[route_experts_max / 64] = {};
  for (int i = 0; i < call.k; i++) left[i / 64] |= 1ull << (i % 64);
  uint32_t kept = 0;
  for (int chosen = 0; chosen < call.node_limit; chosen++) {
    const int node = heaviest_node(call, left);
    if (node < 0) break;
    kept |= 1u << node;
    for (int i = 0; i < call.k; i++)
      if ((uint32_t)call.nodes[call.ids[i]] >> node & 1) left[i / 64] &= ~(1ull << (i % 64));
  }
  return heaviest_node(call, left) < 0 ? UINT32_MAX : kept;
}

} // namespace

void route_within_nodes(const VectorKernels &kernels, const RouteCall &call, int begin, int end) {
  float bias[route_experts_max];
  for (int t = begin; t < end; t++) {
    RouteCall row = call;
    row.logits = call.logits + t * call.ld_logits;
    row.ids = call.ids + t * call.ld_ids;
    row.weights = call.weights + t * call.ld_weights;
    row.marks.status = call.marks.status + t;
    kernels.route(row, 0, 1);
    if (row.ids[0] < 0) continue;
    const uint32_t kept = nodes_kept(row);
    if (kept == UINT32_MAX) continue;
    for (int e = 0; e < call.experts; e++)
      bias[e] = ((uint32_t)call.nodes[e] & kept) == 0 ? -INFINITY : call.select_bias ? call.select_bias[e] : 0.0f;
    row.select_bias = bias;
    kernels.route(row, 0, 1);
  }
}

} // namespace sy
