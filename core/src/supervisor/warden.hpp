// Killing a worker in the middle of a task, and in no other.
//
// A worker must not be in another task by the time that it is killed, and nobody can look and kill in one step. So it is stopped
// first; where it is still in that task then, it is killed, else it goes on. What is stopped may hold any lock of the region: nothing
// here takes one, and while a worker is stopped nothing else is done.
#pragma once

#include <vector>

#include "freethreading/deadline.hpp"
#include "freethreading/memory/session.hpp"
#include "freethreading/pool/worker_record.hpp"

namespace freethreading::supervisor {

// Kills each of these workers that is in the task that its record's `to_end` names; `ended` says so then.
void end_tasks_of(const std::vector<ObjectHeader*>& workers) noexcept;

// Kills workers that have far more memory than they may have (docs/design/staff.md).
class MemoryWatch {
 public:
  // Looks at them if it is time to. `workers`: the records of all that have a process and have not ended.
  void look(const std::vector<ObjectHeader*>& workers) noexcept;
  // When to look again, if no worker comes before.
  [[nodiscard]] Deadline next() const noexcept { return next_; }

 private:
  Deadline next_ = Deadline::never();
};

}  // namespace freethreading::supervisor
