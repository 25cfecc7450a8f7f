/* What a program that waits asks of the core it runs on. */
#include <node_api.h>
#include <sched.h>

namespace {

/* yieldCore(): whoever else wants this core has it first. */
napi_value yield_core(napi_env, napi_callback_info) {
  sched_yield();
  return nullptr;
}

} // namespace

void export_core(napi_env env, napi_value exports) {
  const napi_property_descriptor call = {"yieldCore", nullptr, yield_core, nullptr, nullptr, nullptr, napi_enumerable, nullptr};
  napi_define_properties(env, exports, 1, &call);
}
