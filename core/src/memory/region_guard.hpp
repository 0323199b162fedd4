// RegionGuard: holds a lock of the region for a short section.
//
// What its owner leaves behind at a death is valid, since each step of such a section is one store: there is nothing to
// repair. A holder that left cleanly counts as dead: its exit stopped a thread in the section.
#pragma once

#include "freethreading/sync/lock.hpp"

namespace freethreading::memory {

class RegionGuard {
 public:
  RegionGuard(Place& place, Lock& lock) noexcept : place_(place), lock_(lock) {
    WaitContext context(Deadline::never());
    while (lock_.lock_robustly_until(place_, context) == WaitOutcome::kInterrupted) {
    }
  }
  RegionGuard(const RegionGuard&) = delete;
  RegionGuard& operator=(const RegionGuard&) = delete;
  ~RegionGuard() { static_cast<void>(lock_.unlock(place_)); }

 private:
  Place& place_;
  Lock& lock_;
};

}  // namespace freethreading::memory
