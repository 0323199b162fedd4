// WaiterTable: the waiters of a condition or a barrier, one cell each, in order of arrival, told apart by process.
//
// A cell is claimed, notified and given back by single compare-and-swaps of its own word, so a death at any instruction
// leaves every cell in one of its states, and the process in the word says whose it is.
//
//   cell state   meaning                             next
//   kFree        nobody's                            kWaiting (claimed)
//   kWaiting     its owner waits                     kNotified, kCancelled outcome, or kFree (gave up)
//   kNotified    its owner was picked                kFree (the owner goes on; if the owner is dead: passed on)
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"

namespace freethreading {

class WaiterTable {
 public:
  using Cell = Offset;
  // Claims a cell for the calling thread. kNoOffset: no memory.
  [[nodiscard]] Cell enter(Place& place) noexcept;
  // Waits until the cell is notified. kReady, kBroken (notified with `broken`), kTimedOut, kInterrupted; the cell stays
  // claimed after kTimedOut and kInterrupted. Between slices it passes on what dead waiters were given.
  WaitOutcome wait_until(Place& place, Cell cell, WaitContext& context) noexcept;
  // Gives the cell back. True: it had been notified meanwhile (the caller was picked and must count it as such).
  [[nodiscard]] bool leave(Place& place, Cell cell) noexcept;
  // Notifies the `count` oldest waiters (all: kAll); says how many. `broken` is what their wait_until then returns.
  static constexpr std::uint32_t kAll = ~std::uint32_t{0};
  std::uint32_t notify(Place& place, std::uint32_t count, bool broken = false) noexcept;
  [[nodiscard]] std::uint32_t waiting() const noexcept;
  // Frees the cells of `dead`; a notification that one of them had got goes to the oldest other waiter (when
  // `pass_on`). Returns how many of its cells were still waiting.
  std::uint32_t sweep(Place& place, OwnerId dead, bool pass_on) noexcept;
  // Whether some waiter's process is dead (makes system calls).
  [[nodiscard]] bool has_dead_waiter(Place& place) noexcept;
  void destroy(Place& place) noexcept;

 private:
  friend struct WaiterTableAlgorithm;
  std::atomic<Offset> first_{kNoOffset};        // chain of cell blocks, grown only
  std::atomic<std::uint64_t> next_ticket_{1};   // order of arrival
  std::atomic<std::uint32_t> maybe_waiting_{0};  // 0: certainly nobody waits
};

}  // namespace freethreading
