/*
 * A device and what lives on it. Objects are tagged, belong to one device, and are counted: their creator holds one reference, every program that uses
 * them another, so freeing an object that a program still uses is safe.
 */
#ifndef SWITCHYARD_DEVICE_H
#define SWITCHYARD_DEVICE_H

#include <memory>
#include <string>
#include <unordered_set>

#include "accelerator.h"
#include "kernels.h"
#include "kv.h"
#include "region.h"

namespace sy {

/* A mapped file; tables keep it mapped after sy_file_unmap. */
struct MappedFile : sy_file {
  int references = 1;
  ~MappedFile();
};
MappedFile *file_map(const char *path); /* throws */
void file_release(MappedFile *file);

enum class ObjectKind { buffer, table, weight, experts, kv, sum };
const char *name_of(ObjectKind kind);
const char *isa_name(Isa isa);

} // namespace sy

struct sy_object {
  sy_object(sy_device &device, sy::ObjectKind kind);
  virtual ~sy_object();
  sy_object(const sy_object &) = delete;
  sy_object &operator=(const sy_object &) = delete;

  sy_device *const device;
  const sy::ObjectKind kind;
  int references = 1;
};

struct sy_device {
  sy_device(std::string backend_name, sy::Isa chosen, int threads, const int32_t *cpus, std::unique_ptr<sy::Accelerator> takes_experts);
  ~sy_device(); /* frees its programs, then its objects */

  const std::string backend;
  const sy::Isa isa;
  sy::Pool pool;
  sy::Workspace workspace;
  const std::unique_ptr<sy::Accelerator> accelerator; /* or null */
  std::string description; /* JSON */
  std::unordered_set<sy_object *> objects;
  std::unordered_set<sy_program *> programs;
};

namespace sy {

/* Throws. */
std::unique_ptr<sy_device> device_open(const char *backend, const char *isa, int threads, const int32_t *cpus);
void object_release(sy_object *object);

struct Buffer final : sy_object {
  static constexpr ObjectKind tag = ObjectKind::buffer;
  Buffer(sy_device &device, int rows, int width);
  float *f32() const { return reinterpret_cast<float *>(memory.data()); }
  int32_t *i32() const { return reinterpret_cast<int32_t *>(memory.data()); }
  const int rows, width;
  Region memory;
};

struct Table final : sy_object {
  static constexpr ObjectKind tag = ObjectKind::table;
  Table(sy_device &device, const sy_source &source);
  ~Table() override;
  const sy_source source;
};

struct WeightObject final : sy_object {
  static constexpr ObjectKind tag = ObjectKind::weight;
  WeightObject(sy_device &device, int format, int n, int k) : sy_object(device, tag), weight(weight_create(device.isa, format, n, k)) {}
  WeightPtr weight;
};

struct ExpertsObject final : sy_object {
  static constexpr ObjectKind tag = ObjectKind::experts;
  ExpertsObject(sy_device &device, const sy_experts_desc &desc) : sy_object(device, tag), experts(experts_create(device.isa, desc, &device.workspace, device.accelerator.get())) {}
  ExpertsPtr experts;
};

struct KvObject final : sy_object {
  static constexpr ObjectKind tag = ObjectKind::kv;
  KvObject(sy_device &device, const KvShape &shape) : sy_object(device, tag), cache(shape) {}
  KvCache cache;
};

struct SumObject final : sy_object {
  static constexpr ObjectKind tag = ObjectKind::sum;
  SumObject(sy_device &device, int mode, int max_rows, int hidden) : sy_object(device, tag), sum(sum_create(device.isa, mode, max_rows, hidden)) {}
  RowSumPtr sum;
};

/* The object as what it must be; `name` is the field to name in the message. Throws. */
template <class T> T &as(sy_object *object, const char *name) {
  if (!object) fail(SY_INVALID_ARGUMENT, "%s is null: it must be a %s", name, name_of(T::tag));
  if (object->kind != T::tag) fail(SY_INVALID_ARGUMENT, "%s is a %s: it must be a %s", name, name_of(object->kind), name_of(T::tag));
  return static_cast<T &>(*object);
}

} // namespace sy
#endif
