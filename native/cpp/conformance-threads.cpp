/* The choice between all threads and one, fed with timings. */
#include "conformance.h"
#include "thread-choice.h"

namespace sy::conformance {
namespace {

/* Share of the last half of `runs` that went together, when a run takes `alone` or `shared`, give or take some noise. */
double share_together(Random &random, ThreadChoice &choice, bool guess, double alone, double shared, double noise, int runs) {
  int together = 0;
  for (int run = 0; run < runs; run++) {
    const bool all = choice.together(guess);
    together += all && run >= runs / 2;
    // Now and then somebody takes the core for a while.
    const double displaced = random.below(20) == 0 ? 3.0 : 1.0;
    choice.note((uint64_t)(1e6 * (all ? shared : alone) * displaced * (1.0 + noise * random.below(100) * 0.01)));
  }
  return together / (runs / 2.0);
}

SY_SUITE(thread_choice) {
  Random random(31);
  for (const bool guess : {false, true}) {
    ThreadChoice choice;
    check.is_true(share_together(random, choice, guess, 1.0, 0.6, 0.1, 2000) > 0.95, "two threads are faster: they are used");
    check.is_true(share_together(random, choice, guess, 1.0, 1.2, 0.1, 4000) < 0.1, "the second is displaced: it is left alone");
    check.is_true(share_together(random, choice, guess, 1.0, 0.6, 0.1, 4000) > 0.9, "and back");
    ThreadChoice steady;
    const double share = share_together(random, steady, guess, 1.0, 0.99, 0.0, 4000);
    check.is_true(guess ? share > 0.95 : share < 0.05, "a difference not worth a change changes nothing");
  }
  check.is_true(row_class(1) == 0 && row_class(2) == 1 && row_class(3) == 2 && row_class(32) == 5 && row_class(33) == 6 && row_class(1 << 30) == row_classes - 1,
                "classes of rows");
}

} // namespace
} // namespace sy::conformance
