// WorkerRecord: what is known of one worker process, over the core's struct of that name.
#include "freethreading/pool/worker_record.hpp"

#include "args.hpp"
#include "errors.hpp"
#include "handle.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "pool_types.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

WorkerRecord& record(PyObject* self) { return *body_of<WorkerRecord>(self); }

PyObject* record_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr Signature kSignature{"WorkerRecord", nullptr, 0, 0, 0};
  if (!bind_call(kSignature, args, kwargs, nullptr)) return nullptr;
  return new_pool_object<WorkerRecord>(type, ObjectType::kWorker, [](Place&, WorkerRecord&) { return true; });
}

PyObject* record_open(PyObject* type, PyObject* bytes) {
  return open_pool_object(reinterpret_cast<PyTypeObject*>(type), bytes, ObjectType::kWorker);
}

PyObject* get_state(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLong(record(self).state.load()); }

PyObject* get_pid(PyObject* self, void* /*closure*/) { return PyLong_FromLong(record(self).pid.load()); }

PyObject* get_exitcode(PyObject* self, void* /*closure*/) {
  const auto state = static_cast<WorkerState>(record(self).state.load());
  if (state != WorkerState::kExited && state != WorkerState::kFailed) Py_RETURN_NONE;
  return PyLong_FromLong(exit_code_of(record(self).wait_status.load()));
}

PyObject* get_sequence(PyObject* self, void* /*closure*/) {
  return PyLong_FromUnsignedLongLong(record(self).task.sequence.load());
}

PyObject* get_tag(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLongLong(record(self).task.tag.load()); }

PyObject* get_item(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLongLong(record(self).item.load()); }

int set_item(PyObject* self, PyObject* value, void* /*closure*/) {
  if (value == nullptr) {
    PyErr_SetString(PyExc_TypeError, "cannot delete item");
    return -1;
  }
  const std::uint64_t item = PyLong_AsUnsignedLongLong(value);
  if (item == static_cast<std::uint64_t>(-1) && PyErr_Occurred() != nullptr) return -1;
  record(self).item.store(item);
  return 0;
}

// crew, beside and memory_limit are written before the start only.
PyObject* get_crew(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLongLong(record(self).crew); }

PyObject* get_beside(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLongLong(record(self).beside); }

PyObject* get_memory_limit(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLongLong(record(self).memory_limit); }

template <std::uint64_t WorkerRecord::*Member>
int set_number(PyObject* self, PyObject* value, void* /*closure*/) {
  const std::uint64_t number = value == nullptr ? 0 : PyLong_AsUnsignedLongLong(value);
  if (PyErr_Occurred() != nullptr) return -1;
  if (static_cast<WorkerState>(record(self).state.load()) != WorkerState::kNew) {
    PyErr_SetString(PyExc_RuntimeError, "this worker's start was asked for already");
    return -1;
  }
  record(self).*Member = number;
  return 0;
}

PyObject* get_excess(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLongLong(record(self).excess.load()); }

PyObject* get_ready(PyObject* self, void* /*closure*/) { return PyBool_FromLong(record(self).is_ready.load() != 0 ? 1 : 0); }

PyObject* set_ready(PyObject* self, PyObject* /*unused*/) {
  record(self).is_ready.store(1);
  Py_RETURN_NONE;
}

PyObject* get_ended_in(PyObject* self, void* /*closure*/) { return PyLong_FromUnsignedLongLong(record(self).ended.load()); }

PyObject* set_payload(PyObject* self, PyObject* payload) {
  if (!PyBytes_Check(payload)) {
    return PyErr_Format(PyExc_TypeError, "a payload is bytes, not %s", Py_TYPE(payload)->tp_name);
  }
  Place& place = place_of(self);
  Message message;
  if (!fill_block(self, payload, nullptr, &message)) return nullptr;
  WorkerRecord& target = record(self);
  place.link(message.block);
  target.payload_size.store(message.size);
  target.payload.store(message.block);
  Py_RETURN_NONE;
}

PyObject* take_payload(PyObject* self, PyObject* /*unused*/) {
  Place& place = place_of(self);
  WorkerRecord& source = record(self);
  Message message;
  message.size = source.payload_size.load();
  message.block = source.payload.exchange(kNoOffset);
  if (message.is_inline()) {
    PyErr_SetString(PyExc_RuntimeError, "this worker's payload was taken already");
    return nullptr;
  }
  place.adopt(message.block);
  PyObject* payload = bytes_of_block(place, message);
  discard(place, message);
  return payload;
}

PyObject* get_leaving(PyObject* self, void* /*closure*/) {
  return PyLong_FromUnsignedLong(record(self).leaving.load());
}

template <class Wait>
PyObject* wait_with_timeout(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames, Wait wait) {
  static constexpr const char* kNames[] = {"timeout"};
  static constexpr Signature kSignature{"wait", kNames, 1, 1, 0};
  PyObject* timeout = nullptr;
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, &timeout)) return nullptr;
  if (!deadline_of(timeout, Negative::kPassed, &deadline)) return nullptr;
  Place& place = place_of(self);
  WorkerRecord& body = record(self);
  const WaitOutcome outcome = wait_detached(deadline, [&](WaitContext& context) { return wait(place, body, context); });
  if (outcome == WaitOutcome::kInterrupted) return nullptr;
  return PyBool_FromLong(outcome == WaitOutcome::kReady);
}

PyObject* wait_exit(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  return wait_with_timeout(self, args, nargs, kwnames, wait_for_exit);
}

PyObject* wait_start(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  return wait_with_timeout(self, args, nargs, kwnames, wait_for_start);
}

PyObject* begin(PyObject* self, PyObject* pid) {
  const long number = PyLong_AsLong(pid);
  if (number == -1 && PyErr_Occurred() != nullptr) return nullptr;
  return PyBool_FromLong(begin_worker(place_of(self), record(self), static_cast<std::int32_t>(number)) ? 1 : 0);
}

PyObject* ended(PyObject* self, PyObject* /*unused*/) {
  WorkerRecord& body = record(self);
  look_after_supervisor(place_of(self), body);
  const auto state = static_cast<WorkerState>(body.state.load());
  return PyBool_FromLong(state == WorkerState::kExited || state == WorkerState::kFailed ? 1 : 0);
}

PyObject* set_queues(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  const State* state = state_of(self);
  if (state == nullptr) return nullptr;
  auto& queues = record(self).queues;
  if (nargs > static_cast<Py_ssize_t>(queues.size())) {
    return PyErr_Format(PyExc_TypeError, "set_queues() takes at most %zu channels, not %zd", queues.size(), nargs);
  }
  for (Py_ssize_t i = 0; i < nargs; ++i) {
    if (!PyObject_TypeCheck(args[i], state->type(TypeIndex::kChannel))) {
      return PyErr_Format(PyExc_TypeError, "set_queues() takes Channels, not %s", Py_TYPE(args[i])->tp_name);
    }
    queues[static_cast<std::size_t>(i)] = handle_of_proxy(reinterpret_cast<const Proxy*>(args[i]));
  }
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"set_payload", set_payload, METH_O, "set_payload($self, payload, /)\n--\n\nWhat the worker has to do."},
    {"take_payload", take_payload, METH_NOARGS, "take_payload($self, /)\n--\n\nThe payload, once."},
    {"wait_exit", as_method(wait_exit), METH_FASTCALL | METH_KEYWORDS,
     "wait_exit($self, /, timeout=None)\n--\n\nWhether the worker has ended, or could not be started, within timeout seconds."},
    {"wait_start", as_method(wait_start), METH_FASTCALL | METH_KEYWORDS,
     "wait_start($self, /, timeout=None)\n--\n\nWhether the worker runs, or never will, within timeout seconds."},
    {"begin", begin, METH_O,
     "begin($self, pid, /)\n--\n\nThe worker's first act. False: another process is that worker, or its start failed."},
    {"set_ready", set_ready, METH_NOARGS, "set_ready($self, /)\n--\n\nFor the worker: its initializer is done."},
    {"ended", ended, METH_NOARGS, "ended($self, /)\n--\n\nWhether it has ended, on its own or with its supervisor."},
    {"set_queues", as_method(set_queues), METH_FASTCALL,
     "set_queues($self, /, *channels)\n--\n\nThe channels, two at most, whose receivers the worker's end wakes."},
    {"open", record_open, METH_O | METH_CLASS, "open($type, handle, /)\n--\n\nThe record that the handle names."},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"handle", handle_attribute, nullptr, "The bytes that name it in every process of the session.", nullptr},
    {"state", get_state, nullptr, "0 new, 1 starting, 2 running, 3 exited, 4 could not be started.", nullptr},
    {"pid", get_pid, nullptr, "The worker's process id; 0 until it runs.", nullptr},
    {"exitcode", get_exitcode, nullptr, "None while it runs; the exit code, or minus the signal that ended it.", nullptr},
    {"task_sequence", get_sequence, nullptr, "The number in its channel of the message taken last; 0: none.", nullptr},
    {"task_tag", get_tag, nullptr, "That message's tag.", nullptr},
    {"item", get_item, set_item, "The index in that message of what the worker runs now.", nullptr},
    {"crew", get_crew, set_number<&WorkerRecord::crew>, "Which workers it belongs to; 0: none. Set before its start.", nullptr},
    {"beside", get_beside, set_number<&WorkerRecord::beside>,
     "Of a standby: how many others of its crew there are. Set before it is asked for.", nullptr},
    {"memory_limit", get_memory_limit, set_number<&WorkerRecord::memory_limit>,
     "Bytes; beyond twice that it is killed in the middle of a task; 0: never. Set before its start.", nullptr},
    {"excess", get_excess, nullptr, "Bytes that it had when it was killed for that; 0: it was not.", nullptr},
    {"ended_in", get_ended_in, nullptr, "The tag of the task that it was killed in by Supervisor.end_task(); 0: of none.", nullptr},
    {"is_ready", get_ready, nullptr, "Whether its initializer is done.", nullptr},
    {"leaving", get_leaving, nullptr, "Why it leaves of its own accord: 0 it does not, 1 it is one too many, 2 it is idle, 3 it is too\n"
     "large.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("WorkerRecord()\n--\n\nWhat the program, the supervisor and one worker know of that worker.")},
    {Py_tp_new, reinterpret_cast<void*>(record_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.WorkerRecord", sizeof(Proxy), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                    slots};

}  // namespace

int add_worker_record(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kWorkerRecord, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
