#include "sync/spin.hpp"

#include <algorithm>
#include <array>

namespace freethreading {

namespace {

constexpr Nanoseconds kLongest = 50 * kMicrosecond;
constexpr Nanoseconds kShortest = kMicrosecond;
constexpr std::uint32_t kRarestProbe = 64;

}  // namespace

SpinBudget& SpinBudget::mine(SpinKind kind) noexcept {
  thread_local std::array<SpinBudget, 2> budgets;
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
  return kLongest;
}

void SpinBudget::succeeded() noexcept {
  limit_ = std::clamp(2 * limit_, kStart, kLongest);
  probe_interval_ = kFirstProbeInterval;
}

void SpinBudget::failed() noexcept {
  limit_ /= 2;
  if (limit_ < kShortest) {
    limit_ = 0;
    waits_until_probe_ = probe_interval_;
    probe_interval_ = std::min(2 * probe_interval_, kRarestProbe);
  }
}

}  // namespace freethreading
