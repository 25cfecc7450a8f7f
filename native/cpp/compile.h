/* From encoded ops to steps: every index, width, offset and shape is checked here, so that steps can trust them. */
#ifndef SWITCHYARD_COMPILE_H
#define SWITCHYARD_COMPILE_H

#include "program.h"

namespace sy {

struct Compilation {
  Isa isa;
  int threads;
  BatchLimits limits;
  const int32_t *position, *variant; /* [max_rows], filled before each run */
  size_t workspace_bytes = 0;        /* the most that any step needs */
};

const char *op_name(uint32_t kind);

/* Throws SY_INVALID_ARGUMENT naming the op, the field, its value and its limit. */
Step compile(const sy_op &op, int number, sy_object *const *objects, int object_count, Compilation &compilation);

} // namespace sy
#endif
