// Barrier: `parties` threads wait until all have come; the last one runs the action (the binding's) and lets all go.
//
//   arrive() -> {index, cell, last}
//     last:  run the action, then finish(place) or, if it failed, abort(place)
//     else:  wait_until(place, cell, context) until it is not kInterrupted; after kTimedOut call abort(); then leave()
//
// While a full set of parties leaves, newcomers begin the next one. A waiting party that dies breaks the barrier.
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/sync/lock.hpp"
#include "freethreading/sync/waiter_table.hpp"

namespace freethreading {

struct Arrival {
  WaitOutcome outcome;  // kReady; kBroken: the barrier is broken; kNoMemory
  std::uint32_t index;  // 0-based order of arrival in this set
  bool last;
  WaiterTable::Cell cell;  // kNoOffset for the last
};

class Barrier {
 public:
  explicit Barrier(std::uint32_t parties) noexcept : parties_(parties) {}

  Arrival arrive(Place& place) noexcept;
  // kReady: all came. kBroken: it broke, was aborted or reset meanwhile. kTimedOut, kInterrupted.
  WaitOutcome wait_until(Place& place, WaiterTable::Cell cell, WaitContext& context) noexcept;
  // Gives the cell back; the outcome that reached it meanwhile: kReady, kBroken or kTimedOut (none did).
  WaitOutcome leave(Place& place, WaiterTable::Cell cell) noexcept;
  // The last party's: lets all waiters go.
  void finish(Place& place) noexcept;
  void abort(Place& place) noexcept;
  // Waiters break; the barrier is whole again.
  void reset(Place& place) noexcept;
  [[nodiscard]] std::uint32_t parties() const noexcept { return parties_; }
  [[nodiscard]] std::uint32_t waiting() const noexcept;
  [[nodiscard]] bool broken() const noexcept;
  void sweep(Place& place, OwnerId dead) noexcept;
  void destroy(Place& place) noexcept;

 private:
  Lock guard_;  // short sections only; a holder's death leaves every field valid
  std::uint32_t parties_;
  std::atomic<std::uint32_t> arrived_{0};  // guarded by guard_; read anywhere
  std::atomic<std::uint32_t> broken_{0};   // guarded by guard_; read anywhere
  std::atomic<OwnerId> acting_{0};         // the last party's process, between arrive() and finish()
  WaiterTable waiters_;
};

}  // namespace freethreading
