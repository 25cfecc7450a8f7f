/* The C ABI of include/switchyard.h: arguments in, status out. Nothing is decided here. */
#include <climits>
#include <cstring>
#include <new>

#pragma GCC visibility push(default) // The ABI is what the library shows; all else is hidden.
#include "../include/switchyard.h"
#pragma GCC visibility pop
#include "device.h"
#include "float_environment.h"
#include "program.h"

using namespace sy;

namespace {

thread_local std::string last_error;

/* Runs one entry point under the kernels' floating-point environment; what it throws becomes its status. */
template <class Body> sy_status guarded(const Body &body) {
  const FlushDenormals flush;
  try {
    last_error.clear();
    body();
    return SY_OK;
  } catch (const Failure &failure) {
    last_error = failure.message;
    return failure.status;
  } catch (const std::bad_alloc &) {
    last_error = "out of memory";
    return SY_OUT_OF_MEMORY;
  }
}

template <class T> T &required(T *pointer, const char *name) {
  if (!pointer) fail(SY_INVALID_ARGUMENT, "%s is null", name);
  return *pointer;
}

/* Where to put what is made is looked at first: what nobody takes would stay for ever. */
template <class T, class Make> sy_status created(T **out, const Make &make) {
  return guarded([&] {
    T *&to = required(out, "out");
    to = make();
  });
}

template <class T, class... Arguments> sy_object *create(sy_device *device, Arguments &&...arguments) {
  auto object = std::make_unique<T>(required(device, "device"), std::forward<Arguments>(arguments)...);
  device->objects.insert(object.get());
  return object.release();
}

void check_rows(int32_t rows, const void *array) {
  if (rows < 0) fail(SY_INVALID_ARGUMENT, "rows = %d: must not be negative", rows);
  if (rows > 0 && !array) fail(SY_INVALID_ARGUMENT, "rows = %d: the array is null", rows);
}

} // namespace

extern "C" {

const char *sy_last_error(void) { return last_error.c_str(); }
uint32_t sy_abi_version(void) { return SY_ABI_VERSION; }

sy_status sy_device_open(const char *backend, const char *isa, int32_t threads, const int32_t *cpus, sy_device **out) {
  return created(out, [&] { return device_open(backend, isa, threads, cpus).release(); });
}
void sy_device_close(sy_device *device) { delete device; }
const char *sy_device_describe(const sy_device *device) { return device ? device->description.c_str() : ""; }

sy_status sy_file_map(const char *path, sy_file **out, uint64_t *bytes) {
  return created(out, [&] {
    MappedFile *file = file_map(path);
    if (bytes) *bytes = file->bytes;
    return file;
  });
}
void sy_file_unmap(sy_file *file) {
  if (file) file_release(static_cast<MappedFile *>(file));
}

sy_status sy_buffer_create(sy_device *device, int32_t rows, int32_t width, sy_object **out) {
  return created(out, [&] { return create<Buffer>(device, rows, width); });
}
void *sy_buffer_host(sy_object *object) { return object && object->kind == ObjectKind::buffer ? static_cast<Buffer *>(object)->f32() : nullptr; }

sy_status sy_buffer_load(sy_object *object, int64_t first_float, const sy_source *source) {
  return guarded([&] {
    Buffer &buffer = as<Buffer>(object, "buffer");
    validate(required(source, "source"), "source");
    const int64_t have = (int64_t)buffer.rows * buffer.width, need = (int64_t)source->n * source->k;
    if (first_float < 0 || first_float > have - need)
      fail(SY_INVALID_ARGUMENT, "first_float = %lld: %lld floats must fit a buffer of %lld", (long long)first_float, (long long)need, (long long)have);
    for (int i = 0; i < source->n; i++) load_f32(*source, i, 0, source->k, buffer.f32() + first_float + (int64_t)i * source->k);
  });
}

sy_status sy_table_create(sy_device *device, const sy_source *source, sy_object **out) {
  return created(out, [&] {
    validate(required(source, "source"), "source");
    return create<Table>(device, *source);
  });
}

sy_status sy_weight_create(sy_device *device, int32_t format, int32_t n, int32_t k, sy_object **out) {
  return created(out, [&] { return create<WeightObject>(device, format, n, k); });
}
sy_status sy_weight_set(sy_object *object, int32_t first_row, const sy_source *source) {
  return guarded([&] { weight_set(*as<WeightObject>(object, "weight").weight, object->device->pool, first_row, required(source, "source")); });
}

sy_status sy_experts_create(sy_device *device, const sy_experts_desc *desc, sy_object **out) {
  return created(out, [&] { return create<ExpertsObject>(device, required(desc, "desc")); });
}
sy_status sy_experts_set(sy_object *object, int32_t slot, const sy_source *gate, const sy_source *up, const sy_source *down, const sy_source *gate_bias,
                         const sy_source *up_bias, const sy_source *down_bias) {
  return guarded([&] {
    experts_set(*as<ExpertsObject>(object, "experts").experts, object->device->pool, slot, &required(gate, "gate"), &required(up, "up"),
                &required(down, "down"), gate_bias, up_bias, down_bias);
  });
}
sy_status sy_experts_clear(sy_object *object, int32_t slot) {
  return guarded([&] { experts_clear(*as<ExpertsObject>(object, "experts").experts, slot); });
}
sy_status sy_experts_reserve(sy_object *object, int32_t pairs, int32_t rows) {
  return guarded([&] {
    if (pairs < 0 || rows < 0) fail(SY_INVALID_ARGUMENT, "pairs = %d, rows = %d: must not be negative", pairs, rows);
    experts_reserve(*as<ExpertsObject>(object, "experts").experts, pairs, rows, object->device->pool.threads());
  });
}
sy_status sy_experts_probe(sy_object *object, int32_t slot, const float *x, int32_t rows, float *out) {
  return guarded([&] {
    check_rows(rows, x);
    check_rows(rows, out);
    experts_probe(*as<ExpertsObject>(object, "experts").experts, object->device->pool, slot, x, rows, out);
  });
}

sy_status sy_kv_create(sy_device *device, int32_t blocks, int32_t kv_heads, int32_t k_dim, int32_t v_dim, int32_t dtype, int32_t v_shares_k,
                       sy_object **out) {
  return created(out, [&] {
    if (dtype != SY_F32 && dtype != SY_BF16) fail(SY_INVALID_ARGUMENT, "dtype = %d: a KV cache is %d (f32) or %d (bf16)", dtype, SY_F32, SY_BF16);
    return create<KvObject>(device, KvShape{blocks, kv_heads, k_dim, v_dim, dtype == SY_BF16, v_shares_k != 0});
  });
}

sy_status sy_sum_create(sy_device *device, int32_t mode, int32_t max_rows, int32_t hidden, sy_object **out) {
  return created(out, [&] { return create<SumObject>(device, mode, max_rows, hidden); });
}
sy_status sy_sum_clear(sy_object *object, int32_t rows) {
  return guarded([&] { sum_clear(*as<SumObject>(object, "sum").sum, rows); });
}
uint64_t sy_sum_encoded_max(int32_t rows, int32_t hidden) { return sum_encoded_max(rows, hidden); }
sy_status sy_sum_encode(sy_object *object, int32_t rows, const int32_t *row, uint8_t *out, uint64_t capacity, uint64_t *written) {
  return guarded([&] {
    check_rows(rows, row);
    required(written, "written") = sum_encode(*as<SumObject>(object, "sum").sum, rows, row, out, capacity);
  });
}
sy_status sy_sum_add_encoded(sy_object *object, int32_t rows, const int32_t *row, const uint8_t *in, uint64_t bytes) {
  return guarded([&] {
    check_rows(rows, row);
    sum_add_encoded(*as<SumObject>(object, "sum").sum, rows, row, in, bytes);
  });
}

sy_status sy_rows_encode(const sy_object *x_buffer, int32_t rows, const int32_t *row, int32_t dtype, uint8_t *out, uint64_t capacity, uint64_t *written) {
  return guarded([&] {
    const Buffer &x = as<Buffer>(const_cast<sy_object *>(x_buffer), "x_buffer");
    check_rows(rows, row);
    required(written, "written") = rows_encode(x.f32(), x.rows, x.width, rows, row, dtype, out, capacity);
  });
}
sy_status sy_rows_decode(sy_object *x_buffer, int32_t rows, int32_t dtype, const uint8_t *in, uint64_t bytes) {
  return guarded([&] {
    const Buffer &x = as<Buffer>(x_buffer, "x_buffer");
    rows_decode(x.f32(), x.rows, x.width, rows, dtype, in, bytes);
  });
}

sy_status sy_experts_run(sy_object *experts_object, const sy_object *x_buffer, int32_t pairs, const int32_t *row, const int32_t *slot, const float *weight,
                         int32_t grid, sy_object *sum_object) {
  return guarded([&] {
    ExpertsObject &experts = as<ExpertsObject>(experts_object, "experts");
    const Buffer &x = as<Buffer>(const_cast<sy_object *>(x_buffer), "x_buffer");
    RowSum &sum = *as<SumObject>(sum_object, "sum").sum;
    const int hidden = experts_desc(*experts.experts).hidden;
    if (x.width < hidden) fail(SY_INVALID_ARGUMENT, "x_buffer is %d wide: the experts' hidden is %d", x.width, hidden);
    if (pairs < 0 || (pairs > 0 && (!row || !slot || !weight))) fail(SY_INVALID_ARGUMENT, "pairs = %d: row, slot and weight must hold that many", pairs);
    experts_run_pairs(*experts.experts, experts.device->pool, {x.f32(), x.width, x.rows, pairs, row, slot, weight, grid}, sum);
  });
}

void sy_object_free(sy_object *object) {
  if (object) object_release(object);
}

sy_status sy_program_create(sy_device *device, const sy_op *ops, int32_t count, sy_object *const *objects, int32_t object_count, int32_t max_rows,
                            int32_t max_seqs, int32_t max_context, sy_program **out) {
  return created(out, [&] {
    auto program = std::make_unique<sy_program>(required(device, "device"), ops, count, objects, object_count, max_rows, max_seqs, max_context);
    device->programs.insert(program.get());
    return program.release();
  });
}
sy_status sy_program_run(sy_program *program, const sy_batch *batch) {
  return guarded([&] { required(program, "program").run(required(batch, "batch")); });
}
void sy_program_times(const sy_program *program, double out[32]) {
  if (program) program->times(out);
}
void sy_program_free(sy_program *program) {
  if (!program) return;
  program->device.programs.erase(program);
  delete program;
}

} // extern "C"
