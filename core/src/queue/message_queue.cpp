// Puts, gets and their waits. Every store here is a step after which a process may die: docs/design/queue.md says what
// each leaves behind and recovery.cpp mends it.
#include "freethreading/queue/message_queue.hpp"

#include <algorithm>

#include "freethreading/crash_point.hpp"
#include "os/cpu.hpp"
#include "queue/layout.hpp"
#include "queue/owed_ledger.hpp"
#include "queue/recovery.hpp"
#include "sync/gate.hpp"

namespace freethreading {

namespace {

// The holder of an end's lock is done within a few dozen instructions unless it was preempted or died.
constexpr int kBusySpins = 200;
// "Do not wait" is about items. A call that may not wait still gives a lock's holder this long to step out of the way.
constexpr Nanoseconds kGrace = 100 * kMillisecond;

// A wait of its own for an end's lock: the time a caller slept for an item does not make it starve for the lock.
WaitContext for_lock(const WaitContext& context) noexcept {
  return WaitContext(context.deadline.remaining() < kGrace ? Deadline::after(kGrace) : context.deadline,
                     context.interruptible);
}

QueueOutcome of_lock(WaitOutcome outcome) noexcept {
  return outcome == WaitOutcome::kInterrupted ? QueueOutcome::kInterrupted : QueueOutcome::kTimedOut;
}

}  // namespace

bool MessageQueue::initialise(Place& /*place*/, std::uint64_t capacity, bool joinable) noexcept {
  capacity_.store(capacity, std::memory_order_relaxed);  // nobody uses it yet
  not_joinable_ = joinable ? 0 : 1;
  return true;  // the first put makes the first segment
}

// --- the ends' locks --------------------------------------------------------------------------------------------------

bool MessageQueue::lock_briefly(End& end, Place& place) noexcept {
  if (end.lock.try_lock(place) == WaitOutcome::kReady) {
    return true;
  }
  for (int i = 0; i < kBusySpins; ++i) {
    os::cpu_relax();
    if (!end.lock.is_locked() && end.lock.try_lock(place) == WaitOutcome::kReady) {
      return true;
    }
  }
  return false;
}

WaitOutcome MessageQueue::lock_and_repair(End& end, Place& place, const WaitContext& context) noexcept {
  // Without waiting first: that looks at once whether the holder is dead, not after a slice.
  WaitContext now(Deadline::immediate());
  WaitOutcome outcome = end.lock.lock_robustly_until(place, now);
  if (outcome == WaitOutcome::kTimedOut) {
    WaitContext own = for_lock(context);
    outcome = end.lock.lock_robustly_until(place, own);
  }
  if (outcome != WaitOutcome::kOwnerDied) {
    return outcome;
  }
  QueueRecovery{*this, place}.repair(end);
  return WaitOutcome::kReady;
}

// Meets whoever holds the end, so that a dead holder is found.
QueueOutcome MessageQueue::settle(End& end, Place& place, const WaitContext& context) noexcept {
  if (!end.lock.is_locked()) {
    return QueueOutcome::kDone;
  }
  const WaitOutcome outcome = lock_and_repair(end, place, context);
  if (outcome != WaitOutcome::kReady) {
    return of_lock(outcome);
  }
  static_cast<void>(end.lock.unlock(place));
  return QueueOutcome::kDone;
}

// --- put --------------------------------------------------------------------------------------------------------------

QueueOutcome MessageQueue::put_locked(Place& place, const Message& message) noexcept {
  // Relaxed: written under this lock.
  if (shut_down_.load(std::memory_order_relaxed) != kOpen) {
    return QueueOutcome::kShutDown;
  }
  const std::uint64_t index = tail_.count.load(std::memory_order_relaxed);
  const std::uint64_t bound = capacity();
  if (bound != 0 && index - tail_.seen >= bound) {
    // sync: COMMIT (acquire): pairs with get_locked
    tail_.seen = head_.count.load(std::memory_order_acquire);
    if (index - tail_.seen >= bound) {
      return QueueOutcome::kFull;
    }
  }
  const Offset last = tail_.segment.load(std::memory_order_relaxed);
  Segment* segment = last == kNoOffset ? nullptr : place.at<Segment>(last);
  if (segment == nullptr || !segment->holds(index)) {
    segment = QueueRecovery{*this, place}.extend(segment, index);
    if (segment == nullptr) {
      return QueueOutcome::kNoMemory;
    }
  }
  copy_message(segment->cell(index), message);
  FT_CRASH_POINT("queue.put.written");
  if (message.is_inline()) {
    // sync: PUBLISH (release): the cell; pairs with get_locked
    tail_.count.store(index + 1, std::memory_order_release);
    FT_CRASH_POINT("queue.put.published");
    return QueueOutcome::kDone;
  }
  // sync: INTENT (release): the cell before the intent before the change; pairs with QueueRecovery
  tail_.intent.store(pack_intent(place.self(), index + 1), std::memory_order_release);
  FT_CRASH_POINT("queue.put.intent");
  place.link(message.block);
  FT_CRASH_POINT("queue.put.linked");
  // sync: PUBLISH (release): the cell and its block; pairs with get_locked
  tail_.count.store(index + 1, std::memory_order_release);
  FT_CRASH_POINT("queue.put.block_published");
  // sync: INTENT (release): after the commit
  tail_.intent.store(0, std::memory_order_release);
  FT_CRASH_POINT("queue.put.cleared");
  return QueueOutcome::kDone;
}

QueueOutcome MessageQueue::finish_put(Place& place, QueueOutcome outcome) noexcept {
  static_cast<void>(tail_.lock.unlock(place));
  if (outcome == QueueOutcome::kDone) {
    FT_CRASH_POINT("queue.put.unlocked");
    Gate(not_empty_).notify_one(place);
  }
  return outcome;
}

QueueOutcome MessageQueue::try_put(Place& place, const Message& message) noexcept {
  if (!lock_briefly(tail_, place)) {
    return QueueOutcome::kBusy;
  }
  FT_CRASH_POINT("queue.put.locked");
  return finish_put(place, put_locked(place, message));
}

QueueOutcome MessageQueue::put_until(Place& place, const Message& message, WaitContext& context) noexcept {
  for (;;) {
    QueueOutcome outcome = try_put(place, message);
    if (outcome == QueueOutcome::kBusy) {
      const WaitOutcome locked = lock_and_repair(tail_, place, context);
      if (locked != WaitOutcome::kReady) {
        return of_lock(locked);
      }
      outcome = finish_put(place, put_locked(place, message));
    }
    if (outcome != QueueOutcome::kFull) {
      return outcome;
    }
    const QueueOutcome waited = wait_not_full(place, context);
    if (waited != QueueOutcome::kDone) {
      return waited;
    }
  }
}

// --- get --------------------------------------------------------------------------------------------------------------

QueueOutcome MessageQueue::get_locked(Place& place, Message& out, TakeNote* note, bool draining) noexcept {
  // sync: SHUT_DOWN (acquire): puts that came before it; pairs with shut_down
  const std::uint32_t shutdown = shut_down_.load(std::memory_order_acquire);
  if (shutdown == kImmediate && !draining) {
    return QueueOutcome::kShutDown;
  }
  // Relaxed: written under this lock.
  const std::uint64_t index = head_.count.load(std::memory_order_relaxed);
  if (index == head_.seen) {
    // sync: PUBLISH (acquire): pairs with put_locked
    head_.seen = tail_.count.load(std::memory_order_acquire);
    if (index == head_.seen) {
      return shutdown != kOpen ? QueueOutcome::kShutDown : QueueOutcome::kEmpty;
    }
  }
  QueueRecovery recovery{*this, place};
  Segment* segment = place.at<Segment>(head_.segment.load(std::memory_order_relaxed));
  if (!segment->holds(index)) {
    segment = recovery.advance(segment, index);
  }
  const Message& cell = segment->cell(index);
  copy_message(out, cell);
  const std::uint64_t sequence = index + 1;
  if (!place.shared()) {
    if (note != nullptr) {
      recovery.write_note(*note, out, sequence);
    }
    // sync: COMMIT (release): the cell was read; pairs with put_locked
    head_.count.store(sequence, std::memory_order_release);
    return QueueOutcome::kDone;
  }
  OwedRecord* record = nullptr;
  if (not_joinable_ == 0) {
    record = OwedLedger{*this, place}.claim();
    if (record == nullptr && !draining) {
      return QueueOutcome::kNoMemory;
    }
  }
  // Relaxed: INTENT publishes them.
  const std::uint64_t owed = record != nullptr ? record->takes.load(std::memory_order_relaxed) + 1 : 0;
  head_.intent_owed.store(owed, std::memory_order_relaxed);
  head_.intent_note.store(note != nullptr ? place.offset_of(note) : kNoOffset, std::memory_order_relaxed);
  // sync: INTENT (release): what it is about before the intent before the change; pairs with QueueRecovery
  head_.intent.store(pack_intent(place.self(), sequence), std::memory_order_release);
  FT_CRASH_POINT("queue.get.intent");
  if (note != nullptr) {
    recovery.write_note(*note, out, sequence);
    FT_CRASH_POINT("queue.get.noted");
  }
  if (!out.is_inline()) {
    adopt(place, out);
    FT_CRASH_POINT("queue.get.adopted");
  }
  // sync: COMMIT (release): the cell was read, the block is the taker's; pairs with put_locked
  head_.count.store(sequence, std::memory_order_release);
  FT_CRASH_POINT("queue.get.committed");
  if (record != nullptr) {
    // sync: OWED (release): after the commit; pairs with OwedLedger::find_dead
    record->takes.store(owed, std::memory_order_release);
    FT_CRASH_POINT("queue.get.owed");
  }
  // sync: INTENT (release): after the commit
  head_.intent.store(0, std::memory_order_release);
  FT_CRASH_POINT("queue.get.cleared");
  return QueueOutcome::kDone;
}

QueueOutcome MessageQueue::finish_get(Place& place, QueueOutcome outcome) noexcept {
  static_cast<void>(head_.lock.unlock(place));
  if (outcome == QueueOutcome::kDone && capacity() != 0) {
    FT_CRASH_POINT("queue.get.unlocked");
    Gate(not_full_).notify_one(place);
  }
  return outcome;
}

QueueOutcome MessageQueue::try_get(Place& place, Message& out, TakeNote* note) noexcept {
  if (!lock_briefly(head_, place)) {
    return QueueOutcome::kBusy;
  }
  FT_CRASH_POINT("queue.get.locked");
  return finish_get(place, get_locked(place, out, note, false));
}

QueueOutcome MessageQueue::get_until(Place& place, Message& out, WaitContext& context, TakeNote* note) noexcept {
  for (;;) {
    QueueOutcome outcome = try_get(place, out, note);
    if (outcome == QueueOutcome::kBusy) {
      const WaitOutcome locked = lock_and_repair(head_, place, context);
      if (locked != WaitOutcome::kReady) {
        return of_lock(locked);
      }
      outcome = finish_get(place, get_locked(place, out, note, false));
    }
    if (outcome != QueueOutcome::kEmpty) {
      return outcome;
    }
    const QueueOutcome waited = wait_not_empty(place, context);
    if (waited != QueueOutcome::kDone) {
      return waited;
    }
  }
}

// --- waits ------------------------------------------------------------------------------------------------------------

QueueOutcome MessageQueue::wait_not_full(Place& place, WaitContext& context) noexcept {
  for (;;) {
    Gate gate(not_full_);
    const std::uint32_t token = gate.prepare();
    if (is_shut_down()) {
      return QueueOutcome::kShutDown;
    }
    if (!full()) {
      return settle(tail_, place, context);
    }
    if (context.deadline.passed()) {
      return QueueOutcome::kTimedOut;
    }
    if (gate.wait(place, token, context) == WaitOutcome::kInterrupted) {
      return QueueOutcome::kInterrupted;
    }
  }
}

QueueOutcome MessageQueue::wait_not_empty(Place& place, WaitContext& context) noexcept {
  return wait_not_empty(place, context, wake_epoch());
}

QueueOutcome MessageQueue::wait_not_empty(Place& place, WaitContext& context, std::uint32_t epoch) noexcept {
  for (;;) {
    Gate gate(not_empty_);
    const std::uint32_t token = gate.prepare();
    // sync: SHUT_DOWN (acquire): puts that came before it are seen by size(); pairs with shut_down
    const std::uint32_t shutdown = shut_down_.load(std::memory_order_acquire);
    if (shutdown == kImmediate) {
      return QueueOutcome::kShutDown;
    }
    if (size() != 0) {
      return settle(head_, place, context);
    }
    if (shutdown != kOpen) {
      return QueueOutcome::kShutDown;
    }
    if (wake_epoch() != epoch) {
      return QueueOutcome::kDone;
    }
    if (context.deadline.passed()) {
      return QueueOutcome::kTimedOut;
    }
    if (gate.wait(place, token, context) == WaitOutcome::kInterrupted) {
      return QueueOutcome::kInterrupted;
    }
  }
}

void MessageQueue::wake_consumers(Place& place) noexcept {
  wakes_.fetch_add(1);
  Gate(not_empty_).notify_all(place);
}

std::uint32_t MessageQueue::wake_epoch() const noexcept { return wakes_.load(); }

// --- state ------------------------------------------------------------------------------------------------------------

std::uint64_t MessageQueue::size() const noexcept {
  // The head first: it never passes the tail, so the difference is never negative.
  const std::uint64_t taken = head_.count.load();
  return tail_.count.load() - taken;
}

bool MessageQueue::full() const noexcept {
  const std::uint64_t bound = capacity();
  return bound != 0 && size() >= bound;
}

void MessageQueue::set_capacity(Place& place, std::uint64_t capacity) noexcept {
  // A getter that still reads "no bound" wakes nobody: a producer that begins to wait meanwhile looks again after a slice.
  capacity_.store(capacity);
  Gate(not_full_).notify_all(place);
}

std::uint64_t MessageQueue::taken() const noexcept { return head_.count.load(); }

bool MessageQueue::was_taken(const TakeNote& note) const noexcept {
  // The count first: where the take was undone, the note was wiped before anybody else could take the item.
  const std::uint64_t count = taken();
  const std::uint64_t sequence = note.sequence.load();
  return sequence != 0 && sequence <= count;
}

bool MessageQueue::is_shut_down() const noexcept { return shut_down_.load() != kOpen; }

void MessageQueue::shut_down(Place& place, bool immediate) noexcept {
  WaitContext forever{Deadline::never()};
  static_cast<void>(lock_and_repair(tail_, place, forever));
  const std::uint32_t asked = immediate && place.shared() ? kImmediate : kDrains;
  // sync: SHUT_DOWN (release): the puts before it; pairs with get_locked and wait_not_empty
  shut_down_.store(std::max(asked, shut_down_.load(std::memory_order_relaxed)), std::memory_order_release);
  FT_CRASH_POINT("queue.shut_down.stored");
  static_cast<void>(tail_.lock.unlock(place));
  Gate(not_empty_).notify_all(place);
  Gate(not_full_).notify_all(place);
  FT_CRASH_POINT("queue.shut_down.woken");
  if (asked == kImmediate) {
    drain(place);
  }
  Gate(join_gate_).notify_all(place);
}

// Takes and finishes what an immediate shutdown left. Several may do so at once.
void MessageQueue::drain(Place& place) noexcept {
  for (;;) {
    Message message;
    WaitContext forever{Deadline::never()};
    static_cast<void>(lock_and_repair(head_, place, forever));
    const QueueOutcome outcome = get_locked(place, message, nullptr, true);
    static_cast<void>(head_.lock.unlock(place));
    if (outcome != QueueOutcome::kDone) {
      return;
    }
    static_cast<void>(task_done(place));
    FT_CRASH_POINT("queue.drain.finished");
    discard(place, message);
  }
}

int MessageQueue::visit(Place& place, Visitor visitor, void* context) const noexcept {
  // Relaxed: the caller has stopped everybody else.
  const std::uint64_t end = tail_.count.load(std::memory_order_relaxed);
  Segment* segment = place.at<Segment>(head_.segment.load(std::memory_order_relaxed));
  for (std::uint64_t index = head_.count.load(std::memory_order_relaxed); index != end; ++index) {
    if (!segment->holds(index)) {
      segment = place.at<Segment>(segment->next.load(std::memory_order_relaxed));
    }
    const int result = visitor(context, segment->cell(index));
    if (result != 0) {
      return result;
    }
  }
  return 0;
}

}  // namespace freethreading
