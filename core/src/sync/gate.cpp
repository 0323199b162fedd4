#include "sync/gate.hpp"

#include "freethreading/crash_point.hpp"
#include "os/futex.hpp"
#include "sync/parking.hpp"

namespace freethreading {

std::uint32_t Gate::prepare() noexcept {
  const std::uint32_t word = word_.fetch_or(kWatched);
  // Orders the mark before what the caller looks at next, whatever order it looks with.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return epoch_of(word);
}

WaitOutcome Gate::sleep(Place& place, std::uint32_t token, WaitContext& context) noexcept {
  std::uint32_t word = word_.load();
  for (;;) {
    if (epoch_of(word) != token) {
      return WaitOutcome::kReady;
    }
    if (context.deadline.passed()) {
      return WaitOutcome::kTimedOut;
    }
    const std::uint32_t announced = word | kSleepers | kFresh;
    if (word != announced && !word_.compare_exchange_weak(word, announced)) {
      continue;
    }
    FT_CRASH_POINT("gate.wait.announced");
    switch (park(word_, announced, place, context)) {
      case ParkResult::kInterrupted:
        return epoch_of(word_.load()) != token ? WaitOutcome::kReady : WaitOutcome::kInterrupted;
      case ParkResult::kSliceOver:
        // The notifier may have died between its change and its wake.
        return context.deadline.passed() ? WaitOutcome::kTimedOut : WaitOutcome::kReady;
      case ParkResult::kLook:
        word = word_.load();
    }
  }
}

bool Gate::spin(std::uint32_t epoch, const WaitContext& context) noexcept {
  if (context.deadline.is_immediate()) {
    return false;
  }
  std::uint32_t word = word_.load();
  if (epoch_of(word) != epoch) {
    return true;
  }
  if ((word & kSpinner) != 0 || !word_.compare_exchange_strong(word, word | kSpinner)) {
    return false;
  }
  FT_CRASH_POINT("gate.spin.announced");
  // Relaxed: the caller looks again behind an acquire of its own.
  if (spin_until(SpinKind::kSignal,
                 [this, epoch] { return epoch_of(word_.load(std::memory_order_relaxed)) != epoch; })) {
    return true;
  }
  word = word_.load();
  while (epoch_of(word) == epoch) {
    if (word_.compare_exchange_weak(word, word & ~kSpinner)) {
      return false;
    }
  }
  return true;
}

bool Gate::take_post(std::uint32_t token) noexcept {
  std::uint32_t word = word_.load();
  while (epoch_of(word) == token && (word & kSentry) == 0) {
    if (word_.compare_exchange_weak(word, word | kSentry)) {
      FT_CRASH_POINT("gate.post.taken");
      return true;
    }
  }
  return false;
}

os::FutexResult Gate::nap(Place& place, std::uint32_t token, Deadline until) noexcept {
  std::uint32_t word = word_.load();
  for (;;) {
    if (epoch_of(word) != token) {
      return os::FutexResult::kChanged;
    }
    const std::uint32_t announced = word | kSleepers | kFresh;
    if (word == announced || word_.compare_exchange_weak(word, announced)) {
      return os::futex_wait(word_, announced, until, place.shared());
    }
  }
}

void Gate::notify_awake() noexcept {
  std::uint32_t word = word_.load();
  while ((word & (kSpinner | kWatched)) != 0 &&
         !word_.compare_exchange_weak(word, (word & ~(kSpinner | kWatched | kFresh)) + kEpochStep)) {
  }
}

int Gate::notify(Place& place, int count) noexcept {
  // Orders the caller's change before the look at the word.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return move_on(place, count);
}

[[gnu::noinline]] int Gate::move_on(Place& place, int count) noexcept {
  std::uint32_t word = word_.load();
  std::uint32_t next = 0;
  do {
    if ((word & kFlags) == 0 && (count != kAll || (word & kSentry) == 0)) {
      return 0;
    }
    next = (word & ~(kSpinner | kWatched | kFresh)) + kEpochStep;
    if (count == kAll) {
      next &= ~(kSleepers | kSentry);
    }
  } while (!word_.compare_exchange_weak(word, next));
  FT_CRASH_POINT("gate.notify.stored");
  // The spinner, if any, goes on; a further notification finds the bit cleared and wakes a sleeper.
  const int spinners = (word & kSpinner) != 0 ? 1 : 0;
  if ((word & kSleepers) == 0) {
    return spinners;
  }
  if (count == kAll) {
    return spinners + os::futex_wake(word_, kAll, place.shared());
  }
  const int wanted = count - spinners;
  const int woken = wanted == 0 ? 0 : os::futex_wake(word_, wanted, place.shared());
  if (woken < wanted) {
    word = next;
    while (epoch_of(word) == epoch_of(next) && (word & kFresh) == 0 &&
           !word_.compare_exchange_weak(word, word & ~kSleepers)) {
    }
  }
  return spinners + woken;
}

}  // namespace freethreading
