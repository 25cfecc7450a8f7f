/*
 * Whether a kind of run is faster on all threads or on the caller alone, learned from how long its runs take. A second thread may be displaced by other
 * programs, and then everybody waits for it at the next barrier; no estimate knows that. Results never depend on the choice.
 *
 * What counts is the period, a run and the pause behind it: where others need the cores (the thread that sends the results, the programs that read them),
 * a run that took their core pays in its pause. A pause longer than its run is waiting for work and counts as long as the run.
 *
 * Now and then both ways are tried in blocks of runs, chosen, other, other, chosen: what a run leaves undone falls on the next one, so that runs in turn
 * would charge it to the wrong side. A change must be worth `margin`, a trial that is plainly lost ends at once, and trials become rarer while they
 * confirm what is known.
 */
#ifndef SWITCHYARD_THREAD_CHOICE_H
#define SWITCHYARD_THREAD_CHOICE_H

#include <algorithm>
#include <cstdint>

namespace sy {

class ThreadChoice {
public:
  /* A run begins at `now` (in ticks): true if on all threads. `guess` answers until there is experience. */
  bool begin(uint64_t now, bool guess) {
    if (!known_) known_ = true, chosen_ = guess;
    if (took_ > 0) note(took_ + std::min((now - ended_) / (uint64_t)rows_, took_));
    began_ = now;
    return tries_other() ? !chosen_ : chosen_;
  }

  /* It ended. Times of a kind are compared by row, because its runs differ in rows. */
  void end(uint64_t now, int rows) {
    took_ = std::max<uint64_t>(1, (now - began_) / (uint64_t)rows);
    ended_ = now;
    rows_ = rows;
  }

private:
  static constexpr int block = 12, blocks = 4, counted = 2 * (block - 1);
  static constexpr int hiccups = 4; /* longest periods of each side that do not count */
  static constexpr double margin = 0.96, hopeless = 1.4;
  static constexpr int first_interval = 64, longest_interval = 2048; /* runs between two trials */

  bool tries_other() const { return waiting_ == 0 && (noted_ / block == 1 || noted_ / block == 2); }

  void note(uint64_t period) {
    if (waiting_ > 0) {
      waiting_--;
      return;
    }
    const int at = noted_ / block, within = noted_ % block;
    const bool other = at == 1 || at == 2;
    // The first of a block still pays for what the block before left undone.
    if (within > 0) periods_[other][(at == 0 || at == 1 ? 0 : block - 1) + within - 1] = period;
    noted_++;
    if (noted_ == 2 * block && sum(1, block - 1) > hopeless * sum(0, block - 1)) return conclude(false);
    if (noted_ == blocks * block) conclude(sum(1, counted) < margin * sum(0, counted));
  }

  void conclude(bool change) {
    if (change) chosen_ = !chosen_;
    interval_ = change ? first_interval : std::min(2 * interval_, longest_interval);
    waiting_ = interval_;
    noted_ = 0;
  }

  /* Of one side's first `count` periods. */
  double sum(int side, int count) {
    std::sort(periods_[side], periods_[side] + count);
    double of = 0;
    for (int i = 0; i < count - hiccups; i++) of += (double)periods_[side][i];
    return of;
  }

  bool known_ = false, chosen_ = false;
  int waiting_ = 8; /* the first runs meet cold caches and sleeping threads */
  int interval_ = first_interval / 2;
  int noted_ = 0;
  int rows_ = 1;
  uint64_t began_ = 0, ended_ = 0, took_ = 0; /* the last run; took_ is by row, 0 before the first */
  uint64_t periods_[2][counted];              /* [chosen, other] of the trial that is on */
};

/* A helper that sleeps takes 25 to 50 us to wake: a run estimated below the first bound cannot gain, one below the second is not expected to. From the
 * third on all threads take part without asking: a displaced one comes back long before the end, and a wrong answer would cost most. */
constexpr double together_never_below_us = 100, together_expected_from_us = 400, together_always_from_us = 20'000;
/* A session waits so long for its helpers, and a hundredth of what it is expected to take if that is more: long ones begin with operations that are long. */
constexpr double waking_us = 50;
inline double patience_us(double estimate_us) { return std::max(waking_us, estimate_us / 100); }
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
