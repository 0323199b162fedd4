#include "queue/recovery.hpp"

#include <cstring>

#include "freethreading/crash_point.hpp"
#include "queue/owed_ledger.hpp"
#include "sync/gate.hpp"

namespace freethreading {

// Both changes of the chain run under an intent with the present count: there is nothing to undo then, only a chain to
// mend, and the intent's owner tells a sweeper that the mending is not over.

[[gnu::noinline]] Segment* QueueRecovery::extend(Segment* last, std::uint64_t index) noexcept {
  MessageQueue::End& tail = queue.tail_;
  // sync: INTENT (release): before the change; pairs with repair
  tail.intent.store(pack_intent(place.self(), index), std::memory_order_release);
  // Relaxed: written under this lock.
  const Offset spare = queue.spare_.load(std::memory_order_relaxed);
  const Offset block = spare != kNoOffset ? spare : place.allocate(sizeof(Segment));
  if (block == kNoOffset) {
    tail.intent.store(0, std::memory_order_release);
    return nullptr;
  }
  FT_CRASH_POINT("queue.extend.allocated");
  Segment* segment = place.at<Segment>(block);
  // Relaxed: nobody else can reach it yet.
  segment->next.store(kNoOffset, std::memory_order_relaxed);
  segment->first = index;
  segment->bytes = tail.bytes.load(std::memory_order_relaxed);
  // sync: CHAIN (release): the segment's head; pairs with advance and repair_tail
  (last == nullptr ? queue.head_.segment : last->next).store(block, std::memory_order_release);
  FT_CRASH_POINT("queue.extend.chained");
  // Not before it is in the chain; repair_tail knows a segment that is both.
  queue.spare_.store(kNoOffset, std::memory_order_release);
  FT_CRASH_POINT("queue.extend.spare_used");
  place.link(block);
  FT_CRASH_POINT("queue.extend.linked");
  // sync: CHAIN (release): linked before it is used; pairs with repair_tail
  tail.segment.store(block, std::memory_order_release);
  FT_CRASH_POINT("queue.extend.moved");
  // sync: INTENT (release): after the change
  tail.intent.store(0, std::memory_order_release);
  return segment;
}

[[gnu::noinline]] Segment* QueueRecovery::advance(Segment* first, std::uint64_t index) noexcept {
  MessageQueue::End& head = queue.head_;
  // Relaxed: written under this lock.
  const Offset used_up = head.segment.load(std::memory_order_relaxed);
  // sync: CHAIN (acquire): the successor's head; pairs with extend
  const Offset next = first->next.load(std::memory_order_acquire);
  // Relaxed: INTENT publishes it. What the last get left there is another taker's, and this change owes nothing.
  head.intent_owed.store(0, std::memory_order_relaxed);
  // sync: INTENT (release): before the change; pairs with repair
  head.intent.store(pack_intent(place.self(), index), std::memory_order_release);
  FT_CRASH_POINT("queue.advance.intent");
  place.adopt(used_up);
  FT_CRASH_POINT("queue.advance.adopted");
  // sync: CHAIN (release): the used-up segment is this process's before nothing refers to it; pairs with repair_head
  head.segment.store(next, std::memory_order_release);
  FT_CRASH_POINT("queue.advance.moved");
  // sync: INTENT (release): after the change
  head.intent.store(0, std::memory_order_release);
  if (!keep_as_spare(used_up)) {
    place.free(used_up);
  }
  FT_CRASH_POINT("queue.advance.freed");
  return place.at<Segment>(next);
}

// Spares the allocator a free and an allocation every 63 items. Where a producer is busy it is not worth waiting.
bool QueueRecovery::keep_as_spare(Offset segment) noexcept {
  MessageQueue::End& tail = queue.tail_;
  if (tail.lock.try_lock(place) != WaitOutcome::kReady) {
    return false;
  }
  // Relaxed: written under this lock.
  const bool keep = queue.spare_.load(std::memory_order_relaxed) == kNoOffset;
  if (keep) {
    // sync: INTENT (release): before the change; pairs with repair
    tail.intent.store(pack_intent(place.self(), tail.count.load(std::memory_order_relaxed)), std::memory_order_release);
    FT_CRASH_POINT("queue.advance.sparing");
    queue.spare_.store(segment, std::memory_order_release);
    FT_CRASH_POINT("queue.advance.spared");
    place.link(segment);
    FT_CRASH_POINT("queue.advance.spare_linked");
    // sync: INTENT (release): after the change
    tail.intent.store(0, std::memory_order_release);
  }
  static_cast<void>(tail.lock.unlock(place));
  return keep;
}

[[gnu::noinline]] void QueueRecovery::write_note(TakeNote& note, const Message& message, std::uint64_t sequence) noexcept {
  std::uint64_t tag = 0;
  std::memcpy(&tag, message.bytes.data(), sizeof(tag));
  // sync: NOTE (release): no number, then the tag, then its number; pairs with the reader of the note
  note.sequence.store(0, std::memory_order_release);
  FT_CRASH_POINT("queue.get.note_wiped");
  note.tag.store(tag, std::memory_order_release);
  FT_CRASH_POINT("queue.get.note_tagged");
  note.sequence.store(sequence, std::memory_order_release);
}

void QueueRecovery::repair(MessageQueue::End& end) noexcept {
  if (&end == &queue.tail_) {
    repair_tail();
  } else {
    repair_head();
  }
}

void QueueRecovery::repair_tail() noexcept {
  MessageQueue::End& tail = queue.tail_;
  // All loads relaxed: the lock was taken over, its holder is dead.
  Offset last = tail.segment.load(std::memory_order_relaxed);
  const std::atomic<Offset>& link = last == kNoOffset ? queue.head_.segment : place.at<Segment>(last)->next;
  if (const Offset chained = link.load(std::memory_order_relaxed); chained != kNoOffset) {
    place.link(chained);
    FT_CRASH_POINT("queue.repair.tail_linked");
    // sync: CHAIN (release): as in extend
    tail.segment.store(chained, std::memory_order_release);
    last = chained;
  }
  if (const Offset spare = queue.spare_.load(std::memory_order_relaxed); spare != kNoOffset) {
    place.link(spare);
    if (spare == last) {
      queue.spare_.store(kNoOffset, std::memory_order_release);
    }
  }
  // The dead one may have published without waking anybody.
  Gate(queue.not_empty_).notify_one(place);
  const std::uint64_t intent = tail.intent.load(std::memory_order_relaxed);
  const std::uint64_t count = tail.count.load(std::memory_order_relaxed);
  count_bytes(tail, count);
  const std::uint64_t undone = intent == 0 ? 0 : uncommitted(intent, count);
  // The run never was: its blocks become this process's, so that from here on either this process frees them or its death.
  for (std::uint64_t index = count; index != count + undone; ++index) {
    adopt(place, place.at<Segment>(last)->cell(index));
    FT_CRASH_POINT("queue.repair.put_adopted");
  }
  // sync: INTENT (release): the blocks have an owner; pairs with a repair of this repair, and with settle_dead
  tail.intent.store(0, std::memory_order_release);
  for (std::uint64_t index = count; index != count + undone; ++index) {
    FT_CRASH_POINT("queue.repair.put_cleared");
    Message message = place.at<Segment>(last)->cell(index);
    discard(place, message);
  }
}

// What an end counts is made anew from the cells (queue.md).
void QueueRecovery::count_bytes(MessageQueue::End& end, std::uint64_t count) noexcept {
  const Offset segment = end.segment.load(std::memory_order_relaxed);
  if (queue.max_bytes_ != 0 && segment != kNoOffset) {
    // sync: BYTES (release): never before the end's count; pairs with waiting_bytes
    end.bytes.store(place.at<Segment>(segment)->bytes_before(count), std::memory_order_release);
  }
}

void QueueRecovery::repair_head() noexcept {
  MessageQueue::End& head = queue.head_;
  // All loads relaxed: the lock was taken over, its holder is dead.
  if (const Offset first = head.segment.load(std::memory_order_relaxed); first != kNoOffset) {
    place.link(first);
  }
  OwedLedger ledger{queue, place};
  ledger.link_blocks();
  const std::uint64_t intent = head.intent.load(std::memory_order_relaxed);
  const std::uint64_t count = head.count.load(std::memory_order_relaxed);
  count_bytes(head, count);
  // The dead one may have made room without waking anybody.
  wake_producers();
  if (intent == 0) {
    return;
  }
  const std::uint64_t owed = head.intent_owed.load(std::memory_order_relaxed);
  const std::uint64_t undone = uncommitted(intent, count);
  if (undone == 0) {
    if (owed != 0) {
      ledger.set_takes(intent_owner(intent), owed);
    }
    FT_CRASH_POINT("queue.repair.get_owed");
  } else {
    // The take never was: the items are at the head still, and their blocks the queue's again.
    auto* segment = place.at<Segment>(head.segment.load(std::memory_order_relaxed));
    for (std::uint64_t index = count; index != count + undone; ++index) {
      if (const Message& message = segment->cell(index); !message.is_inline()) {
        place.link(message.block);
        FT_CRASH_POINT("queue.repair.get_linked");
      }
    }
    if (const Offset note = head.intent_note.load(std::memory_order_relaxed); note != kNoOffset) {
      std::uint64_t noted = count + 1;
      place.at<TakeNote>(note)->sequence.compare_exchange_strong(noted, 0);
      FT_CRASH_POINT("queue.repair.note_wiped");
    }
  }
  // sync: INTENT (release): after the repair; pairs with settle_dead
  head.intent.store(0, std::memory_order_release);
}

[[gnu::noinline]] void QueueRecovery::wake_producers() noexcept {
  Gate gate(queue.not_full_);
  // Where room is in bytes, the first one's item may be too large for what another's fits into.
  queue.max_bytes_ != 0 ? gate.notify_all(place) : gate.notify_one(place);
}

void QueueRecovery::settle_dead(MessageQueue::End& end, OwnerId dead) noexcept {
  // The lock first: whoever takes it over from `dead` leaves the intent until its own repair is done.
  const bool holds = end.lock.owner() == dead;
  // sync: INTENT (acquire): a repair that has cleared it is complete; pairs with repair
  if (!holds && intent_owner(end.intent.load(std::memory_order_acquire)) != dead) {
    return;
  }
  if (dead != place.self()) {
    end.lock.mark_owner_died(dead);
  }
  WaitContext forever{Deadline::never()};
  if (queue.lock_and_repair(end, place, forever) == WaitOutcome::kReady) {
    static_cast<void>(end.lock.unlock(place));
  }
}

void MessageQueue::sweep(Place& place, OwnerId dead) noexcept {
  QueueRecovery recovery{*this, place};
  recovery.settle_dead(tail_, dead);
  recovery.settle_dead(head_, dead);
  OwedLedger{*this, place}.sweep(dead);
  // What the dead one was woken for goes to another, and joiners look who owes.
  if (size() != 0) {
    Gate(not_empty_).notify_one(place);
  }
  if (has_bound() && !full()) {
    recovery.wake_producers();
  }
  Gate(join_gate_).notify_all(place);
}

void MessageQueue::destroy(Place& place) noexcept {
  Offset block = head_.segment.load();  // kNoOffset: never used, or destroyed so far already
  Segment* segment = block == kNoOffset ? nullptr : place.at<Segment>(block);
  const std::uint64_t end = tail_.count.load();
  // As in a get: the block is this process's before the item is gone, so that a death here frees it once.
  for (std::uint64_t index = head_.count.load(); segment != nullptr && index != end; ++index) {
    if (!segment->holds(index)) {
      segment = QueueRecovery{*this, place}.advance(segment, index);
    }
    Message message = segment->cell(index);
    adopt(place, message);
    FT_CRASH_POINT("queue.destroy.adopted");
    head_.count.store(index + 1);
    FT_CRASH_POINT("queue.destroy.taken");
    discard(place, message);
  }
  // The last segment, and a fresh one behind it that a dead producer chained for nothing.
  if (const Offset spare = spare_.load(); spare != kNoOffset) {
    place.adopt(spare);
    FT_CRASH_POINT("queue.destroy.spare_adopted");
    spare_.store(kNoOffset);
    place.free(spare);
  }
  block = head_.segment.load();
  while (block != kNoOffset) {
    const Offset next = place.at<Segment>(block)->next.load();
    place.adopt(block);
    FT_CRASH_POINT("queue.destroy.segment_adopted");
    head_.segment.store(next);
    place.free(block);
    block = next;
  }
  OwedLedger{*this, place}.destroy();
}

}  // namespace freethreading
