#include "freethreading/sync/barrier.hpp"

#include <limits>

#include "freethreading/crash_point.hpp"
#include "os/futex.hpp"
#include "sync/parking.hpp"

namespace freethreading {

// Default (seq_cst) order throughout: a barrier's cost is in its waits.

namespace {

constexpr std::uint32_t kSleepers = 1U << 31;  // in acting_
static_assert((kSleepers & kOwnerMask) == 0);

constexpr Nanoseconds kSweepPatience = 100 * kMillisecond;

}  // namespace

void Barrier::lock_guard(Place& place) noexcept {
  WaitContext context(Deadline::never());
  if (guard_.lock_until(place, context) == WaitOutcome::kOwnerDied) {
    break_all(place);  // it died as a party, or in the middle of letting others go
  }
}

// REQUIRES: guard_ held.
void Barrier::break_all(Place& place) noexcept {
  broken_.store(1);
  FT_CRASH_POINT("barrier.break.stored");
  waiters_.notify(place, WaiterTable::kAll, true);
  arrived_.store(0);
}

void Barrier::end_acting(Place& place) noexcept {
  if ((acting_.exchange(0) & kSleepers) != 0) {
    os::futex_wake(acting_, std::numeric_limits<int>::max(), place.shared());
  }
}

// Breaks the barrier where a party that others wait for has died.
void Barrier::look_after_the_dead(Place& place) noexcept {
  const OwnerId acting = acting_.load() & kOwnerMask;
  const bool acting_died = acting != kNobody && place.liveness(acting) != Liveness::kAlive;
  const OwnerId guarding = guard_.owner();
  const bool guard_died = guarding != kNobody && place.liveness(guarding) == Liveness::kDied;
  if (!acting_died && !guard_died && !waiters_.has_dead_waiter(place)) {
    return;
  }
  lock_guard(place);
  if (acting_died && (acting_.load() & kOwnerMask) == acting) {
    break_all(place);
    end_acting(place);
  } else if (waiters_.has_dead_waiter(place)) {
    break_all(place);
  }
  unlock_guard(place);
}

Arrival Barrier::arrive(Place& place, WaitContext& context) noexcept {
  Arrival arrival{.outcome = WaitOutcome::kReady, .index = 0, .last = false, .cell = kNoOffset};
  lock_guard(place);
  for (;;) {
    std::uint32_t acting = acting_.load();
    if (broken_.load() != 0 || acting == 0) {
      break;
    }
    const bool announced = acting_.compare_exchange_strong(acting, acting | kSleepers);
    unlock_guard(place);
    if (context.deadline.passed()) {
      arrival.outcome = WaitOutcome::kTimedOut;
      return arrival;
    }
    if (announced) {
      const ParkResult result = park(acting_, acting | kSleepers, place, context);
      if (result != ParkResult::kLook) {
        look_after_the_dead(place);
      }
      if (result == ParkResult::kInterrupted) {
        arrival.outcome = WaitOutcome::kInterrupted;
        return arrival;
      }
    }
    lock_guard(place);
  }
  if (broken_.load() != 0) {
    arrival.outcome = WaitOutcome::kBroken;
  } else if (arrived_.load() + 1 >= parties_) {
    arrival.index = arrived_.load();
    arrival.last = true;
    acting_.store(place.self());
    FT_CRASH_POINT("barrier.arrive.acting");
  } else {
    arrival.cell = waiters_.enter(place);
    if (arrival.cell == kNoOffset) {
      arrival.outcome = WaitOutcome::kNoMemory;
    } else {
      FT_CRASH_POINT("barrier.arrive.entered");
      arrival.index = arrived_.fetch_add(1);
    }
  }
  unlock_guard(place);
  return arrival;
}

WaitOutcome Barrier::wait_until(Place& place, WaiterTable::Cell cell, WaitContext& context) noexcept {
  for (;;) {
    const WaitOutcome outcome = waiters_.wait_slice(place, cell, context);
    if (outcome == WaitOutcome::kTimedOut) {
      lock_guard(place);
      WaitContext look(Deadline::immediate());
      const WaitOutcome reached = waiters_.wait_slice(place, cell, look);
      if (reached == WaitOutcome::kTimedOut) {
        break_all(place);
      }
      unlock_guard(place);
      return reached;
    }
    if (outcome != WaitOutcome::kInterrupted) {
      return outcome;
    }
    look_after_the_dead(place);
    if (context.interruptible) {
      return outcome;
    }
  }
}

WaitOutcome Barrier::leave(Place& place, WaiterTable::Cell cell) noexcept {
  WaitContext look(Deadline::immediate());
  const WaitOutcome reached = waiters_.wait_slice(place, cell, look);
  return waiters_.leave(place, cell) ? WaitOutcome::kReady : reached;
}

void Barrier::finish(Place& place) noexcept {
  lock_guard(place);
  // Where somebody broke or reset it meanwhile, the waiters have gone, and nobody could come.
  waiters_.notify(place, WaiterTable::kAll, broken_.load() != 0);
  FT_CRASH_POINT("barrier.finish.notified");
  arrived_.store(0);
  end_acting(place);
  unlock_guard(place);
}

void Barrier::abort(Place& place) noexcept {
  lock_guard(place);
  break_all(place);
  if ((acting_.load() & kOwnerMask) == place.self()) {
    end_acting(place);
  }
  unlock_guard(place);
}

void Barrier::reset(Place& place) noexcept {
  lock_guard(place);
  break_all(place);
  broken_.store(0);
  unlock_guard(place);
}

std::uint32_t Barrier::waiting() const noexcept {
  return broken_.load() != 0 || acting_.load() != 0 ? 0 : arrived_.load();
}

bool Barrier::broken() const noexcept { return broken_.load() != 0; }

void Barrier::sweep(Place& place, OwnerId dead) noexcept {
  guard_.mark_owner_died(dead);
  WaitContext context(Deadline::after(kSweepPatience));
  const WaitOutcome locked = guard_.lock_until(place, context);
  if (locked != WaitOutcome::kReady && locked != WaitOutcome::kOwnerDied) {
    return;  // its holder is stopped: the waiters look after the dead themselves
  }
  const bool acted = (acting_.load() & kOwnerMask) == dead;
  const bool waited = waiters_.sweep(place, dead, false) != 0;
  if (acted || waited || locked == WaitOutcome::kOwnerDied) {
    break_all(place);
  }
  if (acted) {
    end_acting(place);
  }
  unlock_guard(place);
}

void Barrier::destroy(Place& place) noexcept { waiters_.destroy(place); }

}  // namespace freethreading
