// Puts and gets. Every store here is a step after which a process may die: docs/design/queue.md says what each leaves
// behind and recovery.cpp mends it.
#include "freethreading/queue/message_queue.hpp"

#include <algorithm>
#include <cstring>

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

}  // namespace

bool MessageQueue::initialise(Place& /*place*/, std::uint64_t capacity, bool joinable, std::uint64_t max_bytes) noexcept {
  capacity_.store(capacity, std::memory_order_relaxed);  // nobody uses it yet
  max_bytes_ = max_bytes;
  not_joinable_ = joinable ? 0 : 1;
  return true;  // the first put makes the first segment
}

// --- the ends' locks --------------------------------------------------------------------------------------------------

// Short, so that it is inlined: most calls find the lock free.
bool MessageQueue::lock_briefly(End& end, Place& place) noexcept {
  return end.lock.try_lock(place) == WaitOutcome::kReady || spin_for_lock(end, place);
}

[[gnu::noinline]] bool MessageQueue::spin_for_lock(End& end, Place& place) noexcept {
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

// kDone: locked, and mended where its holder was dead; else the outcome of a wait.
QueueOutcome MessageQueue::lock_end(End& end, Place& place, const WaitContext& context) noexcept {
  if (lock_briefly(end, place)) {
    return QueueOutcome::kDone;
  }
  switch (lock_and_repair(end, place, context)) {
    case WaitOutcome::kReady:
      return QueueOutcome::kDone;
    case WaitOutcome::kInterrupted:
      return QueueOutcome::kInterrupted;
    default:
      return QueueOutcome::kTimedOut;
  }
}

// Meets whoever holds the end, so that a dead holder is found.
QueueOutcome MessageQueue::settle(End& end, Place& place, const WaitContext& context) noexcept {
  if (!end.lock.is_locked()) {
    return QueueOutcome::kDone;
  }
  const QueueOutcome outcome = lock_end(end, place, context);
  if (outcome == QueueOutcome::kDone) {
    static_cast<void>(end.lock.unlock(place));
  }
  return outcome;
}

// True: the end's holder was dead, and what it left was mended. Makes system calls.
bool MessageQueue::mend_if_dead(End& end, Place& place, const WaitContext& context) noexcept {
  const OwnerId holder = end.lock.owner();
  return holder != kNobody && place.liveness(holder) != Liveness::kAlive &&
         settle(end, place, context) == QueueOutcome::kDone;
}

// --- put --------------------------------------------------------------------------------------------------------------

// Reads the consumers' count again: whether there is room for the item number `index` now.
bool MessageQueue::refresh_capacity(std::uint64_t index, std::uint64_t bound) noexcept {
  // sync: COMMIT (acquire): pairs with get_locked
  tail_.seen = head_.count.load(std::memory_order_acquire);
  return index - tail_.seen < bound;
}

// Puts one message that is all in its cell, where no bytes are counted: `fill` writes it there.
template <class Fill>
QueueOutcome MessageQueue::fill_cell(Place& place, Fill fill) noexcept {
  // Relaxed: written under this lock.
  if (shut_down_.load(std::memory_order_relaxed) != kOpen) {
    return QueueOutcome::kShutDown;
  }
  const std::uint64_t index = tail_.count.load(std::memory_order_relaxed);
  const std::uint64_t bound = capacity();
  if (bound != 0 && index - tail_.seen >= bound && !refresh_capacity(index, bound)) {
    return QueueOutcome::kFull;
  }
  const Offset last = tail_.segment.load(std::memory_order_relaxed);
  Segment* segment = last == kNoOffset ? nullptr : place.at<Segment>(last);
  if (segment == nullptr || !segment->holds(index)) {
    segment = QueueRecovery{*this, place}.extend(segment, index);
    if (segment == nullptr) {
      return QueueOutcome::kNoMemory;
    }
  }
  fill(segment->cell(index));
  FT_CRASH_POINT("queue.put.written");
  // sync: PUBLISH (release): the cell; pairs with find_oldest
  tail_.count.store(index + 1, std::memory_order_release);
  FT_CRASH_POINT("queue.put.published");
  return QueueOutcome::kDone;
}

QueueOutcome MessageQueue::put_locked(Place& place, const Message& message) noexcept {
  if (message.is_inline() && max_bytes_ == 0) {
    return fill_cell(place, [&message](Message& cell) { copy_message(cell, message); });
  }
  std::size_t put = 0;
  return put_many_locked(place, {&message, 1}, put);
}

QueueOutcome MessageQueue::finish_put(Place& place, QueueOutcome outcome, std::size_t put, Waking waking) noexcept {
  static_cast<void>(tail_.lock.unlock(place));
  if (put != 0) {
    FT_CRASH_POINT("queue.put.unlocked");
    Gate gate(not_empty_);
    // Relaxed: whether anybody has taken anything since the sentry looked last; what it is worth is known better by then.
    if (waking == Waking::kLazily && gate.has_post_taken() &&
        head_.count.load(std::memory_order_relaxed) != watched_.load(std::memory_order_relaxed)) {
      gate.notify_awake();
    } else {
      gate.notify_after_unlock(place, put);
    }
  }
  return outcome;
}

// Flat, as the three below: one call for the most frequent puts and gets. What is called in rare cases says noinline.
[[gnu::flatten]] QueueOutcome MessageQueue::try_put(Place& place, const Message& message, std::uint64_t* sequence,
                                                    Waking waking) noexcept {
  if (!lock_briefly(tail_, place)) {
    return QueueOutcome::kBusy;
  }
  FT_CRASH_POINT("queue.put.locked");
  const QueueOutcome outcome = put_locked(place, message);
  if (sequence != nullptr) {
    *sequence = tail_.count.load(std::memory_order_relaxed);  // written under this lock
  }
  return finish_put(place, outcome, outcome == QueueOutcome::kDone ? 1 : 0, waking);
}

[[gnu::flatten]] QueueOutcome MessageQueue::try_put_word(Place& place, std::uint32_t kind, std::uint64_t word,
                                                         Waking waking) noexcept {
  if (!lock_briefly(tail_, place)) {
    return QueueOutcome::kBusy;
  }
  const QueueOutcome outcome = fill_cell(place, [kind, word](Message& cell) {
    cell.size = 0;
    cell.block = kNoOffset;
    cell.kind = kind;
    cell.handles = 0;
    std::memcpy(cell.bytes.data(), &word, sizeof word);
  });
  return finish_put(place, outcome, outcome == QueueOutcome::kDone ? 1 : 0, waking);
}

QueueOutcome MessageQueue::put_until(Place& place, const Message& message, WaitContext& context,
                                     std::uint64_t* sequence) noexcept {
  for (;;) {
    QueueOutcome outcome = lock_end(tail_, place, context);
    if (outcome == QueueOutcome::kDone) {
      FT_CRASH_POINT("queue.put.locked");
      outcome = put_locked(place, message);
      if (sequence != nullptr) {
        *sequence = tail_.count.load(std::memory_order_relaxed);  // as in try_put
      }
      outcome = finish_put(place, outcome, outcome == QueueOutcome::kDone ? 1 : 0);
    }
    if (outcome != QueueOutcome::kFull) {
      return outcome;
    }
    outcome = wait_not_full(place, context, message.size);
    if (outcome != QueueOutcome::kDone) {
      return outcome;
    }
  }
}

// --- get --------------------------------------------------------------------------------------------------------------

// Where the oldest item lies. `wanted`: how many would be taken, so that the producers' count is read again only where it matters.
MessageQueue::Oldest MessageQueue::find_oldest(Place& place, std::size_t wanted, bool draining) noexcept {
  // sync: SHUT_DOWN (acquire): puts that came before it; pairs with shut_down
  const std::uint32_t shutdown = shut_down_.load(std::memory_order_acquire);
  if (shutdown == kImmediate && !draining) {
    return {QueueOutcome::kShutDown};
  }
  // Relaxed: written under this lock.
  const std::uint64_t index = head_.count.load(std::memory_order_relaxed);
  if (head_.seen - index < wanted) {
    // sync: PUBLISH (acquire): pairs with fill_cell and put_run
    head_.seen = tail_.count.load(std::memory_order_acquire);
    if (index == head_.seen) {
      return {shutdown != kOpen ? QueueOutcome::kShutDown : QueueOutcome::kEmpty};
    }
  }
  Segment* segment = place.at<Segment>(head_.segment.load(std::memory_order_relaxed));
  if (!segment->holds(index)) {
    segment = QueueRecovery{*this, place}.advance(segment, index);
  }
  return {QueueOutcome::kDone, index, segment};
}

// Takes one run: as many items of one segment as `out` has room for.
template <std::size_t kExtent>
MessageQueue::Taken MessageQueue::get_locked(Place& place, std::span<Message, kExtent> out, TakeNote* note,
                                             bool draining) noexcept {
  const auto [outcome, index, segment] = find_oldest(place, out.size(), draining);
  if (outcome != QueueOutcome::kDone) {
    return {outcome};
  }
  QueueRecovery recovery{*this, place};
  std::span<Message, kExtent> run = out;
  if constexpr (kExtent == std::dynamic_extent) {
    run = out.first(std::min({out.size(), head_.seen - index, segment->cells_from(index)}));
  }
  for (std::size_t i = 0; i < run.size(); ++i) {
    copy_message(run[i], segment->cell(index + i));
  }
  const std::uint64_t count = index + run.size();
  if (!place.shared()) {
    if (note != nullptr) {
      recovery.write_note(*note, run.front(), count);
    }
    // sync: COMMIT (release): the cells were read; pairs with refresh_capacity
    head_.count.store(count, std::memory_order_release);
    if (max_bytes_ != 0) {
      count_taken_bytes(run);
    }
    return {QueueOutcome::kDone, run.size()};
  }
  OwedRecord* record = nullptr;
  if (not_joinable_ == 0) {
    record = OwedLedger{*this, place}.claim();
    if (record == nullptr && !draining) {
      return {QueueOutcome::kNoMemory};
    }
  }
  // Relaxed: INTENT publishes them.
  const std::uint64_t owed = record != nullptr ? record->takes.load(std::memory_order_relaxed) + run.size() : 0;
  head_.intent_owed.store(owed, std::memory_order_relaxed);
  head_.intent_note.store(note != nullptr ? place.offset_of(note) : kNoOffset, std::memory_order_relaxed);
  // sync: INTENT (release): what it is about before the intent before the change; pairs with QueueRecovery
  head_.intent.store(pack_intent(place.self(), count), std::memory_order_release);
  FT_CRASH_POINT("queue.get.intent");
  if (note != nullptr) {
    recovery.write_note(*note, run.front(), count);
    FT_CRASH_POINT("queue.get.noted");
  }
  for (const Message& message : run) {
    if (!message.is_inline()) {
      adopt(place, message);
      FT_CRASH_POINT("queue.get.adopted");
    }
  }
  // sync: COMMIT (release): the cells were read, the blocks are the taker's; pairs with refresh_capacity
  head_.count.store(count, std::memory_order_release);
  FT_CRASH_POINT("queue.get.committed");
  if (max_bytes_ != 0) {
    count_taken_bytes(run);
  }
  if (record != nullptr) {
    // sync: OWED (release): after the commit; pairs with OwedLedger::find_dead
    record->takes.store(owed, std::memory_order_release);
    FT_CRASH_POINT("queue.get.owed");
  }
  // sync: INTENT (release): after the commit
  head_.intent.store(0, std::memory_order_release);
  FT_CRASH_POINT("queue.get.cleared");
  return {QueueOutcome::kDone, run.size()};
}

template MessageQueue::Taken MessageQueue::get_locked(Place&, std::span<Message, 1>, TakeNote*, bool) noexcept;
template MessageQueue::Taken MessageQueue::get_locked(Place&, std::span<Message>, TakeNote*, bool) noexcept;

QueueOutcome MessageQueue::finish_get(Place& place, Taken taken) noexcept {
  static_cast<void>(head_.lock.unlock(place));
  if (taken.count != 0 && has_bound()) {
    FT_CRASH_POINT("queue.get.unlocked");
    if (max_bytes_ != 0) {
      QueueRecovery{*this, place}.wake_producers();
    } else {
      Gate(not_full_).notify_after_unlock(place, taken.count);
    }
  }
  return taken.outcome;
}

[[gnu::flatten]] QueueOutcome MessageQueue::try_get(Place& place, Message& out, TakeNote* note) noexcept {
  if (!lock_briefly(head_, place)) {
    return QueueOutcome::kBusy;
  }
  FT_CRASH_POINT("queue.get.locked");
  return finish_get(place, get_locked(place, std::span<Message, 1>(&out, 1), note, false));
}

[[gnu::flatten]] QueueOutcome MessageQueue::try_get_word(Place& place, std::uint64_t& word) noexcept {
  if (!lock_briefly(head_, place)) {
    return QueueOutcome::kBusy;
  }
  const auto [outcome, index, segment] = find_oldest(place, 1, false);
  if (outcome == QueueOutcome::kDone) {
    std::memcpy(&word, segment->cell(index).bytes.data(), sizeof word);
    // sync: COMMIT (release): the cell was read; pairs with refresh_capacity
    head_.count.store(index + 1, std::memory_order_release);
  }
  return finish_get(place, {outcome, outcome == QueueOutcome::kDone ? std::size_t{1} : 0});
}

QueueOutcome MessageQueue::get_until(Place& place, Message& out, WaitContext& context, TakeNote* note) noexcept {
  for (;;) {
    QueueOutcome outcome = lock_end(head_, place, context);
    if (outcome == QueueOutcome::kDone) {
      FT_CRASH_POINT("queue.get.locked");
      outcome = finish_get(place, get_locked(place, std::span<Message, 1>(&out, 1), note, false));
    }
    if (outcome != QueueOutcome::kEmpty) {
      return outcome;
    }
    outcome = wait_not_empty(place, context);
    if (outcome != QueueOutcome::kDone) {
      return outcome;
    }
  }
}

// --- withdrawal -------------------------------------------------------------------------------------------------------

// One store into a cell that nobody else writes: takers read it under the lock that is held here.
QueueOutcome MessageQueue::withdraw_until(Place& place, std::uint64_t sequence, WaitContext& context) noexcept {
  QueueOutcome outcome = lock_end(head_, place, context);
  if (outcome != QueueOutcome::kDone) {
    return outcome;
  }
  const std::uint64_t index = sequence - 1;
  if (index < head_.count.load(std::memory_order_relaxed)) {  // written under this lock
    outcome = QueueOutcome::kEmpty;
  } else {
    Segment* segment = place.at<Segment>(head_.segment.load(std::memory_order_relaxed));
    while (!segment->holds(index)) {
      // sync: CHAIN (acquire): the chain up to a message that was put; pairs with QueueRecovery::extend
      segment = place.at<Segment>(segment->next.load(std::memory_order_acquire));
    }
    segment->cell(index).kind = Message::kWithdrawn;
    FT_CRASH_POINT("queue.withdraw.marked");
  }
  static_cast<void>(head_.lock.unlock(place));
  return outcome;
}

}  // namespace freethreading
