// Patience: how long a thread that asks to be told of a call's end waits for that itself, first (docs/design/futures.md).
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "freethreading/deadline.hpp"

namespace freethreading::binding {

// Of one thread, which learns from what came of the last times.
class Patience {
 public:
  // The calling thread's.
  static Patience& mine() {
    thread_local Patience patience;
    return patience;
  }

  // Whether the worker of the call that is submitted now is to stay awake for the next one. True once, behind a call that had to wake
  // it: this thread may never ask to be told again.
  [[nodiscard]] bool take_awakening() { return std::exchange(is_awakening_, false); }
  // How long to wait now; 0: not at all.
  Nanoseconds begin() {
    if (skips_ != 0) {
      --skips_;
      return 0;
    }
    return is_quick_ ? kQuick : kAwakening;
  }
  // Whether a worker is to wake up first; REQUIRES: begin() was called. Else it is not worth going to sleep.
  [[nodiscard]] bool expects_wake() const { return !is_quick_; }
  // What came of it, in what time.
  void end(bool is_done, Nanoseconds taken) {
    if (is_done && taken <= kQuick) {
      successes_ = is_quick_ ? successes_ + 1 : 0;
      if (successes_ == kManySuccesses) failures_ = 0;
      is_quick_ = true;
    } else if (is_done && taken <= kAwakening && !is_quick_ && ++awakenings_ < kMostAwakenings) {
      is_awakening_ = true;
      return;
    } else {
      skips_ = 1U << failures_;
      failures_ = std::min(failures_ + 1, kMostFailures);
      successes_ = 0;
      is_quick_ = false;
    }
    awakenings_ = 0;
  }

 private:
  // The tiniest calls, with a worker that is awake. No more: who submits many such calls has them run one after another.
  static constexpr Nanoseconds kQuick = 10 * kMicrosecond;
  // The same with one that sleeps, as the first time: from then on it is awake, or soon.
  static constexpr Nanoseconds kAwakening = 200 * kMicrosecond;
  static constexpr std::uint32_t kMostFailures = 7;
  static constexpr std::uint32_t kManySuccesses = 16;
  static constexpr std::uint32_t kMostAwakenings = 5;

  std::uint32_t skips_ = 0;
  std::uint32_t failures_ = 0;   // without many quick successes in a row in between
  std::uint32_t successes_ = 0;  // quick ones in a row
  std::uint32_t awakenings_ = 0;  // in a row
  bool is_quick_ = false;
  bool is_awakening_ = false;
};

}  // namespace freethreading::binding
