#include "supervisor/warden.hpp"

#include <algorithm>

#include "freethreading/crash_point.hpp"
#include "freethreading/process_memory.hpp"
#include "os/children.hpp"
#include "os/signals.hpp"
#include "os/watch.hpp"

namespace freethreading::supervisor {

namespace {

constexpr Nanoseconds kLook = kSecond / 5;
// How long a process may take to stop, how often it is looked at without a pause, and how long the pauses are behind that.
constexpr Nanoseconds kPatience = kSecond / 20;
constexpr int kGlances = 20;
constexpr Nanoseconds kPause = kMillisecond;

WorkerRecord& body(ObjectHeader* record) noexcept { return *record->body<WorkerRecord>(); }

// What a worker is in.
struct Note {
  std::uint64_t sequence;
  std::uint64_t item;
  bool operator==(const Note&) const = default;
};

Note note_of(const WorkerRecord& record) noexcept {
  return {.sequence = record.task.sequence.load(), .item = record.item.load()};
}

// Until it has stopped, or ended, or takes too long.
os::Activity await_stop(int pid) noexcept {
  const Deadline deadline = Deadline::after(kPatience);
  os::Activity now = os::activity_of(pid);
  for (int glances = 0; now == os::Activity::kRuns && !deadline.passed(); ++glances) {
    if (glances >= kGlances) {
      static_cast<void>(os::wait_readable({}, Deadline::after(kPause)));
    }
    now = os::activity_of(pid);
  }
  return now;
}

// Stops the process, and kills it if is_so() then; note_it() is called before.
template <class Condition, class Action>
void kill_if(std::int32_t pid, Condition is_so, Action note_it) noexcept {
  const os::Activity before = os::activity_of(pid);
  if (before == os::Activity::kEnded) {
    return;
  }
  // One that was stopped by somebody else stays so, unless it is killed.
  if (before == os::Activity::kRuns) {
    os::kill_process(pid, os::kStop);
  }
  FT_CRASH_POINT("supervisor.warden.stopped");
  if (await_stop(pid) == os::Activity::kStopped && is_so()) {
    note_it();
    FT_CRASH_POINT("supervisor.warden.noted");
    os::kill_process(pid, os::kKill);
  } else if (before == os::Activity::kRuns) {
    os::kill_process(pid, os::kContinue);
  }
}

void end_if_too_large(WorkerRecord& record) noexcept {
  const Note note = note_of(record);
  // One that is in no task looks itself.
  if (record.memory_limit == 0 || (record.is_ready.load() != 0 && note.item == 0)) {
    return;
  }
  const std::int32_t pid = record.pid.load();
  const std::uint64_t memory = private_memory(pid);
  if (memory / kFarOver > record.memory_limit) {
    kill_if(
        pid, [&] { return note_of(record) == note; }, [&] { record.excess.store(memory); });
  }
}

}  // namespace

void end_task_of(WorkerRecord& record) noexcept {
  const std::uint64_t tag = record.to_end.load();
  const auto is_in_it = [&] { return record.task.tag.load() == tag && record.item.load() != 0; };
  // It may be asked for again and again.
  if (tag != 0 && record.ended.load() != tag && is_in_it()) {
    kill_if(record.pid.load(), is_in_it, [&] { record.ended.store(tag); });
  }
}

void MemoryWatch::look(const std::vector<ObjectHeader*>& workers) noexcept {
  const bool is_any = std::any_of(workers.begin(), workers.end(),
                                  [](ObjectHeader* worker) { return body(worker).memory_limit != 0; });
  if (!is_any) {
    next_ = Deadline::never();
  } else if (next_.is_never() || next_.passed()) {
    std::for_each(workers.begin(), workers.end(), [](ObjectHeader* worker) { end_if_too_large(body(worker)); });
    next_ = Deadline::after(kLook);
  }
}

}  // namespace freethreading::supervisor
