#include "lanes_avx2.h"
#include "vector_lanes.h"

namespace sy {

const VectorKernels &vector_kernels_avx2() {
  static const VectorKernels kernels{norm, rope, clamp, gated_rows, mul_sigmoid, add, route};
  return kernels;
}

} // namespace sy
