/*
 * Whether a kind of run is faster on all threads or on the caller alone, learned from how long its runs take. A second thread may be displaced by other
 * programs, and then everybody waits for it at the next barrier; no estimate knows that. Results never depend on the choice.
 *
 * Now and then both are tried in turn, run by run, so that a growing context or a busier machine meets both. The median of each counts, a change must be
 * worth `margin`, a trial that is plainly lost ends at once, and trials become rarer while they confirm what is known.
 */
#ifndef SWITCHYARD_THREAD_CHOICE_H
#define SWITCHYARD_THREAD_CHOICE_H

#include <cstdint>

namespace sy {

class ThreadChoice {
public:
  /* How the next run goes: true on all threads. `guess` answers until there is experience. */
  bool together(bool guess) {
    if (!known_) known_ = true, chosen_ = guess;
    if (waiting_ > 0) return chosen_;
    return noted_ % 2 == 0 ? chosen_ : !chosen_;
  }

  /* How long it took, in any unit; per row, where the runs of a kind differ in rows. */
  void note(uint64_t time) {
    if (waiting_ > 0) {
      waiting_--;
      return;
    }
    times_[noted_ % 2][noted_ / 2] = time;
    noted_++;
    if (noted_ % 2 != 0) return;
    const int pair = noted_ / 2 - 1;
    const bool lost = (double)times_[1][pair] > hopeless * (double)times_[0][pair];
    if (!lost && pair + 1 < pairs) return;
    const bool change = !lost && (double)median(times_[1]) < margin * (double)median(times_[0]);
    if (change) chosen_ = !chosen_;
    interval_ = change ? first_interval : interval_ < longest_interval ? 2 * interval_ : interval_;
    waiting_ = interval_;
    noted_ = 0;
  }

private:
  static constexpr int pairs = 5;
  static constexpr double margin = 0.96, hopeless = 1.4;
  static constexpr int first_interval = 64, longest_interval = 1024; /* runs between two trials */

  static uint64_t median(const uint64_t (&of)[pairs]) {
    for (int i = 0; i < pairs; i++) {
      int below = 0, equal = 0;
      for (int j = 0; j < pairs; j++) {
        below += of[j] < of[i];
        equal += of[j] == of[i];
      }
      if (below <= pairs / 2 && below + equal > pairs / 2) return of[i];
    }
    return of[0];
  }

  bool known_ = false, chosen_ = false;
  int waiting_ = 8; /* the first runs meet cold caches and sleeping threads */
  int interval_ = first_interval / 2;
  int noted_ = 0;
  uint64_t times_[2][pairs]; /* [as chosen, the other way] of the trial that is on */
};

/* A helper that sleeps takes 25 to 50 us to wake: a run estimated below the first bound cannot gain, one below the second is not expected to. From the
 * third on all threads take part without asking: a displaced one comes back long before the end, and a wrong answer would cost most. */
constexpr double together_never_below_us = 100, together_expected_from_us = 400, together_always_from_us = 20'000;
inline bool together_to_learn(double estimate_us) { return estimate_us >= together_never_below_us && estimate_us < together_always_from_us; }

/* Runs of up to 1, 2, 4, 8, .. rows are kinds of their own. */
constexpr int row_classes = 17;
inline int row_class(int rows) {
  int of = 0;
  while (of + 1 < row_classes && (1 << of) < rows) of++;
  return of;
}

} // namespace sy
#endif
