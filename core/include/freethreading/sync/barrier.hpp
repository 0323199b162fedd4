// Barrier: `parties` threads wait until all have come; the last one runs the action (the binding's) and lets all go.
//
//   arrive(place, context) -> {index, cell, last}
//     last:  run the action, then finish(place) or, if it failed, abort(place)
//     else:  wait_until(place, cell, context) until it is not kInterrupted (a timeout breaks the barrier); then leave()
//
// While a full set of parties leaves, newcomers begin the next one; while its last party still acts, they wait in arrive().
// A waiting party that dies, or an acting one, breaks the barrier.
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/sync/lock.hpp"
#include "freethreading/sync/waiter_table.hpp"

namespace freethreading {

struct Arrival {
  WaitOutcome outcome;  // kReady; kBroken: the barrier is broken; kNoMemory; kTimedOut and kInterrupted: not arrived
  std::uint32_t index;  // 0-based order of arrival in this set
  bool last;
  WaiterTable::Cell cell;  // kNoOffset for the last
};

class Barrier {
 public:
  explicit Barrier(std::uint32_t parties) noexcept : parties_(parties) {}

  // Waits only while the last party of the set before acts. kInterrupted: call again with the same context.
  Arrival arrive(Place& place, WaitContext& context) noexcept;
  // kReady: all came. kBroken: it broke, was aborted or reset meanwhile. kTimedOut: the deadline passed, which has broken
  // the barrier. kInterrupted.
  WaitOutcome wait_until(Place& place, WaiterTable::Cell cell, WaitContext& context) noexcept;
  // Gives the cell back; the outcome that reached it meanwhile: kReady, kBroken (also after its own timeout) or kTimedOut
  // (none did).
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
  void lock_guard(Place& place) noexcept;
  void unlock_guard(Place& place) noexcept { static_cast<void>(guard_.unlock(place)); }
  void break_all(Place& place) noexcept;
  void end_acting(Place& place) noexcept;
  void look_after_the_dead(Place& place) noexcept;

  Lock guard_;  // short sections only; whoever takes it over from a dead process breaks the barrier
  std::uint32_t parties_;
  std::atomic<std::uint32_t> arrived_{0};  // in the set that fills; guarded by guard_; read anywhere
  std::atomic<std::uint32_t> broken_{0};   // guarded by guard_; read anywhere
  // The last party's process, from its arrive() to its finish() or abort(); highest bit: somebody may sleep on it.
  std::atomic<std::uint32_t> acting_{0};
  WaiterTable waiters_;
};

}  // namespace freethreading
