// Pace: how many items of a map's job a worker sets out to run at a time, and how often it looks around (docs/design/jobs.md).
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>

#include "freethreading/deadline.hpp"

namespace freethreading::binding {

// How long a worker that finds an open job empty looks for the next item before it leaves: to be called again costs both sides as much.
inline constexpr Nanoseconds kLinger = 20 * kMicrosecond;

// Whether ready() comes true in that time. Gives way to whoever wants the processor.
template <class Ready>
bool linger(Ready ready) {
  const Nanoseconds begun = monotonic_now();
  do {
    for (int i = 0; i < 8; ++i) {
      std::this_thread::yield();
      if (ready()) return true;
    }
  } while (monotonic_now() - begun < kLinger);
  return false;
}

class Pace {
 public:
  [[nodiscard]] std::uint64_t items() const { return items_; }
  // They have run; `left` is how many nobody has set out to run.
  void end_stint(std::uint64_t left, std::uint32_t workers) {
    const Nanoseconds now = monotonic_now();
    if (now - begun_ < kStint) {
      items_ = std::min({2 * items_, kMostItems, std::max<std::uint64_t>(left / (2 * workers), 1)});
    } else if (now - begun_ > 2 * kStint) {
      items_ = std::max<std::uint64_t>(items_ / 2, 1);
    }
    begun_ = now;
  }
  // Whether it is time to look around, and tell what has become known.
  [[nodiscard]] bool is_due() {
    const Nanoseconds now = monotonic_now();
    if (now - told_ < kTurn) return false;
    told_ = now;
    return true;
  }

 private:
  static constexpr Nanoseconds kStint = 200 * kMicrosecond;
  static constexpr Nanoseconds kTurn = kMillisecond;
  static constexpr std::uint64_t kMostItems = 4096;

  std::uint64_t items_ = 1;
  Nanoseconds begun_ = monotonic_now();
  Nanoseconds told_ = begun_;
};

}  // namespace freethreading::binding
