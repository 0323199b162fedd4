#include "supervisor/memory_watch.hpp"

#include <algorithm>

#include "freethreading/crash_point.hpp"
#include "freethreading/process_memory.hpp"
#include "os/children.hpp"
#include "os/signals.hpp"

namespace freethreading::supervisor {

namespace {

constexpr Nanoseconds kLook = kSecond / 5;
// How long a process may take to stop, and how soon it is looked at again. Its stop wakes the loop as well.
constexpr Nanoseconds kPatience = kSecond / 20;
constexpr Nanoseconds kGlance = kMillisecond;

WorkerRecord& body(ObjectHeader* record) noexcept { return *record->body<WorkerRecord>(); }

}  // namespace

MemoryWatch::Note MemoryWatch::note_of(const WorkerRecord& record) noexcept {
  return {.sequence = record.task.sequence.load(), .item = record.item.load()};
}

void MemoryWatch::look(const std::vector<ObjectHeader*>& workers) noexcept {
  if (suspect_ && !settle_suspect(workers)) {
    next_ = Deadline::after(kGlance);
    return;
  }
  const bool is_any = std::any_of(workers.begin(), workers.end(), [](ObjectHeader* worker) { return body(worker).memory_limit != 0; });
  if (!is_any) {
    next_ = Deadline::never();
    return;
  }
  if (!next_.is_never() && !next_.passed()) {
    return;
  }
  next_ = Deadline::after(kLook);
  for (ObjectHeader* worker : workers) {
    suspect(worker);
    if (suspect_) {
      next_ = Deadline::after(kGlance);  // the others behind it
      return;
    }
  }
}

void MemoryWatch::suspect(ObjectHeader* worker) noexcept {
  WorkerRecord& record = body(worker);
  const std::int32_t pid = record.pid.load();
  const Note note = note_of(record);
  // One that is in no task looks itself.
  if (record.memory_limit == 0 || (record.is_ready.load() != 0 && note.item == 0)) {
    return;
  }
  const std::uint64_t memory = private_memory(pid);
  // One that was stopped by somebody else grows no more, and is looked at again when it goes on.
  if (memory / kFarOver <= record.memory_limit || os::is_stopped(pid) || !hold_worker(record)) {
    return;
  }
  os::kill_process(pid, os::kStop);
  FT_CRASH_POINT("supervisor.suspect.stopped");
  suspect_ = Suspect{.record = worker, .note = note, .memory = memory, .give_up = Deadline::after(kPatience)};
}

// False: it has not stopped yet.
bool MemoryWatch::settle_suspect(const std::vector<ObjectHeader*>& workers) noexcept {
  const Suspect suspect = *suspect_;
  if (std::find(workers.begin(), workers.end(), suspect.record) == workers.end()) {  // it has ended
    suspect_.reset();
    return true;
  }
  WorkerRecord& record = body(suspect.record);
  const std::int32_t pid = record.pid.load();
  const bool has_stopped = os::is_stopped(pid);
  if (!has_stopped && !suspect.give_up.passed()) {
    return false;
  }
  if (has_stopped && note_of(record) == suspect.note) {
    record.excess.store(suspect.memory);
    FT_CRASH_POINT("supervisor.suspect.noted");
    os::kill_process(pid, os::kKill);
  } else {
    os::kill_process(pid, os::kContinue);
  }
  let_go_of_worker(record);
  suspect_.reset();
  return true;
}

}  // namespace freethreading::supervisor
