#include "supervisor/warden.hpp"

#include <algorithm>
#include <array>

#include "freethreading/crash_point.hpp"
#include "freethreading/process_memory.hpp"
#include "os/children.hpp"
#include "os/signals.hpp"
#include "os/watch.hpp"

namespace freethreading::supervisor {

namespace {

constexpr Nanoseconds kLook = kSecond / 5;
// How long processes may take to stop, how often they are looked at without a pause, and how long the pauses are behind that.
constexpr Nanoseconds kPatience = kSecond / 20;
constexpr Nanoseconds kPatienceForEach = 4 * kMillisecond;  // a turn of each of those that want to run
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

// A worker that is to be killed in the middle of what it is in.
struct Suspect {
  WorkerRecord* record;
  std::uint64_t tag;     // of the task that it is to end in; 0: it has too much memory
  std::uint64_t memory;  // that it has then, and
  Note note;             // what it is in
  bool ran;              // one that was stopped by somebody else stays so, unless it is killed
};

bool is_in(const WorkerRecord& record, std::uint64_t tag) noexcept {
  return record.task.tag.load() == tag && record.item.load() != 0;
}

// Several are stopped at a time: where there are more processes that run than processors, each stops when its turn comes.
class Suspects {
 public:
  explicit Suspects(void (*act)(const Suspect&), bool (*is_so)(const Suspect&)) noexcept : is_so_(is_so), act_(act) {}

  void add(const Suspect& suspect) noexcept {
    if (count_ == those_.size()) {
      kill_those_that_are();
    }
    those_[count_++] = suspect;
  }

  // Stops them all, and kills those that are so then; they are noted before.
  void kill_those_that_are() noexcept {
    stop_all();
    const Deadline deadline = Deadline::after(kPatience + static_cast<Nanoseconds>(count_) * kPatienceForEach);
    for (int glances = 0; count_ != 0; ++glances) {
      const bool is_over = deadline.passed();
      std::size_t left = 0;
      for (std::size_t index = 0; index < count_; ++index) {
        if (!is_settled(those_[index], is_over)) {
          those_[left++] = those_[index];
        }
      }
      count_ = left;
      if (count_ != 0 && glances >= kGlances) {
        static_cast<void>(os::wait_readable({}, Deadline::after(kPause)));
      }
    }
  }

 private:
  void stop_all() noexcept {
    for (std::size_t index = 0; index < count_; ++index) {
      Suspect& suspect = those_[index];
      const std::int32_t pid = suspect.record->pid.load();
      suspect.ran = os::activity_of(pid) == os::Activity::kRuns;
      if (suspect.ran) {
        os::kill_process(pid, os::kStop);
      }
    }
    if (count_ != 0) {
      FT_CRASH_POINT("supervisor.warden.stopped");
    }
  }

  // Whether it has been killed, or goes on, or has ended.
  bool is_settled(const Suspect& suspect, bool is_over) const noexcept {
    const std::int32_t pid = suspect.record->pid.load();
    const os::Activity now = os::activity_of(pid);
    if (now == os::Activity::kStopped && is_so_(suspect)) {
      act_(suspect);
      FT_CRASH_POINT("supervisor.warden.noted");
      os::kill_process(pid, os::kKill);
      return true;
    }
    if (now == os::Activity::kRuns && !is_over) {
      return false;
    }
    if (suspect.ran && now != os::Activity::kEnded) {
      os::kill_process(pid, os::kContinue);
    }
    return true;
  }

  bool (*is_so_)(const Suspect&);
  void (*act_)(const Suspect&);
  std::array<Suspect, 64> those_{};
  std::size_t count_ = 0;
};

}  // namespace

void end_tasks_of(const std::vector<ObjectHeader*>& workers) noexcept {
  Suspects suspects([](const Suspect& suspect) { suspect.record->ended.store(suspect.tag); },
                    [](const Suspect& suspect) { return is_in(*suspect.record, suspect.tag); });
  for (ObjectHeader* worker : workers) {
    WorkerRecord& record = body(worker);
    const std::uint64_t tag = record.to_end.load();
    // It may be asked for again and again.
    if (tag != 0 && record.ended.load() != tag && is_in(record, tag)) {
      suspects.add({.record = &record, .tag = tag, .memory = 0, .note = {}, .ran = false});
    }
  }
  suspects.kill_those_that_are();
}

void MemoryWatch::look(const std::vector<ObjectHeader*>& workers) noexcept {
  const bool is_any = std::any_of(workers.begin(), workers.end(),
                                  [](ObjectHeader* worker) { return body(worker).memory_limit != 0; });
  if (!is_any) {
    next_ = Deadline::never();
  } else if (next_.is_never() || next_.passed()) {
    Suspects suspects([](const Suspect& suspect) { suspect.record->excess.store(suspect.memory); },
                      [](const Suspect& suspect) { return note_of(*suspect.record) == suspect.note; });
    for (ObjectHeader* worker : workers) {
      WorkerRecord& record = body(worker);
      const Note note = note_of(record);
      // One that is in no task looks itself.
      if (record.memory_limit == 0 || (record.is_ready.load() != 0 && note.item == 0)) {
        continue;
      }
      const std::uint64_t memory = private_memory(record.pid.load());
      if (memory / kFarOver > record.memory_limit) {
        suspects.add({.record = &record, .tag = 0, .memory = memory, .note = note, .ran = false});
      }
    }
    suspects.kill_those_that_are();
    next_ = Deadline::after(kLook);
  }
}

}  // namespace freethreading::supervisor
