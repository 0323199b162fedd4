// A worker process's side of native calls: takes them, makes them, answers (docs/design/calls.md). No Ref in what calls the user's
// code.
#include <atomic>

#include "args.hpp"
#include "call_serve.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "pool_types.hpp"
#include "state.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

// Calls that are served before Python looks around.
constexpr long kMostAtOnce = 256;

// Whether a call of the user's runs. Signal handlers, which run in the main thread as it does, ask.
std::atomic<bool> runs_user_code{false};

struct Loop {
  Server server;
  PyObject* tasks;
  TermsObject* terms;
  PyObject* functions;  // number -> (function, namespace, name)
  PyObject* find;       // number -> the same, entered in `functions`
};

// The function of that number, a new reference; null with whatever finding it raises.
PyObject* function_of(const Loop& loop, std::uint64_t number) {
  PyObject* key = PyLong_FromUnsignedLongLong(number);
  PyObject* entry = nullptr;
  if (key == nullptr || dict_get(loop.functions, key, &entry) < 0) {
    Py_XDECREF(key);
    return nullptr;
  }
  PyObject* function = nullptr;
  if (entry != nullptr) {
    function = Py_NewRef(PyTuple_GET_ITEM(entry, 0));
    PyObject* there = nullptr;
    // The name may mean something else by now.
    if (dict_get(PyTuple_GET_ITEM(entry, 1), PyTuple_GET_ITEM(entry, 2), &there) < 0 || there != function) Py_CLEAR(function);
    Py_XDECREF(there);
    Py_DECREF(entry);
  }
  if (function == nullptr && PyErr_Occurred() == nullptr) {
    entry = PyObject_CallOneArg(loop.find, key);
    if (entry != nullptr) function = Py_NewRef(PyTuple_GET_ITEM(entry, 0));
    Py_XDECREF(entry);
  }
  Py_DECREF(key);
  return function;
}

// Writes an outcome that the codec does not take.
bool write_answer(const Server& server, PyObject* value, PyObject* exception, Message* message) {
  PyObject* fields = PyObject_CallFunctionObjArgs(server.answer, value != nullptr ? Py_True : Py_False,
                                                  value != nullptr ? value : exception, nullptr);
  if (fields == nullptr) return false;
  bool written = false;
  if (PyTuple_Check(fields) && PyTuple_GET_SIZE(fields) == 4 && PyBytes_Check(PyTuple_GET_ITEM(fields, 1)) &&
      PyList_Check(PyTuple_GET_ITEM(fields, 2))) {
    PyObject* buffers = PyTuple_GET_ITEM(fields, 3);
    message->kind = static_cast<std::uint32_t>(PyLong_AsUnsignedLong(PyTuple_GET_ITEM(fields, 0)));
    written = PyErr_Occurred() == nullptr && is_buffers(buffers) &&
              write_payload(server.results, PyTuple_GET_ITEM(fields, 1), PyTuple_GET_ITEM(fields, 2), buffers, message);
  } else {
    PyErr_SetString(PyExc_TypeError, "an answer is (int, bytes, list, list)");
  }
  Py_DECREF(fields);
  return written;
}

// Writes an outcome the shortest way.
bool write_once(const Server& server, PyObject* value, PyObject* exception, const Encoding* encoded, Message* message) {
  if (value == nullptr) return write_answer(server, nullptr, exception, message);
  Encoding own;
  if (encoded == nullptr) {
    const Encoding::Outcome outcome = own.encode(value);
    if (outcome == Encoding::Outcome::kNotNative) return write_answer(server, value, nullptr, message);
    if (outcome == Encoding::Outcome::kError) return false;
    encoded = &own;
  }
  message->kind = kNativeValueAnswer;
  return write_encoding(server.results, *encoded, message);
}

// Whether it is the arguments of a call; else an error is set.
bool is_call(PyObject* what, bool has_keywords) {
  const bool good = PyTuple_Check(what) && (!has_keywords || (PyTuple_GET_SIZE(what) == 2 && PyTuple_Check(PyTuple_GET_ITEM(what, 0)) &&
                                                              PyDict_Check(PyTuple_GET_ITEM(what, 1))));
  if (!good) PyErr_SetString(PyExc_ValueError, "malformed call of a pool");
  return good;
}

// Makes the call. Null with its exception set.
PyObject* make_call(const Loop& loop, Message& message) {
  Place& place = place_of(loop.tasks);
  const std::uint64_t number = CallIndex::function_of(index_of(message));
  const bool has_keywords = message.kind == kNativeKeywordCall;
  PyObject* what = message.is_inline() ? decode(message.bytes.data() + kHead, message.size - kHead)
                                       : decode(payload_of(place, message), message.size);
  discard(place, message);
  if (what == nullptr) return nullptr;
  PyObject* function = is_call(what, has_keywords) ? function_of(loop, number) : nullptr;
  PyObject* value = nullptr;
  if (function != nullptr) {
    PyObject* args = has_keywords ? PyTuple_GET_ITEM(what, 0) : what;
    PyObject* kwargs = has_keywords ? PyTuple_GET_ITEM(what, 1) : nullptr;
    value = serve_call(loop.server, [&] { return PyObject_Call(function, args, kwargs); });
  }
  Py_XDECREF(function);
  Py_DECREF(what);
  return value;
}

}  // namespace

void mark_user_code(bool runs) { runs_user_code.store(runs, std::memory_order_relaxed); }  // relaxed: its thread's own

bool write_outcome(const Server& server, PyObject* value, PyObject* exception, const Encoding* encoded, Message* message) {
  if (write_once(server, value, exception, encoded, message)) return true;
  PyObject* failure = take_exception();
  const bool written = write_answer(server, nullptr, failure, message);
  Py_XDECREF(failure);
  return written;
}

namespace {

enum class Served : std::uint8_t { kDone, kForked, kError };

// Serves one call. kForked: this process is a child that the call forked, and that came back from it. kError: an error is set, which
// is no outcome of the call's.
Served serve_one(const Loop& loop, Message& call, OwnerId process, bool moves) {
  Message message;
  write_head(&message, kNativeValueAnswer, tag_of(call), moves ? kMoves : 0);
  PyObject* value = make_call(loop, call);
  PyObject* exception = value == nullptr ? take_exception() : nullptr;
  Served served = Place::private_memory().self() == process ? Served::kDone : Served::kForked;
  if (served == Served::kDone && !write_outcome(loop.server, value, exception, nullptr, &message)) served = Served::kError;
  // Before the outcome is known: what it was given, and gave, is gone then.
  Py_XDECREF(value);
  Py_XDECREF(exception);
  if (served == Served::kDone && !put_message(loop.server.results, message)) served = Served::kError;
  return served;
}

// serve_calls(tasks, results, terms, functions, find, context, prepare, answer, most)
PyObject* serve_calls(PyObject* module, PyObject* const* args, Py_ssize_t nargs) {
  const State* state = state_of_module(module);
  if (nargs != 9 || !PyObject_TypeCheck(args[0], state->type(TypeIndex::kChannel)) ||
      !PyObject_TypeCheck(args[1], state->type(TypeIndex::kChannel)) || !PyDict_Check(args[3]) ||
      !PyContext_CheckExact(args[5])) {
    PyErr_SetString(PyExc_TypeError,
                    "serve_calls() takes two Channels, WorkerTerms, a dict, a callable, a context, a callable or None, a "
                    "callable, and a number");
    return nullptr;
  }
  TermsObject* terms = terms_of(args[0], args[2]);
  long most = PyLong_AsLong(args[8]);
  if (terms == nullptr || PyErr_Occurred() != nullptr) return nullptr;
  if (most > kMostAtOnce) most = kMostAtOnce;
  const Loop loop{{args[1], {args[5], args[6]}, args[7]}, args[0], terms, args[3], args[4]};
  WorkerRecord* record = terms->record;
  Place& place = place_of(loop.tasks);
  MessageQueue& queue = *body_of<MessageQueue>(loop.tasks);
  const OwnerId process = Place::private_memory().self();
  static thread_local CpuSeat seat;
  long served = 0;
  Deadline patience = Deadline::never();
  bool is_waiting = false;
  while (served < most) {
    const std::uint32_t epoch = queue.wake_epoch();  // before it is asked: who says something behind that ends the wait
    if (terms->end()) {
      // The wake-up that it may have had was another's.
      if (queue.size() != 0) queue.wake_consumers(place);
      break;
    }
    Message message;
    QueueOutcome outcome = queue.try_get(place, message, &record->task);
    if (outcome == QueueOutcome::kDone) {
      if (is_withdrawn(place, message)) continue;
      if (message.kind != kNativeCall && message.kind != kNativeKeywordCall) {
        loop.server.contexts.leave();
        return Py_BuildValue("(lN)", served, unpack_message(loop.tasks, message));
      }
      const bool moves = served == 0 && seat.has_work_from(CallIndex::cpu_of(index_of(message)));
      record->item.store(1);
      const Served one = serve_one(loop, message, process, moves);
      if (one == Served::kError) {
        loop.server.contexts.leave();
        return nullptr;
      }
      if (one == Served::kForked) break;
      record->item.store(0);
      if ((moves && seat.move()) || (served == 0 && CallIndex::stays(index_of(message)))) expect_partner();
      terms->has_worked = true;
      ++served;
      continue;
    }
    if (served != 0) break;  // Python looks around before this process sleeps; what there is to say, it hears then
    if (outcome == QueueOutcome::kShutDown) return raise_shut_down(loop.tasks);
    if (outcome == QueueOutcome::kNoMemory) return PyErr_NoMemory();
    if (!is_waiting) patience = terms->wait_deadline();
    is_waiting = true;
    const bool looks_first = terms->has_to_look();
    const Deadline until = looks_first ? TermsObject::look_deadline() : patience;
    outcome = queue_wait_detached(until, [&](WaitContext& context) { return queue.wait_not_empty(place, context, epoch); });
    if (outcome == QueueOutcome::kInterrupted) return nullptr;
    if (outcome == QueueOutcome::kTimedOut && !looks_first && queue.size() == 0) {
      leave_worker(*record, Leaving::kIdle);
      break;
    }
  }
  loop.server.contexts.leave();
  return Py_BuildValue("(lO)", served, Py_None);
}

PyObject* get_runs_user_code(PyObject* /*module*/, PyObject* /*unused*/) {
  return PyBool_FromLong(runs_user_code.load(std::memory_order_relaxed) ? 1 : 0);
}

}  // namespace

PyMethodDef serve_functions[] = {
    {"serve_calls", as_method(serve_calls), METH_FASTCALL,
     "serve_calls(tasks, results, terms, functions, find, context, prepare, answer, most, /)\n--\n\n"
     "A pool worker's loop over native calls: takes what is there, makes the calls, answers. `most` calls at most; waits for a\n"
     "first one. (number of calls, message): the next message where that is no native call, or None. Where the terms end,\n"
     "which it looks at before each message, None."},
    {"run_job", as_method(run_job), METH_FASTCALL,
     "run_job(results, buffer, number, worker, function, context, prepare, answer, terms, tasks, /)\n--\n\n"
     "Works on the job in the buffer, whose number that is, for as long as it has items that nobody runs and the terms have not\n"
     "ended. False: this process is a child that an item forked, and that came back from it. None: it is to be joined again, since\n"
     "the terms have ended, or since other tasks wait and it is an open job."},
    {"runs_user_code", get_runs_user_code, METH_NOARGS,
     "runs_user_code()\n--\n\nFor signal handlers: whether serve_calls() or run_job() is in a call of the user's."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace freethreading::binding
