// Calls: the type, and what an engine's own thread does with it.
#include "calls.hpp"

#include <array>
#include <utility>

#include "args.hpp"
#include "channel.hpp"
#include "codec.hpp"
#include "errors.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "state.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

// Answers that are handled before the engine's own thread looks around.
constexpr int kBurst = 256;

// Handles answers until there is another message, which it returns, or none: then a new reference to None.
PyObject* handle(CallsObject* calls, PyObject* results, int most, bool* handled) {
  Message message;
  PyObject* future = nullptr;
  for (int i = 0; most < 0 || i < most; ++i) {
    if (take_answer(calls, results, as_drainer(calls), &message, &future) == Answer::kNone) break;
    *handled = true;
    if (future == nullptr) return unpack_message(results, message);
    settle_call(future, results, message);
    Py_DECREF(future);
  }
  Py_RETURN_NONE;
}

// The counts of wake-ups of both channels that the engine's own thread waits at, as they were before it looked around.
struct Epochs {
  std::uint32_t inbox = 0;
  std::uint32_t results = 0;
};

// Arguments of a wait: what epochs() gave, and seconds or None.
bool waiting_arguments(const char* name, PyObject* const* args, Py_ssize_t nargs, Epochs* epochs, Deadline* deadline) {
  if (nargs != 2 || !PyTuple_Check(args[0]) || PyTuple_GET_SIZE(args[0]) != 2) {
    PyErr_Format(PyExc_TypeError, "%s() takes what epochs() gives, and seconds or None", name);
    return false;
  }
  epochs->inbox = static_cast<std::uint32_t>(PyLong_AsUnsignedLong(PyTuple_GET_ITEM(args[0], 0)));
  epochs->results = static_cast<std::uint32_t>(PyLong_AsUnsignedLong(PyTuple_GET_ITEM(args[0], 1)));
  return PyErr_Occurred() == nullptr && deadline_of(args[1], Negative::kPassed, deadline);
}

// receive(epochs, timeout)
PyObject* calls_receive(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  Deadline deadline = Deadline::never();
  Epochs epochs;
  if (!waiting_arguments("receive", args, nargs, &epochs, &deadline)) return nullptr;
  CallsObject* calls = calls_of(self);
  PyObject* results = member_of(calls, &CallsObject::results);
  if (results == nullptr) Py_RETURN_NONE;
  calls->is_drained.store(true);
  bool handled = false;
  PyObject* message = handle(calls, results, kBurst, &handled);
  if (message == Py_None && !handled) {
    MessageQueue& queue = *body_of<MessageQueue>(results);
    const QueueOutcome outcome = queue_wait_detached(deadline, [&](WaitContext& context) {
      return queue.wait_not_empty(place_of(results), context, epochs.results);
    });
    if (outcome == QueueOutcome::kInterrupted) {
      Py_CLEAR(message);
    } else {
      Py_SETREF(message, handle(calls, results, kBurst, &handled));
    }
  }
  Py_DECREF(results);
  return message;
}

// drain()
PyObject* calls_drain(PyObject* self, PyObject* /*unused*/) {
  CallsObject* calls = calls_of(self);
  PyObject* results = member_of(calls, &CallsObject::results);
  if (results == nullptr) Py_RETURN_NONE;
  MessageQueue& queue = *body_of<MessageQueue>(results);
  PyObject* message = nullptr;
  for (;;) {
    bool handled = false;
    Py_XSETREF(message, handle(calls, results, -1, &handled));
    if (message != Py_None || queue.size() == 0) break;
    // Somebody is at it, or died at it.
    const QueueOutcome outcome = queue_wait_detached(
        Deadline::never(), [&](WaitContext& context) { return queue.wait_not_empty(place_of(results), context); });
    if (outcome == QueueOutcome::kInterrupted) {
      Py_CLEAR(message);
      break;
    }
  }
  Py_DECREF(results);
  return message;
}

// Sleeps until a future is attached (then until there may be answers), or it is time to look around. Without the interpreter.
QueueOutcome sleep(CallsObject* calls, PyObject* inbox, PyObject* results, const Epochs& epochs, WaitContext& context) {
  MessageQueue& calling = *body_of<MessageQueue>(inbox);
  QueueOutcome outcome = QueueOutcome::kDone;
  if (calls->attached.load() == 0) {
    // Who has seen that it was true attaches its future, which is looked at behind that.
    calls->is_drained.store(false);
    if (calls->attached.load() == 0) {
      outcome = calling.wait_not_empty(place_of(inbox), context, epochs.inbox);
      if (outcome != QueueOutcome::kDone) return outcome;
    }
  }
  // Wiped before `attached` is looked at again: who attaches behind that sends a message.
  calls->is_called.store(false);
  Message message;
  while (calling.size() != 0 && calling.try_get(place_of(inbox), message) == QueueOutcome::kDone) {
  }
  if (calls->attached.load() == 0 || calling.wake_epoch() != epochs.inbox) return outcome;
  calls->is_drained.store(true);
  return body_of<MessageQueue>(results)->wait_not_empty(place_of(results), context, epochs.results);
}

// idle(epochs, timeout)
PyObject* calls_idle(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  Deadline deadline = Deadline::never();
  Epochs epochs;
  if (!waiting_arguments("idle", args, nargs, &epochs, &deadline)) return nullptr;
  CallsObject* calls = calls_of(self);
  PyObject* inbox = member_of(calls, &CallsObject::inbox);
  PyObject* results = member_of(calls, &CallsObject::results);
  PyObject* message = Py_NewRef(Py_None);
  bool goes_on = inbox != nullptr && results != nullptr;
  while (goes_on) {
    const QueueOutcome outcome = queue_wait_detached(
        deadline, [&](WaitContext& context) { return sleep(calls, inbox, results, epochs, context); });
    if (outcome == QueueOutcome::kInterrupted) Py_CLEAR(message);
    if (outcome != QueueOutcome::kDone) break;
    bool handled = false;
    if (calls->is_drained.load()) Py_SETREF(message, handle(calls, results, kBurst, &handled));
    goes_on = message == Py_None && !deadline.passed() && body_of<MessageQueue>(inbox)->wake_epoch() == epochs.inbox &&
              body_of<MessageQueue>(results)->wake_epoch() == epochs.results;
  }
  Py_XDECREF(inbox);
  Py_XDECREF(results);
  return message;
}

PyObject* calls_epochs(PyObject* self, PyObject* /*unused*/) {
  std::array<unsigned, 2> epochs{};
  std::size_t i = 0;
  for (PyObject* CallsObject::*which : {&CallsObject::inbox, &CallsObject::results}) {
    PyObject* channel = member_of(calls_of(self), which);
    if (channel != nullptr) epochs[i] = body_of<MessageQueue>(channel)->wake_epoch();
    Py_XDECREF(channel);
    ++i;
  }
  return Py_BuildValue("(II)", epochs[0], epochs[1]);
}

PyObject* calls_nudge(PyObject* self, PyObject* /*unused*/) {
  nudge(calls_of(self));
  Py_RETURN_NONE;
}

PyObject* calls_number_of(PyObject* self, PyObject* function) {
  const std::uint64_t number = number_of_function(calls_of(self), function);
  return PyErr_Occurred() == nullptr ? PyLong_FromUnsignedLongLong(number) : nullptr;
}

PyObject* calls_is_at_home(PyObject* self, PyObject* context) {
  const int answer = is_at_home(calls_of(self), context);
  return answer < 0 ? nullptr : PyBool_FromLong(answer);
}

PyObject* calls_next_number(PyObject* self, PyObject* /*unused*/) {
  return PyLong_FromUnsignedLongLong(calls_of(self)->numbers.fetch_add(1) + 1);
}

PyObject* calls_pop(PyObject* self, PyObject* number) {
  const std::uint64_t value = PyLong_AsUnsignedLongLong(number);
  if (PyErr_Occurred() != nullptr) return nullptr;
  PyObject* future = leave_call(calls_of(self), value);
  if (future == nullptr) Py_RETURN_NONE;
  PyObject* function = nullptr;
  Py_BEGIN_CRITICAL_SECTION(future);
  function = Py_XNewRef(future_of(future)->function);
  Py_END_CRITICAL_SECTION();
  const std::uint64_t item = future_of(future)->sent.item;
  PyObject* index = item == 0 ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(item - 1);
  return Py_BuildValue("(NNN)", future, function == nullptr ? Py_NewRef(Py_None) : function, index);
}

void drop_all(const NumberMap& futures) {
  static_cast<void>(futures.each([](PyObject* future) {
    Py_DECREF(future);
    return 0;
  }));
}

// pending() and take_all().
template <bool kTakes>
PyObject* all_futures(PyObject* self, PyObject* /*unused*/) {
  PyObject* futures = PyList_New(0);
  if (futures == nullptr) return nullptr;
  NumberMap taken;
  int failed = 0;
  Py_BEGIN_CRITICAL_SECTION(self);
  failed = calls_of(self)->futures->each([futures](PyObject* future) { return PyList_Append(futures, future); });
  if (kTakes && failed == 0) std::swap(taken, *calls_of(self)->futures);
  Py_END_CRITICAL_SECTION();
  drop_all(taken);
  if (failed != 0) Py_CLEAR(futures);
  return futures;
}

PyObject* calls_release(PyObject* self, PyObject* /*unused*/) {
  CallsObject* calls = calls_of(self);
  std::array<PyObject*, 3> channels{};
  PyObject* enter = nullptr;
  std::deque<Message> deferred;
  Py_BEGIN_CRITICAL_SECTION(self);
  calls->is_open = false;
  channels = {std::exchange(calls->tasks, nullptr), std::exchange(calls->results, nullptr),
              std::exchange(calls->inbox, nullptr)};
  enter = std::exchange(calls->enter_function, nullptr);  // the engine's, which has this
  deferred.swap(*calls->deferred);
  Py_END_CRITICAL_SECTION();
  for (Message& message : deferred) discard(place_of(channels[1]), message);
  for (PyObject* channel : channels) Py_XDECREF(channel);
  Py_XDECREF(enter);
  Py_RETURN_NONE;
}

PyObject* get_open(PyObject* self, void* /*closure*/) { return PyBool_FromLong(calls_of(self)->is_open ? 1 : 0); }

int set_open(PyObject* self, PyObject* value, void* /*closure*/) {
  const int open = value == nullptr ? -1 : PyObject_IsTrue(value);
  if (open < 0) return -1;
  Py_BEGIN_CRITICAL_SECTION(self);
  calls_of(self)->is_open = open == 1;
  Py_END_CRITICAL_SECTION();
  return 0;
}

PyObject* get_full(PyObject* self, void* /*closure*/) { return PyBool_FromLong(calls_of(self)->is_full.load() ? 1 : 0); }

int set_full(PyObject* self, PyObject* value, void* /*closure*/) {
  const int full = value == nullptr ? -1 : PyObject_IsTrue(value);
  if (full < 0) return -1;
  calls_of(self)->is_full.store(full == 1);
  return 0;
}

PyObject* get_wanted(PyObject* self, void* /*closure*/) {
  bool deferred = false;
  Py_BEGIN_CRITICAL_SECTION(self);
  deferred = !calls_of(self)->deferred->empty();
  Py_END_CRITICAL_SECTION();
  return PyBool_FromLong(deferred || calls_of(self)->attached.load() != 0 ? 1 : 0);
}

Py_ssize_t calls_length(PyObject* self) {
  Py_ssize_t size = 0;
  Py_BEGIN_CRITICAL_SECTION(self);
  size = static_cast<Py_ssize_t>(calls_of(self)->futures->size());
  Py_END_CRITICAL_SECTION();
  return size;
}

PyObject* calls_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"tasks", "results", "inbox", "enter_function", "load", "report", "made_in"};
  static constexpr Signature kSignature{"Calls", kNames, 7, 7, 7};
  std::array<PyObject*, 7> values{};
  if (!bind_call(kSignature, args, kwargs, values.data())) return nullptr;
  const State* state = state_of_type(type);
  if (state == nullptr) return nullptr;
  for (std::size_t i = 0; i < 3; ++i) {
    if (!PyObject_TypeCheck(values[i], state->type(TypeIndex::kChannel))) {
      return PyErr_Format(PyExc_TypeError, "%s must be a Channel, not %R", kNames[i], values[i]);
    }
  }
  if (!PyTuple_Check(values[6])) return PyErr_Format(PyExc_TypeError, "made_in must be a tuple, not %R", values[6]);
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  CallsObject* calls = calls_of(self);
  body_of<MessageQueue>(values[0])->keep_sentry();
  calls->deferred = new std::deque<Message>();
  calls->tasks = Py_NewRef(values[0]);
  calls->results = Py_NewRef(values[1]);
  calls->inbox = Py_NewRef(values[2]);
  calls->enter_function = Py_NewRef(values[3]);
  calls->load = Py_NewRef(values[4]);
  calls->report = Py_NewRef(values[5]);
  calls->made_in = Py_NewRef(values[6]);
  calls->process = Place::private_memory().self();
  calls->futures = new NumberMap();
  calls->functions = PyDict_New();
  if (calls->functions == nullptr) Py_CLEAR(self);
  return self;
}

int calls_traverse(PyObject* self, visitproc visit, void* arg) {
  CallsObject* calls = calls_of(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(calls->tasks);
  Py_VISIT(calls->results);
  Py_VISIT(calls->inbox);
  if (calls->futures != nullptr) {
    const int result = calls->futures->each([&](PyObject* future) { return visit(future, arg); });
    if (result != 0) return result;
  }
  Py_VISIT(calls->functions);
  Py_VISIT(calls->enter_function);
  Py_VISIT(calls->load);
  Py_VISIT(calls->report);
  Py_VISIT(calls->made_in);
  Py_VISIT(calls->future_type);
  Py_VISIT(calls->engine);
  return 0;
}

int calls_clear(PyObject* self) {
  CallsObject* calls = calls_of(self);
  // The channels and the dictionaries stay as long as it: whoever still has it may call it.
  Py_CLEAR(calls->enter_function);
  Py_CLEAR(calls->load);
  Py_CLEAR(calls->report);
  if (calls->futures != nullptr) {
    NumberMap futures;
    std::swap(futures, *calls->futures);
    drop_all(futures);
  }
  if (calls->functions != nullptr) PyDict_Clear(calls->functions);
  return 0;
}

void calls_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  CallsObject* calls = calls_of(self);
  PyObject_GC_UnTrack(self);
  calls_clear(self);
  if (calls->results != nullptr && calls->process == Place::private_memory().self()) {
    for (Message& message : *calls->deferred) discard(place_of(calls->results), message);
  }
  delete calls->deferred;
  Py_XDECREF(calls->tasks);
  Py_XDECREF(calls->results);
  Py_XDECREF(calls->inbox);
  delete calls->futures;
  Py_XDECREF(calls->functions);
  Py_XDECREF(calls->made_in);
  Py_XDECREF(calls->future_type);
  Py_XDECREF(calls->engine);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"submit", as_method(calls_submit), METH_FASTCALL,
     "submit($self, future, function, args, kwargs, context, item, /)\n--\n\n"
     "Sends a call whose function is in the log and whose arguments the codec takes, that of a map's `item` or None; how many\n"
     "calls are on their way then.\n"
     "None: it is no such call, or no call is taken."},
    {"gives", as_method(calls_gives), METH_FASTCALL,
     "gives($self, future_type, engine, /)\n--\n\nHas give() make futures of that type; `engine` is a weak reference to theirs."},
    {"give", as_method(calls_give), METH_FASTCALL,
     "give($self, function, args, kwargs, /)\n--\n\n"
     "submit() for a new future, in the caller's context: the future, or None. It takes calls only where it is full; where it is not\n"
     "any more behind the call, grow() of the engine is called."},
    {"put", as_method(calls_put), METH_FASTCALL,
     "put($self, future, kind, payload, kept, function, item, buffers, /)\n--\n\n"
     "Sends a call that is pickled already, with buffers beside the pickle, and keeps `kept` until it is done; how many calls are on their way then. None: no\n"
     "call is taken."},
    {"receive", as_method(calls_receive), METH_FASTCALL,
     "receive($self, epochs, timeout, /)\n--\n\n"
     "For the engine's own thread: takes answers and settles their futures; waits for some where there are none. Another\n"
     "message, or None: look around (behind a wake-up since epochs(), and after timeout seconds too)."},
    {"drain", calls_drain, METH_NOARGS,
     "drain($self, /)\n--\n\nSettles all that has been answered. Another message, or None: nothing is left."},
    {"idle", as_method(calls_idle), METH_FASTCALL,
     "idle($self, epochs, timeout, /)\n--\n\n"
     "For the engine's own thread: waits until it is nudged (since epochs()) or timeout seconds have passed. Meanwhile whoever\n"
     "waits for a call takes answers; but while futures are attached, it takes them. Another message than an answer, or None."},
    {"epochs", calls_epochs, METH_NOARGS, "epochs($self, /)\n--\n\nWhat idle() and receive() are to be given."},
    {"nudge", calls_nudge, METH_NOARGS, "nudge($self, /)\n--\n\nWakes the engine's own thread."},
    {"number_of", calls_number_of, METH_O,
     "number_of($self, function, /)\n--\n\nThe function's number in the log, where it is entered now if it can be; 0: it has none."},
    {"is_at_home", calls_is_at_home, METH_O,
     "is_at_home($self, context, /)\n--\n\n"
     "Whether the context (None: the caller's) is as the pool's maker's, so that calls need none of it sent."},
    {"next_number", calls_next_number, METH_NOARGS, "next_number($self, /)\n--\n\nA number for a message of the engine's own."},
    {"pop", calls_pop, METH_O,
     "pop($self, number, /)\n--\n\nTakes out the call of that number: its future, its function and its item; None: there is none."},
    {"pending", all_futures<false>, METH_NOARGS, "pending($self, /)\n--\n\nA list of the futures of all calls that are on their way."},
    {"take_all", all_futures<true>, METH_NOARGS, "take_all($self, /)\n--\n\nThe same, and takes them out."},
    {"release", calls_release, METH_NOARGS, "release($self, /)\n--\n\nThe engine has ended: lets go of its channels."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"is_open", get_open, set_open, "Whether submit() and put() take calls.", nullptr},
    {"is_full", get_full, set_full, "Whether there are as many workers as there may be, or will be.", nullptr},
    {"wants_draining", get_wanted, nullptr, "Whether the engine's own thread has to receive().", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Calls(tasks, results, inbox, enter_function, load, report, made_in)\n--\n\n"
                    "The calls of a process engine whose outcomes are futures, and who takes their answers.\n\n"
                    "enter_function(function) gives (number in the log, namespace, name) or None; load(kind, payload) gives\n"
                    "(done, value or exception); report(exception) is told what a callback raises; made_in: the context\n"
                    "variables of the pool's maker, pairs.")},
    {Py_tp_new, reinterpret_cast<void*>(calls_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(calls_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(calls_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(calls_clear)},
    {Py_sq_length, reinterpret_cast<void*>(calls_length)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.Calls", sizeof(CallsObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

int add_calls(PyObject* module, State* state) {
  if (PyModule_AddFunctions(module, serve_functions) != 0) return -1;
  return add_type(module, state, TypeIndex::kCalls, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
