#include <cstdarg>
#include <cstdio>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sy {

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows it. */
static bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

void fail(sy_status status, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw Failure{status, text};
}

bool isa_supported(Isa isa) {
  if (isa == Isa::ref) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#if defined(SY_EMULATED_AVX512)
  return isa_supported(Isa::avx2); // What it lacks is spelled out in it.
#endif
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("fma") && has_f16c();
#else
  return false;
#endif
}

} // namespace sy
