// Spinning before parking: short, adaptive, bounded.
//
// A hand-over to a spinning thread takes under a microsecond, one to a parked thread tens of microseconds; but a spinning
// thread also takes a processor from whoever it waits for. So each thread keeps a budget: it doubles when a spin ended
// with what was waited for, to twice as long as that took at least, and halves when it did not, down to none. A thread that
// notices that it was descheduled in the middle gives up at once: there are more runnable threads than processors.
//
// Two partners who both park find back to spinning: one wait in a few is a *probe*, long enough for a parked partner to be
// woken and to answer. Where that comes off, the thread stays at such long spins for as many waits as the partner's own probe
// may take to come; the partner, which is answered at once then, has a short success, and so has this one from then on.
// Where it does not come to that, the next attempt is a long way off.
#pragma once

#include <cstdint>

#include "freethreading/deadline.hpp"
#include "os/cpu.hpp"

namespace freethreading {

inline void cpu_pause() noexcept { os::cpu_relax(); }

// Waits that behave alike share a budget: for a lock's short sections, for an event that somebody else brings about.
enum class SpinKind : std::uint8_t { kLock, kSignal };

class SpinBudget {
 public:
  // The calling thread's.
  static SpinBudget& mine(SpinKind kind) noexcept;

  explicit constexpr SpinBudget(Nanoseconds probe) noexcept : probe_(probe) {}

  // How long this wait may spin; 0: not at all.
  [[nodiscard]] Nanoseconds begin() noexcept;
  // After so long, as far as the clock was read.
  void succeeded(Nanoseconds spent) noexcept;
  void failed() noexcept;
  // As if a probe had come off.
  void expect_partner() noexcept;

 private:
  void stop(std::uint32_t waits) noexcept;

  Nanoseconds probe_;
  Nanoseconds limit_ = kStart;
  std::uint32_t waits_until_probe_ = 0;
  std::uint32_t probe_interval_ = kFirstProbeInterval;
  std::uint32_t patience_ = kPatience;  // long successes in a row that are left

  static constexpr Nanoseconds kStart = 20 * kMicrosecond;
  static constexpr std::uint32_t kFirstProbeInterval = 8;
  static constexpr std::uint32_t kRarestProbe = 64;
  static constexpr std::uint32_t kPatience = kRarestProbe + 16;
};

// Spins until ready() says true, at most for the calling thread's budget. Whether it did.
template <class Ready>
bool spin_until(SpinKind kind, Ready ready) noexcept {
  constexpr int kLooksPerClockReading = 16;
  constexpr Nanoseconds kDescheduled = 200 * kMicrosecond;  // no 16 looks take that long
  SpinBudget& budget = SpinBudget::mine(kind);
  const Nanoseconds limit = budget.begin();
  if (limit == 0) {
    return false;
  }
  const Nanoseconds start = monotonic_now();
  Nanoseconds last = start;
  for (;;) {
    for (int i = 0; i < kLooksPerClockReading; ++i) {
      if (ready()) {
        budget.succeeded(last - start);
        return true;
      }
      cpu_pause();
    }
    const Nanoseconds now = monotonic_now();
    if (now - start >= limit || now - last >= kDescheduled) {
      budget.failed();
      return false;
    }
    last = now;
  }
}

}  // namespace freethreading
