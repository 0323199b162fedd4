// Several messages at once, and how much of them there is room for. A batch is put and taken in runs: what of it lies in one
// segment (docs/design/queue.md).
#include <algorithm>

#include "freethreading/crash_point.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "queue/layout.hpp"
#include "queue/recovery.hpp"

namespace freethreading {

// --- room -------------------------------------------------------------------------------------------------------------

// Whether `size` bytes for the item number `index` are within the bound, behind `pending` bytes that are not counted yet.
// REQUIRES: tail lock held, a bound in bytes.
bool MessageQueue::bytes_fit(std::uint64_t index, std::uint64_t pending, std::uint64_t size) noexcept {
  // Relaxed: written under this lock.
  const std::uint64_t put = tail_.bytes.load(std::memory_order_relaxed) + pending;
  const std::uint64_t most = size <= max_bytes_ ? max_bytes_ - size : 0;
  if (size <= max_bytes_ && put - taken_bytes_seen_ <= most) {
    return true;
  }
  // sync: COMMIT (acquire): pairs with get_locked
  tail_.seen = head_.count.load(std::memory_order_acquire);
  // sync: BYTES (acquire): pairs with count_taken_bytes
  taken_bytes_seen_ = head_.bytes.load(std::memory_order_acquire);
  return index == tail_.seen || (size <= max_bytes_ && put - taken_bytes_seen_ <= most);
}

// How many of the messages, from the first on, there is room for now. REQUIRES: tail lock held.
std::size_t MessageQueue::count_fitting(std::uint64_t index, std::span<const Message> messages) noexcept {
  std::size_t most = messages.size();
  if (const std::uint64_t bound = capacity(); bound != 0) {
    if (index - tail_.seen + most > bound && !refresh_capacity(index, bound)) {
      return 0;
    }
    most = std::min<std::uint64_t>(most, bound - (index - tail_.seen));
  }
  if (max_bytes_ == 0) {
    return most;
  }
  std::size_t fitting = 0;
  for (std::uint64_t bytes = 0; fitting < most && bytes_fit(index + fitting, bytes, messages[fitting].size); ++fitting) {
    bytes += messages[fitting].size;
  }
  return fitting;
}

bool MessageQueue::has_room(std::uint64_t size) const noexcept {
  const std::uint64_t items = this->size();
  const std::uint64_t bound = capacity();
  if (bound != 0 && items >= bound) {
    return false;
  }
  return max_bytes_ == 0 || items == 0 || (size <= max_bytes_ && waiting_bytes() <= max_bytes_ - size);
}

std::uint64_t MessageQueue::waiting_bytes() const noexcept {
  // The head first: it never passes the tail. sync: BYTES (acquire): the puts before it; pairs with count_taken_bytes
  const std::uint64_t taken = head_.bytes.load(std::memory_order_acquire);
  // Relaxed: at least what the takes above had.
  return tail_.bytes.load(std::memory_order_relaxed) - taken;
}

// After the commit: until then they wait.
void MessageQueue::count_taken_bytes(std::span<const Message> run) noexcept {
  // Relaxed: written under this lock.
  std::uint64_t bytes = head_.bytes.load(std::memory_order_relaxed);
  for (const Message& message : run) {
    bytes += message.size;
  }
  // sync: BYTES (release): after what it counts was put and taken; pairs with waiting_bytes and bytes_fit
  head_.bytes.store(bytes, std::memory_order_release);
  FT_CRASH_POINT("queue.bytes.taken");
}

// --- put --------------------------------------------------------------------------------------------------------------

// REQUIRES: tail lock held, the segment has cells for all of them, and there is room.
void MessageQueue::put_run(Place& place, Segment& segment, std::uint64_t index, std::span<const Message> run) noexcept {
  bool in_cells = true;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < run.size(); ++i) {
    copy_message(segment.cell(index + i), run[i]);
    in_cells = in_cells && run[i].is_inline();
    bytes += run[i].size;
  }
  FT_CRASH_POINT("queue.put.written");
  if (max_bytes_ != 0) {
    // Relaxed: PUBLISH publishes it.
    tail_.bytes.store(tail_.bytes.load(std::memory_order_relaxed) + bytes, std::memory_order_relaxed);
    FT_CRASH_POINT("queue.bytes.put");
  }
  const std::uint64_t count = index + run.size();
  if (in_cells) {
    // sync: PUBLISH (release): the cells; pairs with get_locked
    tail_.count.store(count, std::memory_order_release);
    FT_CRASH_POINT("queue.put.published");
    return;
  }
  // sync: INTENT (release): the cells before the intent before the change; pairs with QueueRecovery
  tail_.intent.store(pack_intent(place.self(), count), std::memory_order_release);
  FT_CRASH_POINT("queue.put.intent");
  for (const Message& message : run) {
    if (!message.is_inline()) {
      place.link(message.block);
      FT_CRASH_POINT("queue.put.linked");
    }
  }
  // sync: PUBLISH (release): the cells and their blocks; pairs with get_locked
  tail_.count.store(count, std::memory_order_release);
  FT_CRASH_POINT("queue.put.block_published");
  // sync: INTENT (release): after the commit
  tail_.intent.store(0, std::memory_order_release);
  FT_CRASH_POINT("queue.put.cleared");
}

[[gnu::noinline]] QueueOutcome MessageQueue::put_many_locked(Place& place, std::span<const Message> messages, std::size_t& put) noexcept {
  // Relaxed: written under this lock.
  if (shut_down_.load(std::memory_order_relaxed) != kOpen) {
    return QueueOutcome::kShutDown;
  }
  while (put < messages.size()) {
    // Relaxed: written under this lock.
    const std::uint64_t index = tail_.count.load(std::memory_order_relaxed);
    const Offset last = tail_.segment.load(std::memory_order_relaxed);
    Segment* segment = last == kNoOffset ? nullptr : place.at<Segment>(last);
    const bool holds = segment != nullptr && segment->holds(index);
    const std::size_t cells = holds ? segment->cells_from(index) : Segment::kCells;
    const std::span<const Message> rest = messages.subspan(put);
    const std::size_t fitting = count_fitting(index, rest.first(std::min(rest.size(), cells)));
    if (fitting == 0) {
      return QueueOutcome::kFull;
    }
    if (!holds) {
      segment = QueueRecovery{*this, place}.extend(segment, index);
      if (segment == nullptr) {
        return QueueOutcome::kNoMemory;
      }
    }
    put_run(place, *segment, index, rest.first(fitting));
    put += fitting;
  }
  return QueueOutcome::kDone;
}

QueueOutcome MessageQueue::try_put_many(Place& place, std::span<const Message> messages, std::size_t& put) noexcept {
  put = 0;
  if (!lock_briefly(tail_, place)) {
    return QueueOutcome::kBusy;
  }
  FT_CRASH_POINT("queue.put.locked");
  const QueueOutcome outcome = put_many_locked(place, messages, put);
  return finish_put(place, outcome, put);
}

QueueOutcome MessageQueue::put_many_until(Place& place, std::span<const Message> messages, std::size_t& put,
                                          WaitContext& context) noexcept {
  put = 0;
  for (;;) {
    QueueOutcome outcome = lock_end(tail_, place, context);
    if (outcome == QueueOutcome::kDone) {
      FT_CRASH_POINT("queue.put.locked");
      std::size_t now = 0;
      outcome = put_many_locked(place, messages.subspan(put), now);
      put += now;
      outcome = finish_put(place, outcome, now);
    }
    if (outcome != QueueOutcome::kFull) {
      return outcome;
    }
    outcome = wait_not_full(place, context, messages[put].size);
    if (outcome != QueueOutcome::kDone) {
      return outcome;
    }
  }
}

// --- get --------------------------------------------------------------------------------------------------------------

MessageQueue::Taken MessageQueue::get_many_locked(Place& place, std::span<Message> out) noexcept {
  std::size_t got = 0;
  while (got < out.size()) {
    const Taken run = get_locked(place, out.subspan(got), nullptr, false);
    if (run.count == 0) {
      return {got != 0 ? QueueOutcome::kDone : run.outcome, got};
    }
    got += run.count;
  }
  return {QueueOutcome::kDone, got};
}

QueueOutcome MessageQueue::try_get_many(Place& place, std::span<Message> out, std::size_t& got) noexcept {
  got = 0;
  if (!lock_briefly(head_, place)) {
    return QueueOutcome::kBusy;
  }
  FT_CRASH_POINT("queue.get.locked");
  const Taken taken = get_many_locked(place, out);
  got = taken.count;
  return finish_get(place, taken);
}

QueueOutcome MessageQueue::get_many_until(Place& place, std::span<Message> out, std::size_t& got,
                                          WaitContext& context) noexcept {
  got = 0;
  for (;;) {
    QueueOutcome outcome = lock_end(head_, place, context);
    if (outcome == QueueOutcome::kDone) {
      FT_CRASH_POINT("queue.get.locked");
      const Taken taken = get_many_locked(place, out);
      got = taken.count;
      outcome = finish_get(place, taken);
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

}  // namespace freethreading
