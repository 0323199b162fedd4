#include "freethreading/sync/lock.hpp"

#include "freethreading/crash_point.hpp"
#include "os/futex.hpp"
#include "sync/lock_word.hpp"
#include "sync/parking.hpp"
#include "sync/spin.hpp"

namespace freethreading {

using lock_word::kGranted;
using lock_word::kHeld;
using lock_word::kOwner;
using lock_word::kOwnerDied;
using lock_word::kSleepers;
using lock_word::kStarved;

namespace {

// One caller's way to the lock, after its first compare-and-swap has failed.
class Acquisition {
 public:
  Acquisition(std::atomic<std::uint32_t>& word, Place& place, WaitContext& context, bool robust = false) noexcept
      : word_(word), place_(place), context_(context), self_(place.self()), robust_(robust) {}

  WaitOutcome run() noexcept {
    const bool impatient = context_.deadline.passed();
    if (!place_.shared() && repair()) {
      return outcome_;  // a copy that a fork made while it was held: nobody would ever unlock it
    }
    if (!impatient && !context_.parked) {
      spin();
    }
    for (;;) {
      const std::uint32_t word = word_.load(std::memory_order_relaxed);  // relaxed: take() acquires
      if (!is_open(word)) {
        if (context_.deadline.passed()) {
          return repair() ? outcome_ : give_up(WaitOutcome::kTimedOut);
        }
        if (sleep(word)) {
          return outcome_;
        }
      } else if (take(word)) {
        return outcome_;
      }
    }
  }

 private:
  // Whether the word says that this caller may have the lock.
  [[nodiscard]] bool is_open(std::uint32_t word) const noexcept {
    if ((word & kGranted) != 0) {
      const bool copied = !place_.shared() && (word & kOwner) != self_;  // by a fork: its waiters are not here
      return context_.parked || copied;
    }
    return (word & kHeld) == 0 || (word & kOwnerDied) != 0;
  }

  [[nodiscard]] bool take(std::uint32_t word) noexcept {
    const std::uint32_t sleepers = context_.parked ? kSleepers : word & kSleepers;
    // sync: LOCK_WORD (acquire): sees the last holder's section; pairs with unlock
    if (!word_.compare_exchange_strong(word, self_ | kHeld | sleepers, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
      return false;
    }
    outcome_ = (word & kOwnerDied) != 0 ? WaitOutcome::kOwnerDied : WaitOutcome::kReady;
    return true;
  }

  void spin() const noexcept {
    static_cast<void>(spin_until(SpinKind::kLock, [this] {
      const std::uint32_t word = word_.load(std::memory_order_relaxed);  // relaxed: take() acquires
      // A starving lock goes to a sleeper next: spinning is of no use.
      return is_open(word) || (word & (kGranted | kStarved)) != 0;
    }));
  }

  // Parks for a slice. True: the wait is over.
  [[nodiscard]] bool sleep(std::uint32_t word) noexcept {
    std::uint32_t announced = word | kSleepers;
    if ((word & kHeld) != 0 && context_.since != 0 && monotonic_now() - context_.since >= kStarving) {
      announced |= kStarved;
    }
    // Relaxed: a mark on the word; nothing is published with it.
    if (announced != word && !word_.compare_exchange_strong(word, announced, std::memory_order_relaxed)) {
      return false;
    }
    FT_CRASH_POINT("lock.wait.announced");
    const ParkResult result = park(word_, announced, place_, context_);
    FT_CRASH_POINT("lock.wait.woken");
    if (result == ParkResult::kLook) {
      return false;
    }
    if (repair()) {
      return true;
    }
    if (result == ParkResult::kInterrupted) {
      outcome_ = give_up(WaitOutcome::kInterrupted);
      return true;
    }
    return false;
  }

  // Takes the lock over from a dead owner. True: done; false: nothing to repair (any more).
  [[nodiscard]] bool repair() noexcept {
    std::uint32_t word = word_.load(std::memory_order_relaxed);  // relaxed: take() acquires
    const OwnerId owner = word & kOwner;
    if ((word & kHeld) == 0 || owner == kNobody || owner == self_) {
      return is_open(word) && take(word);
    }
    switch (place_.liveness(owner)) {
      case Liveness::kAlive:
        return false;
      case Liveness::kLeftCleanly:
        if (robust_) {
          break;
        }
        // Relaxed: as above. A failure means that somebody else has repaired or unlocked it.
        word_.compare_exchange_strong(word, word & ~kOwner, std::memory_order_relaxed);
        return false;
      case Liveness::kDied:
        break;
    }
    // No ABA: a dead owner never takes the lock again, so the word only changes by repairs and marks.
    while ((word & kHeld) != 0 && (word & kOwner) == owner) {
      // sync: LOCK_WORD (acquire): sees what unlockers before the dead owner published; pairs with unlock
      if (word_.compare_exchange_weak(word, self_ | kHeld | (word & kSleepers), std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        FT_CRASH_POINT("lock.repair.taken");
        outcome_ = WaitOutcome::kOwnerDied;
        return true;
      }
    }
    return false;
  }

  // Leaves without the lock, unless it is to be had just now. A wake may have been spent on this waiter: the next unlock
  // must know that others sleep.
  [[nodiscard]] WaitOutcome give_up(WaitOutcome why) noexcept {
    if (!context_.parked) {
      return why;
    }
    std::uint32_t word = word_.load(std::memory_order_relaxed);  // relaxed: take() acquires
    for (;;) {
      if (is_open(word)) {
        if (take(word)) {
          return outcome_;
        }
        word = word_.load(std::memory_order_relaxed);
      } else if ((word & kSleepers) != 0 ||
                 word_.compare_exchange_weak(word, word | kSleepers, std::memory_order_relaxed)) {
        return why;
      }
    }
  }

  std::atomic<std::uint32_t>& word_;
  Place& place_;
  WaitContext& context_;
  const OwnerId self_;
  const bool robust_;
  WaitOutcome outcome_ = WaitOutcome::kReady;
};

}  // namespace

WaitOutcome Lock::try_lock(Place& place) noexcept {
  std::uint32_t free = 0;
  // sync: LOCK_WORD (acquire): sees the last holder's section; pairs with unlock
  return word_.compare_exchange_strong(free, place.self() | kHeld, std::memory_order_acquire, std::memory_order_relaxed)
             ? WaitOutcome::kReady
             : WaitOutcome::kTimedOut;
}

WaitOutcome Lock::lock_until(Place& place, WaitContext& context) noexcept {
  if (try_lock(place) == WaitOutcome::kReady) {
    return WaitOutcome::kReady;
  }
  return Acquisition(word_, place, context).run();
}

WaitOutcome Lock::lock_robustly_until(Place& place, WaitContext& context) noexcept {
  if (try_lock(place) == WaitOutcome::kReady) {
    return WaitOutcome::kReady;
  }
  return Acquisition(word_, place, context, true).run();
}

bool Lock::unlock(Place& place) noexcept {
  std::uint32_t word = place.self() | kHeld;
  // sync: LOCK_WORD (release): publishes the section; pairs with try_lock and take. Sequentially consistent: what the caller
  // loads next comes after it; see Gate::notify_after_unlock
  return word_.compare_exchange_strong(word, 0, std::memory_order_seq_cst, std::memory_order_relaxed) ||
         unlock_marked(place, word);
}

// The rest of unlock(), where the word is not just the caller's.
[[gnu::noinline]] bool Lock::unlock_marked(Place& place, std::uint32_t word) noexcept {
  const OwnerId self = place.self();
  std::uint32_t next = 0;
  do {
    if ((word & kHeld) == 0) {
      return false;
    }
    const bool grant = (word & kSleepers) != 0 && (word & kStarved) != 0;
    next = grant ? kGranted | kSleepers | self : 0;
    // sync: LOCK_WORD (release, and sequentially consistent): as in unlock
  } while (!word_.compare_exchange_weak(word, next, std::memory_order_seq_cst, std::memory_order_relaxed));
  FT_CRASH_POINT("lock.unlock.stored");
  if ((word & kSleepers) == 0 || os::futex_wake(word_, 1, place.shared()) != 0 || next == 0) {
    return true;
  }
  // Granted, and nobody slept: open to everybody again, and to those who went to sleep on the grant meanwhile.
  // sync: LOCK_WORD (release): publishes the section again, as the store before; pairs with try_lock and take
  if (word_.compare_exchange_strong(next, 0, std::memory_order_release, std::memory_order_relaxed)) {
    os::futex_wake(word_, 1, place.shared());
  }
  return true;
}

// sync: LOCK_WORD (acquire): what the section published; pairs with unlock
void Lock::look_behind() const noexcept { static_cast<void>(word_.load(std::memory_order_acquire)); }

// Relaxed in the three below: a look that was true a moment ago; nothing is read behind it.
bool Lock::is_locked() const noexcept { return (word_.load(std::memory_order_relaxed) & (kHeld | kGranted)) != 0; }

OwnerId Lock::owner() const noexcept {
  const std::uint32_t word = word_.load(std::memory_order_relaxed);
  return (word & kHeld) != 0 ? word & kOwner : kNobody;
}

void Lock::reassign(OwnerId from, OwnerId to) noexcept {
  std::uint32_t word = word_.load(std::memory_order_relaxed);
  while ((word & kHeld) != 0 && (word & kOwner) == from) {
    if (word_.compare_exchange_weak(word, (word & ~kOwner) | to, std::memory_order_relaxed)) {
      return;
    }
  }
}

void Lock::mark_owner_died(OwnerId dead) noexcept {
  std::uint32_t word = word_.load(std::memory_order_relaxed);
  while ((word & kHeld) != 0 && (word & kOwner) == dead) {
    // sync: LOCK_WORD (acq_rel): hands on what the dead owner had seen; pairs with take
    if (word_.compare_exchange_weak(word, (word & ~(kOwner | kSleepers | kStarved)) | kOwnerDied,
                                    std::memory_order_acq_rel, std::memory_order_relaxed)) {
      FT_CRASH_POINT("lock.mark_owner_died.stored");
      if ((word & kSleepers) != 0) {
        os::futex_wake(word_, 1, true);
      }
      return;
    }
  }
}

}  // namespace freethreading
