// A future that carries its call: how a worker of a thread engine runs it (docs/design/futures.md).
#include <utility>

#include "args.hpp"
#include "call_context.hpp"
#include "future.hpp"
#include "freethreading/sync/atomic_int64.hpp"
#include "placement.hpp"
#include "queue_type.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

// How many engines' outcomes this thread hands out just now.
thread_local int handed_out = 0;

// The call's value, or null with its exception set. Its references are given up, for the traceback's frames too.
PyObject* call(PyObject* self, PyObject* context) {
  FutureObject* future = future_of(self);
  PyObject* function = std::exchange(future->function, nullptr);
  PyObject* args = std::exchange(future->args, nullptr);
  PyObject* kwargs = std::exchange(future->kwargs, nullptr);
  PyObject* value = run_in(context, [&] { return PyObject_Call(function, args, kwargs); });
  Py_DECREF(function);
  Py_DECREF(args);
  Py_XDECREF(kwargs);
  return value;
}

// The call goes without having run.
void drop_call(PyObject* self) {
  FutureObject* future = future_of(self);
  Py_CLEAR(future->function);
  Py_CLEAR(future->args);
  Py_CLEAR(future->kwargs);
  Py_CLEAR(future->context);
}

// Begins it, makes its call, in prepare(context) where `prepare` is not None, takes 1 from `outstanding`, and settles it.
PyObject* run(PyObject* self, PyObject* prepare, AtomicInt64& outstanding) {
  FutureObject* future = future_of(self);
  FutureState before;
  const Change begun = begin_future(self, &before);
  if (begun == Change::kStandard) {
    PyObject* running = call_standard(self, "set_running_or_notify_cancel");
    if (running == nullptr) {  // somebody has settled it
      if (PyErr_ExceptionMatches(PyExc_RuntimeError) != 0) PyErr_Clear();
      if (PyErr_Occurred() != nullptr) PyErr_WriteUnraisable(self);
    }
    if (running != Py_True) before = FutureState::kCancelled;
    Py_XDECREF(running);
  }
  if (begun == Change::kRefused || before != FutureState::kPending) {
    drop_call(self);
    outstanding.fetch_sub(1);
    Py_RETURN_FALSE;
  }
  PyObject* value = nullptr;
  PyObject* context = std::exchange(future->context, nullptr);
  if (context == nullptr || future->function == nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "this future has no call");
  } else if (prepare == Py_None) {
    value = call(self, context);
  } else if (PyObject* prepared = PyObject_CallOneArg(prepare, context); prepared != nullptr) {
    value = call(self, prepared);
    Py_DECREF(prepared);
  }
  Py_XDECREF(context);
  PyObject* exception = value == nullptr ? take_exception() : nullptr;
  // Before the outcome is known: who gives the next call then finds this worker free.
  outstanding.fetch_sub(1);
  bool has_callbacks = false;
  const Change settled = settle_future(self, value, exception, &has_callbacks);
  PyObject* answer = Py_NewRef(has_callbacks ? Py_None : Py_True);
  if (settled == Change::kStandard) {
    // Its waiters are told, and its callbacks called, by the standard library; who calls us says that it hands out.
    Py_SETREF(answer, value != nullptr ? Py_BuildValue("(sO)", "set_result", value)
                                       : Py_BuildValue("(sO)", "set_exception", exception));
  }
  Py_XDECREF(value);
  Py_XDECREF(exception);
  return answer;
}

AtomicInt64* atomic_of(const State* state, PyObject* object) {
  if (PyObject_TypeCheck(object, state->type(TypeIndex::kAtomicInt64))) return body_of<AtomicInt64>(object);
  PyErr_Format(PyExc_TypeError, "an AtomicInt64 is needed, not %R", object);
  return nullptr;
}

// serve(queue, outstanding, busy, preparation, surplus, idle). No Ref in what calls the user's code: a thread that waits there may end there, with
// the interpreter.
PyObject* serve(PyObject* module, PyObject* const* args, Py_ssize_t nargs) {
  const State* state = state_of_module(module);
  if (nargs != 6 || !PyObject_TypeCheck(args[0], state->type(TypeIndex::kSimpleQueue))) {
    PyErr_SetString(PyExc_TypeError, "serve() takes a SimpleQueue, two AtomicInt64, a callable or None, an AtomicInt64, and seconds or None");
    return nullptr;
  }
  AtomicInt64* outstanding = atomic_of(state, args[1]);
  AtomicInt64* busy = outstanding == nullptr ? nullptr : atomic_of(state, args[2]);
  AtomicInt64* surplus = busy == nullptr ? nullptr : atomic_of(state, args[4]);
  if (surplus == nullptr) return nullptr;
  // Relaxed: it carries nothing; who raises it puts a True behind it for those who wait.
  if (surplus->load(std::memory_order_relaxed) > 0) Py_RETURN_TRUE;
  PyObject* const patience[] = {Py_True, args[5]};
  PyObject* work = queue_get(args[0], patience, args[5] == Py_None ? 0 : 2, nullptr);
  if (work == nullptr) return nullptr;
  if (work == Py_None) {
    Py_DECREF(work);
    Py_RETURN_FALSE;
  }
  if (!PyObject_TypeCheck(work, state->type(TypeIndex::kFuture))) return work;
  busy->store(1);
  PyObject* result = nullptr;
  // Asked now, not before the wait.
  PyObject* caller = future_of(work)->context == nullptr ? Py_NewRef(Py_None) : Py_NewRef(future_of(work)->context);
  PyObject* prepare = args[3] == Py_None ? Py_NewRef(Py_None) : PyObject_CallOneArg(args[3], caller);
  Py_DECREF(caller);
  PyObject* answer = prepare == nullptr ? nullptr : run(work, prepare, *outstanding);
  Py_XDECREF(prepare);
  busy->store(0);
  if (answer == Py_True || answer == Py_False) {
    result = Py_NewRef(Py_None);
  } else if (answer != nullptr) {
    result = PyTuple_Pack(2, work, answer);
  }
  Py_XDECREF(answer);
  Py_DECREF(work);
  return result;
}

// Makes one item's call and appends its outcome. False: an error of ours.
bool call_item(CallContexts& contexts, PyObject* function, PyObject* item, bool star, PyObject* values, PyObject* failures) {
  PyObject* value = contexts.run([&] { return call_with(function, item, star); });
  const bool done = value != nullptr;
  if (!done) value = take_exception();
  const bool added = append_outcome(values, failures, value, done);
  hand_over_value(value);  // the list's reference: who drops the list is another thread
  Py_DECREF(value);
  return added;
}

// call_items(function, items, star, context, prepare)
PyObject* call_items(PyObject* /*module*/, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 5 || !PyContext_CheckExact(args[3])) {
    PyErr_SetString(PyExc_TypeError, "call_items() takes a function, items, a bool, a context, and a callable or None");
    return nullptr;
  }
  PyObject* values = PyList_New(0);
  PyObject* failures = PyList_New(0);
  PyObject* items = PyObject_GetIter(args[1]);
  CallContexts contexts{args[3], args[4]};
  bool good = values != nullptr && failures != nullptr && items != nullptr;
  while (good) {
    PyObject* item = PyIter_Next(items);
    if (item == nullptr) break;
    good = call_item(contexts, args[0], item, args[2] == Py_True, values, failures);
    Py_DECREF(item);
  }
  contexts.drop();
  PyObject* result = good && PyErr_Occurred() == nullptr ? PyTuple_Pack(2, values, failures) : nullptr;
  Py_XDECREF(values);
  Py_XDECREF(failures);
  Py_XDECREF(items);
  return result;
}

// handing(begins): this thread hands out an engine's outcomes from now on, or does so no more.
PyObject* handing(PyObject* /*module*/, PyObject* begins) {
  handed_out += begins == Py_True ? 1 : -1;
  Py_RETURN_NONE;
}

}  // namespace

bool is_handing() { return handed_out != 0; }

PyObject* future_run(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "run() takes a callable or None, and an AtomicInt64");
    return nullptr;
  }
  const State* state = state_of(self);
  AtomicInt64* outstanding = state == nullptr ? nullptr : atomic_of(state, args[1]);
  return outstanding == nullptr ? nullptr : run(self, args[0], *outstanding);
}

PyMethodDef future_functions[] = {
    {"handing", handing, METH_O,
     "handing(begins, /)\n--\n\nThis thread hands out an engine's outcomes from now on (True), or does so no more (False)."},
    {"call_items", as_method(call_items), METH_FASTCALL,
     "call_items(function, items, star, context, prepare, /)\n--\n\n"
     "The values of function(item), or function(*item) where star is True, and the indices at which an exception stands in\n"
     "place of one.\n\n"
     "Each call is made in a copy of the context, or in prepare(context), a new one, where that is not None."},
    {"serve", as_method(serve), METH_FASTCALL,
     "serve(queue, outstanding, busy, preparation, surplus, idle, /)\n--\n\n"
     "Takes the next thing out of the queue and, where it is a future with a call, has it run(preparation(context), outstanding);\n"
     "busy is 1 meanwhile.\n\n"
     "None: that was all. False: it was None. A pair: the future, and what its run() has given, where that was not a bool.\n"
     "True: surplus is above 0, and nothing was taken, or the thing was True. Anything else: the thing. Where nothing comes\n"
     "for idle seconds (None: for ever), queue.Empty is raised."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace freethreading::binding
