/* The choice between all threads and one, fed with timings. */
#include "conformance.h"
#include "thread-choice.h"

namespace sy::conformance {
namespace {

/* What a run of 3 rows costs: its own time alone or together, give or take some noise, and what it leaves for the pause behind it. */
struct Costs {
  double alone, together, noise, left_by_together;
};

/* Share of the last half of `runs` that went together. */
double share_together(Random &random, ThreadChoice &choice, uint64_t &now, bool guess, const Costs &costs, int runs) {
  int together = 0;
  for (int run = 0; run < runs; run++) {
    const bool all = choice.begin(now, guess);
    together += all && run >= runs / 2;
    // Now and then somebody takes the core for a while.
    const double displaced = random.below(20) == 0 ? 3.0 : 1.0;
    now += (uint64_t)(1e6 * (all ? costs.together : costs.alone) * displaced * (1.0 + costs.noise * random.below(100) * 0.01));
    choice.end(now, 3);
    now += (uint64_t)(1e6 * (0.2 + (all ? costs.left_by_together : 0.0)));
  }
  return together / (runs / 2.0);
}

SY_SUITE(thread_choice) {
  Random random(31);
  for (const bool guess : {false, true}) {
    uint64_t now = 1;
    ThreadChoice choice;
    const auto share = [&](ThreadChoice &of, const Costs &costs, int runs) { return share_together(random, of, now, guess, costs, runs); };
    check.is_true(share(choice, {1.0, 0.6, 0.1, 0.0}, 4000) > 0.95, "two threads are faster: they are used");
    check.is_true(share(choice, {1.0, 1.2, 0.1, 0.0}, 8000) < 0.1, "the second is displaced: it is left alone");
    check.is_true(share(choice, {1.0, 0.6, 0.1, 0.0}, 8000) > 0.9, "and back");
    check.is_true(share(choice, {1.0, 0.9, 0.1, 0.5}, 8000) < 0.1, "faster runs that hold everybody else up are slower");
    ThreadChoice steady;
    const double kept = share(steady, {1.0, 0.99, 0.0, 0.0}, 4000);
    check.is_true(guess ? kept > 0.95 : kept < 0.05, "a difference not worth a change changes nothing");
  }
  check.is_true(row_class(1) == 0 && row_class(2) == 1 && row_class(3) == 2 && row_class(32) == 5 && row_class(33) == 6 && row_class(1 << 30) == row_classes - 1,
                "classes of rows");
}

} // namespace
} // namespace sy::conformance
