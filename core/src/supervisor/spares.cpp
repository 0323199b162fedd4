#include "supervisor/spares.hpp"

#include <algorithm>
#include <utility>

#include "os/children.hpp"
#include "os/memfd.hpp"
#include "os/process.hpp"
#include "os/signals.hpp"

namespace freethreading::supervisor {

namespace {

constexpr Nanoseconds kPeriod = 5 * kSecond;
constexpr std::size_t kMost = 64;
// Of the descriptors that this process may have: one in so many is a spare's, the others are for requests under way.
constexpr std::size_t kDescriptorsForEach = 16;
// What is a while: a short one where less than a part is left.
constexpr Nanoseconds kPause = 10 * kMillisecond;
constexpr Nanoseconds kShortPause = kMillisecond / 4;
constexpr std::size_t kPart = 4;

}  // namespace

Spares::Spares() : limit_(std::min(kMost, os::descriptor_limit() / kDescriptorsForEach)) {}

void Spares::expect_more() noexcept {
  if (period_end_.is_never()) {
    period_end_ = Deadline::after(kPeriod);
  }
  ++asked_;
  pause_ = Deadline::after(parked_.size() * kPart > wanted() ? kPause : kShortPause);
}

void Spares::expect_none() noexcept {
  asked_ = before_ = 0;
  period_end_ = Deadline::never();
}

std::size_t Spares::wanted() const noexcept { return std::min(limit_, std::max(asked_, before_)); }

bool Spares::is_short() const noexcept { return parked_.size() < wanted() && pause_.passed(); }

Deadline Spares::next() const noexcept {
  return parked_.size() < wanted() && !pause_.passed() ? pause_ : period_end_;
}

void Spares::begin_period() noexcept {
  before_ = std::exchange(asked_, 0);
  period_end_ = before_ != 0 ? Deadline::after(kPeriod) : Deadline::never();
}

Spare Spares::take() noexcept {
  if (parked_.empty()) {
    return {};
  }
  const Spare spare = parked_.front();
  parked_.pop_front();
  return spare;
}

bool Spares::forget(int pid) noexcept {
  const auto found = std::find_if(parked_.begin(), parked_.end(), [&](const Spare& spare) { return spare.pid == pid; });
  if (found == parked_.end()) {
    return false;
  }
  os::close_descriptor(found->socket);
  parked_.erase(found);
  return true;
}

void Spares::let_go() noexcept {
  if (period_end_.passed()) {
    begin_period();
  }
  while (parked_.size() > wanted()) {
    os::close_descriptor(take().socket);
  }
  for (Spare& spare : parked_) {
    spare.rested = true;
  }
}

void Spares::let_all_go() noexcept {
  while (!parked_.empty()) {
    os::close_descriptor(take().socket);
  }
}

void Spares::kill_all() const noexcept {
  for (const Spare& spare : parked_) {
    os::kill_process(spare.pid, os::kKill);
  }
}

}  // namespace freethreading::supervisor
