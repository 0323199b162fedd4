#include "queue/sentry.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

#include "os/cpu.hpp"

namespace freethreading {

namespace {

constexpr Nanoseconds kNap = 100 * kMicrosecond;
// Naps in a row with an empty queue behind them: then there is nothing to look after.
constexpr int kEmptyNaps = 8;
// Naps behind which one that may be interrupted comes back: about as long as any such wait takes.
constexpr int kTerm = 1000;
// Consumers that are busy with calls shorter than that come back sooner than another one is woken.
constexpr Nanoseconds kShortCall = 20 * kMicrosecond;
// A consumer that was woken and has not come so long after is not waited for.
constexpr Nanoseconds kComing = 10 * kMillisecond;
// More consumers than there are.
constexpr std::uint64_t kMost = 1U << 20;

}  // namespace

Sentry::~Sentry() {
  if (on_post_) {
    leave(0);
  }
}

// It takes so many of the messages that there are. Invariant TRUSTED: what was put lazily before is seen behind the mark's removal, and each
// of it is given to a consumer that is woken for it; who puts behind that wakes one himself.
void Sentry::leave(std::uint64_t takes) noexcept {
  Gate gate(queue_.not_empty_);
  gate.leave_post();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  queue_.tail_.lock.look_behind();
  on_post_ = false;
  const std::uint64_t left = queue_.size();
  if (left > takes) {
    static_cast<void>(wake(left - takes));
  }
}

bool Sentry::takes() noexcept {
  if (!on_post_) {
    return true;
  }
  switch (cause_) {
    case Cause::kChanged:
      return false;
    case Cause::kWoken:  // for one of them: somebody else goes
      if (wake(1)) {
        return false;
      }
      break;
    case Cause::kNapOver:
      if (leaves_it_to_others(monotonic_now())) {
        return false;
      }
      break;
    case Cause::kPostTaken:
      break;
  }
  leave(1);
  return true;
}

// False: nobody else sleeps.
bool Sentry::leaves_it_to_others(Nanoseconds now) noexcept {
  const std::uint64_t count = queue_.taken();
  const std::uint64_t taken = count - queue_.watched_.load();
  if (static_cast<Nanoseconds>(taken) * kShortCall >= (now - began_) * os::available_cpus()) {
    batch_ = 1;
    return added_++ >= os::available_cpus() || wake(1);
  }
  if (woke_behind_ == count + 1 && now - woke_at_ < kComing) {
    return true;
  }
  woke_behind_ = count + 1;
  woke_at_ = now;
  return wake(std::min(queue_.size(), std::exchange(batch_, std::min(2 * batch_, kMost))));
}

bool Sentry::wake(std::uint64_t count) noexcept {
  return Gate(queue_.not_empty_).wake(place_, static_cast<int>(std::clamp(count, std::uint64_t{1}, kMost))) != 0;
}

WaitOutcome Sentry::wait(Gate gate, std::uint32_t token, WaitContext& context) noexcept {
  if (!queue_.has_sentry_.load(std::memory_order_relaxed)) {  // written before there are consumers
    return gate.wait(place_, token, context);
  }
  if (on_post_) {
    return nap(gate, token, context);
  }
  is_tired_ = is_tired_ || (is_first_ && context.parked);  // a call that goes on with its wait
  is_first_ = false;
  if (!is_tired_) {
    if (gate.spin(token, context)) {
      return WaitOutcome::kReady;
    }
    on_post_ = gate.take_post(token);
  }
  if (!on_post_) {
    return sleep(gate, token, context);
  }
  naps_ = empty_naps_ = added_ = 0;
  cause_ = Cause::kPostTaken;
  return nap(gate, token, context);
}

WaitOutcome Sentry::sleep(Gate gate, std::uint32_t token, WaitContext& context) noexcept {
  // For all that it knows, nobody is awake: who puts next wakes somebody, unless another one takes something first.
  queue_.watched_.store(queue_.taken());
  const WaitOutcome outcome = gate.sleep(place_, token, context);
  is_tired_ = gate.is_still_at(token);
  if (is_tired_ && queue_.size() != 0 && gate.has_post_taken()) {
    gate.leave_post();  // a slice is long: its sentry is dead, or stopped
  }
  return outcome;
}

WaitOutcome Sentry::nap(Gate gate, std::uint32_t token, WaitContext& context) noexcept {
  began_ = monotonic_now();
  queue_.watched_.store(queue_.taken());
  const Deadline until = Deadline::after(kNap);
  const os::FutexResult result = gate.nap(place_, token, sooner(until, context.deadline) ? until : context.deadline);
  switch (result) {
    case os::FutexResult::kWoken:
      cause_ = Cause::kWoken;
      return WaitOutcome::kReady;
    case os::FutexResult::kChanged:
      cause_ = cause_ == Cause::kPostTaken ? cause_ : Cause::kChanged;
      return WaitOutcome::kReady;
    case os::FutexResult::kInterrupted:
      cause_ = Cause::kChanged;
      return context.interruptible ? WaitOutcome::kInterrupted : WaitOutcome::kReady;
    case os::FutexResult::kTimedOut:
      break;
  }
  cause_ = Cause::kNapOver;
  if (++naps_ % kTerm == 0 && context.interruptible) {
    return WaitOutcome::kInterrupted;
  }
  if (queue_.size() != 0) {
    empty_naps_ = 0;
    return WaitOutcome::kReady;
  }
  ++empty_naps_;
  added_ = 0;
  batch_ = 1;
  if (empty_naps_ == kEmptyNaps) {
    leave(0);
    is_tired_ = true;
  }
  return WaitOutcome::kReady;
}

}  // namespace freethreading
