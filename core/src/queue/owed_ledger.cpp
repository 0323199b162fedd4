#include "queue/owed_ledger.hpp"

#include <new>

#include "freethreading/crash_point.hpp"
#include "os/process.hpp"
#include "queue/layout.hpp"
#include "sync/gate.hpp"

namespace freethreading {

namespace {

// Where the search for an owner starts: its slot's place, so that the usual search is one look.
std::size_t home(OwnerId owner) noexcept { return owner % OwedBlock::kRecords; }

OwedBlock* block_at(const Place& place, const std::atomic<Offset>& link) noexcept {
  // sync: LEDGER (acquire): the block's records; pairs with claim_new
  const Offset block = link.load(std::memory_order_acquire);
  return block == kNoOffset ? nullptr : place.at<OwedBlock>(block);
}

}  // namespace

OwedRecord* OwedLedger::find(OwnerId owner) const noexcept {
  for (OwedBlock* block = block_at(place, queue.owed_); block != nullptr; block = block_at(place, block->next)) {
    std::size_t at = home(owner);
    for (std::size_t looked = 0; looked < OwedBlock::kRecords; ++looked) {
      OwedRecord& record = block->records[at];
      // sync: LEDGER (acquire): the record's zeroed counts; pairs with claim_new
      if (record.owner.load(std::memory_order_acquire) == owner) {
        return &record;
      }
      at = at + 1 == OwedBlock::kRecords ? 0 : at + 1;
    }
  }
  return nullptr;
}

[[gnu::noinline]] OwedRecord* OwedLedger::claim() noexcept {
  const OwnerId self = place.self();
  OwedRecord* record = find(self);
  return record != nullptr ? record : claim_new(self);
}

[[gnu::noinline]] OwedRecord* OwedLedger::claim_new(OwnerId owner) noexcept {
  std::atomic<Offset>* link = &queue.owed_;
  for (OwedBlock* block = block_at(place, *link); block != nullptr; block = block_at(place, *link)) {
    std::size_t at = home(owner);
    for (std::size_t looked = 0; looked < OwedBlock::kRecords; ++looked) {
      OwedRecord& record = block->records[at];
      if (record.owner.load() == kNobody) {
        // Relaxed: nobody reads the counts of a record without an owner.
        record.pid.store(os::process_id(), std::memory_order_relaxed);
        record.takes.store(0, std::memory_order_relaxed);
        record.done.store(0, std::memory_order_relaxed);
        // sync: LEDGER (release): the zeroed counts; pairs with find
        record.owner.store(owner, std::memory_order_release);
        FT_CRASH_POINT("queue.owed.claimed");
        return &record;
      }
      at = at + 1 == OwedBlock::kRecords ? 0 : at + 1;
    }
    link = &block->next;
  }
  // The intent's owner tells a sweeper that a block may be reachable and not yet the queue's.
  MessageQueue::End& head = queue.head_;
  // Relaxed: written under this lock. sync: INTENT (release): before the change; pairs with QueueRecovery::repair
  head.intent_owed.store(0, std::memory_order_relaxed);
  head.intent.store(pack_intent(owner, head.count.load(std::memory_order_relaxed)), std::memory_order_release);
  const Offset offset = place.allocate(sizeof(OwedBlock));
  if (offset != kNoOffset) {
    auto* block = new (place.at<OwedBlock>(offset)) OwedBlock{};
    // Relaxed: the block's release below publishes it.
    block->records[home(owner)].pid.store(os::process_id(), std::memory_order_relaxed);
    block->records[home(owner)].owner.store(owner, std::memory_order_relaxed);
    FT_CRASH_POINT("queue.owed.allocated");
    // sync: LEDGER (release): the block; pairs with block_at
    link->store(offset, std::memory_order_release);
    FT_CRASH_POINT("queue.owed.chained");
    place.link(offset);
    FT_CRASH_POINT("queue.owed.linked");
  }
  // sync: INTENT (release): after the change
  head.intent.store(0, std::memory_order_release);
  return offset == kNoOffset ? nullptr : &place.at<OwedBlock>(offset)->records[home(owner)];
}

void OwedLedger::set_takes(OwnerId owner, std::uint64_t takes) noexcept {
  OwedRecord* record = find(owner);
  if (record != nullptr) {
    // sync: OWED (release): after the commit; pairs with find_dead
    record->takes.store(takes, std::memory_order_release);
  }
}

void OwedLedger::finish_one() noexcept {
  OwedRecord* record = find(place.self());
  if (record != nullptr) {
    record->done.fetch_add(1);
  } else {
    queue.strangers_.fetch_add(1);
  }
}

OwnerId OwedLedger::find_dead() const noexcept {
  std::uint64_t lost = 0;
  std::uint64_t in_stead = queue.strangers_.load();
  OwnerId first = kNobody;
  for (OwedBlock* block = block_at(place, queue.owed_); block != nullptr; block = block_at(place, block->next)) {
    for (const OwedRecord& record : block->records) {
      const OwnerId owner = record.owner.load();
      if (owner == kNobody) {
        continue;
      }
      const std::uint64_t done = record.done.load();
      // sync: OWED (acquire): pairs with get_locked
      const std::uint64_t takes = record.takes.load(std::memory_order_acquire);
      if (done > takes) {
        in_stead += done - takes;
      } else if (takes > done && place.liveness(owner) != Liveness::kAlive) {
        lost += takes - done;
        first = first == kNobody ? owner : first;
      }
    }
  }
  return lost > in_stead ? first : kNobody;
}

int OwedLedger::pid_of(OwnerId owner) const noexcept {
  const OwedRecord* record = find(owner);
  return record == nullptr ? 0 : record->pid.load();
}

void OwedLedger::link_blocks() noexcept {
  for (const std::atomic<Offset>* link = &queue.owed_; link->load() != kNoOffset;) {
    const Offset block = link->load();
    place.link(block);
    link = &place.at<OwedBlock>(block)->next;
  }
}

void OwedLedger::sweep(OwnerId dead) noexcept {
  OwedRecord* record = find(dead);
  if (record != nullptr && record->takes.load() == record->done.load()) {
    OwnerId expected = dead;
    // Another sweeper may have done it, and a new process claimed it since.
    record->owner.compare_exchange_strong(expected, kNobody);
  }
}

void OwedLedger::destroy() noexcept {
  for (;;) {
    const Offset block = queue.owed_.load();
    if (block == kNoOffset) {
      return;
    }
    place.adopt(block);
    FT_CRASH_POINT("queue.destroy.ledger_adopted");
    queue.owed_.store(place.at<OwedBlock>(block)->next.load());
    place.free(block);
  }
}

// --- task_done and join -----------------------------------------------------------------------------------------------

std::uint64_t MessageQueue::unfinished() const noexcept {
  const std::uint64_t finished = finished_.load();
  return tail_.count.load() - finished;
}

bool MessageQueue::task_done(Place& place) noexcept {
  std::uint64_t finished = finished_.load();
  do {
    if (finished == tail_.count.load()) {
      return false;
    }
  } while (!finished_.compare_exchange_weak(finished, finished + 1));
  FT_CRASH_POINT("queue.task_done.counted");
  if (place.shared()) {
    OwedLedger{*this, place}.finish_one();
  }
  if (unfinished() == 0) {
    Gate(join_gate_).notify_all(place);
  }
  return true;
}

int MessageQueue::pid_of_taker(Place& place, OwnerId taker) noexcept { return OwedLedger{*this, place}.pid_of(taker); }

WaitOutcome MessageQueue::join_until(Place& place, WaitContext& context, OwnerId& dead) noexcept {
  for (;;) {
    Gate gate(join_gate_);
    const std::uint32_t token = gate.prepare();
    if (unfinished() == 0) {
      return WaitOutcome::kReady;
    }
    if (place.shared()) {
      if (shut_down_.load() == kImmediate && size() != 0) {
        drain(place);  // whoever shut it down died on the way
        continue;
      }
      static_cast<void>(mend_if_dead(head_, place, context));
      dead = OwedLedger{*this, place}.find_dead();
      if (dead != kNobody) {
        return WaitOutcome::kOwnerDied;
      }
    }
    if (context.deadline.passed()) {
      return WaitOutcome::kTimedOut;
    }
    if (gate.wait(place, token, context) == WaitOutcome::kInterrupted) {
      return WaitOutcome::kInterrupted;
    }
  }
}

}  // namespace freethreading
