#include "accelerator.h"

#include <cstdlib>

namespace sy {
namespace {

/* N of "name:N", 0 of "name", -1 of anything else. */
int ordinal_of(const std::string &backend, const std::string &name) {
  if (backend == name) return 0;
  if (backend.rfind(name + ":", 0) != 0) return -1;
  const std::string digits = backend.substr(name.size() + 1);
  if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos)
    fail(SY_INVALID_ARGUMENT, "backend = \"%s\": after the colon comes a GPU's number, 0..999", backend.c_str());
  return atoi(digits.c_str());
}

} // namespace

std::unique_ptr<Accelerator> accelerator_open(const std::string &backend) {
  if (const int ordinal = ordinal_of(backend, "cuda-emulated"); ordinal >= 0) return emulated::accelerator(ordinal);
  const int ordinal = ordinal_of(backend, "cuda");
  if (ordinal < 0) return nullptr;
#ifdef SY_WITH_CUDA
  return cuda::accelerator(ordinal);
#else
  fail(SY_UNSUPPORTED, "backend = \"%s\": these kernels were built without CUDA: that needs nvcc", backend.c_str());
#endif
}

} // namespace sy
