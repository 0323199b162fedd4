#include "freethreading/sync/rlock.hpp"

#include <limits>

#include "freethreading/crash_point.hpp"
#include "sync/thread_token.hpp"

namespace freethreading {

// Every access to depth_ and thread_ here is relaxed: both are written by the holder of lock_ only, whose lock and unlock
// order them for the next holder; another thread that compares thread_ with itself can only ever have written that value
// itself.

namespace {

// In private memory a thread stays the owner of what it holds when it forks, so its name there is the one that it keeps.
std::uint64_t name_in(const Place& place) noexcept { return place.shared() ? thread_token() : local_thread(); }

}  // namespace

bool RLock::is_owned(Place& place) const noexcept {
  return thread_.load(std::memory_order_relaxed) == name_in(place) &&
         (!place.shared() || lock_.owner() == place.self());
}

WaitOutcome RLock::take_again() noexcept {
  const std::uint32_t depth = depth_.load(std::memory_order_relaxed);
  if (depth == std::numeric_limits<std::uint32_t>::max()) {
    return WaitOutcome::kNoMemory;
  }
  depth_.store(depth + 1, std::memory_order_relaxed);
  return WaitOutcome::kReady;
}

void RLock::begin(Place& place) noexcept {
  depth_.store(1, std::memory_order_relaxed);
  FT_CRASH_POINT("rlock.lock.unnamed");
  thread_.store(name_in(place), std::memory_order_relaxed);
}

WaitOutcome RLock::try_lock(Place& place) noexcept {
  if (is_owned(place)) {
    return take_again();
  }
  const WaitOutcome outcome = lock_.try_lock(place);
  if (outcome == WaitOutcome::kReady) {
    begin(place);
  }
  return outcome;
}

WaitOutcome RLock::lock_until(Place& place, WaitContext& context) noexcept {
  if (is_owned(place)) {
    return take_again();
  }
  if (!place.shared()) {
    // Held by the thread that forked this process: that thread is here, whatever process the lock's word names.
    const std::uint32_t forked = thread_that_forked();
    const OwnerId owner = lock_.owner();
    if (forked != 0 && owner != kNobody && owner != place.self() && thread_.load(std::memory_order_relaxed) == forked) {
      lock_.reassign(owner, place.self());
    }
  }
  const WaitOutcome outcome = lock_.lock_until(place, context);
  if (outcome == WaitOutcome::kReady || outcome == WaitOutcome::kOwnerDied) {
    begin(place);
  }
  return outcome;
}

bool RLock::unlock(Place& place) noexcept {
  if (!is_owned(place)) {
    return false;
  }
  const std::uint32_t depth = depth_.load(std::memory_order_relaxed);
  if (depth > 1) {
    depth_.store(depth - 1, std::memory_order_relaxed);
    return true;
  }
  static_cast<void>(release_all(place));
  return true;
}

std::uint32_t RLock::release_all(Place& place) noexcept {
  const std::uint32_t depth = depth_.load(std::memory_order_relaxed);
  thread_.store(0, std::memory_order_relaxed);
  FT_CRASH_POINT("rlock.unlock.unnamed");
  depth_.store(0, std::memory_order_relaxed);
  static_cast<void>(lock_.unlock(place));
  return depth;
}

void RLock::restore_depth(std::uint32_t depth) noexcept { depth_.store(depth, std::memory_order_relaxed); }

bool RLock::is_locked() const noexcept { return lock_.is_locked(); }
std::uint32_t RLock::depth() const noexcept { return depth_.load(std::memory_order_relaxed); }
OwnerId RLock::owner() const noexcept { return lock_.owner(); }
void RLock::disown(OwnerId dead) noexcept { lock_.disown(dead); }
void RLock::mark_owner_died(OwnerId dead) noexcept { lock_.mark_owner_died(dead); }

}  // namespace freethreading
