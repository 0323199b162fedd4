// NativeFuture: the base of the futures that an executor gives, with the state of a concurrent.futures.Future and, on
// threads, the call (docs/design/futures.md).
#include "future.hpp"

#include <cstring>
#include <utility>

#include "args.hpp"
#include "calls.hpp"
#include "errors.hpp"
#include "patience.hpp"
#include "placement.hpp"
#include "ref.hpp"
#include "state.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

// In the order of FutureState.
constexpr const char* kStateNames[] = {"PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED"};

// sync: STATE (acquire): who sees kFinished sees the result; pairs with the store in settle().
FutureState state_now(PyObject* self) { return future_of(self)->state.load(std::memory_order_acquire); }
bool is_done(FutureState state) { return state >= FutureState::kCancelled; }
bool is_cancelled(FutureState state) { return state == FutureState::kCancelled || state == FutureState::kCancelledAndNotified; }

void enter_state(PyObject* self, FutureState state) {
  // sync: STATE (release): publishes the result; pairs with state_now().
  future_of(self)->state.store(state, std::memory_order_release);
  if (!is_done(state)) return;
  future_of(self)->done.set(Place::private_memory());
}

// Behind enter_state(), out of the critical section: what goes with a call of a process, and the owner's end, may run the user's
// code.
void detach_done(PyObject* self) {
  if (!is_done(state_now(self))) return;
  if (future_of(self)->calls != nullptr) detach_call(self);
  if (future_of(self)->owner == nullptr) return;
  PyObject* owner = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  owner = std::exchange(future_of(self)->owner, nullptr);
  Py_END_CRITICAL_SECTION();
  Py_XDECREF(owner);
}

// REQUIRES: in the critical section.
bool has_condition(const FutureObject* future) { return future->standard != nullptr && future->standard->condition != nullptr; }

// Has the state say what is so by now.
void refresh(PyObject* self) {
  if (future_of(self)->calls != nullptr && !is_done(state_now(self))) refresh_call(self);
}

// It will not run: tells those who wait for it, as a worker that met it would.
bool notify_cancelled(PyObject* self) {
  FutureState before;
  if (begin_future(self, &before) != Change::kStandard) return true;
  PyObject* told = call_standard(self, "set_running_or_notify_cancel");
  Py_XDECREF(told);
  return told != nullptr;
}

PyObject* raise_class(PyObject* self, Import which) {
  State* state = state_of(self);
  PyObject* type = state == nullptr ? nullptr : imported(state, which);
  if (type != nullptr) PyErr_SetNone(type);
  return nullptr;
}

}  // namespace

PyObject* call_standard(PyObject* self, const char* name, PyObject* argument) {
  State* state = state_of(self);
  PyObject* standard = state == nullptr ? nullptr : imported(state, Import::kStandardFuture);
  if (standard == nullptr) return nullptr;
  // No Ref from here on: callbacks may run, and a thread that waits in one may end there, with the interpreter.
  PyObject* method = PyObject_GetAttrString(standard, name);
  if (method == nullptr) return nullptr;
  PyObject* result = PyObject_CallFunctionObjArgs(method, self, argument, nullptr);
  Py_DECREF(method);
  return result;
}

Change begin_future(PyObject* self, FutureState* before) {
  FutureObject* future = future_of(self);
  Change change = Change::kDone;
  Py_BEGIN_CRITICAL_SECTION(self);
  *before = state_now(self);
  if (has_condition(future)) {
    change = Change::kStandard;
  } else if (*before == FutureState::kPending) {
    enter_state(self, FutureState::kRunning);
  } else if (*before == FutureState::kCancelled) {
    enter_state(self, FutureState::kCancelledAndNotified);
  } else {
    change = Change::kRefused;
  }
  Py_END_CRITICAL_SECTION();
  return change;
}

Change settle_future(PyObject* self, PyObject* result, PyObject* exception, bool* has_callbacks) {
  FutureObject* future = future_of(self);
  Change change = Change::kDone;
  PyObject* old = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  if (has_condition(future)) {
    change = Change::kStandard;
  } else if (is_done(state_now(self))) {
    change = Change::kRefused;
  } else {
    old = std::exchange(future->outcome, Py_XNewRef(exception != nullptr ? exception : result));
    future->has_failed = exception != nullptr;
    hand_over_value(result);
    hand_over(exception);
    *has_callbacks = future->callbacks != nullptr;
    enter_state(self, FutureState::kFinished);
  }
  Py_END_CRITICAL_SECTION();
  Py_XDECREF(old);
  if (change != Change::kDone) return change;
  detach_done(self);
  leave_collector(self);
  return change;
}

namespace {

PyObject* invoke_callbacks(PyObject* self) { return call_standard(self, "_invoke_callbacks"); }

PyObject* refuse_settling(PyObject* self) {
  State* state = state_of(self);
  PyObject* type = state == nullptr ? nullptr : imported(state, Import::kInvalidStateError);
  if (type != nullptr) PyErr_Format(type, "%s: %R", kStateNames[static_cast<std::size_t>(state_now(self))], self);
  return nullptr;
}

// set_result() and set_exception().
PyObject* set_outcome(PyObject* self, PyObject* result, PyObject* exception) {
  bool has_callbacks = false;
  switch (settle_future(self, result, exception, &has_callbacks)) {
    case Change::kStandard:
      return result != nullptr ? call_standard(self, "set_result", result) : call_standard(self, "set_exception", exception);
    case Change::kRefused:
      return refuse_settling(self);
    case Change::kDone:
      break;
  }
  if (has_callbacks) return invoke_callbacks(self);
  Py_RETURN_NONE;
}

// The one argument of a method of one; null: an error is set.
PyObject* only_argument(const char* function, const char* name, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  const char* const names[] = {name};
  const Signature signature{function, names, 1, 1, 1};
  PyObject* value = nullptr;
  return bind(signature, args, nargs, kwnames, &value) ? value : nullptr;
}

PyObject* future_set_result(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  PyObject* result = only_argument("set_result", "result", args, nargs, kwnames);
  return result == nullptr ? nullptr : set_outcome(self, result, nullptr);
}

PyObject* future_set_exception(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  PyObject* exception = only_argument("set_exception", "exception", args, nargs, kwnames);
  if (exception == nullptr) return nullptr;
  if (exception == Py_None || PyExceptionInstance_Check(exception)) return set_outcome(self, nullptr, exception);
  if (!PyExceptionClass_Check(exception)) {
    PyErr_Format(PyExc_TypeError, "exceptions must derive from BaseException, not %R", exception);
    return nullptr;
  }
  PyObject* instance = PyObject_CallNoArgs(exception);  // as `raise` does with a class
  if (instance == nullptr) return nullptr;
  PyObject* done = set_outcome(self, nullptr, instance);
  Py_DECREF(instance);
  return done;
}

PyObject* future_begin(PyObject* self, PyObject* /*unused*/) {
  FutureState before;
  if (begin_future(self, &before) != Change::kDone) return call_standard(self, "set_running_or_notify_cancel");
  return PyBool_FromLong(before == FutureState::kPending);
}

PyObject* cancel(PyObject* self) {
  FutureObject* future = future_of(self);
  bool standard = false;
  bool changed = false;
  bool has_callbacks = false;
  FutureState before;
  Py_BEGIN_CRITICAL_SECTION(self);
  before = state_now(self);
  standard = has_condition(future);
  if (!standard && before == FutureState::kPending) {
    changed = true;
    has_callbacks = future->callbacks != nullptr;
    enter_state(self, FutureState::kCancelled);
  }
  Py_END_CRITICAL_SECTION();
  if (changed) detach_done(self);
  if (standard) return call_standard(self, "cancel");
  if (has_callbacks) {
    PyObject* called = invoke_callbacks(self);
    if (called == nullptr) return nullptr;
    Py_DECREF(called);
  }
  return PyBool_FromLong(changed || is_cancelled(before));
}

// One whose call is on its way is cancelled when its message could be taken back.
PyObject* future_cancel(PyObject* self, PyObject* /*unused*/) {
  refresh(self);
  if (future_of(self)->calls == nullptr || is_done(state_now(self))) return cancel(self);
  while (!withdraw_call(self)) {
    if (PyErr_Occurred() != nullptr) return nullptr;
    refresh(self);
    if (state_now(self) != FutureState::kPending || future_of(self)->process != Place::private_memory().self() ||
        !await_withdrawal(self)) {
      return PyBool_FromLong(is_cancelled(state_now(self)));
    }
  }
  Py_XDECREF(leave_call(calls_of_future(self), future_of(self)->sent.number));
  PyObject* cancelled = cancel(self);
  if (cancelled == Py_True && !notify_cancelled(self)) Py_CLEAR(cancelled);
  return cancelled;
}

PyObject* future_done(PyObject* self, PyObject* /*unused*/) {
  refresh(self);
  return PyBool_FromLong(is_done(state_now(self)));
}
PyObject* future_running(PyObject* self, PyObject* /*unused*/) {
  refresh(self);
  return PyBool_FromLong(state_now(self) == FutureState::kRunning);
}
PyObject* future_cancelled(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(is_cancelled(state_now(self))); }

bool raise_timeout(PyObject* self) {
  raise_class(self, Import::kFutureTimeoutError);
  return false;
}

// Waits until it is done, or the deadline. kInterrupted: an error is set. `which`: as wait_for_call() has it.
WaitOutcome await_done(PyObject* self, Deadline deadline, Take which = Take::kAny) {
  FutureObject* future = future_of(self);
  if (future->calls != nullptr && !is_done(state_now(self))) {
    bool by_event = false;
    const WaitOutcome outcome = wait_for_call(self, deadline, &by_event, which);
    if (!by_event || which == Take::kPlain) return outcome;
  }
  // The epoch first: whatever follows it is seen.
  const std::uint32_t epoch = future->done.begin_wait();
  if (is_done(state_now(self))) return WaitOutcome::kReady;
  WaitOutcome outcome = WaitOutcome::kTimedOut;
  if (!deadline.is_immediate()) {
    outcome = wait_detached(deadline, [&](WaitContext& context) {
      return future->done.wait_until(Place::private_memory(), epoch, context);
    });
  }
  return outcome != WaitOutcome::kInterrupted && is_done(state_now(self)) ? WaitOutcome::kReady : outcome;
}

// Waits until it is done. False: an error is set, a TimeoutError where `timeout` passed.
bool wait_done(PyObject* self, PyObject* timeout) {
  if (is_done(state_now(self))) return true;
  FutureObject* future = future_of(self);
  // No Ref on this way: it waits.
  PyObject* left = nullptr;
  if (future->engine != nullptr && (is_handing() || future->process != Place::private_memory().self())) {
    left = PyObject_CallMethod(self, "_pump", "O", timeout);
    if (left == nullptr) return false;
    timeout = left;
  }
  Deadline deadline = Deadline::never();
  const bool valid = deadline_of(timeout, Negative::kPassed, &deadline);
  Py_XDECREF(left);
  if (!valid) return false;
  switch (await_done(self, deadline)) {
    case WaitOutcome::kReady:
      return true;
    case WaitOutcome::kInterrupted:
      return false;
    default:
      return is_done(state_now(self)) || raise_timeout(self);
  }
}

// Borrowed; None: it has none.
PyObject* result_of(const FutureObject* future) {
  return future->outcome == nullptr || future->has_failed ? Py_None : future->outcome;
}
PyObject* exception_of(const FutureObject* future) {
  return future->outcome == nullptr || !future->has_failed ? Py_None : future->outcome;
}

// The outcome of one that is done.
PyObject* outcome_of(PyObject* self) {
  FutureObject* future = future_of(self);
  if (is_cancelled(state_now(self))) return raise_class(self, Import::kCancelledError);
  PyObject* exception = exception_of(future);
  if (PyExceptionInstance_Check(exception)) {
    // Where an interrupt from the terminal ended the call, this process has got it too: that one is raised, and not both.
    if (PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt) != 0 && PyErr_CheckSignals() != 0) return nullptr;
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception)), exception);
    return nullptr;
  }
  return Py_NewRef(result_of(future));
}

PyObject* timeout_argument(const char* function, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"timeout"};
  PyObject* timeout = nullptr;
  const Signature signature{function, kNames, 1, 1, 0};
  if (!bind(signature, args, nargs, kwnames, &timeout)) return nullptr;
  return timeout == nullptr ? Py_None : timeout;
}

PyObject* future_result(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  PyObject* timeout = timeout_argument("result", args, nargs, kwnames);
  if (timeout == nullptr || !wait_done(self, timeout)) return nullptr;
  return outcome_of(self);
}

PyObject* future_exception(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  PyObject* timeout = timeout_argument("exception", args, nargs, kwnames);
  if (timeout == nullptr || !wait_done(self, timeout)) return nullptr;
  if (is_cancelled(state_now(self))) return raise_class(self, Import::kCancelledError);
  return Py_NewRef(exception_of(future_of(self)));
}

// Waits a moment for its call, in case that it is a tiny one: to be told of its end by another thread takes far longer. False: an
// error is set.
bool be_patient(PyObject* self) {
#ifdef Py_GIL_DISABLED
  constexpr bool kHelpsThreads = true;
#else
  constexpr bool kHelpsThreads = false;  // to hand the interpreter over and get it back takes as long
#endif
  Patience& patience = Patience::mine();
  const FutureObject* future = future_of(self);
  if (is_done(state_now(self)) || future->engine == nullptr || is_handing() || future->process != Place::private_memory().self()) return true;
  if (future->calls == nullptr ? !kHelpsThreads : calls_of_future(self)->is_drained.load()) return true;
  const Nanoseconds most = patience.begin();
  if (most == 0) return true;
  const Nanoseconds begun = monotonic_now();
  if (patience.expects_wake()) {
    if (await_done(self, Deadline::after(most), Take::kPlain) == WaitOutcome::kInterrupted) return false;
  } else {
    // With the interpreter in hand: others would keep it for far longer.
    while (!is_done(state_now(self)) && monotonic_now() - begun < most && (future->calls == nullptr || look_for_call(self))) {
    }
  }
  patience.end(is_done(state_now(self)), monotonic_now() - begun);
  return true;
}

// listen(fn)
PyObject* future_listen(PyObject* self, PyObject* function) {
  FutureObject* future = future_of(self);
  bool standard = false;
  bool done = false;
  PyObject* fresh = PyList_New(0);
  if (fresh == nullptr) return nullptr;
  bool failed = false;
  // First: an answer that comes now is for who hands out the engine's.
  if (future->calls != nullptr && !is_done(state_now(self))) attach_call(self);
  Py_BEGIN_CRITICAL_SECTION(self);
  standard = has_condition(future);
  done = is_done(state_now(self));
  if (!standard && !done) {
    if (future->callbacks == nullptr) future->callbacks = Py_NewRef(fresh);
    // In the section: who settles it looks at the list behind it. A list's append calls nothing of the user's.
    failed = PyList_Append(future->callbacks, function) != 0;
  }
  Py_END_CRITICAL_SECTION();
  Py_DECREF(fresh);
  if (failed) return nullptr;
  if (standard || done) return call_standard(self, "add_done_callback", function);
  Py_RETURN_NONE;
}

PyObject* future_add_done_callback(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  PyObject* function = only_argument("add_done_callback", "fn", args, nargs, kwnames);
  if (function == nullptr) return nullptr;
  return be_patient(self) ? future_listen(self, function) : nullptr;
}

PyObject* get_state(PyObject* self, void* /*unused*/) {
  refresh(self);
  return PyUnicode_InternFromString(kStateNames[static_cast<std::size_t>(state_now(self))]);
}

int set_state(PyObject* self, PyObject* value, void* /*unused*/) {
  const char* name = value == nullptr ? nullptr : PyUnicode_AsUTF8(value);
  for (std::size_t i = 0; name != nullptr && i < std::size(kStateNames); ++i) {
    if (std::strcmp(name, kStateNames[i]) == 0) {
      enter_state(self, static_cast<FutureState>(i));
      detach_done(self);
      return 0;
    }
  }
  if (PyErr_Occurred() == nullptr) PyErr_Format(PyExc_ValueError, "a future has no state %R", value);
  return -1;
}

// The attributes by which the standard library's methods and functions work on it, and others of ours.
enum class Slot : std::size_t { kCallbacks, kEngine, kOwner, kWaiters, kCondition };

void* closure_of(Slot slot) { return reinterpret_cast<void*>(slot); }

// Null: it is in the standard part, and there is none; where that is made, there is no memory. REQUIRES: in the critical section.
PyObject** find_slot(FutureObject* future, void* closure, bool makes_part) {
  const auto slot = static_cast<Slot>(reinterpret_cast<std::size_t>(closure));
  if (slot == Slot::kCallbacks) return &future->callbacks;
  if (slot == Slot::kEngine) return &future->engine;
  if (slot == Slot::kOwner) return &future->owner;
  if (future->standard == nullptr && makes_part) {
    future->standard = static_cast<StandardPart*>(PyMem_Calloc(1, sizeof(StandardPart)));
    enter_collector(future);
  }
  if (future->standard == nullptr) return nullptr;
  return slot == Slot::kWaiters ? &future->standard->waiters : &future->standard->condition;
}

PyObject* get_object(PyObject* self, void* closure) {
  PyObject* value = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  PyObject** slot = find_slot(future_of(self), closure, false);
  value = Py_NewRef(slot == nullptr || *slot == nullptr ? Py_None : *slot);
  Py_END_CRITICAL_SECTION();
  return value;
}

int set_object(PyObject* self, PyObject* value, void* closure) {
  PyObject* old = nullptr;
  bool is_set = false;
  Py_BEGIN_CRITICAL_SECTION(self);
  PyObject** slot = find_slot(future_of(self), closure, true);
  is_set = slot != nullptr;
  if (is_set) old = std::exchange(*slot, Py_XNewRef(value));
  Py_END_CRITICAL_SECTION();
  Py_XDECREF(old);
  if (!is_set) PyErr_NoMemory();
  return is_set ? 0 : -1;
}

// What is there, or becomes `fresh` now. Takes `fresh`.
PyObject* get_or_put(PyObject* self, void* closure, PyObject* fresh) {
  if (fresh == nullptr) return nullptr;
  PyObject* value = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  PyObject** slot = find_slot(future_of(self), closure, true);
  if (slot != nullptr && *slot == nullptr) *slot = Py_NewRef(fresh);
  if (slot != nullptr) value = Py_NewRef(*slot);
  Py_END_CRITICAL_SECTION();
  Py_DECREF(fresh);
  return value == nullptr ? PyErr_NoMemory() : value;
}

template <PyObject* (*kOutcomeOf)(const FutureObject*)>
PyObject* get_outcome(PyObject* self, void* /*unused*/) {
  PyObject* value = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  value = Py_NewRef(kOutcomeOf(future_of(self)));
  Py_END_CRITICAL_SECTION();
  return value;
}

// _result and _exception: the one that is not None is the outcome.
template <bool kFails>
int set_outcome_slot(PyObject* self, PyObject* value, void* /*unused*/) {
  FutureObject* future = future_of(self);
  PyObject* old = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  const bool is_none = value == nullptr || value == Py_None;
  if (!is_none || future->has_failed == kFails) {
    old = std::exchange(future->outcome, is_none ? nullptr : Py_NewRef(value));
    future->has_failed = kFails;
  }
  Py_END_CRITICAL_SECTION();
  Py_XDECREF(old);
  return 0;
}

PyObject* get_number(PyObject* self, void* /*unused*/) {
  return PyLong_FromUnsignedLongLong(future_of(self)->calls == nullptr ? 0 : future_of(self)->sent.number);
}

PyObject* get_list(PyObject* self, void* closure) { return get_or_put(self, closure, PyList_New(0)); }

PyObject* get_condition(PyObject* self, void* closure) {
  PyObject* there = get_object(self, closure);
  if (there != Py_None) return there;
  Py_DECREF(there);
  // Who asks for it will wait on it; first, as in add_done_callback().
  if (future_of(self)->calls != nullptr && !is_done(state_now(self))) attach_call(self);
  State* state = state_of(self);
  PyObject* make = state == nullptr ? nullptr : imported(state, Import::kStandardCondition);
  return make == nullptr ? nullptr : get_or_put(self, closure, PyObject_CallNoArgs(make));
}

PyMethodDef future_methods[] = {
    {"done", future_done, METH_NOARGS, "done($self, /)\n--\n\nWhether it has a value or an exception, or is cancelled."},
    {"running", future_running, METH_NOARGS, "running($self, /)\n--\n\nWhether a worker runs the call now."},
    {"cancelled", future_cancelled, METH_NOARGS, "cancelled($self, /)\n--\n\nWhether it is cancelled."},
    {"cancel", future_cancel, METH_NOARGS,
     "cancel($self, /)\n--\n\nCancels a call that no worker runs yet; whether it is cancelled now."},
    {"result", as_method(future_result), METH_FASTCALL | METH_KEYWORDS,
     "result($self, /, timeout=None)\n--\n\n"
     "The call's value, or its exception raised; TimeoutError where it is not done in timeout (seconds)."},
    {"exception", as_method(future_exception), METH_FASTCALL | METH_KEYWORDS,
     "exception($self, /, timeout=None)\n--\n\n"
     "The call's exception, None where it has a value; TimeoutError where it is not done in timeout (seconds)."},
    {"listen", future_listen, METH_O,
     "listen($self, fn, /)\n--\n\nHas fn(self) called when it is done, as add_done_callback(); waits for nothing."},
    {"add_done_callback", as_method(future_add_done_callback), METH_FASTCALL | METH_KEYWORDS,
     "add_done_callback($self, /, fn)\n--\n\n"
     "Has fn(future) called when it is done, at once where it is; an exception of fn is logged."},
    {"set_running_or_notify_cancel", future_begin, METH_NOARGS,
     "set_running_or_notify_cancel($self, /)\n--\n\nFor who runs the call: whether it still wants to run."},
    {"set_result", as_method(future_set_result), METH_FASTCALL | METH_KEYWORDS,
     "set_result($self, /, result)\n--\n\nFor who runs the call: its value."},
    {"set_exception", as_method(future_set_exception), METH_FASTCALL | METH_KEYWORDS,
     "set_exception($self, /, exception)\n--\n\nFor who runs the call: its exception."},
    {"run", as_method(future_run), METH_FASTCALL,
     "run($self, preparation, outstanding, /)\n--\n\n"
     "Begins it, makes its call, takes 1 from outstanding, and settles it. What preparation(context) gives makes of a context that\n"
     "which the call is made in; None, of both, where that is the context itself.\n\n"
     "False: it was not to be run. True: it is settled. None: and _invoke_callbacks() is to be called. A pair: the method\n"
     "that settles it and its argument."},
    {"ask_to_end", future_ask_to_end, METH_NOARGS,
     "ask_to_end($self, /)\n--\n\n"
     "Asks a call that a thread runs to end: is_to_end() says so there, and where it raises CancelledError, it is cancelled. Whether\n"
     "it runs."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef future_attributes[] = {
    {"_state", get_state, set_state, nullptr, nullptr},
    {"_result", get_outcome<result_of>, set_outcome_slot<false>, nullptr, nullptr},
    {"_exception", get_outcome<exception_of>, set_outcome_slot<true>, nullptr, nullptr},
    {"_engine", get_object, set_object, nullptr, closure_of(Slot::kEngine)},
    {"_owner", get_object, set_object, "What lives until it is done. To be set before its call is on its way.",
     closure_of(Slot::kOwner)},
    {"_number", get_number, nullptr, "Of one whose call is on its way to a process: the call's number; else 0.", nullptr},
    {"_done_callbacks", get_list, set_object, nullptr, closure_of(Slot::kCallbacks)},
    {"_waiters", get_list, set_object, nullptr, closure_of(Slot::kWaiters)},
    {"_condition", get_condition, set_object, nullptr, closure_of(Slot::kCondition)},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot future_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "NativeFuture(engine=None, function=None, args=(), kwargs=None, context=None)\n--\n\n"
                    "What a concurrent.futures.Future keeps, and where function is given, a call with the context variables of\n"
                    "the context, or those that there are now. A class has it as a base before concurrent.futures.Future.")},
    {Py_tp_new, reinterpret_cast<void*>(future_new)},
    {Py_tp_init, reinterpret_cast<void*>(future_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(future_dealloc)},
    {Py_tp_setattro, reinterpret_cast<void*>(future_setattro)},
    {Py_tp_traverse, reinterpret_cast<void*>(future_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(future_clear)},
    {Py_tp_methods, future_methods},
    {Py_tp_getset, future_attributes},
    {0, nullptr},
};

PyType_Spec future_spec = {"freethreading._core.NativeFuture", sizeof(FutureObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, future_slots};

}  // namespace

int add_future(PyObject* module, State* state) {
  if (PyModule_AddFunctions(module, future_functions) != 0) return -1;
  return add_type(module, state, TypeIndex::kFuture, &future_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
