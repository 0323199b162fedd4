// QueueRecovery: the changes to a queue that take several stores, next to what mends them after a death in the middle.
#pragma once

#include "freethreading/queue/message_queue.hpp"
#include "queue/layout.hpp"

namespace freethreading {

struct QueueRecovery {
  MessageQueue& queue;
  Place& place;

  // A new segment behind the full `last` (null: the first one), for the item number `index`; null: no memory. REQUIRES:
  // tail lock held.
  Segment* extend(Segment* last, std::uint64_t index) noexcept;
  // Gives the used-up segment `first` up (it is kept as the spare one, or freed); its successor. REQUIRES: head lock held,
  // an item is in the successor.
  Segment* advance(Segment* first, std::uint64_t index) noexcept;
  // Notes the take of `message`: at no instant does it pair the old item's number with the new one's tag.
  static void write_note(TakeNote& note, const Message& message, std::uint64_t sequence) noexcept;

  // Finishes or undoes what the end's last holder was doing. REQUIRES: its lock held, taken over from a dead holder.
  // Runs again, from its start, when its caller dies in it.
  void repair(MessageQueue::End& end) noexcept;
  // A producer has room, or may have.
  void wake_producers() noexcept;
  // Makes sure that nothing of `dead` is left undecided at `end`.
  void settle_dead(MessageQueue::End& end, OwnerId dead) noexcept;

 private:
  [[nodiscard]] bool keep_as_spare(Offset segment) noexcept;
  void repair_tail() noexcept;
  void repair_head() noexcept;
  void count_bytes(MessageQueue::End& end, std::uint64_t count) noexcept;
};

}  // namespace freethreading
