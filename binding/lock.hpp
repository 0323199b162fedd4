// What Lock and RLock have in common, and what a Condition needs of its lock.
//
// `Core` is the core's Lock or RLock, the body of `self`.
#pragma once

#include "args.hpp"
#include "errors.hpp"
#include "placement.hpp"
#include "wait.hpp"

namespace freethreading::binding {

// Takes the lock, detached while it waits. kReady, kOwnerDied, kTimedOut, or kInterrupted with an error set.
template <class Core>
WaitOutcome take_lock(PyObject* self, Deadline deadline) {
  Place& place = place_of(self);
  Core& core = *body_of<Core>(self);
  const WaitOutcome outcome = core.try_lock(place);
  if (outcome != WaitOutcome::kTimedOut) return outcome;
  if (deadline.is_immediate()) {
    // Does not wait, but finds out whether the owner is dead.
    WaitContext context(deadline);
    return core.lock_until(place, context);
  }
  return wait_detached(deadline, [&](WaitContext& context) { return core.lock_until(place, context); });
}

template <class Core>
PyObject* acquire_within(PyObject* self, Deadline deadline) {
  const WaitOutcome outcome = take_lock<Core>(self, deadline);
  return acquired(self, outcome, [self] { static_cast<void>(body_of<Core>(self)->unlock(place_of(self))); });
}

// Lock.__enter__
template <class Core>
PyObject* enter_lock(PyObject* self, PyObject* /*unused*/) {
  if (body_of<Core>(self)->try_lock(place_of(self)) == WaitOutcome::kReady) Py_RETURN_TRUE;
  return acquire_within<Core>(self, Deadline::never());
}

// Lock.acquire
template <class Core>
PyObject* acquire_lock(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  if (no_arguments(nargs, kwnames)) return enter_lock<Core>(self, nullptr);
  Deadline deadline = Deadline::never();
  if (!acquire_deadline(args, nargs, kwnames, &deadline)) return nullptr;
  return acquire_within<Core>(self, deadline);
}

// Takes the lock whatever happens: signal handlers run meanwhile, and what they raise comes afterwards. False: an error is
// set (the one that was set before, if any), and the lock is held all the same.
template <class Core>
bool take_lock_back(PyObject* self) {
  PyObject* pending = take_exception();
  WaitOutcome outcome = take_lock<Core>(self, Deadline::never());
  while (outcome == WaitOutcome::kInterrupted) {
    PyObject* raised = take_exception();
    if (pending == nullptr) {
      pending = raised;
    } else {
      Py_XDECREF(raised);
    }
    outcome = take_lock<Core>(self, Deadline::never());
  }
  if (outcome == WaitOutcome::kOwnerDied && !warn_owner_died(self) && pending == nullptr) return false;
  if (pending == nullptr) return true;
  PyErr_Clear();
  give_exception(pending);
  return false;
}

// How much of a lock a Condition's wait gave up.
struct Hold {
  std::uint32_t depth = 0;      // of an RLock
  PyObject* saved = nullptr;  // what _release_save() of a subclass returned, owned
};

// The operations by which a Condition uses its lock: those of Lock, of RLock, or of a subclass made in Python.
struct LockOperations {
  PyObject* (*acquire)(PyObject* lock, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* (*enter)(PyObject* lock, PyObject* unused);
  PyObject* (*release)(PyObject* lock, PyObject* unused);
  PyObject* (*locked)(PyObject* lock, PyObject* unused);
  // 1, 0, or -1 with an error.
  int (*is_owned)(PyObject* lock);
  // Gives up all of it. False: an error is set.
  bool (*release_all)(PyObject* lock, Hold* hold);
  // As take_lock_back(); ends the hold.
  bool (*take_back)(PyObject* lock, Hold* hold);
};

extern const LockOperations kLockOperations;
extern const LockOperations kRLockOperations;

}  // namespace freethreading::binding
