// The one blocking loop: detach, wait in the core, attach, run signal handlers, wait on.
//
// Python's signal handlers run in the main thread only, so that only its waits come back from the core in between. What
// lies on the stack above the detach has no destructor and no noexcept: where the interpreter ends, a daemon thread never
// comes back from re-attaching, and before Python 3.14 its stack is unwound by force.
#pragma once

#include "compat.hpp"
#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"

namespace freethreading::binding {

// Whether the calling thread is the process's first one: the kernel numbers it as the process.
inline bool in_main_thread() { return PyThread_get_thread_native_id() == Place::private_memory().self(); }

// `step(context)` is the core's wait, called without the interpreter: it touches no Python object. kInterrupted: a signal
// handler raised; its exception is set and nothing was taken.
template <class Step>
WaitOutcome wait_detached(Deadline deadline, Step step) {
  WaitContext context(deadline, in_main_thread());
  for (;;) {
    WaitOutcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = step(context);
    Py_END_ALLOW_THREADS;
    if (outcome != WaitOutcome::kInterrupted || PyErr_CheckSignals() != 0) return outcome;
  }
}

// Runs what blocks for a short time only (a guard of the core), without the interpreter.
template <class Action>
void detached(Action action) {
  Py_BEGIN_ALLOW_THREADS;
  action();
  Py_END_ALLOW_THREADS;
}

}  // namespace freethreading::binding
