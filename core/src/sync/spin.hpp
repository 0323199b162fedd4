// Spinning before parking: short, adaptive, bounded.
//
// A hand-over to a spinning thread takes under a microsecond, one to a parked thread tens of microseconds; but a spinning
// thread also takes a processor from whoever it waits for. So each thread keeps a budget: it doubles when a spin ended
// with what was waited for and halves when it did not, down to none. Then one wait in a few probes again, for longer than
// it takes to wake a parked partner, so that two partners who both park find back to spinning. A thread that notices that
// it was descheduled in the middle gives up at once: there are more runnable threads than processors.
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

  // How long this wait may spin; 0: not at all.
  [[nodiscard]] Nanoseconds begin() noexcept;
  void succeeded() noexcept;
  void failed() noexcept;

 private:
  Nanoseconds limit_ = kStart;
  std::uint32_t waits_until_probe_ = 0;
  std::uint32_t probe_interval_ = kFirstProbeInterval;

  static constexpr Nanoseconds kStart = 20 * kMicrosecond;
  static constexpr std::uint32_t kFirstProbeInterval = 8;
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
        budget.succeeded();
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
