/*
 * The memory of a RowSum. A row of an exact sum is int64, which holds more than a thousand of the largest contributions, so no row ever changes its
 * representation; only the wire form is as narrow as the row allows.
 */
#ifndef SWITCHYARD_SUM_H
#define SWITCHYARD_SUM_H

#include "kernels.h"
#include "region.h"

namespace sy {

struct RowSum {
  Isa isa;
  int mode, max_rows, hidden;
  int64_t stride;  /* elements from row to row */
  Region memory;   /* [max_rows, stride] int64, or f32 in SY_SUM_FAST */
  Region poisoned; /* [max_rows] bytes: 1 = a contribution was NaN or outside the grid's range. Threads only ever store 1. */

  int64_t *exact(int row) const { return reinterpret_cast<int64_t *>(memory.data()) + row * stride; }
  float *fast(int row) const { return reinterpret_cast<float *>(memory.data()) + row * stride; }
  void poison(int row) const { __atomic_store_n(poisoned.data() + row, 1, __ATOMIC_RELAXED); }
};

/* Elements from one row of a sum to the next. */
static inline int64_t sum_stride(int hidden) { return ((int64_t)hidden + 15) / 16 * 16; }

/* Contributions and sums stay inside these, so that integer addition is exact. */
constexpr float contribution_limit = 4503599627370496.0f; /* 2^52 */
constexpr int64_t wire_limit = int64_t{1} << 62;

/* Grids beyond this would leave f32's normal range when 2^-grid is formed. */
constexpr int grid_limit = 120;
void validate_grid(int grid); /* throws */

} // namespace sy
#endif
