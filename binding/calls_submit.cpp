// How a call gets on its way to a worker process (docs/design/calls.md).
#include <utility>

#include "args.hpp"
#include "calls.hpp"
#include "channel.hpp"
#include "codec.hpp"
#include "errors.hpp"
#include "patience.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

// A function is entered once; so many are remembered at a time.
constexpr Py_ssize_t kMostFunctions = 1024;
// Answers that wait before a submission takes some.
constexpr std::uint64_t kMostAnswers = 256;

bool check_future(PyObject* self, PyObject* object) {
  const State* state = state_of(self);
  if (state == nullptr) return false;
  if (PyObject_TypeCheck(object, state->type(TypeIndex::kFuture))) return true;
  PyErr_Format(PyExc_TypeError, "a NativeFuture is needed, not %R", object);
  return false;
}

// Writes the payload of a call. kNotNative: it is not for the codec. The message has its block then only where it is kDone.
Encoding::Outcome write_call(PyObject* tasks, PyObject* args, PyObject* kwargs, Message* message) {
  const bool has_keywords = kwargs != nullptr && kwargs != Py_None && PyDict_GET_SIZE(kwargs) != 0;
  PyObject* what = has_keywords ? PyTuple_Pack(2, args, kwargs) : Py_NewRef(args);
  if (what == nullptr) return Encoding::Outcome::kError;
  Encoding encoding;
  Encoding::Outcome outcome = encoding.encode(what);
  if (outcome == Encoding::Outcome::kDone) {
    if (has_keywords) message->kind = kNativeKeywordCall;
    if (!write_encoding(tasks, encoding, message)) outcome = Encoding::Outcome::kError;
  }
  Py_DECREF(what);
  return outcome;
}

// A map's item as a future has it; `item`: its index, or None. False: an error is set.
bool item_of(PyObject* item, std::uint64_t* number) {
  *number = item == Py_None ? 0 : PyLong_AsUnsignedLongLong(item) + 1;
  return PyErr_Occurred() == nullptr;
}

// Enters the future and puts its message. 1: done. 0: it takes no more. -1: an error is set.
int put_call(CallsObject* calls, PyObject* tasks, PyObject* future, PyObject* function, std::uint64_t item,
             Message& message) {
  const std::uint64_t number = tag_of(message);
  int entered = 0;
  FutureObject* object = future_of(future);
  const bool attaches = object->callbacks != nullptr;  // somebody is to be told, by the engine's own thread
  Py_BEGIN_CRITICAL_SECTION(calls);
  if (calls->is_open && object->calls == nullptr && object->function == nullptr) {
    entered = calls->futures->put(number, future) ? 1 : -1;
    if (entered == 1) {
      Py_INCREF(future);
      object->calls = Py_NewRef(calls);
      object->sent.number = number;
      object->sent.item = item;
      object->function = Py_NewRef(function);
      if (attaches && !object->attached.exchange(true)) calls->attached.fetch_add(1);
    }
  }
  Py_END_CRITICAL_SECTION();
  if (entered < 0) PyErr_NoMemory();
  if (entered != 1) {
    discard(place_of(tasks), message);
    return entered;
  }
  std::uint64_t sequence = 0;
  if (put_message(tasks, message, &sequence, Waking::kLazily)) {
    object->sent.sequence.store(sequence);
    if (attaches) call_drainer(calls);
    return 1;
  }
  PyObject* error = take_exception();
  PyObject* there = leave_call(calls, number);
  if (object->attached.exchange(false)) calls->attached.fetch_sub(1);
  State* state = state_of(tasks);
  PyObject* shut_down = state == nullptr ? nullptr : imported(state, Import::kShutDown);
  if (there != nullptr && shut_down != nullptr && PyErr_GivenExceptionMatches(error, shut_down) != 0) {
    Py_DECREF(there);
    Py_DECREF(error);
    return 0;
  }
  if (there == nullptr) {  // it was failed meanwhile, by who ended the engine
    Py_XDECREF(error);
    return 1;
  }
  Py_DECREF(there);
  give_exception(error);
  return -1;
}

}  // namespace

std::uint64_t number_of_function(CallsObject* calls, PyObject* function) {
  if (!PyFunction_Check(function) && !PyCFunction_CheckExact(function)) return 0;
  PyObject* entry = nullptr;
  if (dict_get(calls->functions, function, &entry) < 0) return 0;
  if (entry == nullptr) {
    PyObject* enter = member_of(calls, &CallsObject::enter_function);
    if (enter == nullptr) return 0;  // the engine has ended
    entry = PyObject_CallOneArg(enter, function);
    Py_DECREF(enter);
    if (entry != nullptr && PyTuple_Check(entry)) {
      if (PyDict_GET_SIZE(calls->functions) >= kMostFunctions) PyDict_Clear(calls->functions);
      if (PyDict_SetItem(calls->functions, function, entry) != 0) Py_CLEAR(entry);
    }
  }
  std::uint64_t number = 0;
  if (entry != nullptr && PyTuple_Check(entry)) {
    PyObject* there = nullptr;
    // The name may mean something else by now.
    if (dict_get(PyTuple_GET_ITEM(entry, 1), PyTuple_GET_ITEM(entry, 2), &there) >= 0 && there == function) {
      number = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(entry, 0));
    }
    Py_XDECREF(there);
  }
  Py_XDECREF(entry);
  return number;
}

int is_at_home(const CallsObject* calls, PyObject* context) {
  if (context == Py_None && PyTuple_GET_SIZE(calls->made_in) == 0 && has_empty_context()) return 1;
  PyObject* asked = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
  const Py_ssize_t size = asked == nullptr ? -1 : PyObject_Size(asked);
  int answer = size < 0 ? -1 : (size == PyTuple_GET_SIZE(calls->made_in) ? 1 : 0);
  for (Py_ssize_t i = 0; answer == 1 && i < size; ++i) {
    PyObject* pair = PyTuple_GET_ITEM(calls->made_in, i);
    const int has = PySequence_Contains(asked, PyTuple_GET_ITEM(pair, 0));
    PyObject* value = has == 1 ? PyObject_GetItem(asked, PyTuple_GET_ITEM(pair, 0)) : nullptr;
    answer = has < 0 || PyErr_Occurred() != nullptr ? -1 : (has == 1 && value == PyTuple_GET_ITEM(pair, 1) ? 1 : 0);
    Py_XDECREF(value);
  }
  Py_XDECREF(asked);
  return answer;
}

namespace {

PyObject* outstanding_of(CallsObject* calls) {
  Py_ssize_t size = 0;
  Py_BEGIN_CRITICAL_SECTION(calls);
  size = static_cast<Py_ssize_t>(calls->futures->size());
  Py_END_CRITICAL_SECTION();
  return PyLong_FromSsize_t(size);
}

// Sends a call of that future's, which is made first where it is null: then the reference is the caller's. 1: done. 0: it is no such
// call, or no call is taken. -1: an error is set.
int submit(CallsObject* calls, PyObject** future, PyObject* function, PyObject* args, PyObject* kwargs, PyObject* context,
           std::uint64_t item) {
  if (!calls->is_open || calls->process != Place::private_memory().self()) return 0;
  const std::uint64_t number = number_of_function(calls, function);
  const int at_home = number == 0 ? 0 : is_at_home(calls, context);
  if (at_home < 0 || PyErr_Occurred() != nullptr) return -1;
  if (at_home == 0) return 0;
  PyObject* tasks = member_of(calls, &CallsObject::tasks);
  if (tasks == nullptr) return 0;
  Message message;
  const std::uint64_t index = CallIndex::pack(number, CpuSeat::here(), Patience::mine().take_awakening());
  write_head(&message, kNativeCall, calls->numbers.fetch_add(1) + 1, index);
  const Encoding::Outcome outcome = write_call(tasks, args, kwargs, &message);
  int put = outcome == Encoding::Outcome::kError ? -1 : 0;
  if (outcome == Encoding::Outcome::kDone) {
    const bool makes = *future == nullptr;
    if (makes) *future = new_future(reinterpret_cast<PyTypeObject*>(calls->future_type), calls->engine);
    if (*future == nullptr) {
      discard(place_of(tasks), message);
      put = -1;
    } else {
      put = put_call(calls, tasks, *future, function, item, message);
      if (makes && put != 1) Py_CLEAR(*future);
    }
  }
  Py_DECREF(tasks);
  if (put != 1) return put;
  PyObject* results = member_of(calls, &CallsObject::results);
  const bool many = results != nullptr && body_of<MessageQueue>(results)->size() > kMostAnswers;
  Py_XDECREF(results);
  if (many) poll_answers(calls);
  return 1;
}

}  // namespace

// submit(future, function, args, kwargs, context, item)
PyObject* calls_submit(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 6 || !PyTuple_CheckExact(args[2])) {
    PyErr_SetString(PyExc_TypeError,
                    "submit() takes a future, a function, a tuple, a dict or None, a context or None, and a number or None");
    return nullptr;
  }
  std::uint64_t item = 0;
  if (!check_future(self, args[0]) || !item_of(args[5], &item)) return nullptr;
  PyObject* future = args[0];
  const int submitted = submit(calls_of(self), &future, args[1], args[2], args[3], args[4], item);
  if (submitted < 0) return nullptr;
  if (submitted == 0) Py_RETURN_NONE;
  return outstanding_of(calls_of(self));
}

// give(function, args, kwargs)
PyObject* calls_give(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  CallsObject* calls = calls_of(self);
  if (nargs != 3 || !PyTuple_CheckExact(args[1]) || !PyDict_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "give() takes a function, a tuple and a dict");
    return nullptr;
  }
  if (!calls->is_full.load() || calls->future_type == nullptr) Py_RETURN_NONE;
  PyObject* future = nullptr;
  const int submitted = submit(calls, &future, args[0], args[1], args[2], Py_None, 0);
  if (submitted < 0) {
    // What goes wrong with a call is its future's exception: submit() meets it again.
    if (PyErr_ExceptionMatches(PyExc_Exception) == 0) return nullptr;
    PyErr_Clear();
  }
  if (submitted != 1) Py_RETURN_NONE;
  // Behind the put: who takes a worker off the number wiped it first, and then looks what is out.
  if (!calls->is_full.load() && !grow_engine(calls->engine)) Py_CLEAR(future);
  return future;
}

// gives(future_type, engine)
PyObject* calls_gives(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  CallsObject* calls = calls_of(self);
  const State* state = state_of(self);
  if (nargs != 2 || calls->future_type != nullptr || !PyType_Check(args[0]) || PyCallable_Check(args[1]) == 0 ||
      PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(args[0]), state->type(TypeIndex::kFuture)) == 0) {
    PyErr_SetString(PyExc_TypeError, "gives() takes a type of NativeFutures and a reference, once");
    return nullptr;
  }
  calls->future_type = Py_NewRef(args[0]);
  calls->engine = Py_NewRef(args[1]);
  Py_RETURN_NONE;
}

// put(future, kind, payload, kept, function, item, buffers)
PyObject* calls_put(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  CallsObject* calls = calls_of(self);
  if (nargs != 7 || !PyBytes_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError,
                    "put() takes a future, a kind, bytes, an object to keep, a function, a number or None, and buffers");
    return nullptr;
  }
  if (!is_buffers(args[6])) return nullptr;
  std::uint64_t item = 0;
  if (!check_future(self, args[0]) || !item_of(args[5], &item)) return nullptr;
  const unsigned long kind = PyLong_AsUnsignedLong(args[1]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  PyObject* tasks = member_of(calls, &CallsObject::tasks);
  if (tasks == nullptr) Py_RETURN_NONE;
  Message message;
  write_head(&message, static_cast<std::uint32_t>(kind), calls->numbers.fetch_add(1) + 1, 0);
  int put = -1;
  if (write_payload(tasks, args[2], nullptr, args[6], &message)) {
    future_of(args[0])->args = Py_NewRef(args[3]);
    put = put_call(calls, tasks, args[0], args[4], item, message);
  }
  Py_DECREF(tasks);
  if (put < 0) return nullptr;
  if (put == 0) Py_RETURN_NONE;
  return outstanding_of(calls);
}

}  // namespace freethreading::binding
