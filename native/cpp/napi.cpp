/*
 * The kernels as a Node addon: src/contract.ts over include/switchyard.h, on raw Node-API.
 *
 * Handles. Every native thing that JavaScript holds is a plain object that wraps a Record and carries our type tag, so that no other object can be taken
 * for one. A record knows what it is and whether it was freed; using a freed one throws. Freed means freed: the arrays of a buffer are detached first, so
 * JavaScript never sees memory that is gone. (If it has transferred the memory to an array of its own, that one keeps it.) What is dropped without being
 * freed goes when the garbage collector finds it.
 */
#include <node_api.h>

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <unordered_set>
#include <vector>

#include "../include/switchyard.h"
#include "shared-memory.h"

void export_shared_memory(napi_env env, napi_value exports); /* napi-shared-memory.cpp */
void export_core(napi_env env, napi_value exports);          /* napi-core.cpp */

namespace {

/* A failure on its way to becoming a NativeError. */
struct Refusal {
  sy_status status;
  std::string message;
};
/* A JavaScript exception is pending already. */
struct Pending {};

[[noreturn]] void refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
void refuse(const char *format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Refusal{SY_INVALID_ARGUMENT, text};
}

void check(sy_status status) {
  if (status != SY_OK) throw Refusal{status, sy_last_error()};
}

void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending) throw Pending{};
  const napi_extended_error_info *info = nullptr;
  napi_get_last_error_info(env, &info);
  throw Refusal{SY_INVALID_ARGUMENT, info && info->error_message ? info->error_message : "Node-API call failed"};
}

const char *status_name(sy_status status) {
  switch (status) {
  case SY_OK: return "ok";
  case SY_INVALID_ARGUMENT: return "invalid_argument";
  case SY_UNSUPPORTED: return "unsupported";
  case SY_OUT_OF_MEMORY: return "out_of_memory";
  case SY_IO: return "io";
  case SY_CORRUPT: return "corrupt";
  }
  return "invalid_argument";
}

/* ---- records ----------------------------------------------------------------------------------------------------------------------------------- */

enum class Kind { device, file, buffer, table, weight, experts, kv, sum, program };
const char *const kind_names[] = {"device", "file", "buffer", "table", "weight", "experts", "kv", "sum", "program"};

constexpr napi_type_tag handle_tag = {0x5a1c3f0e7b9d4826, 0x9e6b2d8f104c7a53};

struct Record {
  Kind kind;
  union {
    void *any;
    sy_device *device;
    sy_file *file;
    sy_object *object;
    sy_program *program;
  };                             /* null once freed */
  Record *owner = nullptr;       /* the device, for what lives on one */
  std::unordered_set<Record *> owned; /* of a device: what is not freed yet */
  int holders = 1;               /* the JavaScript handle, a buffer's array, and for a device each record that it owns or owned */
  napi_ref array = nullptr;      /* weak: the ArrayBuffer over a buffer's memory */
  bool shown = false;            /* some ArrayBuffer is over that memory: this one, or one that it was transferred to */
  sy_object *kept = nullptr;     /* freed while shown and not to be hidden: it goes with the array */
  int kept_objects = 0;          /* of a device */
  sy_device *kept_device = nullptr; /* closed while it had some: it goes with the last */
  int64_t width = 0;             /* experts: hidden */

  Record(Kind what, void *pointer) : kind(what), any(pointer) {}
};

void free_native(napi_env env, Record *record);

void release(napi_env env, Record *record) {
  if (--record->holders > 0) return;
  free_native(env, record);
  if (record->array) napi_delete_reference(env, record->array);
  Record *owner = record->owner;
  delete record;
  if (owner) release(env, owner);
}

/* JavaScript's arrays over a buffer become empty before its memory goes. False if that cannot be: where ours is detached or collected already, another may
 * have taken the memory over. */
bool hide_memory(napi_env env, Record *record) {
  if (!record->shown) return true;
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return false;
  napi_value array = nullptr;
  bool detached = true;
  const bool hidden = record->array && napi_get_reference_value(env, record->array, &array) == napi_ok && array &&
                      napi_is_detached_arraybuffer(env, array, &detached) == napi_ok && !detached && napi_detach_arraybuffer(env, array) == napi_ok;
  napi_close_handle_scope(env, scope);
  return hidden;
}

void keep(Record *record) {
  record->kept = record->object;
  record->owner->kept_objects++;
}

void free_native(napi_env env, Record *record) {
  if (!record->any) return;
  switch (record->kind) {
  case Kind::device:
    for (Record *owned : record->owned) {
      if (!hide_memory(env, owned)) keep(owned);
      owned->any = nullptr;
    }
    record->owned.clear();
    if (record->kept_objects > 0) record->kept_device = record->device;
    else sy_device_close(record->device);
    break;
  case Kind::file: sy_file_unmap(record->file); break;
  case Kind::program: sy_program_free(record->program); break;
  default:
    if (hide_memory(env, record)) sy_object_free(record->object);
    else keep(record);
  }
  if (record->owner) record->owner->owned.erase(record);
  record->any = nullptr;
}

void finalize_record(napi_env env, void *data, void *) { release(env, static_cast<Record *>(data)); }
void finalize_array(napi_env env, void *, void *hint) {
  auto *record = static_cast<Record *>(hint);
  record->shown = false;
  if (record->kept) {
    sy_object_free(record->kept);
    record->kept = nullptr;
    Record *device = record->owner;
    if (--device->kept_objects == 0 && device->kept_device) {
      sy_device_close(device->kept_device);
      device->kept_device = nullptr;
    }
  }
  release(env, record);
}

/* ---- one call ---------------------------------------------------------------------------------------------------------------------------------- */

constexpr size_t arguments_max = 10;

struct Bytes {
  uint8_t *data;
  size_t length;
};

class Call {
public:
  Call(napi_env environment, napi_callback_info info) : env(environment) { check(env, napi_get_cb_info(env, info, &count_, arguments_, nullptr, nullptr)); }

  const napi_env env;

  napi_value at(size_t i) const {
    if (i >= count_) refuse("argument %zu is missing", i);
    return arguments_[i];
  }

  bool is_null(napi_value value) const {
    napi_valuetype type;
    check(env, napi_typeof(env, value, &type));
    return type == napi_null;
  }

  double number(napi_value value, const char *name) const {
    double number = 0;
    if (napi_get_value_double(env, value, &number) != napi_ok) refuse("%s must be a number", name);
    return number;
  }
  int64_t integer(napi_value value, const char *name, double least, double most) const {
    const double number = this->number(value, name);
    if (!(number >= least && number <= most) || number != std::floor(number)) refuse("%s = %g: must be an integer in %.0f..%.0f", name, number, least, most);
    return (int64_t)number;
  }
  int32_t int32(napi_value value, const char *name) const { return (int32_t)integer(value, name, INT32_MIN, INT32_MAX); }
  int32_t count(napi_value value, const char *name) const { return (int32_t)integer(value, name, 0, INT32_MAX); }
  static constexpr double safe = 9007199254740991.0; /* integers a JavaScript number holds exactly */
  int64_t whole(napi_value value, const char *name) const { return integer(value, name, -safe, safe); }
  bool boolean(napi_value value, const char *name) const {
    bool result = false;
    if (napi_get_value_bool(env, value, &result) != napi_ok) refuse("%s must be a boolean", name);
    return result;
  }
  std::string string(napi_value value, const char *name) const {
    size_t length = 0;
    if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) refuse("%s must be a string", name);
    std::string text(length, '\0');
    check(env, napi_get_value_string_utf8(env, value, text.data(), length + 1, &length));
    if (text.find('\0') != std::string::npos) refuse("%s holds a zero character", name); // C would take what comes before it for the whole.
    return text;
  }
  napi_value property(napi_value object, const char *name) const {
    napi_valuetype type;
    check(env, napi_typeof(env, object, &type));
    if (type != napi_object) refuse("the object that should have %s is not an object", name);
    napi_value value;
    check(env, napi_get_named_property(env, object, name, &value));
    check(env, napi_typeof(env, value, &type));
    if (type == napi_undefined) refuse("%s is undefined: absent is null", name);
    return value;
  }

  Record &record(napi_value value, const char *name) const {
    bool ours = false;
    void *data = nullptr;
    if (napi_check_object_type_tag(env, value, &handle_tag, &ours) != napi_ok || !ours || napi_unwrap(env, value, &data) != napi_ok)
      refuse("%s is not a handle of this library", name);
    Record &record = *static_cast<Record *>(data);
    if (!record.any) refuse("%s (%s) was freed", name, kind_names[(int)record.kind]);
    return record;
  }
  Record &record(napi_value value, Kind kind, const char *name) const {
    Record &found = record(value, name);
    if (found.kind != kind) refuse("%s is a %s: it must be a %s", name, kind_names[(int)found.kind], kind_names[(int)kind]);
    return found;
  }
  sy_object *object(napi_value value, Kind kind, const char *name) const { return record(value, kind, name).object; }

  /* Elements of a typed array, over memory that only this thread changes: what was checked in a SharedArrayBuffer could be something else when it is used. */
  template <class T> T *elements(napi_value value, napi_typedarray_type wanted, const char *type_name, size_t &length, const char *name) const {
    napi_typedarray_type type;
    void *data = nullptr;
    napi_value memory;
    bool own = false;
    if (napi_get_typedarray_info(env, value, &type, &length, &data, &memory, nullptr) != napi_ok || type != wanted) refuse("%s must be a %s", name, type_name);
    if (napi_is_arraybuffer(env, memory, &own) != napi_ok || !own) refuse("%s is over a SharedArrayBuffer: it must be over an ArrayBuffer", name);
    if (sy::shared_holds(data)) refuse("%s is over memory of sharedMemory, which another process may change", name);
    return static_cast<T *>(data);
  }
  template <class T> T *array(napi_value value, napi_typedarray_type wanted, const char *type_name, size_t least, const char *name) const {
    size_t length = 0;
    T *data = elements<T>(value, wanted, type_name, length, name);
    if (length < least) refuse("%s has %zu elements: %zu are needed", name, length, least);
    return data;
  }
  int32_t *int32s(napi_value value, size_t least, const char *name) const { return array<int32_t>(value, napi_int32_array, "Int32Array", least, name); }
  float *floats(napi_value value, size_t least, const char *name) const { return array<float>(value, napi_float32_array, "Float32Array", least, name); }
  /* The part of a Uint8Array (or Buffer) from `offset` on. */
  Bytes bytes(napi_value value, napi_value offset_value, const char *name) const {
    size_t length = 0;
    uint8_t *data = elements<uint8_t>(value, napi_uint8_array, "Uint8Array", length, name);
    const size_t offset = (size_t)integer(offset_value, "offset", 0, (double)length);
    return {data + offset, length - offset};
  }

  napi_value undefined() const {
    napi_value value;
    check(env, napi_get_undefined(env, &value));
    return value;
  }
  napi_value of(double number) const {
    napi_value value;
    check(env, napi_create_double(env, number, &value));
    return value;
  }
  napi_value of(const char *text) const {
    napi_value value;
    check(env, napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value));
    return value;
  }

  /* A new handle: a frozen-shape object {type, ...extra} that owns the record. Frees the native thing if JavaScript cannot hold it. */
  napi_value handle(Record *record, std::initializer_list<std::pair<const char *, napi_value>> extra = {}) const {
    napi_value object;
    try {
      check(env, napi_create_object(env, &object));
      set(object, "type", of(kind_names[(int)record->kind]));
      for (const auto &[name, value] : extra) set(object, name, value);
      check(env, napi_type_tag_object(env, object, &handle_tag));
      check(env, napi_wrap(env, object, record, finalize_record, nullptr, nullptr));
    } catch (...) {
      release(env, record);
      throw;
    }
    return object;
  }
  Record *own(Record &device, Kind kind, void *pointer) const {
    auto *record = new Record(kind, pointer);
    record->owner = &device;
    device.owned.insert(record);
    device.holders++;
    return record;
  }

private:
  void set(napi_value object, const char *name, napi_value value) const {
    const napi_property_descriptor property{name, nullptr, nullptr, nullptr, nullptr, value, napi_enumerable, nullptr};
    check(env, napi_define_properties(env, object, 1, &property));
  }

  napi_value arguments_[arguments_max];
  size_t count_ = arguments_max;
};

void throw_error(napi_env env, const Refusal &refusal) {
  // The class comes from TypeScript (setErrorClass); before that, and if making it fails, a plain Error must do.
  void *data = nullptr;
  napi_get_instance_data(env, &data);
  napi_value error_class = nullptr, error = nullptr, arguments[2];
  const bool made = data && napi_get_reference_value(env, *static_cast<napi_ref *>(data), &error_class) == napi_ok && error_class &&
                    napi_create_string_utf8(env, status_name(refusal.status), NAPI_AUTO_LENGTH, &arguments[0]) == napi_ok &&
                    napi_create_string_utf8(env, refusal.message.c_str(), NAPI_AUTO_LENGTH, &arguments[1]) == napi_ok &&
                    napi_new_instance(env, error_class, 2, arguments, &error) == napi_ok;
  if (made) napi_throw(env, error);
  else napi_throw_error(env, status_name(refusal.status), refusal.message.c_str());
}

template <napi_value (*body)(Call &)> napi_value entry(napi_env env, napi_callback_info info) {
  try {
    Call call(env, info);
    return body(call);
  } catch (const Refusal &refusal) {
    throw_error(env, refusal);
  } catch (const Pending &) {
  } catch (const std::bad_alloc &) {
    throw_error(env, {SY_OUT_OF_MEMORY, "out of memory"});
  }
  return nullptr;
}

/* ---- names of enums ---------------------------------------------------------------------------------------------------------------------------- */

template <size_t N> int32_t choice(const std::string &value, const char *const (&names)[N], const char *name) {
  for (size_t i = 0; i < N; i++)
    if (value == names[i]) return (int32_t)i;
  std::string known;
  for (const char *each : names) known += known.empty() ? each : std::string(", ") + each;
  refuse("%s = \"%s\": must be one of %s", name, value.c_str(), known.c_str());
}

const char *const dtypes[] = {"f32", "f16", "bf16", "f8_e4m3", "mxfp4", "i32"};             /* in the order of sy_dtype */
const char *const weight_formats[] = {"f32", "f16", "bf16", "bf16-x16", "int8", "int4"};     /* sy_weight_format */
const char *const sum_modes[] = {"exact", "fast"};                                          /* sy_sum_mode */
const char *const activations[] = {"silu", "gpt_oss"};                                      /* sy_activation */

const char *const row_dtypes[] = {"f32", "bf16", "int8", "fp8"};                             /* sy_row_dtype */

int32_t kv_dtype(const Call &call, napi_value value) { return choice(call.string(value, "dtype"), dtypes, "dtype"); }

/* What a description of a source says, with its files still as handles: reading a property may run a getter, which may free anything. Handles are looked up
 * when nothing is left to be read. */
struct Described {
  sy_source source;
  napi_value file, scale_file; /* null: none */
};

Described described(const Call &call, napi_value value) {
  Described found{};
  sy_source &source = found.source;
  found.file = call.property(value, "file");
  source.offset = (uint64_t)call.integer(call.property(value, "offset"), "source.offset", 0, Call::safe);
  source.stride_n = call.whole(call.property(value, "strideN"), "source.strideN");
  source.stride_k = call.whole(call.property(value, "strideK"), "source.strideK");
  source.dtype = choice(call.string(call.property(value, "dtype"), "source.dtype"), dtypes, "source.dtype");
  source.n = call.int32(call.property(value, "n"), "source.n");
  source.k = call.int32(call.property(value, "k"), "source.k");
  const napi_value scale = call.property(value, "scale");
  if (call.is_null(scale)) return found;
  found.scale_file = call.property(scale, "file");
  source.scale_offset = (uint64_t)call.integer(call.property(scale, "offset"), "source.scale.offset", 0, Call::safe);
  source.scale_stride = call.whole(call.property(scale, "stride"), "source.scale.stride");
  source.block_n = call.int32(call.property(scale, "blockN"), "source.scale.blockN");
  source.block_k = call.int32(call.property(scale, "blockK"), "source.scale.blockK");
  source.n0 = call.int32(call.property(scale, "n0"), "source.scale.n0");
  source.k0 = call.int32(call.property(scale, "k0"), "source.scale.k0");
  return found;
}

/* The source itself. From here until it was used no JavaScript may run. */
const sy_source &mapped(const Call &call, Described &found) {
  found.source.file = call.record(found.file, Kind::file, "source.file").file;
  if (found.scale_file) found.source.scale_file = call.record(found.scale_file, Kind::file, "source.scale.file").file;
  return found.source;
}

/* ---- device and files -------------------------------------------------------------------------------------------------------------------------- */

napi_value set_error_class(Call &call) {
  void *data = nullptr;
  check(call.env, napi_get_instance_data(call.env, &data));
  auto *reference = static_cast<napi_ref *>(data);
  if (*reference) check(call.env, napi_delete_reference(call.env, *reference));
  *reference = nullptr;
  check(call.env, napi_create_reference(call.env, call.at(0), 1, reference));
  return call.undefined();
}

napi_value abi_version(Call &call) { return call.of((double)sy_abi_version()); }

napi_value device_open(Call &call) {
  const napi_value options = call.at(0);
  const std::string backend = call.string(call.property(options, "backend"), "backend"), isa = call.string(call.property(options, "isa"), "isa");
  const int32_t threads = call.int32(call.property(options, "threads"), "threads");
  const napi_value cpus = call.property(options, "cpus");
  std::vector<int32_t> pinned;
  if (!call.is_null(cpus)) {
    uint32_t length = 0;
    if (napi_get_array_length(call.env, cpus, &length) != napi_ok) refuse("cpus must be an array of CPU numbers or null");
    if ((int64_t)length != threads) refuse("cpus has %u numbers: threads = %d", length, threads);
    for (uint32_t i = 0; i < length; i++) {
      napi_value each;
      check(call.env, napi_get_element(call.env, cpus, i, &each));
      pinned.push_back(call.int32(each, "cpus"));
    }
  }
  sy_device *device = nullptr;
  check(sy_device_open(backend.c_str(), isa.c_str(), threads, pinned.empty() ? nullptr : pinned.data(), &device));
  return call.handle(new Record(Kind::device, device));
}

/* Frees whatever the handle stands for; a second time does nothing. */
napi_value free_handle(Call &call, std::initializer_list<Kind> kinds, const char *name) {
  bool ours = false;
  void *data = nullptr;
  if (napi_check_object_type_tag(call.env, call.at(0), &handle_tag, &ours) != napi_ok || !ours || napi_unwrap(call.env, call.at(0), &data) != napi_ok)
    refuse("%s is not a handle of this library", name);
  auto *record = static_cast<Record *>(data);
  bool allowed = false;
  for (const Kind kind : kinds) allowed = allowed || record->kind == kind;
  if (!allowed) refuse("%s is a %s", name, kind_names[(int)record->kind]);
  free_native(call.env, record);
  return call.undefined();
}
napi_value device_close(Call &call) { return free_handle(call, {Kind::device}, "device"); }
napi_value file_unmap(Call &call) { return free_handle(call, {Kind::file}, "file"); }
napi_value program_free(Call &call) { return free_handle(call, {Kind::program}, "program"); }
napi_value object_free(Call &call) {
  return free_handle(call, {Kind::buffer, Kind::table, Kind::weight, Kind::experts, Kind::kv, Kind::sum}, "object");
}

napi_value device_describe(Call &call) { return call.of(sy_device_describe(call.record(call.at(0), Kind::device, "device").device)); }

napi_value file_map(Call &call) {
  const std::string path = call.string(call.at(0), "path");
  sy_file *file = nullptr;
  uint64_t bytes = 0;
  check(sy_file_map(path.c_str(), &file, &bytes));
  return call.handle(new Record(Kind::file, file), {{"path", call.at(0)}, {"bytes", call.of((double)bytes)}});
}

/* ---- objects ----------------------------------------------------------------------------------------------------------------------------------- */

napi_value buffer_create(Call &call) {
  Record &device = call.record(call.at(0), Kind::device, "device");
  const int32_t rows = call.int32(call.at(1), "rows"), width = call.int32(call.at(2), "width");
  sy_object *buffer = nullptr;
  check(sy_buffer_create(device.device, rows, width, &buffer));
  Record *record = call.own(device, Kind::buffer, buffer);
  const size_t elements = (size_t)rows * (size_t)width;
  napi_value memory, f32, i32;
  record->holders++; // The array.
  record->shown = true;
  if (napi_create_external_arraybuffer(call.env, sy_buffer_host(buffer), elements * 4, finalize_array, record, &memory) != napi_ok) {
    if (record->shown) record->holders--; // Else the array was finalized already: an engine does that with one that is too large for it.
    record->shown = false;
    release(call.env, record);
    napi_value pending;
    napi_get_and_clear_last_exception(call.env, &pending); // The engine's own error; ours has a status.
    char text[120];
    snprintf(text, sizeof text, "a buffer [%d, %d]: this JavaScript engine has no array of %zu bytes", rows, width, elements * 4);
    throw Refusal{SY_OUT_OF_MEMORY, text};
  }
  try {
    check(call.env, napi_create_reference(call.env, memory, 0, &record->array));
    check(call.env, napi_create_typedarray(call.env, napi_float32_array, elements, memory, 0, &f32));
    check(call.env, napi_create_typedarray(call.env, napi_int32_array, elements, memory, 0, &i32));
  } catch (...) {
    release(call.env, record);
    throw;
  }
  return call.handle(record, {{"rows", call.at(1)}, {"width", call.at(2)}, {"f32", f32}, {"i32", i32}});
}

napi_value buffer_load(Call &call) {
  const int64_t first_float = call.whole(call.at(1), "firstFloat");
  Described from = described(call, call.at(2));
  check(sy_buffer_load(call.object(call.at(0), Kind::buffer, "buffer"), first_float, &mapped(call, from)));
  return call.undefined();
}

napi_value table_create(Call &call) {
  Described from = described(call, call.at(1));
  Record &device = call.record(call.at(0), Kind::device, "device");
  sy_object *table = nullptr;
  check(sy_table_create(device.device, &mapped(call, from), &table));
  return call.handle(call.own(device, Kind::table, table));
}

napi_value weight_create(Call &call) {
  Record &device = call.record(call.at(0), Kind::device, "device");
  const int32_t format = choice(call.string(call.at(1), "format"), weight_formats, "format");
  const int32_t n = call.int32(call.at(2), "n"), k = call.int32(call.at(3), "k");
  sy_object *weight = nullptr;
  check(sy_weight_create(device.device, format, n, k, &weight));
  return call.handle(call.own(device, Kind::weight, weight), {{"n", call.at(2)}, {"k", call.at(3)}, {"format", call.at(1)}});
}

napi_value weight_set(Call &call) {
  const int32_t first_row = call.int32(call.at(1), "firstRow");
  Described from = described(call, call.at(2));
  check(sy_weight_set(call.object(call.at(0), Kind::weight, "weight"), first_row, &mapped(call, from)));
  return call.undefined();
}

napi_value experts_create(Call &call) {
  const napi_value options = call.at(1);
  sy_experts_desc desc{};
  desc.slots = call.int32(call.property(options, "slots"), "slots");
  desc.hidden = call.int32(call.property(options, "hidden"), "hidden");
  desc.inter = call.int32(call.property(options, "inter"), "inter");
  desc.format = choice(call.string(call.property(options, "format"), "format"), weight_formats, "format");
  desc.activation = choice(call.string(call.property(options, "activation"), "activation"), activations, "activation");
  desc.has_bias = call.boolean(call.property(options, "hasBias"), "hasBias") ? 1 : 0;
  desc.alpha = (float)call.number(call.property(options, "alpha"), "alpha");
  desc.limit = (float)call.number(call.property(options, "limit"), "limit");
  Record &device = call.record(call.at(0), Kind::device, "device");
  sy_object *experts = nullptr;
  check(sy_experts_create(device.device, &desc, &experts));
  Record *record = call.own(device, Kind::experts, experts);
  record->width = desc.hidden;
  return call.handle(record, {{"slots", call.of((double)desc.slots)}});
}

napi_value experts_set(Call &call) {
  const int32_t slot = call.int32(call.at(1), "slot");
  const char *const names[6] = {"gate", "up", "down", "gateBias", "upBias", "downBias"};
  Described sources[6];
  bool present[6];
  for (int i = 0; i < 6; i++) {
    const napi_value value = call.property(call.at(2), names[i]);
    present[i] = !call.is_null(value);
    if (present[i]) sources[i] = described(call, value);
  }
  const sy_source *given[6];
  for (int i = 0; i < 6; i++) given[i] = present[i] ? &mapped(call, sources[i]) : nullptr;
  sy_object *experts = call.object(call.at(0), Kind::experts, "experts");
  check(sy_experts_set(experts, slot, given[0], given[1], given[2], given[3], given[4], given[5]));
  return call.undefined();
}

napi_value experts_clear(Call &call) {
  check(sy_experts_clear(call.object(call.at(0), Kind::experts, "experts"), call.int32(call.at(1), "slot")));
  return call.undefined();
}

napi_value experts_probe(Call &call) {
  Record &experts = call.record(call.at(0), Kind::experts, "experts");
  const int32_t rows = call.count(call.at(3), "rows");
  const size_t elements = (size_t)rows * (size_t)experts.width;
  const float *x = call.floats(call.at(2), elements, "x");
  float *out = call.floats(call.at(4), elements, "out");
  check(sy_experts_probe(experts.object, call.int32(call.at(1), "slot"), x, rows, out));
  return call.undefined();
}

napi_value experts_reserve(Call &call) {
  check(sy_experts_reserve(call.object(call.at(0), Kind::experts, "experts"), call.count(call.at(1), "pairs"), call.count(call.at(2), "rows")));
  return call.undefined();
}

napi_value experts_run(Call &call) {
  sy_object *experts = call.object(call.at(0), Kind::experts, "experts"), *x = call.object(call.at(1), Kind::buffer, "x");
  const int32_t pairs = call.count(call.at(2), "pairs");
  const int32_t *row = call.int32s(call.at(3), (size_t)pairs, "row"), *slot = call.int32s(call.at(4), (size_t)pairs, "slot");
  const float *weight = call.floats(call.at(5), (size_t)pairs, "weight");
  check(sy_experts_run(experts, x, pairs, row, slot, weight, call.int32(call.at(6), "grid"), call.object(call.at(7), Kind::sum, "sum")));
  return call.undefined();
}

napi_value kv_create(Call &call) {
  Record &device = call.record(call.at(0), Kind::device, "device");
  sy_object *kv = nullptr;
  check(sy_kv_create(device.device, call.int32(call.at(1), "blocks"), call.int32(call.at(2), "kvHeads"), call.int32(call.at(3), "kDim"),
                     call.int32(call.at(4), "vDim"), kv_dtype(call, call.at(5)), call.boolean(call.at(6), "vSharesK") ? 1 : 0, &kv));
  return call.handle(call.own(device, Kind::kv, kv), {{"blocks", call.at(1)}});
}

napi_value sum_create(Call &call) {
  Record &device = call.record(call.at(0), Kind::device, "device");
  sy_object *sum = nullptr;
  check(sy_sum_create(device.device, choice(call.string(call.at(1), "mode"), sum_modes, "mode"), call.int32(call.at(2), "maxRows"),
                      call.int32(call.at(3), "hidden"), &sum));
  return call.handle(call.own(device, Kind::sum, sum), {{"maxRows", call.at(2)}, {"hidden", call.at(3)}});
}

napi_value sum_clear(Call &call) {
  check(sy_sum_clear(call.object(call.at(0), Kind::sum, "sum"), call.int32(call.at(1), "rows")));
  return call.undefined();
}

napi_value sum_encoded_max(Call &call) {
  return call.of((double)sy_sum_encoded_max(call.count(call.at(0), "rows"), call.count(call.at(1), "hidden")));
}

napi_value sum_encode(Call &call) {
  sy_object *sum = call.object(call.at(0), Kind::sum, "sum");
  const int32_t rows = call.count(call.at(1), "rows");
  const int32_t *row = call.int32s(call.at(2), (size_t)rows, "row");
  const Bytes out = call.bytes(call.at(3), call.at(4), "out");
  uint64_t written = 0;
  check(sy_sum_encode(sum, rows, row, out.data, out.length, &written));
  return call.of((double)written);
}

/* The Uint8Array at `index`, from an offset, of a length: the two arguments that follow. */
Bytes bytes_read(const Call &call, size_t index) {
  Bytes bytes = call.bytes(call.at(index), call.at(index + 1), "bytes");
  bytes.length = (size_t)call.integer(call.at(index + 2), "length", 0, (double)bytes.length);
  return bytes;
}

napi_value sum_add_encoded(Call &call) {
  sy_object *sum = call.object(call.at(0), Kind::sum, "sum");
  const int32_t rows = call.count(call.at(1), "rows");
  const int32_t *row = call.int32s(call.at(2), (size_t)rows, "row");
  const Bytes in = bytes_read(call, 3);
  check(sy_sum_add_encoded(sum, rows, row, in.data, in.length));
  return call.undefined();
}

int32_t row_dtype(const Call &call, napi_value value) { return choice(call.string(value, "dtype"), row_dtypes, "dtype"); }

napi_value rows_encode(Call &call) {
  sy_object *x = call.object(call.at(0), Kind::buffer, "x");
  const int32_t rows = call.count(call.at(1), "rows");
  const int32_t *row = call.int32s(call.at(2), (size_t)rows, "row");
  const Bytes out = call.bytes(call.at(4), call.at(5), "out");
  uint64_t written = 0;
  check(sy_rows_encode(x, rows, row, row_dtype(call, call.at(3)), out.data, out.length, &written));
  return call.of((double)written);
}

napi_value rows_decode(Call &call) {
  sy_object *x = call.object(call.at(0), Kind::buffer, "x");
  const int32_t rows = call.count(call.at(1), "rows");
  const Bytes in = bytes_read(call, 3);
  check(sy_rows_decode(x, rows, row_dtype(call, call.at(2)), in.data, in.length));
  return call.undefined();
}

/* ---- programs ---------------------------------------------------------------------------------------------------------------------------------- */

/* programCreate(device, ops as bytes, objects, maxRows, maxSeqs, maxContext) */
napi_value program_create(Call &call) {
  size_t length = 0;
  const uint8_t *data = call.elements<uint8_t>(call.at(1), napi_uint8_array, "Uint8Array", length, "ops");
  if (length % sizeof(sy_op) != 0) refuse("ops must be a Uint8Array of %zu-byte ops", sizeof(sy_op));
  std::vector<sy_op> ops(length / sizeof(sy_op)); // Copied, because the array need not be aligned.
  if (length > 0) memcpy(ops.data(), data, length);
  uint32_t count = 0;
  if (napi_get_array_length(call.env, call.at(2), &count) != napi_ok) refuse("objects must be an array");
  std::vector<napi_value> handles(count); // All before the first is looked up: an element may be a getter.
  for (uint32_t i = 0; i < count; i++) check(call.env, napi_get_element(call.env, call.at(2), i, &handles[i]));
  Record &device = call.record(call.at(0), Kind::device, "device");
  std::vector<sy_object *> objects;
  for (const napi_value each : handles) {
    Record &record = call.record(each, "an object of the program");
    if (record.kind == Kind::device || record.kind == Kind::file || record.kind == Kind::program)
      refuse("a program's object cannot be a %s", kind_names[(int)record.kind]);
    objects.push_back(record.object);
  }
  sy_program *program = nullptr;
  check(sy_program_create(device.device, ops.data(), (int32_t)ops.size(), objects.data(), (int32_t)objects.size(), call.int32(call.at(3), "maxRows"),
                          call.int32(call.at(4), "maxSeqs"), call.int32(call.at(5), "maxContext"), &program));
  return call.handle(call.own(device, Kind::program, program));
}

/* The words of a batch, written by src/batch.ts: this header, then the arrays one after the other. */
enum BatchWord { word_rows, word_seqs, word_logit_rows, word_max_blocks, word_max_rows, word_max_seqs, word_max_logit_rows, word_failed_rows, batch_header_words };

/* programRun(program, words) */
napi_value program_run(Call &call) {
  sy_program *program = call.record(call.at(0), Kind::program, "program").program;
  size_t length = 0;
  int32_t *words = call.elements<int32_t>(call.at(1), napi_int32_array, "batch of batchCreate", length, "batch");
  if (length < batch_header_words) refuse("batch was not made by batchCreate");
  const int64_t rows = words[word_max_rows], seqs = words[word_max_seqs], logit_rows = words[word_max_logit_rows], blocks = words[word_max_blocks];
  if (rows < 0 || seqs < 0 || logit_rows < 0 || blocks < 0 ||
      (__int128)seqs * blocks + batch_header_words + 2 * rows + 3 * seqs + 1 + logit_rows != (__int128)length)
    refuse("batch was not made by batchCreate");
  if (words[word_rows] < 0 || words[word_rows] > rows) refuse("batch rows = %d: must be 0..%d", words[word_rows], (int)rows);
  if (words[word_seqs] < 0 || words[word_seqs] > seqs) refuse("batch seqs = %d: must be 0..%d", words[word_seqs], (int)seqs);
  if (words[word_logit_rows] < 0 || words[word_logit_rows] > logit_rows)
    refuse("batch logitRows = %d: must be 0..%d", words[word_logit_rows], (int)logit_rows);
  sy_batch batch{};
  batch.rows = words[word_rows];
  batch.seqs = words[word_seqs];
  batch.logit_rows = words[word_logit_rows];
  batch.max_blocks = (int32_t)blocks;
  batch.token = words + batch_header_words;
  batch.seq_row = batch.token + rows;
  batch.seq_pos = batch.seq_row + seqs + 1;
  batch.seq_variant = batch.seq_pos + seqs;
  batch.logit_row = batch.seq_variant + seqs;
  batch.row_status = words + batch_header_words + rows + 3 * seqs + 1 + logit_rows;
  batch.block = batch.row_status + rows;
  check(sy_program_run(program, &batch));
  words[word_failed_rows] = 0;
  for (int row = 0; row < batch.rows; row++) words[word_failed_rows] += batch.row_status[row] != 0;
  return nullptr;
}

/* Seconds by op kind, an array indexed by sy_op_kind. */
napi_value program_times(Call &call) {
  double seconds[32];
  sy_program_times(call.record(call.at(0), Kind::program, "program").program, seconds);
  napi_value array;
  check(call.env, napi_create_array_with_length(call.env, 32, &array));
  for (uint32_t i = 0; i < 32; i++) check(call.env, napi_set_element(call.env, array, i, call.of(seconds[i])));
  return array;
}

struct Export {
  const char *name;
  napi_callback callback;
};
const Export exported[] = {
    {"setErrorClass", entry<set_error_class>},
    {"abiVersion", entry<abi_version>},
    {"deviceOpen", entry<device_open>},
    {"deviceClose", entry<device_close>},
    {"deviceDescribe", entry<device_describe>},
    {"fileMap", entry<file_map>},
    {"fileUnmap", entry<file_unmap>},
    {"bufferCreate", entry<buffer_create>},
    {"bufferLoad", entry<buffer_load>},
    {"tableCreate", entry<table_create>},
    {"weightCreate", entry<weight_create>},
    {"weightSet", entry<weight_set>},
    {"expertsCreate", entry<experts_create>},
    {"expertsSet", entry<experts_set>},
    {"expertsClear", entry<experts_clear>},
    {"expertsProbe", entry<experts_probe>},
    {"expertsReserve", entry<experts_reserve>},
    {"expertsRun", entry<experts_run>},
    {"kvCreate", entry<kv_create>},
    {"sumCreate", entry<sum_create>},
    {"sumClear", entry<sum_clear>},
    {"sumEncodedMax", entry<sum_encoded_max>},
    {"sumEncode", entry<sum_encode>},
    {"sumAddEncoded", entry<sum_add_encoded>},
    {"rowsEncode", entry<rows_encode>},
    {"rowsDecode", entry<rows_decode>},
    {"objectFree", entry<object_free>},
    {"programCreate", entry<program_create>},
    {"programRun", entry<program_run>},
    {"programTimes", entry<program_times>},
    {"programFree", entry<program_free>},
};

} // namespace

NAPI_MODULE_INIT() {
  auto *error_class = new napi_ref(nullptr);
  napi_set_instance_data(env, error_class, [](napi_env, void *data, void *) { delete static_cast<napi_ref *>(data); }, nullptr);
  for (const Export &each : exported) {
    napi_value function;
    if (napi_create_function(env, each.name, NAPI_AUTO_LENGTH, each.callback, nullptr, &function) != napi_ok) return nullptr;
    napi_set_named_property(env, exports, each.name, function);
  }
  export_shared_memory(env, exports);
  export_core(env, exports);
  return exports;
}
