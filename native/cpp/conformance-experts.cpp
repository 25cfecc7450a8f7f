/* Experts: pairs, routed rows, probes; and that a token's sum does not depend on how its experts were divided. */
#include <cmath>
#include <cstring>

#include "conformance.h"
#include "experts.h"
#include "gate.h"
#include "numeric.h"
#include "sum.h"

namespace sy::conformance {
namespace {

struct Shape {
  int slots, hidden, inter, format, activation;
  bool bias;
  float deviation;
};

std::string describe(const Shape &s, const Place &place) {
  return text("experts %s hidden %d inter %d format %d activation %d bias %d", place.name.c_str(), s.hidden, s.inter, s.format, s.activation, s.bias);
}

/* Values of all experts, in one file: gate, up, down, biases, one expert after the other. */
struct Values {
  Shape shape;
  std::unique_ptr<MemoryFile> file;
  size_t expert_floats;

  Values(Random &random, const Shape &s) : shape(s), expert_floats((size_t)3 * s.hidden * s.inter + (size_t)2 * s.inter + s.hidden) {
    file = MemoryFile::of(random.normals(expert_floats * s.slots, s.deviation));
  }
  void set(Experts &experts, Pool &pool, int slot, int expert) const {
    const size_t at = expert_floats * (size_t)expert, matrix = (size_t)shape.hidden * shape.inter;
    const sy_source gate = dense(*file, shape.inter, shape.hidden, at), up = dense(*file, shape.inter, shape.hidden, at + matrix);
    const sy_source down = dense(*file, shape.hidden, shape.inter, at + 2 * matrix);
    const sy_source gate_bias = dense(*file, 1, shape.inter, at + 3 * matrix), up_bias = dense(*file, 1, shape.inter, at + 3 * matrix + shape.inter);
    const sy_source down_bias = dense(*file, 1, shape.hidden, at + 3 * matrix + 2 * (size_t)shape.inter);
    if (shape.bias) experts_set(experts, pool, slot, &gate, &up, &down, &gate_bias, &up_bias, &down_bias);
    else experts_set(experts, pool, slot, &gate, &up, &down, nullptr, nullptr, nullptr);
  }
  ExpertsPtr load(const Place &place) const {
    ExpertsPtr experts = experts_create(place.isa, {shape.slots, shape.hidden, shape.inter, shape.format, shape.activation, shape.bias, 1.702f, 7.0f}, nullptr, place.accelerator);
    constexpr size_t enough = 1 << 20;
    experts->own.reserve(enough);
    memset(experts->own.data(), 0xff, enough); // As an earlier call may have left it.
    for (int slot = 0; slot < shape.slots; slot++) set(*experts, pool_of(place.threads), slot, slot);
    return experts;
  }
};

/* The sum's memory as words; only to be compared as bytes. */
std::vector<float> bits_of_sum(const RowSum &sum, int rows) {
  std::vector<float> words;
  for (int row = 0; row < rows; row++) {
    const float *at = sum.mode == SY_SUM_EXACT ? reinterpret_cast<const float *>(sum.exact(row)) : sum.fast(row);
    words.insert(words.end(), at, at + (size_t)sum.hidden * (sum.mode == SY_SUM_EXACT ? 2 : 1));
  }
  return words;
}

struct Pairs {
  std::vector<int32_t> row, slot;
  std::vector<float> weight;
  int count() const { return (int)row.size(); }
};
Pairs random_pairs(Random &random, int count, int rows, int slots) {
  Pairs pairs;
  const int favourite = random.below(slots); // Some experts get many rows, some none.
  for (int i = 0; i < count; i++) {
    pairs.row.push_back(random.below(rows));
    pairs.slot.push_back(random.below(3) == 0 ? favourite : random.below(slots));
    pairs.weight.push_back(random.uniform(-0.2f, 1.0f));
  }
  return pairs;
}

constexpr int grid = -20;

/* The exact sums of these pairs of rows x [rows, hidden], as words. */
std::vector<float> sums_of_pairs(const Values &values, const Place &place, const std::vector<float> &x, int rows, const Pairs &pairs) {
  const int hidden = values.shape.hidden;
  const ExpertsPtr experts = values.load(place);
  const RowSumPtr sum = sum_create(place.isa, SY_SUM_EXACT, rows, hidden);
  experts_run_pairs(*experts, pool_of(place.threads), {x.data(), hidden, rows, pairs.count(), pairs.row.data(), pairs.slot.data(), pairs.weight.data(), grid}, *sum);
  return bits_of_sum(*sum, rows);
}

} // namespace

SY_SUITE(experts) {
  Random random(31);
  const struct { int hidden, inter; } sizes[] = {{64, 96}, {33, 17}, {130, 65}, {256, 64}, {95, 200}};
  for (int format = SY_W_F32; format <= SY_W_I4; format++)
    for (const auto &size : sizes)
      for (const int rows : {1, 2, 9, 40}) {
        const bool bias = rows != 9;
        const Shape shape{5, size.hidden, size.inter, format, rows % 2 ? SY_ACT_GPT_OSS : SY_ACT_SILU, bias, 0.15f};
        const Values values(random, shape);
        const std::vector<float> x = random.normals((size_t)rows * (size.hidden + 1), 1.0f);
        const Pairs pairs = random_pairs(random, rows * 3, rows, shape.slots);
        const std::vector<int32_t> ids = [&] {
          std::vector<int32_t> all;
          for (int i = 0; i < rows * 4; i++) all.push_back(random.below(8));
          return all;
        }();
        const std::vector<float> weights = random.normals((size_t)rows * 5, 0.5f);
        const std::vector<int32_t> slots = {2, -1, 0, 4, -1, 1, 3, 2};
        const auto run = [&](const Place &place) {
          const ExpertsPtr experts = values.load(place);
          Pool &pool = pool_of(place.threads);
          const RowSumPtr sum = sum_create(place.isa, SY_SUM_EXACT, rows + 1, size.hidden);
          experts_run_pairs(*experts, pool, {x.data(), size.hidden + 1, rows, pairs.count(), pairs.row.data(), pairs.slot.data(), pairs.weight.data(), grid}, *sum);
          std::vector<float> out = bits_of_sum(*sum, rows + 1);
          experts_run_routed(*experts, pool, {x.data(), size.hidden + 1, rows, 3, ids.data(), 4, weights.data(), 5, slots.data(), 8, grid}, *sum);
          const std::vector<float> routed = bits_of_sum(*sum, rows + 1);
          out.insert(out.end(), routed.begin(), routed.end());
          const RowSumPtr fast = sum_create(place.isa, SY_SUM_FAST, rows, size.hidden);
          experts_run_pairs(*experts, pool, {x.data(), size.hidden + 1, rows, pairs.count(), pairs.row.data(), pairs.slot.data(), pairs.weight.data(), grid}, *fast);
          const std::vector<float> added = bits_of_sum(*fast, rows); // In one call the order of adds is that of the slots, so even these bits agree.
          out.insert(out.end(), added.begin(), added.end());
          std::vector<float> probed((size_t)rows * size.hidden);
          std::vector<float> packed((size_t)rows * size.hidden);
          for (int row = 0; row < rows; row++) memcpy(&packed[(size_t)row * size.hidden], &x[(size_t)row * (size.hidden + 1)], (size_t)size.hidden * 4);
          experts_probe(*experts, pool, 3, packed.data(), rows, probed.data());
          out.insert(out.end(), probed.begin(), probed.end());
          return out;
        };
        const std::vector<float> want = run(oracle);
        for (const Place &place : places({1, 1 + rows % 3})) check.equal_bytes(run(place).data(), want.data(), want.size() * 4, describe(shape, place) + text(" rows %d", rows));
      }
}

/* Large enough that the pool really shares the work, and that several tiles and an uneven last one occur: few experts are divided, many handed out whole. */
SY_SUITE(experts_large) {
  Random random(32);
  for (const int slots : {6, 16})
    for (const int format : {SY_W_BF16, SY_W_BF16_X16, SY_W_I8, SY_W_I4}) {
      const Shape shape{slots, 288, 160, format, SY_ACT_SILU, true, 0.1f};
      const Values values(random, shape);
      const int rows = 110;
      const std::vector<float> x = random.normals((size_t)rows * shape.hidden, 1.0f);
      const Pairs pairs = random_pairs(random, rows * 2, rows, shape.slots);
      const auto run = [&](const Place &place) { return sums_of_pairs(values, place, x, rows, pairs); };
      const std::vector<float> want = run(oracle);
      for (const Place &place : places({1, 2, 3})) check.equal_bytes(run(place).data(), want.data(), want.size() * 4, describe(shape, place));
    }
}

/* So many experts that each is one thread's, which adds to a sum of its own. */
SY_SUITE(experts_whole) {
  Random random(36);
  for (int format = SY_W_F32; format <= SY_W_I4; format++) {
    const Shape shape{20, 200, 136, format, SY_ACT_SILU, true, 0.1f};
    const Values values(random, shape);
    const int rows = 45, k = 3;
    const std::vector<float> weights = random.normals((size_t)rows * k, 0.5f);
    std::vector<float> x = random.normals((size_t)rows * shape.hidden, 1.0f);
    x[(size_t)5 * shape.hidden] = NAN; // What is no number adds nothing, whichever thread has which of the row's experts.
    std::vector<int32_t> ids, slots;
    for (int i = 0; i < rows * k; i++) ids.push_back(i % 4 == 0 ? 7 : random.below(shape.slots)); // One expert has several tiles.
    for (int i = 0; i < shape.slots; i++) slots.push_back(i == 3 ? -1 : shape.slots - 1 - i);
    const auto run = [&](const Place &place) {
      const ExpertsPtr experts = values.load(place);
      const RowSumPtr sum = sum_create(place.isa, SY_SUM_EXACT, rows, shape.hidden);
      for (int64_t i = 0; i < rows * sum->stride; i++) sum->exact(0)[i] = -1; // What was there must go.
      experts_run_routed(*experts, pool_of(place.threads), {x.data(), shape.hidden, rows, k, ids.data(), k, weights.data(), k, slots.data(), shape.slots, grid}, *sum);
      return bits_of_sum(*sum, rows);
    };
    const std::vector<float> want = run(oracle);
    for (const Place &place : places({1, 2, 3})) check.equal_bytes(run(place).data(), want.data(), want.size() * 4, describe(shape, place));
  }
}

/* Wide enough that every ring of a GPU goes round several times, for both matrices; groups of every size that it has a kernel for; rows that are shared out. */
SY_SUITE(experts_wide) {
  Random random(37);
  const int counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 29, 40};
  constexpr int slots = (int)(sizeof counts / sizeof *counts), rows = 40;
  for (int format = SY_W_F32; format <= SY_W_I4; format++)
    for (const auto &[hidden, inter] : {std::pair{1100, 40}, std::pair{40, 1099}}) {
      const Shape shape{slots, hidden, inter, format, SY_ACT_SILU, true, 0.05f};
      const Values values(random, shape);
      const std::vector<float> x = random.normals((size_t)rows * hidden, 1.0f);
      Pairs pairs;
      for (int slot = 0; slot < slots; slot++)
        for (int i = 0; i < counts[slot]; i++) {
          pairs.row.push_back((i * 7 + slot) % rows); // 7 and 40 have no common factor: no row twice.
          pairs.slot.push_back(slot);
          pairs.weight.push_back(random.uniform(-0.2f, 1.0f));
        }
      const auto run = [&](const Place &place) { return sums_of_pairs(values, place, x, rows, pairs); };
      const std::vector<float> want = run(oracle);
      for (const Place &place : places({1})) check.equal_bytes(run(place).data(), want.data(), want.size() * 4, describe(shape, place));
    }
}

/* Beyond what is taken to lie in a cache, where few rows read several panels side by side: few experts are divided by columns, many handed out whole. */
SY_SUITE(experts_streamed) {
  Random random(38);
  for (const int format : {SY_W_F32, SY_W_F16, SY_W_BF16_X16, SY_W_I8})
    for (const int slots : {3, 13}) {
      const Shape shape{slots, 850, 489, format, SY_ACT_SILU, true, 0.05f};
      const Values values(random, shape);
      const int rows = 8;
      const std::vector<float> x = random.normals((size_t)rows * shape.hidden, 1.0f);
      Pairs pairs;
      for (int slot = 0; slot < slots; slot++)
        for (int i = 0; i < 1 + (slot % 3 == 2 ? 6 : slot % 3); i++) { // 1, 2 or 7 rows
          pairs.row.push_back((i + slot) % rows);
          pairs.slot.push_back(slot);
          pairs.weight.push_back(random.uniform(-0.2f, 1.0f));
        }
      const auto run = [&](const Place &place) { return sums_of_pairs(values, place, x, rows, pairs); };
      const std::vector<float> want = run(oracle);
      for (const Place &place : places({1, 2, 3})) check.equal_bytes(run(place).data(), want.data(), want.size() * 4, describe(shape, place));
    }
}

/* A product just below the smallest normal number that rounds to it is that number: processors look after rounding. */
SY_SUITE(experts_tiny) {
  const float almost_above = 0x1.0008p+0f, almost_below = 0x1.fffp-1f; // 1 + 2^-13, 1 - 2^-13
  std::vector<float> content(7, 0.0f);
  content[2] = almost_below * 0x1p-63f; // gate, up, down, gate bias, up bias, down bias of an expert [1, 1]
  content[3] = almost_above * 0x1p-62f;
  const std::unique_ptr<MemoryFile> file = MemoryFile::of(content);
  const sy_source zero = dense(*file, 1, 1, 0), down = dense(*file, 1, 1, 2), gate_bias = dense(*file, 1, 1, 3);
  const float x = 0.0f;
  const auto run = [&](const Place &place) {
    // GPT-OSS with alpha 0: half the gate.
    const ExpertsPtr experts = experts_create(place.isa, {1, 1, 1, SY_W_F32, SY_ACT_GPT_OSS, 1, 0.0f, 7.0f}, nullptr, place.accelerator);
    experts_set(*experts, pool_of(1), 0, &zero, &zero, &down, &gate_bias, &zero, &zero);
    float out = 0.0f;
    experts_probe(*experts, pool_of(1), 0, &x, 1, &out);
    return out;
  };
  const float want = run(oracle);
  check.is_true(want == 0x1p-126f, "the oracle keeps the smallest normal number");
  for (const Place &place : places({1})) {
    const float got = run(place);
    check.equal(&got, &want, 1, "tiny product, " + place.name);
  }
}

/* Experts on workers with different instruction sets and on GPUs, each pair once, sums sent and added in any order: the bits of one worker with all of them. */
SY_SUITE(experts_divided) {
  Random random(33);
  const Shape shape{6, 72, 48, SY_W_BF16_X16, SY_ACT_SILU, false, 0.3f};
  const Values values(random, shape);
  const int rows = 8;
  const std::vector<float> x = random.normals((size_t)rows * shape.hidden, 1.0f);
  const Pairs pairs = random_pairs(random, rows * 4, rows, shape.slots);
  std::vector<int32_t> all_rows;
  for (int row = 0; row < rows; row++) all_rows.push_back(row);
  std::vector<Place> workers = places({2});
  workers.push_back(oracle);
  const auto encode = [&](const RowSum &sum) {
    std::vector<uint8_t> bytes(sum_encoded_max(rows, shape.hidden));
    bytes.resize(sum_encode(sum, rows, all_rows.data(), bytes.data(), bytes.size()));
    return bytes;
  };
  // -20: contributions of ordinary size; -40: every sum needs int64.
  for (const int fine : {grid, -40}) {
    std::vector<uint8_t> want;
    for (int round = 0; round < 6; round++) {
      std::vector<Pairs> part(round == 0 ? 1 : 3);
      for (int p = 0; p < pairs.count(); p++) {
        Pairs &to = part[(size_t)random.below((int)part.size())];
        to.row.push_back(pairs.row[(size_t)p]);
        to.slot.push_back(pairs.slot[(size_t)p]);
        to.weight.push_back(pairs.weight[(size_t)p]);
      }
      const RowSumPtr total = sum_create(Isa::ref, SY_SUM_EXACT, rows, shape.hidden);
      for (size_t i = 0; i < part.size(); i++) {
        const Place &place = workers[(i + (size_t)round) % workers.size()];
        const ExpertsPtr experts = values.load(place);
        const RowSumPtr sum = sum_create(place.isa, SY_SUM_EXACT, rows, shape.hidden);
        experts_run_pairs(*experts, pool_of(2), {x.data(), shape.hidden, rows, part[i].count(), part[i].row.data(), part[i].slot.data(), part[i].weight.data(), fine}, *sum);
        const std::vector<uint8_t> bytes = encode(*sum);
        sum_add_encoded(*total, rows, all_rows.data(), bytes.data(), bytes.size());
      }
      const std::vector<uint8_t> got = encode(*total);
      if (round == 0) want = got;
      check.is_true(got == want, text("round %d on grid %d", round, fine));
    }
    if (fine == -40) check.is_true(want[0] == 8, "the fine grid needs int64");
  }
}

/* Values at and beyond the grid's range, NaN, infinities, denormals. */
SY_SUITE(experts_extreme) {
  Random random(34);
  const Shape shape{1, 40, 32, SY_W_F32, SY_ACT_SILU, false, 0.3f};
  const Values values(random, shape);
  for (const float weight : {1.0f, 1e-30f, 1e30f, 1e37f, 0.0f, -1.0f, INFINITY, NAN, 1e-42f})
    for (const int steps : {-120, -52, -30, 0, 30, 120})
      for (const float scale : {1.0f, 1e15f, 1e-20f, NAN}) {
        std::vector<float> x = random.normals((size_t)shape.hidden, 1.0f);
        for (float &v : x) v *= scale;
        const int32_t zero = 0;
        const auto run = [&](const Place &place, bool &poisoned) {
          const ExpertsPtr experts = values.load(place);
          const RowSumPtr sum = sum_create(place.isa, SY_SUM_EXACT, 1, shape.hidden);
          experts_run_pairs(*experts, pool_of(1), {x.data(), shape.hidden, 1, 1, &zero, &zero, &weight, steps}, *sum);
          poisoned = sum->poisoned.data()[0] != 0;
          return bits_of_sum(*sum, 1);
        };
        bool want_poisoned, got_poisoned;
        const std::vector<float> want = run(oracle, want_poisoned);
        for (const Place &place : places({1})) {
          const std::vector<float> got = run(place, got_poisoned);
          const std::string what = text("weight %g grid %d scale %g %s", (double)weight, steps, (double)scale, place.name.c_str());
          check.is_true(got_poisoned == want_poisoned, what + ": poisoned");
          check.equal_bytes(got.data(), want.data(), got.size() * 4, what);
        }
        if (weight != weight || scale != scale) check.is_true(want_poisoned, "NaN poisons its row");
      }
}

SY_SUITE(experts_refused) {
  Random random(35);
  const Shape shape{3, 32, 32, SY_W_BF16_X16, SY_ACT_SILU, false, 0.3f};
  const Values values(random, shape);
  std::vector<Place> all = places({1});
  all.push_back(oracle);
  for (const Place &place : all) {
    Pool &pool = pool_of(1);
    const ExpertsPtr experts = values.load(place);
    const RowSumPtr sum = sum_create(place.isa, SY_SUM_EXACT, 2, 32);
    const std::vector<float> x(64, 1.0f);
    std::vector<float> out(32);
    const float weight = 1.0f;
    const auto run = [&](int32_t row, int32_t slot) { experts_run_pairs(*experts, pool, {x.data(), 32, 2, 1, &row, &slot, &weight, grid}, *sum); };
    run(1, 2);
    check.fails(SY_INVALID_ARGUMENT, [&] { run(2, 0); }, "row outside");
    check.fails(SY_INVALID_ARGUMENT, [&] { run(-1, 0); }, "negative row");
    check.fails(SY_INVALID_ARGUMENT, [&] { run(0, 3); }, "slot outside");
    experts_clear(*experts, 1);
    check.fails(SY_INVALID_ARGUMENT, [&] { run(0, 1); }, "cleared slot");
    check.fails(SY_INVALID_ARGUMENT, [&] { experts_probe(*experts, pool, 1, x.data(), 1, out.data()); }, "probe of a cleared slot");
    values.set(*experts, pool, 1, 2);
    run(0, 1);
    const sy_source small = dense(*values.file, 31, 32), right = dense(*values.file, 32, 32);
    check.fails(SY_INVALID_ARGUMENT, [&] { experts_set(*experts, pool, 0, &small, &right, &right, nullptr, nullptr, nullptr); }, "gate of a wrong shape");
    check.fails(SY_INVALID_ARGUMENT, [&] { experts_set(*experts, pool, 0, &right, &right, &right, &right, nullptr, nullptr); }, "unwanted bias");
    const int32_t id = 5, slots[] = {0, 1, 7};
    check.fails(SY_INVALID_ARGUMENT, [&] { experts_run_routed(*experts, pool, {x.data(), 32, 1, 1, &id, 1, &weight, 1, slots, 3, grid}, *sum); }, "id outside");
    const int32_t to_bad_slot = 2;
    check.fails(SY_INVALID_ARGUMENT, [&] { experts_run_routed(*experts, pool, {x.data(), 32, 1, 1, &to_bad_slot, 1, &weight, 1, slots, 3, grid}, *sum); }, "slot outside");
  }
}

/* The approximation itself: SY_EXP within 2 ulp of the true value, monotone limits; gates close to their definition in f64. */
SY_SUITE(exp) {
  double worst = 0;
  for (float x = -87.29f; x < 88.72f; x += 0.00137f) {
    const double want = std::exp((double)x), ulp = std::ldexp(1.0, std::ilogb(want) - 23);
    worst = std::fmax(worst, std::fabs((double)sy_exp(x) - want) / ulp);
  }
  check.is_true(worst <= 2.0, text("SY_EXP is off by %.2f ulp", worst));
  check.is_true(sy_exp(-INFINITY) == 0.0f && sy_exp(-87.31f) == 0.0f && sy_exp(INFINITY) == INFINITY && sy_exp(88.73f) == INFINITY, "SY_EXP at its ends");
  check.is_true(sy_exp(0.0f) == 1.0f && sy_exp(NAN) != sy_exp(NAN), "SY_EXP of 0 and NaN");
  for (float g = -20.0f; g < 20.0f; g += 0.37f) {
    const double silu = (double)g / (1.0 + std::exp(-(double)g)) * 1.5, cut = std::fmin((double)g, 7.0);
    const double oss = 2.5 * cut / (1.0 + std::exp(-1.702 * cut));
    check.is_true(std::fabs((double)gated(SY_ACT_SILU, 0, 0, g, 1.5f) - silu) <= 1e-5 * (1e-3 + std::fabs(silu)), text("silu(%g)", (double)g));
    check.is_true(std::fabs((double)gated(SY_ACT_GPT_OSS, 1.702f, 7.0f, g, 1.5f) - oss) <= 1e-5 * (1e-3 + std::fabs(oss)), text("gpt-oss(%g)", (double)g));
  }
}

} // namespace sy::conformance
