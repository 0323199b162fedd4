// MemoryWatch: kills workers that have far more memory than they may have (docs/design/staff.md).
//
// A worker must not be in another task by the time that it is killed, and nobody can look and kill in one step. So it is stopped
// first; where it is still in the task in which it was too large, it is killed, else it goes on. Nothing here waits.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "freethreading/deadline.hpp"
#include "freethreading/memory/session.hpp"
#include "freethreading/pool/worker_record.hpp"

namespace freethreading::supervisor {

class MemoryWatch {
 public:
  // Does what it is time for. `workers`: the records of all that have a process and have not ended.
  void look(const std::vector<ObjectHeader*>& workers) noexcept;
  // When to look again, if no worker comes or stops before.
  [[nodiscard]] Deadline next() const noexcept { return next_; }

 private:
  // What a worker was in.
  struct Note {
    std::uint64_t sequence;
    std::uint64_t item;
    bool operator==(const Note&) const = default;
  };
  // One that was told to stop.
  struct Suspect {
    ObjectHeader* record;
    Note note;
    std::uint64_t memory;
    Deadline give_up;
  };
  [[nodiscard]] static Note note_of(const WorkerRecord& record) noexcept;
  [[nodiscard]] bool settle_suspect(const std::vector<ObjectHeader*>& workers) noexcept;
  void suspect(ObjectHeader* worker) noexcept;

  std::optional<Suspect> suspect_;
  Deadline next_ = Deadline::never();
};

}  // namespace freethreading::supervisor
