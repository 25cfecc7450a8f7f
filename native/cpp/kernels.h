/*
 * The matrix side of the kernels, as the C ABI and the program interpreter see it: sources, weights, linear layers, experts, sums and rows on the wire.
 *
 * Meaning, shapes and the order of every reduction are those of include/switchyard.h. What is added here is who validates what:
 * functions marked "throws" check their arguments and throw Failure; all others trust them, because a program was validated when it was created.
 *
 * Every function that computes runs under FTZ|DAZ: the caller sets it on its own thread (small ops never enter the pool), the pool on the other threads.
 * Isa::ref selects the scalar oracle everywhere; its weights are kept in a plain layout of their own, so an error in packing cannot hide.
 */
#ifndef SWITCHYARD_KERNELS_H
#define SWITCHYARD_KERNELS_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "../include/switchyard.h"
#include "region.h"
#include "pool.h"

/* A mapped file. The owner of mappings derives from it; readers only need these two fields. */
struct sy_file {
  const uint8_t *data = nullptr;
  uint64_t bytes = 0;
};

namespace sy {

/* What an entry point returns as its status, with the text for sy_last_error(). */
struct Failure {
  sy_status status;
  std::string message;
};
[[noreturn]] void fail(sy_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum class Isa { ref, avx2, avx512 };
/* Whether this build and this machine can run it. Isa::ref always can. */
bool isa_supported(Isa isa);

/* ---- sources (source.cpp) ------------------------------------------------------------------------------------------------------------------ */

/* Throws SY_INVALID_ARGUMENT unless every byte that the view touches lies inside its files. `name` is the field to name in the message. */
void validate(const sy_source &source, const char *name);
/* out[i] = element (row, k0+i) as f32, for i < count. The source was validated. */
void load_f32(const sy_source &source, int row, int k0, int count, float *out);

/* ---- weights (pack.cpp) -------------------------------------------------------------------------------------------------------------------- */

struct Weight;
struct WeightDeleter { void operator()(Weight *) const; };
using WeightPtr = std::unique_ptr<Weight, WeightDeleter>;

/* A zero weight [n, k]. Throws. */
WeightPtr weight_create(Isa isa, int32_t format, int32_t n, int32_t k);
/* Packs source.n rows at first_row. Throws. Rows are shared out over the pool. */
void weight_set(Weight &weight, Pool &pool, int32_t first_row, const sy_source &source);
int weight_n(const Weight &weight);
int weight_k(const Weight &weight);

/* ---- linear layers (linear.cpp) ------------------------------------------------------------------------------------------------------------ */

struct LinearCall {
  const float *x;     /* [rows, ldx], the first input column */
  int64_t ldx;
  float *out;         /* [rows, ldo], the first output column; must not overlap the columns read through x */
  int64_t ldo;
  int rows;
  const float *bias;  /* [n] or null */
  bool add;           /* false: out = scale*v; true: out = fma(scale, v, out) */
  float scale;
};
/* Bytes of 64-byte aligned scratch that linear() needs for up to `rows` rows of an input k wide. */
size_t linear_workspace_bytes(const Weight &weight, int rows, int threads);
void linear(Pool &pool, const Weight &weight, const LinearCall &call, void *workspace);

struct HeadLinearCall {
  const float *x;     /* head h reads x + h*x_stride, k wide */
  int64_t ldx, x_stride;
  float *out;         /* head h writes out + h*out_stride, out_dim wide */
  int64_t ldo, out_stride;
  int rows, heads, out_dim; /* weight is [heads*out_dim, k] */
};
size_t head_linear_workspace_bytes(const Weight &weight, int rows, int heads, int threads);
void head_linear(Pool &pool, const Weight &weight, const HeadLinearCall &call, void *workspace);

/* ---- sums (sum.cpp) ------------------------------------------------------------------------------------------------------------------------ */

struct RowSum;
struct RowSumDeleter { void operator()(RowSum *) const; };
using RowSumPtr = std::unique_ptr<RowSum, RowSumDeleter>;

RowSumPtr sum_create(Isa isa, int32_t mode, int32_t max_rows, int32_t hidden); /* throws */
int sum_max_rows(const RowSum &sum);
int sum_hidden(const RowSum &sum);
void sum_clear(RowSum &sum, int32_t rows); /* throws */
/* UINT64_MAX where it has more than 64 bits. */
uint64_t sum_encoded_max(int32_t rows, int32_t hidden);
/* Returns the bytes written. A row that holds a contribution outside the grid's range travels as a code without numbers. Throws SY_INVALID_ARGUMENT. */
uint64_t sum_encode(const RowSum &sum, int32_t rows, const int32_t *row, uint8_t *out, uint64_t capacity);
/* Throws SY_CORRUPT and leaves the sum as it was, if the bytes are not exactly `rows` encoded rows. */
void sum_add_encoded(RowSum &sum, int32_t rows, const int32_t *row, const uint8_t *in, uint64_t bytes);

/* Where an op notes the rows that it could not complete: status[row] becomes `number`, unless an earlier op has noted it. */
struct RowMarks {
  int32_t *status; /* [rows] */
  int32_t number;

  void mark(int row) const {
    if (status[row] == 0) status[row] = number;
  }
};

struct CombineCall {
  int rows, grid;
  float multiplier;
  float *residual;      /* [rows, ldr] */
  int64_t ldr;
  const float *shared;  /* [rows, lds] or null */
  int64_t lds;
  RowMarks marks;
};
/* Marks rows that hold a contribution outside the grid's range; their residual is worthless. */
void combine(Pool &pool, const RowSum &sum, const CombineCall &call);

/* ---- experts (experts.cpp) ----------------------------------------------------------------------------------------------------------------- */

struct Experts;
class Accelerator;
struct ExpertsDeleter { void operator()(Experts *) const; };
using ExpertsPtr = std::unique_ptr<Experts, ExpertsDeleter>;

/* Throws. `workspace` outlives the experts; null: they have one of their own. With an accelerator they live on it. */
ExpertsPtr experts_create(Isa isa, const sy_experts_desc &desc, Workspace *workspace = nullptr, Accelerator *accelerator = nullptr);
const sy_experts_desc &experts_desc(const Experts &experts);
bool experts_on_accelerator(const Experts &experts);
void experts_set(Experts &experts, Pool &pool, int32_t slot, const sy_source *gate, const sy_source *up, const sy_source *down,
                 const sy_source *gate_bias, const sy_source *up_bias, const sy_source *down_bias); /* throws; a slot whose setting failed midway is clear */
void experts_clear(Experts &experts, int32_t slot);                                                 /* throws */
/* Grows the workspace, so that no later call with at most that many pairs and rows on that many threads allocates. */
void experts_reserve(Experts &experts, int pairs, int rows, int threads);
void experts_probe(Experts &experts, Pool &pool, int32_t slot, const float *x, int32_t rows, float *out); /* dense rows; throws */

struct PairsCall {
  const float *x;        /* [x_rows, ldx] */
  int64_t ldx;
  int x_rows, pairs;
  const int32_t *row;    /* [pairs] row of x and of the sum */
  const int32_t *slot;   /* [pairs] */
  const float *weight;   /* [pairs] */
  int grid;
};
void experts_run_pairs(Experts &experts, Pool &pool, const PairsCall &call, RowSum &sum); /* throws */

struct RoutedCall {
  const float *x;        /* [rows, ldx] */
  int64_t ldx;
  int rows, k;
  const int32_t *ids;    /* [rows, ld_ids] expert ids, -1 = none; the first k of a row count */
  int64_t ld_ids;
  const float *weights;  /* [rows, ld_weights] */
  int64_t ld_weights;
  const int32_t *slots;  /* [experts] expert id -> slot, -1 = skipped */
  int experts;
  int grid;
};
/* The EXPERTS op: clears the sum's rows, then adds. Throws for an id or slot out of range or a slot that is not set. */
void experts_run_routed(Experts &experts, Pool &pool, const RoutedCall &call, RowSum &sum);

/* ---- rows on the wire (rows.cpp) ----------------------------------------------------------------------------------------------------------- */

/* Throws SY_INVALID_ARGUMENT if writing `bytes` at `out` would change row numbers, which are checked before and read meanwhile. */
void require_apart(int32_t rows, const int32_t *row, const uint8_t *out, uint64_t bytes);

/* x is [x_rows, width]; rows are written densely, one after the other, no padding. Return the bytes written. Throw. */
uint64_t rows_encode(const float *x, int32_t x_rows, int32_t width, int32_t rows, const int32_t *row, int32_t dtype, uint8_t *out, uint64_t capacity);
void rows_decode(float *x, int32_t x_rows, int32_t width, int32_t rows, int32_t dtype, const uint8_t *in, uint64_t bytes);

} // namespace sy
#endif
