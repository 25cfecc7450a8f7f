/* Shared memory as calls of the addon (src/shared-memory.ts): raw Node-API over shared-memory.h. */
#include <node_api.h>

#include "kernels.h"
#include "shared-memory.h"

namespace {

constexpr double bytes_max = 1u << 30;

/* The hint is the size itself: nothing of it has to be allocated or freed. */
void finalize_mapping(napi_env, void *memory, void *hint) { sy::shared_unmap(memory, reinterpret_cast<size_t>(hint)); }

/* Runs a body that may fail; a failure becomes an Error whose code is the status' name. */
template <class Body> napi_value guarded(napi_env env, const Body &body) {
  try {
    return body();
  } catch (const sy::Failure &failure) {
    const char *code = failure.status == SY_UNSUPPORTED ? "unsupported" : failure.status == SY_OUT_OF_MEMORY ? "out_of_memory" : "invalid_argument";
    napi_throw_error(env, code, failure.message.c_str());
  } catch (const std::bad_alloc &) {
    napi_throw_error(env, "out_of_memory", "out of memory");
  }
  return nullptr;
}

double argument(napi_env env, napi_value value, const char *name, double least, double most) {
  double number = 0;
  if (napi_get_value_double(env, value, &number) != napi_ok || !(number >= least && number <= most) || number != (double)(long long)number)
    sy::fail(SY_INVALID_ARGUMENT, "%s must be an integer in %.0f..%.0f", name, least, most);
  return number;
}

/* sharedMemoryCreate(bytes) → descriptor */
napi_value shared_memory_create(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    size_t count = 1;
    napi_value given[1], result = nullptr;
    napi_get_cb_info(env, info, &count, given, nullptr, nullptr);
    napi_create_int32(env, sy::shared_create((size_t)argument(env, given[0], "bytes", 1, bytes_max)), &result);
    return result;
  });
}

/* sharedMemoryMap(descriptor, bytes) → ArrayBuffer, unmapped when it is detached or collected */
napi_value shared_memory_map(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    size_t count = 2;
    napi_value given[2], result = nullptr;
    napi_get_cb_info(env, info, &count, given, nullptr, nullptr);
    const int descriptor = (int)argument(env, given[0], "descriptor", 0, 0x7fffffff);
    const size_t bytes = (size_t)argument(env, given[1], "bytes", 1, bytes_max);
    void *memory = sy::shared_map(descriptor, bytes);
    if (napi_create_external_arraybuffer(env, memory, bytes, finalize_mapping, reinterpret_cast<void *>(bytes), &result) != napi_ok) {
      sy::shared_unmap(memory, bytes);
      sy::fail(SY_UNSUPPORTED, "this JavaScript engine takes no memory from outside");
    }
    return result;
  });
}

/* sharedMemoryUnmap(memory): its views become empty at once. */
napi_value shared_memory_unmap(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value given[1];
  napi_get_cb_info(env, info, &count, given, nullptr, nullptr);
  napi_detach_arraybuffer(env, given[0]);
  return nullptr;
}

} // namespace

void export_shared_memory(napi_env env, napi_value exports) {
  const napi_property_descriptor calls[] = {
      {"sharedMemoryCreate", nullptr, shared_memory_create, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"sharedMemoryMap", nullptr, shared_memory_map, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"sharedMemoryUnmap", nullptr, shared_memory_unmap, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  napi_define_properties(env, exports, sizeof calls / sizeof calls[0], calls);
}
