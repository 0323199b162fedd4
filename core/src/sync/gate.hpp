// Gate: an eventcount. Lets threads wait until something that they look at themselves has changed, without a lock and
// without a system call as long as nobody sleeps.
//
//   waiter:    token = gate.prepare(); look; if there is nothing: gate.wait(place, token, context); look again
//   notifier:  change what waiters look at; gate.notify_one(place) or notify_all(place)
//   or:        change it under a Lock, unlock that; gate.notify_after_unlock(place, count). The waiter calls look_behind() of
//              that Lock between prepare() and its look.
//
// A Gate is a view of a 32-bit word, zero at first, in the structure that it guards:
//
//   bits   name      meaning
//   0      SLEEPERS  somebody may sleep on the word
//   1      SPINNER   one waiter spins: a notification reaches it without a wake
//   2      WATCHED   somebody has prepared since the last notification
//   3      FRESH     somebody may have gone to sleep since the last notification
//   4      SENTRY    one waiter looks again and again by itself: see queue/sentry.hpp. It wipes it; so does whoever notifies all
//   5-31   EPOCH     counts the notifications that somebody may have been waiting for
//
// Invariant WATCHED: a waiter looks only after it has set WATCHED, a notifier reads the word only after its change; so
// either the waiter sees the change or the notifier sees WATCHED and moves EPOCH on. What orders the two is a fence between
// change and reading; behind an unlock() it is the unlock, which is in the order of all fences and is not earlier than the
// waiter's look_behind() unless that sees it, and with it the change.
// Invariant SLEEPERS: a thread sleeps only on a word with SLEEPERS and FRESH and with its token's EPOCH. A notifier that found
// nobody asleep wipes SLEEPERS as long as the word has its own EPOCH and no FRESH: nobody has gone to sleep since.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"
#include "os/futex.hpp"
#include "sync/spin.hpp"

namespace freethreading {

class Gate {
 public:
  explicit Gate(std::atomic<std::uint32_t>& word) noexcept : word_(word) {}

  [[nodiscard]] std::uint32_t prepare() noexcept;
  // Waits for a notification since prepare(): spin(), then sleep(). kReady: look again (also now and then without one); kTimedOut;
  // kInterrupted.
  WaitOutcome wait(Place& place, std::uint32_t token, WaitContext& context) noexcept {
    return spin(token, context) ? WaitOutcome::kReady : sleep(place, token, context);
  }
  // Whether there was a notification while it span.
  [[nodiscard]] bool spin(std::uint32_t token, const WaitContext& context) noexcept;
  WaitOutcome sleep(Place& place, std::uint32_t token, WaitContext& context) noexcept;
  void notify_one(Place& place) noexcept { notify(place, 1); }
  void notify_all(Place& place) noexcept { notify(place, kAll); }
  // As notify_one(); how many go on because of it, up to `count`.
  int wake(Place& place, int count) noexcept { return notify(place, count); }
  // Wakes up to `count` waiters, with one system call at most, and costs a load where there is none. REQUIRES: count > 0, and
  // the caller has just unlocked the Lock under which it made its change.
  void notify_after_unlock(Place& place, std::size_t count) noexcept {
    if ((word_.load() & kFlags) != 0) {
      move_on(place, count < kAll ? static_cast<int>(count) : kAll);
    }
  }

  // Makes the caller the sentry. False: another one is, or there was a notification since prepare().
  [[nodiscard]] bool take_post(std::uint32_t token) noexcept;
  void leave_post() noexcept { word_.fetch_and(~kSentry); }
  [[nodiscard]] bool has_post_taken() const noexcept { return (word_.load() & kSentry) != 0; }
  // Whether there was no notification since prepare().
  [[nodiscard]] bool is_still_at(std::uint32_t token) const noexcept { return epoch_of(word_.load()) == token; }
  // The sentry's sleep. kChanged: there was a notification since prepare(), for whomever.
  os::FutexResult nap(Place& place, std::uint32_t token, Deadline until) noexcept;
  // notify_after_unlock() where the sentry may see to the change: who has prepared looks again, nobody is woken.
  void notify_awake() noexcept;

 private:
  static constexpr int kAll = std::numeric_limits<int>::max();

  static constexpr std::uint32_t kSleepers = 1U << 0;
  static constexpr std::uint32_t kSpinner = 1U << 1;
  static constexpr std::uint32_t kWatched = 1U << 2;
  static constexpr std::uint32_t kFresh = 1U << 3;
  static constexpr std::uint32_t kFlags = kSleepers | kSpinner | kWatched | kFresh;
  static constexpr std::uint32_t kSentry = 1U << 4;
  static constexpr std::uint32_t kEpochStep = 1U << 5;
  static_assert((kFlags | kSentry) + 1 == kEpochStep);

  [[nodiscard]] static constexpr std::uint32_t epoch_of(std::uint32_t word) noexcept { return word & ~(kFlags | kSentry); }
  int notify(Place& place, int count) noexcept;
  int move_on(Place& place, int count) noexcept;

  std::atomic<std::uint32_t>& word_;
};

}  // namespace freethreading
