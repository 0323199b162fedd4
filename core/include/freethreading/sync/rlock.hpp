// RLock: a Lock that its owner, one thread of one process, may take again; it is free after as many unlocks.
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/sync/lock.hpp"

namespace freethreading {

// Identifies the calling thread among all threads of all processes that run now.
[[nodiscard]] std::uint64_t thread_token() noexcept;

class RLock {
 public:
  // As Lock's; also kNoMemory: the owner has taken it 2^32 - 1 times.
  WaitOutcome try_lock(Place& place) noexcept;
  WaitOutcome lock_until(Place& place, WaitContext& context) noexcept;
  // False: the calling thread does not own it, nothing was done.
  [[nodiscard]] bool unlock(Place& place) noexcept;
  [[nodiscard]] bool is_locked() const noexcept;
  // Whether the calling thread owns it.
  [[nodiscard]] bool is_owned(Place& place) const noexcept;
  // How often the owner has taken it; 0 when it is free.
  [[nodiscard]] std::uint32_t depth() const noexcept;
  // For a condition's wait: gives up all levels at once and says how many; REQUIRES: is_owned().
  [[nodiscard]] std::uint32_t release_all(Place& place) noexcept;
  // Sets the depth again after lock_until(); REQUIRES: is_owned().
  void restore_depth(std::uint32_t depth) noexcept;
  [[nodiscard]] OwnerId owner() const noexcept;
  void disown(OwnerId dead) noexcept;
  void mark_owner_died(OwnerId dead) noexcept;

 private:
  WaitOutcome take_again() noexcept;
  void begin(Place& place) noexcept;

  Lock lock_;
  std::atomic<std::uint32_t> depth_{0};
  // The owner's thread, written by the owner only: thread_token(), or in private memory a name that it keeps over a fork.
  std::atomic<std::uint64_t> thread_{0};
};

}  // namespace freethreading
