#include "freethreading/sync/event.hpp"

#include <limits>

#include "freethreading/crash_point.hpp"
#include "os/futex.hpp"
#include "sync/parking.hpp"
#include "sync/spin.hpp"

namespace freethreading {

namespace {

//   bits   name      meaning
//   0      SET       the flag
//   1      SLEEPERS  somebody may sleep on the word
//   2-31   EPOCH     counts the set() calls that changed the flag: a wait ends when it moves on, also after a clear()
//
// Invariant SLEEPERS: whoever sleeps has seen SLEEPERS without SET and with its own EPOCH; only the set() that moves EPOCH
// on clears it, and wakes all.
constexpr std::uint32_t kSet = 1U << 0;
constexpr std::uint32_t kSleepers = 1U << 1;
constexpr std::uint32_t kEpochStep = 1U << 2;
constexpr std::uint32_t kEpoch = ~(kSet | kSleepers);
static_assert((kSet | kSleepers) + 1 == kEpochStep);

}  // namespace

void Event::set(Place& place) noexcept {
  std::uint32_t word = word_.load(std::memory_order_relaxed);  // relaxed: the exchange below looks again
  std::uint32_t next = 0;
  do {
    next = (word & kSet) != 0 ? word : ((word & kEpoch) + kEpochStep) | kSet;
    // sync: EVENT (release): publishes what came before set(); pairs with wait_until and is_set
  } while (!word_.compare_exchange_weak(word, next, std::memory_order_release, std::memory_order_relaxed));
  FT_CRASH_POINT("event.set.stored");
  if ((word & kSleepers) != 0) {
    os::futex_wake(word_, std::numeric_limits<int>::max(), place.shared());
  }
}

// sync: EVENT (acq_rel): keeps a release sequence whole; pairs with wait_until
void Event::clear() noexcept { word_.fetch_and(~kSet, std::memory_order_acq_rel); }

// sync: EVENT (acquire): sees what came before set(); pairs with set
bool Event::is_set() const noexcept { return (word_.load(std::memory_order_acquire) & kSet) != 0; }

// Relaxed: only compared with later values of the same word.
std::uint32_t Event::begin_wait() const noexcept { return word_.load(std::memory_order_relaxed) & kEpoch; }

WaitOutcome Event::wait_until(Place& place, std::uint32_t epoch, WaitContext& context) noexcept {
  const auto over = [epoch](std::uint32_t word) { return (word & kSet) != 0 || (word & kEpoch) != epoch; };
  // sync: EVENT (acquire): sees what came before set(); pairs with set
  std::uint32_t word = word_.load(std::memory_order_acquire);
  if (!over(word) && !context.parked && !context.deadline.is_immediate()) {
    // Relaxed: the load behind it acquires.
    static_cast<void>(
        spin_until(SpinKind::kSignal, [&] { return over(word_.load(std::memory_order_relaxed)); }));
    word = word_.load(std::memory_order_acquire);  // sync: EVENT (acquire), as above
  }
  for (;;) {
    if (over(word)) {
      return WaitOutcome::kReady;
    }
    if (context.deadline.passed()) {
      return WaitOutcome::kTimedOut;
    }
    const std::uint32_t announced = word | kSleepers;
    // sync: EVENT (acquire): on failure `word` may be a set(); pairs with set
    if (word != announced && !word_.compare_exchange_weak(word, announced, std::memory_order_acquire)) {
      continue;
    }
    FT_CRASH_POINT("event.wait.announced");
    const ParkResult result = park(word_, announced, place, context);
    word = word_.load(std::memory_order_acquire);  // sync: EVENT (acquire), as above
    if (result == ParkResult::kInterrupted && !over(word)) {
      return WaitOutcome::kInterrupted;
    }
  }
}

}  // namespace freethreading
