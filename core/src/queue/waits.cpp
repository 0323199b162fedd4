// The waits of a queue, what can be asked about it, and its end.
#include <algorithm>

#include "freethreading/crash_point.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "queue/layout.hpp"
#include "queue/sentry.hpp"
#include "sync/gate.hpp"

namespace freethreading {

// --- waits ------------------------------------------------------------------------------------------------------------

QueueOutcome MessageQueue::wait_not_full(Place& place, WaitContext& context, std::uint64_t size) noexcept {
  for (;;) {
    Gate gate(not_full_);
    const std::uint32_t token = gate.prepare();
    head_.lock.look_behind();
    if (is_shut_down()) {
      return QueueOutcome::kShutDown;
    }
    if (has_room(size)) {
      return settle(tail_, place, context);
    }
    if (max_bytes_ != 0 && (mend_if_dead(head_, place, context) || mend_if_dead(tail_, place, context))) {
      continue;  // what it had counted before or after its commit may have been room
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
  Sentry sentry(*this, place);
  for (;;) {
    Gate gate(not_empty_);
    const std::uint32_t token = gate.prepare();
    tail_.lock.look_behind();
    // sync: SHUT_DOWN (acquire): puts that came before it are seen by size(); pairs with shut_down
    const std::uint32_t shutdown = shut_down_.load(std::memory_order_acquire);
    if (shutdown == kImmediate) {
      return QueueOutcome::kShutDown;
    }
    const bool is_empty = size() == 0;
    if (!is_empty && sentry.takes()) {
      return settle(head_, place, context);
    }
    if (is_empty && shutdown != kOpen) {
      return QueueOutcome::kShutDown;
    }
    if (wake_epoch() != epoch) {
      return QueueOutcome::kDone;
    }
    if (context.deadline.passed()) {
      return QueueOutcome::kTimedOut;
    }
    if (sentry.wait(gate, token, context) == WaitOutcome::kInterrupted) {
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
    const Taken taken = get_locked(place, std::span<Message, 1>(&message, 1), nullptr, true);
    static_cast<void>(head_.lock.unlock(place));
    if (taken.count == 0) {
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
