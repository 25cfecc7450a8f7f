/*
 * Switchyard kernels: one flat C ABI that every back end fills ("cpu-ref", "cpu", "cuda").
 *
 * Model of use. A caller opens a device, creates objects on it (buffers, weights, experts, KV caches, accumulators), encodes a *program* (a list of
 * ops over those objects, at least one whole layer long), and runs it once per step with a batch descriptor. Nothing is allocated per run: the device's
 * workspace, one for all its programs and experts, is sized when they are created. Calls on one device are made by one thread at a time; a call returns when its work is done.
 *
 * The promise. What an op writes for a row is a function of that row, the weights and (attention) its sequence's cache alone: never of the other rows,
 * of the thread count, of the back end, or of the instruction set (of x86-64 and NVIDIA's GPUs; AArch64 flushes a product just below the smallest normal number
 * before it rounds it). To make that hold every reduction has ONE order, given below beside the op ("order:").
 * Arithmetic is IEEE fp32 with round-to-nearest-even, denormals flushed to zero in inputs and outputs (FTZ|DAZ), fused multiply-add exactly where "fma" is written.
 *
 * Shapes. T = rows of the batch. Activations are f32, row-major, in buffers with a row stride in floats. W[N,K] is PyTorch's [out, in]: y[n] = sum_k x[k] W[n,k].
 */
#ifndef SWITCHYARD_H
#define SWITCHYARD_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* 5: no copy of KV blocks. 4: sy_experts_reserve; back ends "cuda", "cuda:N" and "cuda-emulated". */
#define SY_ABI_VERSION 5

typedef enum {
  SY_OK = 0,
  SY_INVALID_ARGUMENT = 1, /* a shape, index, handle or enum is out of range; sy_last_error() names field, value and limit */
  SY_UNSUPPORTED = 2,      /* this back end or machine cannot do it */
  SY_OUT_OF_MEMORY = 3,
  SY_IO = 4,
  SY_CORRUPT = 5           /* encoded rows from a peer do not parse */
} sy_status;

/* Message of the last failure on this thread; valid until the next call on it. */
const char *sy_last_error(void);
uint32_t sy_abi_version(void);

typedef struct sy_device sy_device;
typedef struct sy_file sy_file;       /* a memory-mapped file, read only */
typedef struct sy_object sy_object;   /* tagged: buffer, table, weight, experts, kv, accumulator */
typedef struct sy_program sy_program;

/* ---- device ------------------------------------------------------------------------------------------------------------------------------ */
/* backend: "cpu-ref" (scalar oracle, one thread), "cpu", "cuda" or "cuda:N" ("cpu" whose experts live on GPU N of this machine: SY_UNSUPPORTED where there is
 * none), "cuda-emulated" (the GPU's kernels thread by thread on the CPU, for tests). isa: "auto", "avx512" (needs F,BW,VL,DQ,BF16,VNNI), "avx2" (needs AVX2,FMA,F16C).
 * threads >= 1: the caller is thread 0, the pool adds threads-1. cpus: threads CPU numbers to pin to, or NULL. */
sy_status sy_device_open(const char *backend, const char *isa, int32_t threads, const int32_t *cpus, sy_device **out);
void sy_device_close(sy_device *);                       /* frees every object and program of the device */
const char *sy_device_describe(const sy_device *);       /* JSON: {"backend","isa","threads","abi"}, with a GPU also its name, memory and identity: {"accelerator","acceleratorBytes","acceleratorId"} */

/* ---- files and sources --------------------------------------------------------------------------------------------------------------------- */
sy_status sy_file_map(const char *path, sy_file **out, uint64_t *bytes);
void sy_file_unmap(sy_file *);

typedef enum { SY_F32 = 0, SY_F16 = 1, SY_BF16 = 2, SY_F8_E4M3 = 3, SY_MXFP4 = 4, SY_I32 = 5 } sy_dtype;

/* A 2-D view [n,k] of a tensor in a file. Element (i,j) is at offset + (i*stride_n + j*stride_k) * sizeof(dtype).
 * SY_F8_E4M3: value * scale[(n0+i)/block_n][(k0+j)/block_k], scale f32 row-major with scale_stride elements a row; (n0,k0) is where the view begins in the scaled tensor.
 * SY_MXFP4: element (i,j) is the nibble (low first) of byte offset + i*stride_n + j/2 (stride_n in BYTES, stride_k ignored), times 2^(s-127),
 *           s = byte scale_offset + i*scale_stride + j/32.
 * Every byte that the view touches must lie inside the file, else SY_INVALID_ARGUMENT. */
typedef struct {
  const sy_file *file;
  uint64_t offset;
  int64_t stride_n, stride_k;
  int32_t dtype, n, k;
  const sy_file *scale_file;
  uint64_t scale_offset;
  int64_t scale_stride;
  int32_t block_n, block_k, n0, k0;
} sy_source;

/* ---- objects ------------------------------------------------------------------------------------------------------------------------------- */
/* Zeroed, 64-byte aligned f32/i32 memory, [rows, width]. sy_buffer_host is its address: buffers are in the host's memory on every device so far. */
sy_status sy_buffer_create(sy_device *, int32_t rows, int32_t width, sy_object **out);
void *sy_buffer_host(sy_object *);
sy_status sy_buffer_load(sy_object *, int64_t first_float, const sy_source *); /* converts to f32, row-major dense */

/* Embedding table: rows stay in the mapped file and are converted when they are used. */
sy_status sy_table_create(sy_device *, const sy_source *, sy_object **out);

/* How a weight is stored and what its input is rounded to before the products. This pair IS the numeric class of the op that uses it. */
typedef enum {
  SY_W_F32 = 0,      /* w f32,  x f32 */
  SY_W_F16 = 1,      /* w f16,  x f32 */
  SY_W_BF16 = 2,     /* w bf16, x f32 */
  SY_W_BF16_X16 = 3, /* w bf16, x rounded to bf16 (nearest even) */
  SY_W_I8 = 4,       /* w int8, x rounded to bf16, then to int8; both per group of SY_QUANT_GROUP along K */
  SY_W_I4 = 5        /* w int4, x as for SY_W_I8 */
} sy_weight_format;
/* order of a dot product (0..3): acc = 0; for k pairs p = 0,1,..: acc = fma(x[2p+1],w[2p+1],acc); acc = fma(x[2p],w[2p],acc). K odd: padded with zeros.
 *   (What VDPBF16PS computes: measured equal on 32 M random lanes. f32 and f16 use the same order.)
 * order (4,5): per group g: i = exact int32 sum of x*w; acc = fma((float)i, xscale[g]*wscale[g], acc), g ascending (the product of scales rounded once).
 *   xscale = max|x|/127 over the group, q = nearest-even(x * (127/max|x|)) in [-127,127], all zero if max|x| = 0.
 *   wscale int8 = max|w|/127 likewise; int4 = max|w|/7, q in [-7,7]. scales f32. */
#define SY_QUANT_GROUP 64

sy_status sy_weight_create(sy_device *, int32_t format, int32_t n, int32_t k, sy_object **out);
sy_status sy_weight_set(sy_object *, int32_t first_row, const sy_source *);    /* packs src->n rows at first_row; src->k == k */

/* Experts of one layer: gate/up [I,H], down [H,I] per slot; a slot's memory need not exist unless it is set (on a GPU it does). */
typedef enum { SY_ACT_SILU = 0, SY_ACT_GPT_OSS = 1 } sy_activation;
/* SILU: silu(g)*u.  GPT_OSS: g=min(g,limit), u=clamp(u,-limit,limit), (u+1)*g*sigmoid(alpha*g).  sigmoid(z) = 1/(1+exp(-z)), exp as in SY_EXP below. */
typedef struct {
  int32_t slots, hidden, inter, format, activation, has_bias;
  float alpha, limit;
} sy_experts_desc;
sy_status sy_experts_create(sy_device *, const sy_experts_desc *, sy_object **out);
/* biases: sources with n = 1 (k = inter, inter, hidden), required iff has_bias */
sy_status sy_experts_set(sy_object *, int32_t slot, const sy_source *gate, const sy_source *up, const sy_source *down,
                         const sy_source *gate_bias, const sy_source *up_bias, const sy_source *down_bias);
sy_status sy_experts_clear(sy_object *, int32_t slot);
/* Takes the workspace of calls with up to so many pairs and rows, so that none of them allocates. */
sy_status sy_experts_reserve(sy_object *, int32_t pairs, int32_t rows);
/* Unweighted f32 outputs of one expert: out[rows, hidden] = E_slot(x[rows, hidden]). For calibration and tests. */
sy_status sy_experts_probe(sy_object *, int32_t slot, const float *x, int32_t rows, float *out);

/* Paged KV cache of one layer: blocks of SY_KV_BLOCK positions. dtype SY_F32 or SY_BF16 (values rounded when written).
 * v_shares_k: v is the first v_dim of k (MLA latent), stored once. */
#define SY_KV_BLOCK 16
sy_status sy_kv_create(sy_device *, int32_t blocks, int32_t kv_heads, int32_t k_dim, int32_t v_dim, int32_t dtype, int32_t v_shares_k, sy_object **out);

/* Sums of expert contributions, [max_rows, hidden].
 * SY_SUM_EXACT: each contribution c = weight * expert(x)[h] (one rounding) becomes the integer nearest-even(c * 2^-grid) (|.| < 2^52, else the row is
 *   worthless: COMBINE marks it in the batch's row_status, on the wire it is a code without numbers),
 *   and integers are added: any order, any grouping, any number of hops gives the same bits. A row is kept as int64 and travels as the narrowest integer that holds it.
 * SY_SUM_FAST: f32 adds in the order of arrival (not exact; named so in every place that offers it). */
typedef enum { SY_SUM_EXACT = 0, SY_SUM_FAST = 1 } sy_sum_mode;
sy_status sy_sum_create(sy_device *, int32_t mode, int32_t max_rows, int32_t hidden, sy_object **out);
sy_status sy_sum_clear(sy_object *, int32_t rows);
/* Wire form of chosen rows: per row u8 width code then the payload (see below), 8-byte aligned rows. Exact: width is the smallest of int16/int32/int64 that
 * holds the row (codes 2,4,8), code 0 = a worthless row without payload; fast: code 1 = f32. Layout: u8 code[rows] padded to 8, then each row's hidden*width bytes padded to 8. */
/* The most bytes that so many rows take; UINT64_MAX where that has more than 64 bits. */
uint64_t sy_sum_encoded_max(int32_t rows, int32_t hidden);
/* `out` must not overlap `row`. */
sy_status sy_sum_encode(sy_object *, int32_t rows, const int32_t *row, uint8_t *out, uint64_t capacity, uint64_t *written);
/* Adds encoded rows: encoded row i goes to row[i]. Bounds are checked: SY_CORRUPT, and nothing is added, if bytes do not parse exactly. */
sy_status sy_sum_add_encoded(sy_object *, int32_t rows, const int32_t *row, const uint8_t *in, uint64_t bytes);

/* Rows on the wire: x[row[i]], each row by itself, every rounding to the nearest even.
 * SY_ROW_I8: f32 scale = max|x|/127, then int8 of x * (127/max|x|).
 * SY_ROW_F8: per SY_ROW_F8_GROUP columns an f32 scale = max|x|/448, then e4m3 of x * (448/max|x|).
 * A scale below the smallest normal float is 0 and so are its values; values that are not finite make the scale NaN. */
#define SY_ROW_F8_GROUP 128
typedef enum { SY_ROW_F32 = 0, SY_ROW_BF16 = 1, SY_ROW_I8 = 2, SY_ROW_F8 = 3 } sy_row_dtype;
/* `out` must not overlap `row`. */
sy_status sy_rows_encode(const sy_object *x_buffer, int32_t rows, const int32_t *row, int32_t dtype, uint8_t *out, uint64_t capacity, uint64_t *written);
/* The reverse, into rows 0.. of a buffer. */
sy_status sy_rows_decode(sy_object *x_buffer, int32_t rows, int32_t dtype, const uint8_t *in, uint64_t bytes);

/* Experts over explicit pairs: for p < pairs: sum[row[p]] += weight[p] * E_slot[p](x[row[p]]). sum rows must have been cleared. order: none needed (exact). */
sy_status sy_experts_run(sy_object *experts, const sy_object *x_buffer, int32_t pairs, const int32_t *row, const int32_t *slot, const float *weight,
                         int32_t grid, sy_object *sum);

void sy_object_free(sy_object *);

/* ---- programs ------------------------------------------------------------------------------------------------------------------------------ */
typedef enum {
  SY_OP_EMBED = 1, SY_OP_NORM, SY_OP_LINEAR, SY_OP_HEAD_LINEAR, SY_OP_ROPE, SY_OP_CLAMP, SY_OP_KV_WRITE, SY_OP_ATTENTION,
  SY_OP_GATED_ACT, SY_OP_MUL_SIGMOID, SY_OP_ADD, SY_OP_ROUTE, SY_OP_EXPERTS, SY_OP_COMBINE, SY_OP_GATHER
} sy_op_kind;

#define SY_NONE 0xffffffffu          /* "no object" in obj[] */
#define SY_FLAG_LOGIT_ROWS 1u        /* the op works on the batch's logit rows (0..logit_rows) instead of all T rows */

/* 96 bytes. obj[] indexes the object table of the program. Unused fields are 0 (obj: SY_NONE). "x+off" = column offset inside the row. */
typedef struct {
  uint32_t kind, flags;
  uint32_t obj[6];
  int32_t n[10];
  float f[6];
} sy_op;
#ifdef __cplusplus
static_assert(sizeof(sy_op) == 96, "sy_op layout");
#else
_Static_assert(sizeof(sy_op) == 96, "sy_op layout");
#endif
/*
 * EMBED       obj: out, table.                 n: width. f: scale.                   out[t] = table[token[t]] * scale
 * NORM        obj: x, out, weight, bias.       n: groups, width, xOff, xStride, outOff, outStride, kind(0 rms,1 layer,2 l2), weightStride. f: eps, weightPlus.
 *               per row and group g (columns off + g*stride ..): rms: y = (x*r)*(w+weightPlus), r = 1/sqrt(mean(x^2)+eps); layer: ((x-mean)*r)*w + b; l2: x*r.
 *               weight index g*weightStride + i. order of sums: 16 lanes, lane j sums i = j mod 16 ascending by fma (tail zero padded), then lanes as a tree: (j, j+8), (j, j+4), (j, j+2), (j, j+1).
 * LINEAR      obj: x, out, weight, bias.       n: xOff, outOff, mode(0 store, 1 add). f: scale.      v = dot + bias (one rounding); store: scale*v; add: fma(scale, v, out)
 * HEAD_LINEAR obj: x, out, weight[heads*outDim, inDim]. n: heads, xOff, xStride, outOff, outStride, outDim.   per head h: out_h = W_h x_h
 * ROPE        obj: x (in place), table[variants*maxPos, rot] = cos[rot/2] then sin[rot/2]. n: heads, off, stride, rot, layout(0 half,1 interleaved), maxPos.
 *               variant of the row's sequence from the batch. u' = fma(u, cos, -(v*sin)); v' = fma(v, cos, u*sin), products in brackets rounded.
 * CLAMP       obj: x. n: off, width. f: lo, hi.
 * KV_WRITE    obj: k, v, kv. n: kOff, kStride, vOff, vStride (strides between heads). v is SY_NONE when the cache shares k.
 * ATTENTION   obj: q, out, kv, sinks. n: heads, qOff, qStride, outOff, outStride, window (0 none), chunk (0 none). f: scale.
 *               key j is visible to position i iff j <= i, (window=0 or i-j < window), (chunk=0 or i/chunk == j/chunk). GQA: kv head = h / (heads/kv_heads).
 *               s_j = (dot over d ascending by fma, from 0) * scale; m = max over visible (and sink); p_j = SY_EXP(s_j - m);
 *               l = sum: 16 lanes, lane = j mod 16 of the ABSOLUTE position, ascending; tree as in NORM; then + SY_EXP(sink - m) last;
 *               o = (over visible j ascending: o = fma(p_j, v_j, o)) * (1/l). q is used as f32; cached k, v as stored.
 * GATED_ACT   obj: x, out. n: width, gateOff, upOff, step (1, or 2 if interleaved), outOff, kind(sy_activation). f: alpha, limit.
 * MUL_SIGMOID obj: x (in place), gate. n: width, off, gateOff, gateStep (0: one gate a row, 1: one per element).   x *= sigmoid(gate)
 * ADD         obj: out, x. n: width, outOff, xOff. f: scale.     out = fma(scale, x, out)
 * ROUTE       obj: logits, ids(i32), weights, selectBias, nodes(i32 [1,E] bits, or none). n: experts, k, score(0 softmax over all, 1 softmax over the chosen, 2 sigmoid, 3 sparse mixer, 4 factored),
 *               groups, topGroups, groupScore(0 max, 1 sum of top two), renorm, maskZero (masked groups score 0 instead of -inf; without selectBias that is the weight too), nodeLimit. f: scale, renormEps, jitterEps.
 *               factored: logits are groups group logits, then experts/groups slot logits; p, q = their softmaxes, score of expert i*(experts/groups)+j = p_i*q_j;
 *               the best topGroups groups by p and in each the best k/topGroups slots by q. No selectBias, groupScore or maskZero.
 *               nodes: routed freely first; of the nodes (bit n of nodes[e]: node n holds e) nodeLimit are kept, one by one the node that holds most of the weight of
 *               the free choice not yet covered, ties to the lower; unless they hold all of it, routed again with every expert elsewhere at -inf. No groups, scores 0..2.
 *               Ties: higher score, then lower id. ids in selection order. softmax/renorm sums: ascending expert id / selection order. A NaN among scores or weights:
 *               ids -1, weights 0, and the row is marked in row_status.
 * EXPERTS     obj: x, ids, weights, experts, sum, slots(i32 [1,E]: expert id -> local slot or -1 = skipped; id -1: no expert). n: k, grid. Clears the sum's T rows, then adds.
 * COMBINE     obj: sum, residual, shared. n: grid. f: multiplier.   residual = fma(multiplier, m, residual), m = (float)int * 2^grid (+ shared, one rounding). Marks worthless rows in row_status.
 * GATHER      obj: x, out. n: width.   out[i] = x[logit_row[i]]
 *
 * SY_EXP: one polynomial for every back end (native/cpp/exp.h): Cody-Waite reduction, degree-6 Horner by fma, <= 2 ulp; exp(-inf) = 0, underflow to 0 below -87.3.
 */

typedef struct {
  int32_t rows, seqs, logit_rows, max_blocks;
  const int32_t *token;        /* [rows] */
  const int32_t *seq_row;      /* [seqs+1] rows of sequence s: seq_row[s] .. seq_row[s+1]; consecutive positions */
  const int32_t *seq_pos;      /* [seqs] position of the sequence's first row in this batch */
  const int32_t *seq_variant;  /* [seqs] rope variant */
  const int32_t *block;        /* [seqs, max_blocks] block numbers; every block up to the last row's position must be valid */
  const int32_t *logit_row;    /* [logit_rows] ascending */
  /* [rows], written by every run: 0, or 1 + the number of the first op that could not complete the row because a number of it is NaN or out of range.
   * Such a row's results are worthless from there on; the other rows' are as if it were not there. */
  int32_t *row_status;
} sy_batch;

sy_status sy_program_create(sy_device *, const sy_op *ops, int32_t count, sy_object *const *objects, int32_t object_count, int32_t max_rows,
                            int32_t max_seqs, int32_t max_context, sy_program **out); /* validates every op against its objects */
sy_status sy_program_run(sy_program *, const sy_batch *);
/* Seconds by op kind since creation, for profiling: out[kind]. */
void sy_program_times(const sy_program *, double out[32]);
void sy_program_free(sy_program *);

#ifdef __cplusplus
}
#endif
#endif
