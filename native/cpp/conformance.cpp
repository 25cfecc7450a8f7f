/* Usage: conformance [suite ...]. Prints one line a suite; exits 1 if anything differed. */
#include "conformance.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "float_environment.h"
#include "numeric.h"

namespace sy::conformance {

constexpr uint64_t most_printed_failures = 20;

float Random::normal(float deviation) {
  float sum = 0.0f;
  for (int i = 0; i < 4; i++) sum += uniform(-1.0f, 1.0f);
  return sum * deviation * 0.8660254f;
}
std::vector<float> Random::normals(size_t count, float deviation) {
  std::vector<float> values(count);
  for (float &v : values) v = normal(deviation);
  return values;
}

void Check::fail(const std::string &what) {
  failed++;
  if (failed <= most_printed_failures) fprintf(stderr, "  FAILED %s\n", what.c_str());
}
void Check::equal(const float *got, const float *want, size_t count, const std::string &what) {
  compared += count;
  for (size_t i = 0; i < count; i++) {
    if (bits_of(got[i]) == bits_of(want[i]) || (got[i] != got[i] && want[i] != want[i])) continue;
    return fail(what + text(": [%zu] is %.9g (%08x), the oracle says %.9g (%08x)", i, (double)got[i], bits_of(got[i]), (double)want[i], bits_of(want[i])));
  }
}
void Check::equal_bytes(const void *got, const void *want, size_t count, const std::string &what) {
  compared += count;
  if (memcmp(got, want, count) != 0) fail(what + ": bytes differ");
}
void Check::is_true(bool condition, const std::string &what) {
  compared++;
  if (!condition) fail(what);
}
void Check::fails(sy_status status, const std::function<void()> &call, const std::string &what) {
  compared++;
  try {
    call();
  } catch (const Failure &failure) {
    if (failure.status != status) fail(what + text(": status %d instead of %d: %s", failure.status, status, failure.message.c_str()));
    return;
  }
  fail(what + ": did not fail");
}

std::vector<Isa> simd_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::avx2, Isa::avx512})
    if (isa_supported(isa)) isas.push_back(isa);
  return isas;
}
const char *name_of(Isa isa) { return isa == Isa::ref ? "ref" : isa == Isa::avx2 ? "avx2" : "avx512"; }

namespace {

std::unique_ptr<Accelerator> emulated_or_null() {
#ifdef __GLIBC__
  return accelerator_open("cuda-emulated");
#else
  return nullptr;
#endif
}
std::unique_ptr<Accelerator> gpu_or_null() {
  try {
    std::unique_ptr<Accelerator> gpu = accelerator_open("cuda");
    fprintf(stderr, "with %s\n", gpu->name.c_str());
    return gpu;
  } catch (const Failure &failure) {
    if (failure.status != SY_UNSUPPORTED) throw; // There is one, and it does not work.
    fprintf(stderr, "without a GPU: %s\n", failure.message.c_str());
    return nullptr;
  }
}

} // namespace

std::vector<Place> accelerators() {
  static const std::unique_ptr<Accelerator> emulated = emulated_or_null(), gpu = gpu_or_null();
  const std::vector<Isa> isas = simd_isas();
  const Isa isa = isas.empty() ? Isa::ref : isas.back();
  std::vector<Place> all;
  if (emulated) all.push_back({Isa::ref, 3, emulated.get(), "emulated GPU"}); // Beside the oracle's sums here, beside the CPU's in tests of whole models.
  if (gpu) all.insert(all.end(), {{isa, 1, gpu.get(), gpu->name}, {isa, 3, gpu.get(), gpu->name + " threads 3"}});
  return all;
}
std::vector<Place> places(const std::vector<int> &threads) {
  std::vector<Place> all;
  for (const Isa isa : simd_isas())
    for (const int count : threads) all.push_back({isa, count, nullptr, text("%s threads %d", name_of(isa), count)});
  for (Place &place : accelerators()) all.push_back(std::move(place));
  return all;
}
const Place oracle{Isa::ref, 1, nullptr, "oracle"};

Pool &pool_of(int threads) {
  static Pool one(1, nullptr), two(2, nullptr), three(3, nullptr);
  return threads == 1 ? one : threads == 2 ? two : three;
}

MemoryFile::MemoryFile(std::vector<uint8_t> content) : content_(std::move(content)) {
  data = content_.data();
  bytes = content_.size();
}
std::unique_ptr<MemoryFile> MemoryFile::of(const std::vector<float> &values) {
  std::vector<uint8_t> content(values.size() * 4);
  memcpy(content.data(), values.data(), content.size());
  return std::make_unique<MemoryFile>(std::move(content));
}
Region used_workspace(size_t bytes) {
  Region workspace(bytes);
  memset(workspace.data(), 0xff, bytes); // NaN as any float.
  return workspace;
}
sy_source dense(const MemoryFile &file, int n, int k, size_t first) {
  sy_source source{};
  source.file = &file;
  source.offset = first * 4;
  source.stride_n = k;
  source.stride_k = 1;
  source.dtype = SY_F32;
  source.n = n;
  source.k = k;
  return source;
}

std::vector<Suite> &suites() {
  static std::vector<Suite> all;
  return all;
}

std::string text(const char *format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

namespace {

bool wanted(const char *name, int count, char **names) {
  if (count < 2) return true;
  for (int i = 1; i < count; i++)
    if (strcmp(name, names[i]) == 0) return true;
  return false;
}

} // namespace
} // namespace sy::conformance

int main(int count, char **names) {
  using namespace sy::conformance;
  const sy::FlushDenormals scope;
  uint64_t failed = 0;
  for (const Suite &suite : suites()) {
    if (!wanted(suite.name, count, names)) continue;
    Check check;
    suite.run(check);
    printf("%-16s %10llu compared, %llu failed\n", suite.name, (unsigned long long)check.compared, (unsigned long long)check.failed);
    fflush(stdout);
    failed += check.failed;
  }
  return failed ? 1 : 0;
}
