#include "oracle.h"

#include <algorithm>

#include "numeric.h"

namespace sy {
namespace {

/* acc = fma(x[2p+1], w[2p+1], acc); acc = fma(x[2p], w[2p], acc) for p ascending. K odd: the missing pair element is zero times zero. */
SY_FMA_CLONES float dot_pairs(const float *w, const float *x, int k) {
  float acc = 0.0f;
  for (int i = 0; i + 1 < k; i += 2) {
    acc = __builtin_fmaf(x[i + 1], w[i + 1], acc);
    acc = __builtin_fmaf(x[i], w[i], acc);
  }
  if (k % 2) {
    acc = __builtin_fmaf(0.0f, 0.0f, acc);
    acc = __builtin_fmaf(x[k - 1], w[k - 1], acc);
  }
  return acc;
}

SY_FMA_CLONES float dot_groups(const int8_t *w, const float *w_scale, const int8_t *x, const float *x_scale, int k) {
  float acc = 0.0f;
  for (int group = 0; group < groups_of(k); group++) {
    int32_t steps = 0;
    for (int i = group * group_k; i < std::min(k, (group + 1) * group_k); i++) steps += (int32_t)x[i] * (int32_t)w[i];
    const float scale = x_scale[group] * w_scale[group];
    acc = __builtin_fmaf((float)steps, scale, acc);
  }
  return acc;
}

} // namespace

RoundedRow round_row(int format, const float *x, int k) {
  RoundedRow row;
  row.values.assign(x, x + k);
  if (format == SY_W_F32 || format == SY_W_F16 || format == SY_W_BF16) return row;
  for (float &v : row.values) v = from_bf16(to_bf16(v));
  if (format == SY_W_BF16_X16) return row;
  row.steps.resize((size_t)k);
  for (int group = 0; group < groups_of(k); group++) {
    const int begin = group * group_k, end = std::min(k, begin + group_k);
    float largest = 0.0f;
    bool finite = true;
    for (int i = begin; i < end; i++) {
      largest = std::max(largest, std::fabs(row.values[(size_t)i]));
      finite = finite && is_finite(row.values[(size_t)i]);
    }
    const GroupScale scale = group_scale(largest, finite, 127.0f);
    row.scales.push_back(scale.scale);
    for (int i = begin; i < end; i++) row.steps[(size_t)i] = (int8_t)quantise(row.values[(size_t)i], scale.inverse, 127);
  }
  return row;
}

float dot_ref(const PlainMatrix &m, int n, const RoundedRow &x) {
  if (quantised(m.format))
    return dot_groups(reinterpret_cast<const int8_t *>(m.values.data()) + (size_t)n * m.k, reinterpret_cast<const float *>(m.scales.data()) + (size_t)n * groups_of(m.k),
                      x.steps.data(), x.scales.data(), m.k);
  return dot_pairs(reinterpret_cast<const float *>(m.values.data()) + (size_t)n * m.k, x.values.data(), m.k);
}

std::vector<float> multiply_ref(const PlainMatrix &m, const float *x, const float *bias) {
  const RoundedRow row = round_row(m.format, x, m.k);
  std::vector<float> out((size_t)m.n);
  for (int n = 0; n < m.n; n++) {
    const float dot = dot_ref(m, n, row);
    out[(size_t)n] = bias ? dot + bias[n] : dot;
  }
  return out;
}

} // namespace sy
