// WaiterTable: the waiters of a condition or a barrier, one cell each, in order of arrival, told apart by process.
//
// A cell is claimed, notified and given back by single compare-and-swaps of its own word, so a death at any instruction
// leaves every cell in one of its states, and the process in the word says whose it is.
//
//   cell state  meaning                               next
//   kFree       nobody's                              kClaimed
//   kClaimed    its owner enters (ticket not yet)     kWaiting; kFree (the owner is dead)
//   kWaiting    its owner waits                       kNotified, kBroken, or kFree (gave up)
//   kNotified   its owner was picked                  kFree (it goes on), kPassing (it is dead)
//   kBroken     its owner was told to give up         kFree
//   kPassing    a dead waiter's notification is       kFree (done), kPassing (that process is dead too)
//               passed on by the process in the word
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
  // As wait_until, but looks after nobody else: comes back with kInterrupted after every slice, also where the context is
  // not interruptible.
  WaitOutcome wait_slice(Place& place, Cell cell, WaitContext& context) noexcept;
  // Gives the cell back. True: it had been notified meanwhile (the caller was picked and must count it as such).
  [[nodiscard]] bool leave(Place& place, Cell cell) noexcept;
  // Notifies the `count` oldest waiters (all: kAll); says how many. `broken` is what their wait_until then returns.
  static constexpr std::uint32_t kAll = ~std::uint32_t{0};
  std::uint32_t notify(Place& place, std::uint32_t count, bool broken = false) noexcept;
  // How many wait now.
  [[nodiscard]] std::uint32_t waiting(Place& place) const noexcept;
  // Frees the cells of `dead`; a notification that one of them had got goes to the oldest other waiter (when
  // `pass_on`). Returns how many of its cells were still waiting.
  std::uint32_t sweep(Place& place, OwnerId dead, bool pass_on) noexcept;
  // Whether some waiter's process is dead (makes system calls).
  [[nodiscard]] bool has_dead_waiter(Place& place) noexcept;
  void destroy(Place& place) noexcept;

 private:
  struct CellBody;
  struct Block;
  template <class Visit>
  void for_each(Place& place, Visit visit) const noexcept;
  [[nodiscard]] static Cell claim_in(Place& place, Block& block) noexcept;
  [[nodiscard]] CellBody* oldest_waiting(Place& place, std::uint64_t before) const noexcept;
  void pass_on_from_dead(Place& place) noexcept;
  void pass_on(Place& place, CellBody& cell, std::uint32_t word) noexcept;

  std::atomic<Offset> first_{kNoOffset};         // chain of cell blocks, grown only
  std::atomic<std::uint64_t> next_ticket_{1};    // order of arrival
  std::atomic<std::uint32_t> maybe_waiting_{0};  // 0: certainly nobody waits; else the last ticket's low bits
};

}  // namespace freethreading
