#include "freethreading/pool/worker_record.hpp"

#include <algorithm>

#include "freethreading/crash_point.hpp"
#include "freethreading/memory/session.hpp"
#include "os/futex.hpp"

namespace freethreading {

namespace {

bool has_ended(std::uint32_t state) noexcept { return state >= static_cast<std::uint32_t>(WorkerState::kExited); }
bool has_started(std::uint32_t state) noexcept { return state > static_cast<std::uint32_t>(WorkerState::kStarting); }

// A reference to the object, if there is one still.
class Held {
 public:
  explicit Held(const Handle& handle) noexcept
      : session_(Session::find(handle.session)), object_(session_ != nullptr ? session_->open(handle) : nullptr) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (object_ != nullptr) {
      session_->drop_reference(object_);
    }
  }
  [[nodiscard]] ObjectHeader* object() const noexcept { return object_; }

 private:
  Session* session_;
  ObjectHeader* object_;
};

// Starts and ends take milliseconds, so nobody spins for them.
WaitOutcome wait_for(Place& place, WorkerRecord& record, WaitContext& context,
                     bool (*reached)(std::uint32_t)) noexcept {
  for (;;) {
    // sync: WORKER_STATE (acquire): pid and wait_status; pairs with advance_worker_state
    const std::uint32_t state = record.state.load(std::memory_order_acquire);
    if (reached(state)) {
      return WaitOutcome::kReady;
    }
    const Nanoseconds remaining = context.deadline.remaining();
    if (remaining == 0) {
      return WaitOutcome::kTimedOut;
    }
    look_after_supervisor(place, record);
    if (record.state.load() != state) {
      continue;
    }
    context.parked = true;
    const Nanoseconds slice = std::min(remaining, context.interruptible ? kInterruptibleSlice : kParkSlice);
    const os::FutexResult slept = os::futex_wait(record.state, state, Deadline::after(slice), place.shared());
    const bool look_around = slept == os::FutexResult::kInterrupted || slept == os::FutexResult::kTimedOut;
    if (context.interruptible && look_around && !context.deadline.passed()) {
      return WaitOutcome::kInterrupted;
    }
  }
}

}  // namespace

WaitOutcome wait_for_exit(Place& place, WorkerRecord& record, WaitContext& context) noexcept {
  return wait_for(place, record, context, has_ended);
}

WaitOutcome wait_for_start(Place& place, WorkerRecord& record, WaitContext& context) noexcept {
  return wait_for(place, record, context, has_started);
}

bool advance_worker_state(Place& place, WorkerRecord& record, WorkerState state) noexcept {
  const auto next = static_cast<std::uint32_t>(state);
  // From before the state says that the worker has ended: whoever waits for that may drop the queues at once.
  const std::array queues{Held(has_ended(next) ? record.queues[0] : Handle{}),
                          Held(has_ended(next) ? record.queues[1] : Handle{})};
  std::uint32_t now = record.state.load();
  do {
    if (now >= next || has_ended(now)) {
      return false;
    }
    // sync: WORKER_STATE (seq_cst, so release): pid and wait_status; pairs with wait_for
  } while (!record.state.compare_exchange_weak(now, next));
  FT_CRASH_POINT("worker_record.state_stored");
  constexpr int kEverybody = 1 << 30;
  static_cast<void>(os::futex_wake(record.state, kEverybody, place.shared()));
  for (const Held& queue : queues) {
    if (queue.object() != nullptr) {
      queue.object()->body<MessageQueue>()->wake_consumers(place);
    }
  }
  return true;
}

bool claim_worker(WorkerRecord& record, std::int32_t pid) noexcept {
  std::int32_t owner = 0;
  return record.pid.compare_exchange_strong(owner, pid) || owner == pid;
}

bool begin_worker(Place& place, WorkerRecord& record, std::int32_t pid) noexcept {
  if (!claim_worker(record, pid)) {
    return false;
  }
  FT_CRASH_POINT("worker_record.claimed");
  return advance_worker_state(place, record, WorkerState::kRunning);
}

void look_after_supervisor(Place& place, WorkerRecord& record) noexcept {
  const OwnerId supervisor = record.supervisor.load();
  if (supervisor != kNobody && place.liveness(supervisor) != Liveness::kAlive) {
    mark_worker_lost(place, record);
  }
}

void mark_worker_lost(Place& place, WorkerRecord& record) noexcept {
  constexpr std::int32_t kKilled = 9;  // as waitpid tells of SIGKILL
  if (!has_ended(record.state.load())) {
    record.wait_status.store(kKilled);
    static_cast<void>(advance_worker_state(place, record, WorkerState::kExited));
  }
}

bool take_leave(WorkerRecord& record, AtomicInt64& surplus) noexcept {
  // Relaxed: a leave carries nothing, and one that is not seen yet is taken before the next task.
  if (surplus.load(std::memory_order_relaxed) <= 0) {
    return false;
  }
  record.leaving.store(static_cast<std::uint32_t>(Leaving::kSurplus));
  FT_CRASH_POINT("worker.leave.marked");
  std::int64_t left = surplus.load();
  while (left > 0) {
    if (surplus.compare_exchange_weak(left, left - 1)) {
      FT_CRASH_POINT("worker.leave.taken");
      return true;
    }
  }
  record.leaving.store(static_cast<std::uint32_t>(Leaving::kStays));
  return false;
}

void leave_worker(WorkerRecord& record, Leaving reason) noexcept {
  record.leaving.store(static_cast<std::uint32_t>(reason));
  FT_CRASH_POINT("worker.leave.said");
}

int exit_code_of(std::int32_t wait_status) noexcept {
  // The kernel's encoding: the signal in the low 7 bits, else the exit code in the next byte.
  const int signal = wait_status & 0x7F;
  return signal != 0 ? -signal : wait_status >> 8 & 0xFF;
}

}  // namespace freethreading
