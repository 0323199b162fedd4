// WorkerRecord: what the program, the supervisor and one worker process know of that worker, in the region.
//
//   state      written by         when
//   kNew       program            made
//   kStarting  program            its start was asked of the supervisor
//   kRunning   worker             it runs; pid is set
//   kExited    supervisor         it has ended; wait_status is set; never left
//   kFailed    supervisor         it could not be started; never left
//
// `pid` is set once, by compare-and-swap from 0: the process whose id it is owns the record. A start that is tried again
// after a zygote's death may make a second process; it finds the record taken and leaves.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "freethreading/memory/object.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "freethreading/sync/atomic_int64.hpp"

namespace freethreading {

enum class WorkerState : std::uint32_t { kNew = 0, kStarting, kRunning, kExited, kFailed };

// Why a worker leaves of its own accord, between two tasks.
enum class Leaving : std::uint32_t {
  kStays = 0,
  kSurplus,  // there are more workers than there are to be
  kIdle,     // it had nothing to do for as long as a worker may
  kMemory,   // it has more memory than a worker may
};

struct WorkerRecord {
  std::atomic<std::uint32_t> state;        // WorkerState; futex: program threads park on it in join
  std::atomic<std::int32_t> pid;           // 0: nobody's yet
  std::atomic<OwnerId> supervisor;         // the process that answers for state; kNobody: none was asked yet
  std::atomic<std::int32_t> wait_status;   // as waitpid gives it, from kExited on
  std::atomic<Offset> payload;             // block with what it has to do, see src/freethreading/_launch.py; owned by the record
  std::atomic<std::uint64_t> payload_size;
  std::array<Handle, 2> queues;            // objects whose MessageQueues' consumers are woken at its exit; set before kStarting
  TakeNote task;                           // the task message that it took last
  std::atomic<std::uint64_t> item;         // index in that message's batch of what it runs now
  std::atomic<std::uint32_t> leaving;      // Leaving; written by the worker, which takes no task behind it
  std::atomic<std::uint32_t> is_ready;     // 1: its initializer is done; written by the worker
  std::uint64_t crew;                      // which of the program's workers it stands in for and may be replaced by; 0: none
  std::uint64_t beside;                    // of a standby: how many others of its crew the program knew of when it asked
  std::uint64_t memory_limit;              // bytes; beyond kFarOver times that it is killed in the middle of a task; 0: never
  std::atomic<std::uint64_t> excess;       // bytes that it had when it was killed for that; 0: it was not
  std::atomic<std::uint64_t> to_end;       // tag of the task that it shall be killed in; 0: of none
  std::atomic<std::uint64_t> ended;        // tag of the task that it was killed in because of that; 0: of none
};

// A worker that has so many times the memory that it may have is killed in the middle of its task.
inline constexpr std::uint64_t kFarOver = 2;

// Waits for kExited or kFailed. kReady, kTimedOut, kInterrupted.
WaitOutcome wait_for_exit(Place& place, WorkerRecord& record, WaitContext& context) noexcept;
// Waits for anything past kStarting.
WaitOutcome wait_for_start(Place& place, WorkerRecord& record, WaitContext& context) noexcept;
// Sets the state unless it is past it, wakes whoever waits for it, and the consumers of its queues at kExited and kFailed: the
// queues may be dropped by whoever has seen that.
// False: it was past it.
bool advance_worker_state(Place& place, WorkerRecord& record, WorkerState state) noexcept;
// The worker's first act: makes the record that of process `pid` and kRunning. False: another process's, or it failed.
[[nodiscard]] bool begin_worker(Place& place, WorkerRecord& record, std::int32_t pid) noexcept;
// Takes the record for process `pid`; true also where it has it already.
[[nodiscard]] bool claim_worker(WorkerRecord& record, std::int32_t pid) noexcept;
// Calls mark_worker_lost() if the process that answers for the record is dead.
void look_after_supervisor(Place& place, WorkerRecord& record) noexcept;
// The supervisor went, and the worker with it: kExited by SIGKILL, unless its end is known already. Whichever comes first,
// this or the supervisor's own word, stays.
void mark_worker_lost(Place& place, WorkerRecord& record) noexcept;
// For the worker, between two tasks: takes one of the leaves that `surplus` counts, so that its `leaving` says kSurplus. False:
// there is none. Who counts the workers that stay, and then changes `surplus` by a compare-and-swap of a value that was read
// before, never counts a worker that has taken one of these leaves.
[[nodiscard]] bool take_leave(WorkerRecord& record, AtomicInt64& surplus) noexcept;
// For the worker: it leaves for another reason, and takes no other task.
void leave_worker(WorkerRecord& record, Leaving reason) noexcept;
// As Python has it: the exit code, or minus the number of the signal that ended it.
[[nodiscard]] int exit_code_of(std::int32_t wait_status) noexcept;

}  // namespace freethreading
