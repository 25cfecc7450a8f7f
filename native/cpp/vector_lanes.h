/*
 * The row ops over sixteen lanes, written once: vector_avx2.cpp and vector_avx512.cpp include it after their `Lanes`.
 * Elements that do not fill the lanes are computed by the scalar forms, which give the same bits. No standard library templates here: the linker would
 * keep one copy of them for files with different instruction sets.
 */
#ifndef SWITCHYARD_VECTOR_LANES_H
#define SWITCHYARD_VECTOR_LANES_H

#include <climits>
#include <cmath>

#include "route_factored.h"
#include "vector.h"

namespace sy {
namespace {

using V = Lanes::V;
using I = Lanes::I;

constexpr int lanes = 16;

/* ---- norm: U pieces at once, because each piece's sum is one chain of fma ---------------------------------------------------------------------- */

struct NormPiece {
  const float *x;
  float *out;
  const float *weight, *bias;
};

template <int U> void norm_pieces(const NormCall &call, const NormPiece *piece) {
  const int n = call.width, whole = n / lanes * lanes, rest = n - whole;
  float mean[U] = {};
  if (call.kind == NormKind::layer) {
    V sum[U];
    for (int u = 0; u < U; u++) sum[u] = Lanes::zero();
    for (int i = 0; i < whole; i += lanes)
      for (int u = 0; u < U; u++) sum[u] = Lanes::add(sum[u], Lanes::load(piece[u].x + i));
    for (int u = 0; u < U; u++) {
      if (rest) sum[u] = Lanes::add(sum[u], Lanes::load_first(piece[u].x + whole, rest));
      mean[u] = Lanes::sum_lanes(sum[u]) / (float)n;
    }
  }
  V squares[U], shift[U], factor[U];
  for (int u = 0; u < U; u++) {
    squares[u] = Lanes::zero();
    shift[u] = Lanes::set1(mean[u]);
  }
  for (int i = 0; i < whole; i += lanes)
    for (int u = 0; u < U; u++) {
      const V d = Lanes::sub(Lanes::load(piece[u].x + i), shift[u]);
      squares[u] = Lanes::fma(d, d, squares[u]);
    }
  for (int u = 0; u < U; u++) {
    if (rest) {
      const V d = Lanes::select(Lanes::first(rest), Lanes::sub(Lanes::load_first(piece[u].x + whole, rest), shift[u]), Lanes::zero());
      squares[u] = Lanes::fma(d, d, squares[u]);
    }
    factor[u] = Lanes::set1(1.0f / sqrtf(Lanes::sum_lanes(squares[u]) / (float)n + call.eps));
  }
  const V plus = Lanes::set1(call.weight_plus);
  for (int u = 0; u < U; u++) {
    const NormPiece &p = piece[u];
    const auto finish = [&](V x, V weight, V bias) {
      V y = Lanes::mul(Lanes::sub(x, shift[u]), factor[u]);
      if (p.weight) y = Lanes::mul(y, Lanes::add(weight, plus));
      return p.bias ? Lanes::add(y, bias) : y;
    };
    for (int i = 0; i < whole; i += lanes)
      Lanes::store(p.out + i, finish(Lanes::load(p.x + i), p.weight ? Lanes::load(p.weight + i) : plus, p.bias ? Lanes::load(p.bias + i) : plus));
    if (rest)
      Lanes::store_first(p.out + whole,
                         finish(Lanes::load_first(p.x + whole, rest), p.weight ? Lanes::load_first(p.weight + whole, rest) : plus,
                                p.bias ? Lanes::load_first(p.bias + whole, rest) : plus),
                         rest);
  }
}

void norm(const NormCall &call, int begin, int end) {
  constexpr int together = 4;
  NormPiece pieces[together];
  int filled = 0;
  for (int t = begin; t < end; t++)
    for (int g = 0; g < call.groups; g++) {
      const int64_t at = (int64_t)g * call.weight_stride;
      pieces[filled++] = {call.x + t * call.ldx + (int64_t)g * call.x_stride, call.out + t * call.ldo + (int64_t)g * call.out_stride,
                          call.weight ? call.weight + at : nullptr, call.bias ? call.bias + at : nullptr};
      if (filled < together) continue;
      norm_pieces<together>(call, pieces);
      filled = 0;
    }
  for (int i = 0; i < filled; i++) norm_pieces<1>(call, pieces + i);
}

/* ---- rotary positions -------------------------------------------------------------------------------------------------------------------------- */

inline void turn(V &u, V &v, V cosine, V sine) {
  const V first = Lanes::fma(u, cosine, Lanes::negate(Lanes::mul(v, sine)));
  v = Lanes::fma(v, cosine, Lanes::mul(u, sine));
  u = first;
}

void rope(const RopeCall &call, int begin, int end) {
  const int half = call.rot / 2, whole = half / lanes * lanes;
  for (int t = begin; t < end; t++) {
    const float *cosine = call.table + ((int64_t)call.variant[t] * call.max_pos + call.position[t]) * call.rot, *sine = cosine + half;
    for (int h = 0; h < call.heads; h++) {
      float *x = call.x + t * call.ldx + (int64_t)h * call.stride;
      for (int i = 0; i < whole; i += lanes) {
        V u, v;
        if (call.interleaved) Lanes::load_pairs(x + 2 * i, u, v);
        else u = Lanes::load(x + i), v = Lanes::load(x + i + half);
        turn(u, v, Lanes::load(cosine + i), Lanes::load(sine + i));
        if (call.interleaved) Lanes::store_pairs(x + 2 * i, u, v);
        else Lanes::store(x + i, u), Lanes::store(x + i + half, v);
      }
      for (int i = whole; i < half; i++) {
        float &first = call.interleaved ? x[2 * i] : x[i], &second = call.interleaved ? x[2 * i + 1] : x[i + half];
        const float u = first, v = second;
        first = __builtin_fmaf(u, cosine[i], -(v * sine[i]));
        second = __builtin_fmaf(v, cosine[i], u * sine[i]);
      }
    }
  }
}

/* ---- elementwise ------------------------------------------------------------------------------------------------------------------------------- */

void clamp(const ClampCall &call, int begin, int end) {
  const V low = Lanes::set1(call.low), high = Lanes::set1(call.high);
  const int whole = call.width / lanes * lanes, rest = call.width - whole;
  for (int t = begin; t < end; t++) {
    float *x = call.x + t * call.ldx;
    for (int i = 0; i < whole; i += lanes) Lanes::store(x + i, Lanes::min(high, Lanes::max(low, Lanes::load(x + i))));
    if (rest) Lanes::store_first(x + whole, Lanes::min(high, Lanes::max(low, Lanes::load_first(x + whole, rest))), rest);
  }
}

void gated_rows(const GatedCall &call, int begin, int end) {
  // Interleaved gates are read in pairs, one element further than needed: not at the very end of a row.
  const int whole = (call.step == 1 ? call.width : call.width - 1) / lanes * lanes;
  for (int t = begin; t < end; t++) {
    const float *gate = call.gate + t * call.ldx, *up = call.up + t * call.ldx;
    float *out = call.out + t * call.ldo;
    for (int i = 0; i < whole; i += lanes) {
      V g, u, skipped;
      if (call.step == 1) g = Lanes::load(gate + i), u = Lanes::load(up + i);
      else Lanes::load_pairs(gate + 2 * i, g, skipped), Lanes::load_pairs(up + 2 * i, u, skipped);
      Lanes::store(out + i, Lanes::gated(call.activation, call.alpha, call.limit, g, u));
    }
    for (int i = whole; i < call.width; i++)
      out[i] = gated(call.activation, call.alpha, call.limit, gate[(int64_t)i * call.step], up[(int64_t)i * call.step]);
  }
}

void mul_sigmoid(const MulSigmoidCall &call, int begin, int end) {
  const int whole = call.width / lanes * lanes;
  for (int t = begin; t < end; t++) {
    float *x = call.x + t * call.ldx;
    const float *gate = call.gate + t * call.ldg;
    const float one = sigmoid(gate[0]); // Of the row, when there is one gate a row.
    for (int i = 0; i < whole; i += lanes)
      Lanes::store(x + i, Lanes::mul(Lanes::load(x + i), call.gate_step == 0 ? Lanes::set1(one) : Lanes::sigmoid(Lanes::load(gate + i))));
    for (int i = whole; i < call.width; i++) x[i] *= call.gate_step == 0 ? one : sigmoid(gate[i]);
  }
}

void add(const AddCall &call, int begin, int end) {
  const V scale = Lanes::set1(call.scale);
  const int whole = call.width / lanes * lanes, rest = call.width - whole;
  for (int t = begin; t < end; t++) {
    const float *x = call.x + t * call.ldx;
    float *out = call.out + t * call.ldo;
    for (int i = 0; i < whole; i += lanes) Lanes::store(out + i, Lanes::fma(scale, Lanes::load(x + i), Lanes::load(out + i)));
    if (rest) Lanes::store_first(out + whole, Lanes::fma(scale, Lanes::load_first(x + whole, rest), Lanes::load_first(out + whole, rest)), rest);
  }
}

/* ---- router ------------------------------------------------------------------------------------------------------------------------------------ */

constexpr int route_width = (route_experts_max + lanes - 1) / lanes * lanes;

/* Below every score's ordered integer, also that of -inf: chosen already, or padding. */
constexpr int32_t gone = INT_MIN;

inline float largest(const float *x, int n) {
  V most = Lanes::set1(-INFINITY);
  int i = 0;
  for (; i + lanes <= n; i += lanes) most = Lanes::max(Lanes::load(x + i), most);
  if (i < n) most = Lanes::max(Lanes::select(Lanes::first(n - i), Lanes::load_first(x + i, n - i), Lanes::set1(-INFINITY)), most);
  return Lanes::max_lane(most);
}

/* out = exp(x - shift), padded to whole vectors with numbers that mean nothing. */
inline void exponentials(const float *x, int n, float shift, float *out) {
  const V by = Lanes::set1(shift);
  int i = 0;
  for (; i + lanes <= n; i += lanes) Lanes::store(out + i, Lanes::exp(Lanes::sub(Lanes::load(x + i), by)));
  if (i < n) Lanes::store(out + i, Lanes::exp(Lanes::sub(Lanes::load_first(x + i, n - i), by)));
}

inline bool holds_nan(const float *x, int n) {
  int i = 0;
  for (; i + lanes <= n; i += lanes)
    if (Lanes::any_nan(Lanes::load(x + i))) return true;
  return i < n && Lanes::any_nan(Lanes::load_first(x + i, n - i));
}

/* The two largest of x[0..n). */
inline void top_two(const float *x, int n, float &first, float &second) {
  V high = Lanes::set1(-INFINITY), next = high; // Of each lane.
  int i = 0;
  for (; i + lanes <= n; i += lanes) {
    const V value = Lanes::load(x + i);
    next = Lanes::max(next, Lanes::min(high, value));
    high = Lanes::max(high, value);
  }
  first = Lanes::max_lane(high);
  const int lane = __builtin_ctz(Lanes::equal(high, first));
  second = Lanes::max_lane(Lanes::select(Lanes::mask(lane, lane), next, high));
  for (; i < n; i++) {
    if (x[i] > first) second = first, first = x[i];
    else if (x[i] > second) second = x[i];
  }
}

/* Sets the scores of the groups that lose; false if a group's score is NaN (inf - inf). */
inline bool mask_groups(const RouteCall &call, float *c) {
  const int size = call.experts / call.groups;
  float score[route_groups_max];
  bool kept[route_groups_max];
  for (int g = 0; g < call.groups; g++) {
    kept[g] = false;
    if (call.group_sum_of_two) {
      float first, second;
      top_two(c + g * size, size, first, second);
      score[g] = first + second;
    } else {
      score[g] = largest(c + g * size, size);
    }
    if (score[g] != score[g]) return false;
  }
  for (int i = 0; i < call.top_groups; i++) {
    int best = -1;
    for (int g = 0; g < call.groups; g++)
      if (!kept[g] && (best < 0 || score[g] > score[best])) best = g;
    kept[best] = true;
  }
  for (int g = 0; g < call.groups; g++)
    if (!kept[g])
      for (int e = g * size; e < (g + 1) * size; e++) c[e] = call.mask_zero ? 0.0f : -INFINITY;
  return true;
}

/* ids[0..k): the largest of c, ties to the lower id. Scores become integers of the same order, so that what is gone can lie below -inf. */
inline void choose(const float *c, int n, int k, int32_t *ids) {
  alignas(64) int32_t key[route_width];
  const int vectors = (n + lanes - 1) / lanes;
  for (int i = 0; i < vectors; i++) Lanes::store_int(key + i * lanes, Lanes::ordered(Lanes::load(c + i * lanes)));
  for (int e = n; e < vectors * lanes; e++) key[e] = gone;
  for (int chosen = 0; chosen < k; chosen++) {
    I most = Lanes::load_int(key);
    for (int i = 1; i < vectors; i++) most = Lanes::max_int(most, Lanes::load_int(key + i * lanes));
    const int32_t best = Lanes::max_lane_int(most);
    for (int i = 0;; i++) {
      const I keys = Lanes::load_int(key + i * lanes);
      const unsigned here = Lanes::equal_int(keys, best);
      if (!here) continue;
      const int lane = __builtin_ctz(here);
      ids[chosen] = i * lanes + lane;
      Lanes::store_int(key + i * lanes, Lanes::replace_lane(keys, lane, gone)); // Whole, because a later wide load would wait for a narrow store.
      break;
    }
  }
}

/* From the scores s of one row (padded to whole vectors) to ids and weights; false if a number is NaN. */
inline bool route_row(const RouteCall &call, const float *s, int32_t *ids, float *weights) {
  const int n = call.experts, k = call.k, padded = (n + lanes - 1) / lanes * lanes;
  alignas(64) float changed[route_width];
  const float *c = s;
  if (call.select_bias || call.groups > 1) {
    for (int i = 0; i < padded; i += lanes) {
      const int here = n - i < lanes ? n - i : lanes;
      const V score = Lanes::load(s + i);
      Lanes::store(changed + i, call.select_bias ? Lanes::add(score, Lanes::load_first(call.select_bias + i, here)) : score);
    }
    c = changed;
  }
  if (holds_nan(c, n)) return false;
  if (call.groups > 1 && !mask_groups(call, changed)) return false;
  choose(c, n, k, ids);
  const float *weighed = call.weighs_masked() ? c : s;
  for (int i = 0; i < k; i++) weights[i] = weighed[ids[i]];
  if (call.score == RouteScore::softmax_chosen) {
    alignas(64) float p[route_width];
    exponentials(weights, k, largest(weights, k), p);
    float sum = 0.0f;
    for (int i = 0; i < k; i++) sum += p[i];
    for (int i = 0; i < k; i++) weights[i] = p[i] / sum;
  }
  if (call.renorm) {
    float sum = 0.0f;
    for (int i = 0; i < k; i++) sum += weights[i];
    const float divisor = sum + call.renorm_eps;
    for (int i = 0; i < k; i++) weights[i] = weights[i] / divisor;
  }
  bool nan = false;
  for (int i = 0; i < k; i++) {
    weights[i] *= call.scale;
    nan |= weights[i] != weights[i];
  }
  return !nan;
}

/* Scores of R rows: the sums of a softmax are one chain each, so they run side by side. Rows of s are route_width apart. False: a logit is NaN. */
template <int R> bool scores(const RouteCall &call, int row, float *s) {
  const int n = call.experts, padded = (n + lanes - 1) / lanes * lanes;
  const float *z[R];
  for (int r = 0; r < R; r++) {
    z[r] = call.logits + (row + r) * call.ld_logits;
    if (holds_nan(z[r], n)) return false;
  }
  if (call.score != RouteScore::softmax) {
    for (int r = 0; r < R; r++)
      for (int i = 0; i < padded; i += lanes) {
        const V value = Lanes::load_first(z[r] + i, n - i < lanes ? n - i : lanes);
        Lanes::store(s + r * route_width + i, call.score == RouteScore::sigmoid ? Lanes::sigmoid(value) : value);
      }
    return true;
  }
  for (int r = 0; r < R; r++) exponentials(z[r], n, largest(z[r], n), s + r * route_width);
  float sum[R] = {};
  for (int e = 0; e < n; e++)
    for (int r = 0; r < R; r++) sum[r] += s[r * route_width + e];
  for (int r = 0; r < R; r++) {
    const V by = Lanes::set1(sum[r]);
    for (int i = 0; i < padded; i += lanes) Lanes::store(s + r * route_width + i, Lanes::div(Lanes::load(s + r * route_width + i), by));
  }
  return true;
}

void route(const RouteCall &call, int begin, int end) {
  if (call.score == RouteScore::factored) return route_factored(call, begin, end);
  if (call.score == RouteScore::sparse_mixer) return vector_kernels_ref().route(call, begin, end); // Two experts of few: nothing to gain.
  constexpr int together = 4;
  alignas(64) float s[together * route_width];
  const auto finish = [&](int row, const float *row_scores) {
    if (!route_row(call, row_scores, call.ids + row * call.ld_ids, call.weights + row * call.ld_weights)) route_nowhere(call, row);
  };
  int row = begin;
  while (row < end) {
    if (row + together <= end && scores<together>(call, row, s)) {
      for (int r = 0; r < together; r++) finish(row + r, s + r * route_width);
      row += together;
      continue;
    }
    // The last rows, or four with a NaN among them: one by one, to find which.
    for (int r = 0; r < together && row < end; r++, row++)
      if (scores<1>(call, row, s)) finish(row, s);
      else route_nowhere(call, row);
  }
}

} // namespace
} // namespace sy
#endif
