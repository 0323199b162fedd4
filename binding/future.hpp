// What the files of NativeFuture share: its object, and the changes of its state (docs/design/futures.md).
#pragma once

#include <atomic>

#include "compat.hpp"
#include "freethreading/sync/event.hpp"

namespace freethreading::binding {

// From kCancelled on it is done.
enum class FutureState : std::uint32_t { kPending, kRunning, kCancelled, kCancelledAndNotified, kFinished };

// More of the call that a future carries.
struct CarriedCall {
  PyObject* kwargs;
  PyObject* context;  // null: one without variables
};

// Of a call that is on its way to a process.
struct SentCall {
  std::uint64_t number;
  std::uint64_t item;                   // of which item of a map it is, counted from 1; 0: of none
  std::atomic<std::uint64_t> sequence;  // its message's number in the channel of tasks; 0: not known
  std::atomic<struct Raw*> raw;         // its answer, taken and not yet decoded; set in the critical section of `calls`
};

// What only the standard library's functions need, of those futures that they work on.
struct StandardPart {
  PyObject* waiters;
  PyObject* condition;
};

struct FutureObject {
  PyObject_HEAD
  std::atomic<FutureState> state;
  Event done;
  std::uint32_t process;       // that made it
  std::atomic<bool> attached;  // with a call on its way: whether somebody is to be told when it is done
  std::atomic<bool> is_to_end;  // with a call that a thread runs: whether it was asked to end
  // Written in the critical section; null: None, or not there yet. The outcome stays once the state is kFinished.
  bool has_failed;    // the outcome is an exception
  bool is_collected;  // it may be in a cycle, whatever its outcome is
  PyObject* outcome;  // else the result
  PyObject* callbacks;
  StandardPart* standard;
  PyObject* engine;  // a weak reference to the engine that it depends on
  PyObject* owner;   // what lives until it is done; null from then on
  // Of one whose call is on its way to a process (calls.hpp). It stays once it is set.
  PyObject* calls;
  // The call, until it runs. Of one that is on its way to a process: the function, or its name, and what it refers to in the region.
  PyObject* function;
  PyObject* args;
  union {
    CarriedCall carried;
    SentCall sent;  // where `calls` is set
  };
};

inline FutureObject* future_of(PyObject* self) { return reinterpret_cast<FutureObject*>(self); }

// Whether what was asked was done (kDone), was impossible in the state that there is (kRefused), or is the standard
// library's to do (kStandard).
enum class Change : std::uint8_t { kDone, kRefused, kStandard };

// The slots of its type that make it and end it (future_make.cpp).
int future_init(PyObject* self, PyObject* args, PyObject* kwargs);
PyObject* future_new(PyTypeObject* type, PyObject* args, PyObject* kwargs);
int future_traverse(PyObject* self, visitproc visit, void* arg);
int future_clear(PyObject* self);
int future_setattro(PyObject* self, PyObject* name, PyObject* value);
void future_dealloc(PyObject* self);
// Attributes, the user's above all, may lead back to it: each garbage collection walks over it. REQUIRES: in the critical section.
void enter_collector(FutureObject* future);
// It is done: what cannot be in a cycle any more, as most cannot, no collection walks over.
void leave_collector(PyObject* self);
// One of that type, which has NativeFuture as a base; `engine`: a weak reference. Null: an error is set.
PyObject* new_future(PyTypeObject* type, PyObject* engine);
// Has an engine, of which that is a weak reference, start a worker where there may be more. False: an error is set.
bool grow_engine(PyObject* engine);
// One of that type, which has NativeFuture as a base, with a call in the calling thread's context variables. Null: an error is set.
PyObject* new_call(PyTypeObject* type, PyObject* engine, PyObject* function, PyObject* args, PyObject* kwargs);
// PENDING to RUNNING, or CANCELLED to CANCELLED_AND_NOTIFIED; `before` is what it was.
Change begin_future(PyObject* self, FutureState* before);
// To FINISHED. `result` or `exception` is borrowed; the other is null. `has_callbacks`: they are to be called.
Change settle_future(PyObject* self, PyObject* result, PyObject* exception, bool* has_callbacks);
// The standard library's method of that name, for a future with a condition. Null: an error is set.
PyObject* call_standard(PyObject* self, const char* name, PyObject* argument = nullptr);
// Whether this thread hands out an engine's outcomes just now.
bool is_handing();

// run(prepare, outstanding) and ask_to_end(), methods (future_run.cpp).
PyObject* future_run(PyObject* self, PyObject* const* args, Py_ssize_t nargs);
PyObject* future_ask_to_end(PyObject* self, PyObject* unused);
// The functions of the module that go with it.
extern PyMethodDef future_functions[];

}  // namespace freethreading::binding
