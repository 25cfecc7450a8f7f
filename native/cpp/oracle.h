/*
 * The scalar oracle of the matrix side: one loop nest for each definition of the header, in the order the header gives.
 */
#ifndef SWITCHYARD_ORACLE_H
#define SWITCHYARD_ORACLE_H

#include <vector>

#include "pack.h"

namespace sy {

/* An input row, rounded as a weight format asks. */
struct RoundedRow {
  std::vector<float> values; /* formats 0..3, padded to an even length */
  std::vector<int8_t> steps; /* formats 4, 5 */
  std::vector<float> scales; /* formats 4, 5: one a group */
};
RoundedRow round_row(int format, const float *x, int k);

/* The dot product of a rounded row with row n of the matrix. */
float dot_ref(const PlainMatrix &matrix, int n, const RoundedRow &x);

/* out[n] = dot + bias (bias may be null). */
std::vector<float> multiply_ref(const PlainMatrix &matrix, const float *x, const float *bias);

} // namespace sy
#endif
