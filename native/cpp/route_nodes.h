/* Node-limited routing: the lossy option that keeps a token on a few nodes of the plan. */
#ifndef SWITCHYARD_ROUTE_NODES_H
#define SWITCHYARD_ROUTE_NODES_H

#include "vector.h"

namespace sy {

/* Rows [begin, end) of a call with nodes. */
void route_within_nodes(const VectorKernels &kernels, const RouteCall &call, int begin, int end);

} // namespace sy
#endif
