// The one translation of the core's outcomes into Python's results and errors.
#pragma once

#include "compat.hpp"
#include "freethreading/memory/session.hpp"
#include "freethreading/wait.hpp"
#include "state.hpp"

namespace freethreading::binding {

// A Python object from the table in errors.cpp, borrowed from the state; null with the import's error.
PyObject* imported(State* state, Import which);

// Sets an error of that class; always null, for `return raise(...)`. The class is found through `self`'s module.
PyObject* raise(PyObject* self, Import which, const char* message);
PyObject* raise(State* state, Import which, const char* message);

// Sets the error that says why there is no session, and what to do.
void raise_session_error(const SessionResult& result);

// An OwnerDiedWarning for `self`. False: warnings are errors here, and it is set.
bool warn_owner_died(PyObject* self);

// What acquire() returns after `outcome` (kReady, kOwnerDied, kTimedOut, kNoMemory of an RLock's count, or kInterrupted with
// an error set). `unlock` undoes
// the acquisition where the warning about a dead owner raises.
template <class Unlock>
PyObject* acquired(PyObject* self, WaitOutcome outcome, Unlock unlock) {
  if (outcome == WaitOutcome::kInterrupted) return nullptr;
  if (outcome == WaitOutcome::kNoMemory) {
    PyErr_SetString(PyExc_OverflowError, "the lock's count would pass its largest value");
    return nullptr;
  }
  if (outcome == WaitOutcome::kOwnerDied && !warn_owner_died(self)) {
    unlock();
    return nullptr;
  }
  return Py_NewRef(outcome == WaitOutcome::kTimedOut ? Py_False : Py_True);
}

}  // namespace freethreading::binding
