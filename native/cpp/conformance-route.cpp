/* Routers: ids, order, weights and NaN rows, for every mode and many shapes, with ties on purpose. */
#include <cmath>

#include "conformance.h"
#include "float_environment.h"
#include "route_nodes.h"
#include "vector.h"

namespace sy::conformance {
namespace {

struct Shape {
  int experts, k, groups, top_groups;
};
const Shape shapes[] = {{1, 1, 0, 0},   {4, 2, 0, 0},    {8, 8, 1, 1},    {16, 2, 4, 2},   {32, 4, 0, 0},    {60, 4, 0, 0},
                        {64, 8, 8, 3},  {96, 6, 3, 1},   {128, 8, 0, 0},  {160, 6, 8, 3},  {256, 8, 8, 4},   {257, 8, 0, 0},
                        {384, 8, 1, 1}, {512, 22, 4, 2}, {128, 4, 64, 9}, {256, 8, 4, 4}};

enum class Logits { ordinary, ties, extreme };

std::vector<float> logits_of(Random &random, Logits kind, size_t count) {
  std::vector<float> z = random.normals(count, 2.0f);
  if (kind == Logits::ties)
    for (float &v : z) v = roundf(v);
  if (kind == Logits::extreme)
    for (float &v : z) v *= random.below(3) == 0 ? 60.0f : 1.0f;
  return z;
}

void compare(Check &check, RouteCall call, const std::vector<float> &z, int rows, const std::string &what) {
  const FlushDenormals flush;
  const size_t cells = (size_t)rows * (size_t)call.k;
  call.logits = z.data(), call.ld_logits = (int64_t)z.size() / rows;
  call.ld_ids = call.ld_weights = call.k;
  std::vector<int32_t> want_ids, ids, want_status, status;
  std::vector<float> want_weights, weights;
  const auto run = [&](Isa isa, std::vector<int32_t> &into, std::vector<float> &weighed, std::vector<int32_t> &noted) {
    into.assign(cells, -2);
    weighed.assign(cells, -1.0f);
    noted.assign((size_t)rows, 0);
    call.ids = into.data(), call.weights = weighed.data(), call.marks = {noted.data(), 7};
    const VectorKernels &kernels = vector_kernels(isa);
    if (call.nodes) route_within_nodes(kernels, call, 0, rows);
    else kernels.route(call, 0, rows);
  };
  run(Isa::ref, want_ids, want_weights, want_status);
  for (int row = 0; row < rows; row++)
    check.is_true(want_status[(size_t)row] == 0 ? want_ids[(size_t)(row * call.k)] >= 0 : want_status[(size_t)row] == 7 && want_ids[(size_t)(row * call.k)] == -1,
                  what + text(": row %d is routed or marked", row));
  for (const Isa isa : simd_isas()) {
    run(isa, ids, weights, status);
    check.equal_bytes(status.data(), want_status.data(), status.size() * 4, what + " status " + name_of(isa));
    check.equal_bytes(ids.data(), want_ids.data(), cells * 4, what + " ids " + name_of(isa));
    check.equal(weights.data(), want_weights.data(), cells, what + " weights " + name_of(isa));
  }
}

SY_SUITE(route) {
  Random random(21);
  for (const Shape &shape : shapes)
    for (int mode = 0; mode < 48; mode++) {
      RouteCall call{};
      call.experts = shape.experts, call.k = shape.k;
      call.score = static_cast<RouteScore>(mode % 3);
      call.renorm = mode / 3 % 2;
      call.groups = mode / 6 % 2 ? shape.groups : 0;
      call.top_groups = shape.top_groups;
      call.group_sum_of_two = mode / 12 % 2 && shape.groups > 1 && shape.experts / shape.groups >= 2;
      call.mask_zero = mode / 24 % 2;
      call.scale = 2.5f;
      call.renorm_eps = 1e-20f;
      const std::vector<float> bias = logits_of(random, mode % 2 ? Logits::ties : Logits::ordinary, (size_t)shape.experts);
      call.select_bias = random.below(2) ? bias.data() : nullptr;
      for (const Logits kind : {Logits::ordinary, Logits::ties, Logits::extreme})
        for (const int rows : {1, 4, 7}) {
          std::vector<float> z = logits_of(random, kind, (size_t)(rows * shape.experts));
          const std::string what = text("route %d of %d, mode %d, logits %d, %d rows", shape.k, shape.experts, mode, (int)kind, rows);
          compare(check, call, z, rows, what);
          if (rows < 7 || kind != Logits::ordinary) continue;
          for (const float odd : {NAN, INFINITY, -INFINITY}) {
            z[(size_t)(random.below(rows) * shape.experts + random.below(shape.experts))] = odd;
            compare(check, call, z, rows, what + " with an odd logit");
          }
        }
    }
  for (const int experts : {2, 16, 17}) {
    RouteCall call{};
    call.experts = experts, call.k = 2, call.score = RouteScore::sparse_mixer, call.scale = 1.0f, call.jitter_eps = 0.01f;
    for (const Logits kind : {Logits::ordinary, Logits::ties}) compare(check, call, logits_of(random, kind, (size_t)(9 * experts)), 9, "sparse mixer");
  }
  for (const int experts : {16, 60, 257})
    for (int mode = 0; mode < 6; mode++)
      for (const int limit : {1, 2, 32}) {
        RouteCall call{};
        call.experts = experts, call.k = 4, call.score = static_cast<RouteScore>(mode % 3), call.renorm = mode / 3, call.scale = 1.0f;
        std::vector<int32_t> nodes((size_t)experts);
        for (int e = 0; e < experts; e++) nodes[(size_t)e] = 1 << e % 4 | 1 << random.below(4) | (e % 7 == 0 ? INT32_MIN : 0);
        call.nodes = nodes.data(), call.node_limit = limit;
        for (const Logits kind : {Logits::ordinary, Logits::ties})
          compare(check, call, logits_of(random, kind, (size_t)(9 * experts)), 9, text("4 of %d on %d nodes, mode %d", experts, limit, mode));
      }
  for (const Shape &shape : {Shape{12, 1, 4, 1}, Shape{64, 4, 8, 2}, Shape{256, 8, 16, 4}, Shape{60, 30, 6, 6}})
    for (const bool renorm : {false, true}) {
      RouteCall call{};
      call.experts = shape.experts, call.k = shape.k, call.groups = shape.groups, call.top_groups = shape.top_groups;
      call.score = RouteScore::factored, call.renorm = renorm, call.scale = 1.5f;
      const int width = shape.groups + shape.experts / shape.groups;
      for (const Logits kind : {Logits::ordinary, Logits::ties, Logits::extreme}) {
        std::vector<float> z = logits_of(random, kind, (size_t)(9 * width));
        compare(check, call, z, 9, text("factored %d of %d", shape.k, shape.experts));
        z[(size_t)(5 * width + random.below(width))] = NAN;
        compare(check, call, z, 9, "factored with a NaN");
      }
    }
}

} // namespace
} // namespace sy::conformance
