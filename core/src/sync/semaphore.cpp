#include "freethreading/sync/semaphore.hpp"

#include "freethreading/crash_point.hpp"
#include "os/futex.hpp"
#include "sync/parking.hpp"
#include "sync/spin.hpp"

namespace freethreading {

namespace {

//   bits   name      meaning
//   0-30   VALUE     permits
//   31     SLEEPERS  somebody may sleep on the word
//
// Invariant SLEEPERS: whoever sleeps has seen SLEEPERS with VALUE 0, or a waiter that release() woke is on its way; such
// a waiter puts SLEEPERS back, whether it takes a permit or leaves, and wakes the next one if it leaves permits behind.
constexpr std::uint32_t kSleepers = 1U << 31;
constexpr std::uint32_t kValue = kSleepers - 1;
static_assert(Semaphore::kMaxValue == kValue);

// Takes a permit if there is one; `mark` is set in the word with it.
bool take(std::atomic<std::uint32_t>& cell, std::uint32_t& word, std::uint32_t mark) noexcept {
  while ((word & kValue) != 0) {
    // sync: PERMIT (acquire): sees what came before the release(); pairs with release
    if (cell.compare_exchange_weak(word, (word - 1) | mark, std::memory_order_acquire, std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

}  // namespace

Semaphore::Semaphore(std::uint32_t value, std::uint32_t bound) noexcept : word_(value), bound_(bound) {}

WaitOutcome Semaphore::try_acquire(Place& /*place*/) noexcept {
  std::uint32_t word = word_.load(std::memory_order_relaxed);  // relaxed: take() acquires
  return take(word_, word, 0) ? WaitOutcome::kReady : WaitOutcome::kTimedOut;
}

WaitOutcome Semaphore::acquire_until(Place& place, WaitContext& context) noexcept {
  // Relaxed loads of the word throughout: take() acquires.
  if (try_acquire(place) == WaitOutcome::kReady) {
    return WaitOutcome::kReady;
  }
  if (!context.parked && !context.deadline.passed()) {
    static_cast<void>(
        spin_until(SpinKind::kSignal, [this] { return (word_.load(std::memory_order_relaxed) & kValue) != 0; }));
  }
  std::uint32_t word = word_.load(std::memory_order_relaxed);
  bool interrupted = false;
  for (;;) {
    if (take(word_, word, context.parked ? kSleepers : 0)) {
      if (context.parked && (word & kValue) > 1) {
        os::futex_wake(word_, 1, place.shared());
      }
      return WaitOutcome::kReady;
    }
    const bool late = !interrupted && context.deadline.passed();
    if (late && !context.parked) {
      return WaitOutcome::kTimedOut;
    }
    // Also on the way out after a park: the wake that this waiter got may have been meant for another sleeper too.
    const std::uint32_t announced = word | kSleepers;
    if (word != announced && !word_.compare_exchange_weak(word, announced, std::memory_order_relaxed)) {
      continue;
    }
    if (interrupted || late) {
      return interrupted ? WaitOutcome::kInterrupted : WaitOutcome::kTimedOut;
    }
    FT_CRASH_POINT("semaphore.wait.announced");
    interrupted = park(word_, announced, place, context) == ParkResult::kInterrupted;
    FT_CRASH_POINT("semaphore.wait.woken");
    word = word_.load(std::memory_order_relaxed);
  }
}

bool Semaphore::release(Place& place, std::uint32_t count) noexcept {
  if (count == 0) {
    return true;
  }
  std::uint32_t word = word_.load(std::memory_order_relaxed);  // relaxed: the exchange looks again
  do {
    if (count > bound_ || (word & kValue) > bound_ - count) {
      return false;
    }
    // sync: PERMIT (release): publishes what came before; pairs with take
  } while (!word_.compare_exchange_weak(word, (word & kValue) + count, std::memory_order_release,
                                        std::memory_order_relaxed));
  FT_CRASH_POINT("semaphore.release.stored");
  if ((word & kSleepers) != 0) {
    os::futex_wake(word_, static_cast<int>(count), place.shared());
  }
  return true;
}

std::uint32_t Semaphore::value() const noexcept { return word_.load(std::memory_order_relaxed) & kValue; }

}  // namespace freethreading
