// Gate: an eventcount. Lets threads wait until something that they look at themselves has changed, without a lock and
// without a system call as long as nobody sleeps.
//
//   waiter:    token = gate.prepare(); look; if there is nothing: gate.wait(place, token, context); look again
//   notifier:  change what waiters look at; gate.notify_one(place) or notify_all(place)
//
// A Gate is a view of a 32-bit word, zero at first, in the structure that it guards:
//
//   bits   name      meaning
//   0      SLEEPERS  somebody may sleep on the word
//   1      SPINNER   one waiter spins: a notification reaches it without a wake
//   2      WATCHED   somebody has prepared since the last notification
//   3-31   EPOCH     counts the notifications that somebody may have been waiting for
//
// Invariant WATCHED: a waiter looks only after it has set WATCHED, a notifier reads the word only after its change; so
// either the waiter sees the change or the notifier sees WATCHED and moves EPOCH on.
// Invariant SLEEPERS: a thread sleeps only on a word with SLEEPERS and with its token's EPOCH.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"
#include "sync/spin.hpp"

namespace freethreading {

class Gate {
 public:
  explicit Gate(std::atomic<std::uint32_t>& word) noexcept : word_(word) {}

  [[nodiscard]] std::uint32_t prepare() noexcept;
  // Waits for a notification since prepare(). kReady: look again (also now and then without one); kTimedOut;
  // kInterrupted.
  WaitOutcome wait(Place& place, std::uint32_t token, WaitContext& context) noexcept;
  void notify_one(Place& place) noexcept { notify(place, 1); }
  // Wakes up to `count` waiters, with one system call at most. REQUIRES: count > 0.
  void notify_some(Place& place, std::size_t count) noexcept { notify(place, count < kAll ? static_cast<int>(count) : kAll); }
  void notify_all(Place& place) noexcept { notify(place, kAll); }

 private:
  static constexpr int kAll = std::numeric_limits<int>::max();

  void notify(Place& place, int count) noexcept;
  [[nodiscard]] bool spin(std::uint32_t epoch) noexcept;

  std::atomic<std::uint32_t>& word_;
};

}  // namespace freethreading
