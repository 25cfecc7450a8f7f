/* Two-level gates: scores that are a product of a group's and a slot's. One scalar implementation for every instruction set. */
#ifndef SWITCHYARD_ROUTE_FACTORED_H
#define SWITCHYARD_ROUTE_FACTORED_H

#include "vector.h"

namespace sy {

/*
 * Rows [begin, end) of a call whose score is RouteScore::factored. A row of logits is groups group logits, then experts / groups slot logits.
 */
void route_factored(const RouteCall &call, int begin, int end);

} // namespace sy
#endif
