// A future that carries its call: how a worker of a thread engine runs it (docs/design/futures.md).
#include <utility>

#include "args.hpp"
#include "call_context.hpp"
#include "errors.hpp"
#include "future.hpp"
#include "freethreading/sync/atomic_int64.hpp"
#include "placement.hpp"
#include "queue_type.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

// How many engines' outcomes this thread hands out just now.
thread_local int handed_out = 0;
// The future whose call this thread runs just now, the innermost one; borrowed. Null: none.
thread_local PyObject* running_here = nullptr;

// Whether that is what the call of one that was asked to end has raised for it.
bool has_ended_as_asked(PyObject* self, PyObject* exception) {
  if (exception == nullptr || !future_of(self)->is_to_end.load()) return false;
  State* state = state_of(self);
  PyObject* type = state == nullptr ? nullptr : imported(state, Import::kCancelledError);
  if (type == nullptr) PyErr_Clear();
  return type != nullptr && PyErr_GivenExceptionMatches(exception, type) != 0;
}

// The value of the call that a future has, or null with its exception set. Its references are given up, for the traceback's frames
// too. run_call(call) makes it in a context.
template <class Run>
PyObject* call(PyObject* self, Run run_call) {
  FutureObject* future = future_of(self);
  PyObject* function = std::exchange(future->function, nullptr);
  PyObject* args = std::exchange(future->args, nullptr);
  PyObject* kwargs = std::exchange(future->carried.kwargs, nullptr);
  PyObject* value = run_call([&] { return PyObject_Call(function, args, kwargs); });
  Py_DECREF(function);
  Py_DECREF(args);
  Py_XDECREF(kwargs);
  return value;
}

// The contexts of a worker's calls.
struct Contexts {
  PyObject* preparation;         // a caller's context, or None for one without variables -> how to prepare it, or None
  CallContexts of_empty_ones{};  // of callers that have no variables; `base` is null until there is one

  // Whether there is one for callers without variables. False: an error is set.
  bool prepare_for_empty() {
    if (of_empty_ones.base != nullptr) return true;
    PyObject* none = PyContext_New();
    PyObject* prepare = none == nullptr ? nullptr : prepare_for(none);
    if (prepare == nullptr) {
      Py_XDECREF(none);
      return false;
    }
    of_empty_ones.base = none;
    of_empty_ones.prepare = prepare;
    return true;
  }
  // How a copy of that caller's is prepared, or None. Null: an error is set.
  PyObject* prepare_for(PyObject* caller) const {
    return preparation == Py_None ? Py_NewRef(Py_None) : PyObject_CallOneArg(preparation, caller);
  }
  void leave() {
    of_empty_ones.leave();
    Py_CLEAR(of_empty_ones.base);
    Py_CLEAR(of_empty_ones.prepare);
  }
};

// The same in a context for it.
PyObject* call_in(PyObject* self, PyObject* context, Contexts& contexts) {
  if (context == nullptr) {
    if (!contexts.prepare_for_empty()) return nullptr;
    return call(self, [&](auto make) { return contexts.of_empty_ones.run(make); });
  }
  PyObject* prepare = contexts.prepare_for(context);
  if (prepare == nullptr) return nullptr;
  PyObject* own = prepare == Py_None ? Py_NewRef(context) : PyObject_CallOneArg(prepare, context);
  Py_DECREF(prepare);
  if (own == nullptr) return nullptr;
  PyObject* value = call(self, [&](auto make) { return run_in(own, make); });
  Py_DECREF(own);
  return value;
}

// The call goes without having run.
void drop_call(PyObject* self) {
  FutureObject* future = future_of(self);
  Py_CLEAR(future->function);
  Py_CLEAR(future->args);
  Py_CLEAR(future->carried.kwargs);
  Py_CLEAR(future->carried.context);
}

// Begins it, makes its call, takes 1 from `outstanding`, and settles it.
PyObject* run(PyObject* self, Contexts& contexts, AtomicInt64& outstanding) {
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
  const bool carries = future->function != nullptr && future->calls == nullptr;
  if (begun == Change::kRefused || before != FutureState::kPending) {
    if (carries) drop_call(self);
    outstanding.fetch_sub(1);
    Py_RETURN_FALSE;
  }
  PyObject* value = nullptr;
  PyObject* context = carries ? std::exchange(future->carried.context, nullptr) : nullptr;
  if (!carries) {
    PyErr_SetString(PyExc_RuntimeError, "this future has no call");
  } else {
    PyObject* outer = std::exchange(running_here, self);
    value = call_in(self, context, contexts);
    running_here = outer;
  }
  Py_XDECREF(context);
  PyObject* exception = value == nullptr ? take_exception() : nullptr;
  // Before the outcome is known: who gives the next call then finds this worker free.
  outstanding.fetch_sub(1);
  if (has_ended_as_asked(self, exception)) {
    PyObject* answer = Py_BuildValue("(sO)", "end_cancelled", exception);
    Py_DECREF(exception);
    return answer;
  }
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

// What a worker of a thread engine serves.
struct Service {
  const State* state;
  PyObject* queue;
  AtomicInt64* outstanding;
  AtomicInt64* busy;
  AtomicInt64* surplus;
  PyObject* idle;  // seconds, or None
  Contexts contexts;
};

// Futures that are served before Python looks around: it lets other threads, and the collector, have their turn.
constexpr int kMostAtOnce = 32;

// What is in the queue; waits for it where it `may_wait`. Null without an error: nothing is. Null: what queue_get() raises.
PyObject* next_work(const Service& service, bool may_wait) {
  if (may_wait) {
    PyObject* const patience[] = {Py_True, service.idle};
    return queue_get(service.queue, patience, service.idle == Py_None ? 0 : 2, nullptr);
  }
  std::uint64_t word = 0;
  const QueueOutcome outcome = body_of<MessageQueue>(service.queue)->try_get_word(place_of(service.queue), word);
  return outcome == QueueOutcome::kDone ? reinterpret_cast<PyObject*>(static_cast<std::uintptr_t>(word)) : nullptr;
}

// Runs futures until there is something else for Python to do: see serve(). Null: an error is set.
PyObject* serve_some(Service& service) {
  for (int i = 0; i < kMostAtOnce; ++i) {
    // Relaxed: it carries nothing; who raises it puts a True behind it for those who wait.
    if (service.surplus->load(std::memory_order_relaxed) > 0) Py_RETURN_TRUE;
    PyObject* work = next_work(service, i == 0);
    if (work == nullptr && i != 0) break;
    if (work == nullptr) return nullptr;
    if (work == Py_None) {
      Py_DECREF(work);
      Py_RETURN_FALSE;
    }
    if (!PyObject_TypeCheck(work, service.state->type(TypeIndex::kFuture))) return work;
    service.busy->store(1);
    PyObject* answer = run(work, service.contexts, *service.outstanding);
    service.busy->store(0);
    if (answer == nullptr || (answer != Py_True && answer != Py_False)) {
      PyObject* told = answer == nullptr ? nullptr : PyTuple_Pack(2, work, answer);
      Py_XDECREF(answer);
      Py_DECREF(work);
      return told;
    }
    Py_DECREF(answer);
    Py_DECREF(work);
  }
  Py_RETURN_NONE;
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
  if (nargs != 6 || !PyObject_TypeCheck(args[0], state->type(TypeIndex::kSimpleQueue)) || !is_private_queue(args[0])) {
    PyErr_SetString(PyExc_TypeError,
                    "serve() takes a private SimpleQueue, two AtomicInt64, a callable or None, an AtomicInt64, and seconds or None");
    return nullptr;
  }
  Service service{.state = state,
                  .queue = args[0],
                  .outstanding = atomic_of(state, args[1]),
                  .busy = nullptr,
                  .surplus = nullptr,
                  .idle = args[5],
                  .contexts = {.preparation = args[3]}};
  if (service.outstanding != nullptr) service.busy = atomic_of(state, args[2]);
  if (service.busy != nullptr) service.surplus = atomic_of(state, args[4]);
  if (service.surplus == nullptr) return nullptr;
  PyObject* result = serve_some(service);
  service.contexts.leave();
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
  contexts.leave();
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

PyObject* is_to_end(PyObject* /*module*/, PyObject* /*unused*/) {
  return PyBool_FromLong(running_here != nullptr && future_of(running_here)->is_to_end.load() ? 1 : 0);
}

}  // namespace

bool is_handing() { return handed_out != 0; }

PyObject* future_ask_to_end(PyObject* self, PyObject* /*unused*/) {
  const bool runs = future_of(self)->state.load() == FutureState::kRunning;
  future_of(self)->is_to_end.store(true);
  return PyBool_FromLong(runs ? 1 : 0);
}

PyObject* future_run(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "run() takes a callable or None, and an AtomicInt64");
    return nullptr;
  }
  const State* state = state_of(self);
  AtomicInt64* outstanding = state == nullptr ? nullptr : atomic_of(state, args[1]);
  if (outstanding == nullptr) return nullptr;
  Contexts contexts{.preparation = args[0]};
  PyObject* answer = run(self, contexts, *outstanding);
  contexts.leave();
  return answer;
}

PyMethodDef future_functions[] = {
    {"handing", handing, METH_O,
     "handing(begins, /)\n--\n\nThis thread hands out an engine's outcomes from now on (True), or does so no more (False)."},
    {"is_to_end", is_to_end, METH_NOARGS,
     "is_to_end()\n--\n\nWhether the call that the calling thread runs was asked to end."},
    {"call_items", as_method(call_items), METH_FASTCALL,
     "call_items(function, items, star, context, prepare, /)\n--\n\n"
     "The values of function(item), or function(*item) where star is True, and the indices at which an exception stands in\n"
     "place of one.\n\n"
     "Each call is made in a copy of the context, or in prepare(context), a new one, where that is not None."},
    {"serve", as_method(serve), METH_FASTCALL,
     "serve(queue, outstanding, busy, preparation, surplus, idle, /)\n--\n\n"
     "Takes the next thing out of the queue and, where it is a future with a call, has it run(preparation, outstanding); busy is 1\n"
     "meanwhile. Then others that are there, some at a time.\n\n"
     "None: that was all. False: it was None. A pair: the future, and what its run() has given, where that was not a bool.\n"
     "True: surplus is above 0, and nothing was taken, or the thing was True. Anything else: the thing. Where nothing comes\n"
     "for idle seconds (None: for ever), queue.Empty is raised."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace freethreading::binding
