// Lock: a mutual-exclusion lock that knows its owner's process and survives its death.
//
// Any thread of any process may unlock it (Python's locks are also used as signals). The word records the process that
// holds it; a waiter that finds that process dead takes the lock over and is told so (kOwnerDied). A process that exited
// cleanly while it held the lock leaves it held by nobody: only an unlock() ends that.
//
// Waiting: spin a little, then park. A waiter that has waited a millisecond marks the lock starving; the next unlock()
// then grants it to a parked waiter instead of leaving it to whoever comes by first.
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"

namespace freethreading {

class Lock {
 public:
  // Takes the lock if that needs no waiting. kReady, kTimedOut (somebody holds it). Never makes a system call, never
  // finds out about a death.
  WaitOutcome try_lock(Place& place) noexcept;
  // Waits for the lock until the context's deadline. kReady, kOwnerDied, kTimedOut, kInterrupted. With a deadline that
  // has passed it still looks once whether the owner is dead.
  WaitOutcome lock_until(Place& place, WaitContext& context) noexcept;
  // As lock_until(), for locks inside the core's own structures, which nobody unlocks for another: a holder that left
  // cleanly counts as dead.
  WaitOutcome lock_robustly_until(Place& place, WaitContext& context) noexcept;
  // False: nobody held it, nothing was done.
  [[nodiscard]] bool unlock(Place& place) noexcept;
  [[nodiscard]] bool is_locked() const noexcept;
  // Sees what was published by every unlock() that is not later than the caller's last fence: for the waiters of a Gate.
  void look_behind() const noexcept;
  // The process that holds it; kNobody when it is free, or held by a process that has left cleanly.
  [[nodiscard]] OwnerId owner() const noexcept;
  // For the sweeper: `dead` left cleanly; if it holds the lock, the lock is held by nobody from now on.
  void disown(OwnerId dead) noexcept { reassign(dead, kNobody); }
  // If `from` holds the lock, `to` holds it from now on.
  void reassign(OwnerId from, OwnerId to) noexcept;
  // For the sweeper (shared places only): `dead` died; if it holds the lock, the next locker gets it with kOwnerDied.
  void mark_owner_died(OwnerId dead) noexcept;

 private:
  bool unlock_marked(Place& place, std::uint32_t word) noexcept;

  std::atomic<std::uint32_t> word_{0};
};

}  // namespace freethreading
