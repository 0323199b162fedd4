// Condition: waiters that wait to be notified, used under a lock of the caller's (a Lock or an RLock; the binding releases
// and takes it again around the wait).
//
//   cell = condition.enter(place)          with the lock held
//   unlock
//   condition.wait_until(place, cell, c)   again after kInterrupted
//   condition.leave(place, cell)
//   lock
#pragma once

#include <cstdint>

#include "freethreading/sync/waiter_table.hpp"

namespace freethreading {

class Condition {
 public:
  [[nodiscard]] WaiterTable::Cell enter(Place& place) noexcept { return waiters_.enter(place); }
  WaitOutcome wait_until(Place& place, WaiterTable::Cell cell, WaitContext& context) noexcept {
    return waiters_.wait_until(place, cell, context);
  }
  // True: notified (also when wait_until had timed out just before).
  [[nodiscard]] bool leave(Place& place, WaiterTable::Cell cell) noexcept { return waiters_.leave(place, cell); }
  // REQUIRES: the caller holds the lock.
  void notify(Place& place, std::uint32_t count) noexcept { waiters_.notify(place, count); }
  void notify_all(Place& place) noexcept { waiters_.notify(place, WaiterTable::kAll); }
  [[nodiscard]] std::uint32_t waiting(Place& place) const noexcept { return waiters_.waiting(place); }
  void sweep(Place& place, OwnerId dead) noexcept { waiters_.sweep(place, dead, true); }
  void destroy(Place& place) noexcept { waiters_.destroy(place); }

 private:
  WaiterTable waiters_;
};

}  // namespace freethreading
