// WorkerTerms: what a pool's worker asks itself between two tasks: whether it is to leave (docs/design/staff.md).
#pragma once

#include "compat.hpp"
#include "freethreading/deadline.hpp"
#include "freethreading/pool/worker_record.hpp"
#include "freethreading/sync/atomic_int64.hpp"
#include "state.hpp"

namespace freethreading::binding {

struct TermsObject {
  PyObject_HEAD
  PyObject* record_object;   // owned, as the next one; null until it is made
  PyObject* surplus_object;
  WorkerRecord* record;      // inside of it, as the next one
  AtomicInt64* surplus;      // how many workers are to leave
  double idle;               // seconds after which a worker that has nothing to do leaves; negative: never
  std::uint64_t memory;      // bytes beyond which a worker leaves; 0: it does not
  Nanoseconds looked;        // when it last looked how many it has
  bool has_worked;           // since then

  // Whether this worker leaves: then its record says why, and it takes no other task. REQUIRES: it is in no task.
  [[nodiscard]] bool end() { return take_leave(*record, *surplus) || (memory != 0 && has_worked && is_too_large()); }
  // Whether it is to ask end() once more, a moment after its last task, before it goes to sleep.
  [[nodiscard]] bool has_to_look() const { return memory != 0 && has_worked; }
  [[nodiscard]] static Deadline look_deadline() { return Deadline::after(kLook); }
  // Until when a worker waits that has nothing to do from now on. It leaves then, behind a last look.
  [[nodiscard]] Deadline wait_deadline() const;

  // A look costs some microseconds, so this often at most. In this time a worker cannot get much larger: what it is found to have
  // while a task runs is that task's.
  static constexpr Nanoseconds kLook = 2 * kMillisecond;

 private:
  [[nodiscard]] bool is_too_large();
};

// Null with a TypeError for anything else. `self`: any object of the module.
TermsObject* terms_of(PyObject* self, PyObject* object);

}  // namespace freethreading::binding
