#include "device.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

namespace sy {
const char *isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "scalar"; }

namespace {

Isa best_isa() {
  for (const Isa isa : {Isa::avx512, Isa::avx2})
    if (isa_supported(isa)) return isa;
  return Isa::ref;
}

Isa choose_isa(const char *name) {
  const std::string wanted = name ? name : "auto";
  if (wanted == "auto") return best_isa();
  if (wanted != "avx512" && wanted != "avx2") fail(SY_INVALID_ARGUMENT, "isa = \"%s\": must be auto, avx512 or avx2", wanted.c_str());
  const Isa isa = wanted == "avx512" ? Isa::avx512 : Isa::avx2;
  if (!isa_supported(isa)) fail(SY_UNSUPPORTED, "isa = \"%s\": this processor lacks it", wanted.c_str());
  return isa;
}

size_t buffer_bytes(int rows, int width) {
  if (rows < 1) fail(SY_INVALID_ARGUMENT, "rows = %d: must be at least 1", rows);
  if (width < 1) fail(SY_INVALID_ARGUMENT, "width = %d: must be at least 1", width);
  if (rows > dimension_max || width > dimension_max)
    fail(SY_INVALID_ARGUMENT, "buffer shape [%d, %d]: neither may exceed %d", rows, width, dimension_max);
  return checked_bytes((__int128)rows * width * 4, "a buffer [%d, %d]", rows, width);
}

} // namespace

MappedFile::~MappedFile() {
  if (data && bytes > 0) munmap(const_cast<uint8_t *>(data), bytes);
}

MappedFile *file_map(const char *path) {
  if (!path) fail(SY_INVALID_ARGUMENT, "path is null");
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // A pipe would wait for whoever writes to it.
  if (descriptor < 0) fail(SY_IO, "cannot open %s: %s", path, strerror(errno));
  struct stat status;
  auto refuse = [&](const char *what) {
    const int code = errno;
    close(descriptor);
    fail(SY_IO, "cannot map %s: %s", path, what ? what : strerror(code));
  };
  if (fstat(descriptor, &status) < 0) refuse(nullptr);
  if (!S_ISREG(status.st_mode)) refuse("not a regular file");
  auto file = std::make_unique<MappedFile>();
  if (status.st_size > 0) {
    void *at = mmap(nullptr, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (at == MAP_FAILED) refuse(nullptr);
    file->data = static_cast<const uint8_t *>(at);
    file->bytes = (uint64_t)status.st_size;
  }
  close(descriptor); // The mapping keeps the file.
  return file.release();
}

void file_release(MappedFile *file) {
  if (--file->references == 0) delete file;
}

const char *name_of(ObjectKind kind) {
  switch (kind) {
  case ObjectKind::buffer: return "buffer";
  case ObjectKind::table: return "table";
  case ObjectKind::weight: return "weight";
  case ObjectKind::experts: return "experts object";
  case ObjectKind::kv: return "KV cache";
  case ObjectKind::sum: return "row sum";
  }
  return "object";
}

std::unique_ptr<sy_device> device_open(const char *backend, const char *isa, int threads, const int32_t *cpus) {
  const std::string name = backend ? backend : "";
  if (threads < 1) fail(SY_INVALID_ARGUMENT, "threads = %d: must be at least 1", threads);
  const Isa chosen = choose_isa(isa);
  std::unique_ptr<Accelerator> accelerator = accelerator_open(name);
  if (name != "cpu" && name != "cpu-ref" && !accelerator) fail(SY_INVALID_ARGUMENT, "backend = \"%s\": must be cpu, cpu-ref, cuda or cuda:N", name.c_str());
  // The oracle is one thread by definition, so that no error in sharing work can hide in it.
  return name == "cpu-ref" ? std::make_unique<sy_device>(name, Isa::ref, 1, cpus, nullptr)
                           : std::make_unique<sy_device>(name, chosen, threads, cpus, std::move(accelerator));
}

void object_release(sy_object *object) {
  if (--object->references > 0) return;
  object->device->objects.erase(object);
  delete object;
}

Buffer::Buffer(sy_device &device, int rows_, int width_)
    : sy_object(device, tag), rows(rows_), width(width_), memory(buffer_bytes(rows_, width_)) {}

Table::Table(sy_device &device, const sy_source &source_) : sy_object(device, tag), source(source_) {
  for (const sy_file *file : {source.file, source.scale_file})
    if (file) static_cast<MappedFile *>(const_cast<sy_file *>(file))->references++;
}

Table::~Table() {
  for (const sy_file *file : {source.file, source.scale_file})
    if (file) file_release(static_cast<MappedFile *>(const_cast<sy_file *>(file)));
}

} // namespace sy

sy_object::sy_object(sy_device &owner, sy::ObjectKind kind_) : device(&owner), kind(kind_) {}
sy_object::~sy_object() = default;

sy_device::sy_device(std::string backend_name, sy::Isa chosen, int threads, const int32_t *cpus, std::unique_ptr<sy::Accelerator> takes_experts)
    : backend(std::move(backend_name)), isa(chosen), pool(threads, cpus), accelerator(std::move(takes_experts)) {
  description = "{\"backend\":\"" + backend + "\",\"isa\":\"" + sy::isa_name(isa) + "\",\"threads\":" + std::to_string(threads) +
                ",\"abi\":" + std::to_string(SY_ABI_VERSION);
  if (accelerator) // Names of GPUs hold no quotes.
    description += ",\"accelerator\":\"" + accelerator->name + "\",\"acceleratorBytes\":" + std::to_string(accelerator->memory_bytes) +
                   ",\"acceleratorId\":\"" + accelerator->identity + "\"";
  description += "}";
}

sy_device::~sy_device() {
  for (sy_program *program : programs) delete program; // Its destructor must not touch this set: the set dies with the device.
  for (sy_object *object : objects) delete object;
}
