// OwedLedger: which process has taken how many items of a queue and finished how many, so that a join() that waits for a
// dead one says so. One record a process, in a chain of small blocks that only grows.
//
//   record    written by                                   when
//   owner     claim(), under the head lock                 the process's first get
//   pid       the same, before it                          the same; stays when the slot goes to another process
//   takes     a getter of that process, its head lock held after each commit
//   done      threads of that process, in task_done()      after `finished_` counted the item
//   owner = 0 sweep()                                      the process is dead and owed nothing
//
// An owner includes its slot's generation: a record of a dead process is never mistaken for that of the slot's next one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "freethreading/queue/message_queue.hpp"

namespace freethreading {

struct OwedRecord {
  std::atomic<OwnerId> owner;
  std::atomic<std::int32_t> pid;
  std::atomic<std::uint64_t> takes;
  std::atomic<std::uint64_t> done;
};

struct OwedBlock {
  static constexpr std::size_t kRecords = 42;
  std::atomic<Offset> next;
  std::array<OwedRecord, kRecords> records;
};
static_assert(sizeof(OwedBlock) <= 1024);

struct OwedLedger {
  MessageQueue& queue;
  Place& place;

  // This process's record, made if need be; null: no memory. REQUIRES: head lock held, place shared.
  OwedRecord* claim() noexcept;
  // The record of `owner`, null: none. Needs no lock: records stay where they are.
  [[nodiscard]] OwedRecord* find(OwnerId owner) const noexcept;
  // The owner of some dead process's record with more takes than done, beyond what others have finished in its stead;
  // kNobody: none. Makes system calls.
  [[nodiscard]] OwnerId find_dead() const noexcept;
  // One item was finished by this process.
  void finish_one() noexcept;
  // For the repair of a get: sets the takes of `owner` (again).
  void set_takes(OwnerId owner, std::uint64_t takes) noexcept;
  // For the repair of a claim: every block that can be reached belongs to the queue.
  void link_blocks() noexcept;
  // The process id of a record's owner; 0: it has none.
  [[nodiscard]] int pid_of(OwnerId owner) const noexcept;
  void sweep(OwnerId dead) noexcept;
  void destroy() noexcept;

 private:
  OwedRecord* claim_new(OwnerId owner) noexcept;
};

}  // namespace freethreading
