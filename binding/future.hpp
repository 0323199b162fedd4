// What the files of NativeFuture share: its object, and the changes of its state (docs/design/futures.md).
#pragma once

#include <atomic>

#include "compat.hpp"
#include "freethreading/sync/event.hpp"

namespace freethreading::binding {

// From kCancelled on it is done.
enum class FutureState : std::uint32_t { kPending, kRunning, kCancelled, kCancelledAndNotified, kFinished };

struct FutureObject {
  PyObject_HEAD
  std::atomic<FutureState> state;
  Event done;
  std::uint32_t process;       // that made it
  std::atomic<bool> attached;  // with a call on its way: whether somebody is to be told when it is done
  // Written in the critical section; null: None, or not there yet. Result and exception stay once the state is kFinished.
  PyObject* result;
  PyObject* exception;
  PyObject* callbacks;
  PyObject* waiters;
  PyObject* condition;
  PyObject* engine;  // a weak reference to the engine that it depends on
  PyObject* owner;   // what lives until it is done; null from then on
  // Of one whose call is on its way to a process (calls.hpp). `calls` stays once it is set.
  PyObject* calls;
  std::uint64_t number;  // the call's
  std::uint64_t item;    // of which item of a map it is, counted from 1; 0: of none
  std::atomic<std::uint64_t> sequence;  // its message's number in the channel of tasks; 0: not known
  std::atomic<struct Raw*> raw;         // its answer, taken and not yet decoded; set in the critical section of `calls`
  // The call, until it runs. Of one that is on its way to a process: the function, or its name, and what it refers to in the region.
  PyObject* function;
  PyObject* args;
  PyObject* kwargs;
  PyObject* context;
};

inline FutureObject* future_of(PyObject* self) { return reinterpret_cast<FutureObject*>(self); }

// Whether what was asked was done (kDone), was impossible in the state that there is (kRefused), or is the standard
// library's to do (kStandard).
enum class Change : std::uint8_t { kDone, kRefused, kStandard };

// PENDING to RUNNING, or CANCELLED to CANCELLED_AND_NOTIFIED; `before` is what it was.
Change begin_future(PyObject* self, FutureState* before);
// To FINISHED. `result` or `exception` is borrowed; the other is null. `has_callbacks`: they are to be called.
Change settle_future(PyObject* self, PyObject* result, PyObject* exception, bool* has_callbacks);
// The standard library's method of that name, for a future with a condition. Null: an error is set.
PyObject* call_standard(PyObject* self, const char* name, PyObject* argument = nullptr);
// Whether this thread hands out an engine's outcomes just now.
bool is_handing();

// run(prepare, outstanding), a method (future_run.cpp).
PyObject* future_run(PyObject* self, PyObject* const* args, Py_ssize_t nargs);
// The functions of the module that go with it.
extern PyMethodDef future_functions[];

}  // namespace freethreading::binding
