#include "sync/spin.hpp"

#include <algorithm>
#include <array>

#include "freethreading/cpu_seat.hpp"

namespace freethreading {

namespace {

constexpr Nanoseconds kLongest = 50 * kMicrosecond;  // but for probes
constexpr Nanoseconds kShortest = kMicrosecond;
constexpr std::uint32_t kLongWayOff = 1024;
constexpr Nanoseconds kProbeLock = kLongest;
constexpr Nanoseconds kProbeSignal = 200 * kMicrosecond;  // a parked partner wakes, works and answers within it

}  // namespace

SpinBudget& SpinBudget::mine(SpinKind kind) noexcept {
  thread_local constinit std::array<SpinBudget, 2> budgets{SpinBudget(kProbeLock), SpinBudget(kProbeSignal)};
  return budgets[static_cast<std::size_t>(kind)];
}

Nanoseconds SpinBudget::begin() noexcept {
  if (os::available_cpus() == 1) {
    return 0;
  }
  if (limit_ != 0) {
    return limit_;
  }
  if (waits_until_probe_ != 0) {
    --waits_until_probe_;
    return 0;
  }
  return probe_;
}

void SpinBudget::succeeded(Nanoseconds spent) noexcept {
  if (spent <= kLongest) {
    limit_ = std::clamp(2 * std::max(limit_, spent), kStart, kLongest);
    probe_interval_ = kFirstProbeInterval;
    patience_ = kPatience;
  } else if (patience_ != 0) {
    --patience_;
    limit_ = probe_;
  } else {
    stop(kLongWayOff);
  }
}

void SpinBudget::failed() noexcept {
  limit_ = limit_ > kLongest ? 0 : limit_ / 2;
  if (limit_ < kShortest) {
    stop(probe_interval_);
    probe_interval_ = std::min(2 * probe_interval_, kRarestProbe);
  }
}

void SpinBudget::expect_partner() noexcept {
  limit_ = probe_;
  patience_ = kPatience;
}

void SpinBudget::stop(std::uint32_t waits) noexcept {
  limit_ = 0;
  waits_until_probe_ = waits;
  patience_ = kPatience;
}

void expect_partner() noexcept { SpinBudget::mine(SpinKind::kSignal).expect_partner(); }

}  // namespace freethreading
