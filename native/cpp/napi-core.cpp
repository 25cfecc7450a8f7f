/* What a program that waits asks of the core it runs on. */
#include <node_api.h>
#include <sched.h>
#include <time.h>

namespace {

/* yieldCore(): whoever else wants this core has it first. Returns the processor seconds of this thread so far. */
napi_value yield_core(napi_env env, napi_callback_info) {
  sched_yield();
  timespec used;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  napi_value seconds;
  napi_create_double(env, double(used.tv_sec) + 1e-9 * double(used.tv_nsec), &seconds);
  return seconds;
}

} // namespace

void export_core(napi_env env, napi_value exports) {
  const napi_property_descriptor call = {"yieldCore", nullptr, yield_core, nullptr, nullptr, nullptr, napi_enumerable, nullptr};
  napi_define_properties(env, exports, 1, &call);
}
