// Supervisor: the program's side of the process that starts and watches its workers; and what zygote and worker need of it.
#include "freethreading/pool/supervisor.hpp"

#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "args.hpp"
#include "errors.hpp"
#include "pool_types.hpp"
#include "ref.hpp"
#include "state.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

struct SupervisorObject {
  PyObject_HEAD
  Supervisor core;
};

Supervisor& core_of(PyObject* self) { return reinterpret_cast<SupervisorObject*>(self)->core; }

PyObject* supervisor_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr Signature kSignature{"Supervisor", nullptr, 0, 0, 0};
  if (!bind_call(kSignature, args, kwargs, nullptr)) return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  new (&reinterpret_cast<SupervisorObject*>(self)->core) Supervisor();
  return self;
}

void supervisor_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  core_of(self).~Supervisor();
  type->tp_free(self);
  Py_DECREF(type);
}

bool path_of(PyObject* text, std::string* path) {
  PyObject* encoded = nullptr;
  if (PyUnicode_FSConverter(text, &encoded) == 0) return false;
  *path = std::string(PyBytes_AS_STRING(encoded), static_cast<std::size_t>(PyBytes_GET_SIZE(encoded)));
  Py_DECREF(encoded);
  return true;
}

bool paths_of(PyObject* texts, std::vector<std::string>* paths) {
  const Ref sequence = Ref::take(PySequence_Fast(texts, "the zygote's arguments are a sequence of str"));
  if (!sequence) return false;
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence.get());
  for (Py_ssize_t index = 0; index < count; ++index) {
    paths->emplace_back();
    if (!path_of(PySequence_Fast_GET_ITEM(sequence.get(), index), &paths->back())) return false;
  }
  return true;
}

bool descriptors_of(PyObject* numbers, std::vector<int>* descriptors) {
  const Ref sequence = Ref::take(PySequence_Fast(numbers, "descriptors are a sequence of int"));
  if (!sequence) return false;
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence.get());
  for (Py_ssize_t index = 0; index < count; ++index) {
    const long number = PyLong_AsLong(PySequence_Fast_GET_ITEM(sequence.get(), index));
    if (number == -1 && PyErr_Occurred() != nullptr) return false;
    descriptors->push_back(static_cast<int>(number));
  }
  return true;
}

// Detaches for the start of a process. What it is given has destructors: they run in the caller, once attached.
void start_detached(Supervisor& supervisor, Session& session, const SupervisorConfig& config, std::string* error) {
  detached([&] { *error = supervisor.start(session, config); });
}

PyObject* supervisor_start(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"program", "zygote_argv", "preparation"};
  static constexpr Signature kSignature{"start", kNames, 3, 3, 3};
  PyObject* values[3] = {};
  State* state = state_of(self);
  if (state == nullptr || !bind(kSignature, args, nargs, kwnames, values)) return nullptr;
  SupervisorConfig config;
  if (!path_of(values[0], &config.program) || !paths_of(values[1], &config.zygote_argv)) return nullptr;
  const long preparation = PyLong_AsLong(values[2]);
  if (preparation == -1 && PyErr_Occurred() != nullptr) return nullptr;
  config.preparation = static_cast<int>(preparation);
  Session* session = default_session(state);
  if (session == nullptr) return nullptr;
  std::string error;
  start_detached(core_of(self), *session, config, &error);
  if (error.empty()) Py_RETURN_NONE;
  return PyErr_Format(PyExc_OSError, "worker processes cannot be started: %s", error.c_str());
}

PyObject* supervisor_request(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"record", "descriptors", "standby"};
  static constexpr Signature kSignature{"request", kNames, 3, 3, 3};
  PyObject* values[3] = {};
  if (!bind(kSignature, args, nargs, kwnames, values)) return nullptr;
  const int standby = PyObject_IsTrue(values[2]);
  if (standby < 0) return nullptr;
  WorkerRecord* record = record_of(self, values[0]);
  std::vector<int> descriptors;
  if (record == nullptr || !descriptors_of(values[1], &descriptors)) return nullptr;
  const Handle handle = handle_of_proxy(proxy_of(values[0]));
  const Ref bytes = Ref::take(bytes_of_handle(handle));
  if (!bytes) return nullptr;
  WorkerToken token;
  static_assert(sizeof(WorkerToken) == kHandleSize);
  std::memcpy(token.data(), PyBytes_AS_STRING(bytes.get()), sizeof token);
  // Attached: it waits only where some hundred starts are under way.
  return PyBool_FromLong(core_of(self).request(*record, handle, token, descriptors, standby == 1) ? 1 : 0);
}

PyObject* supervisor_withdraw(PyObject* self, PyObject* record) {
  if (record_of(self, record) == nullptr) return nullptr;
  core_of(self).withdraw(handle_of_proxy(proxy_of(record)));
  Py_RETURN_NONE;
}

// end_task(record, tag)
PyObject* supervisor_end_task(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "end_task() takes a WorkerRecord and a number");
    return nullptr;
  }
  WorkerRecord* record = record_of(self, args[0]);
  const std::uint64_t tag = record == nullptr ? 0 : PyLong_AsUnsignedLongLong(args[1]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  core_of(self).end_task(*record, handle_of_proxy(proxy_of(args[0])), tag);
  Py_RETURN_NONE;
}

PyObject* supervisor_import_modules(PyObject* self, PyObject* descriptor) {
  const long number = PyLong_AsLong(descriptor);
  if (number == -1 && PyErr_Occurred() != nullptr) return nullptr;
  core_of(self).import_modules(static_cast<int>(number));
  Py_RETURN_NONE;
}

PyObject* supervisor_renew_zygote(PyObject* self, PyObject* /*unused*/) {
  core_of(self).renew_zygote();
  Py_RETURN_NONE;
}

PyObject* supervisor_stop(PyObject* self, PyObject* timeout) {
  Deadline deadline = Deadline::never();
  if (!deadline_of(timeout, Negative::kPassed, &deadline)) return nullptr;
  Supervisor& core = core_of(self);
  detached([&] { core.stop(deadline); });
  Py_RETURN_NONE;
}

PyObject* supervisor_abandon(PyObject* self, PyObject* /*unused*/) {
  core_of(self).abandon();
  Py_RETURN_NONE;
}

PyObject* get_pid(PyObject* self, void* /*closure*/) { return PyLong_FromLong(core_of(self).pid()); }

PyObject* fork_worker_attached(PyObject* /*module*/, PyObject* /*unused*/) {
  PyOS_BeforeFork();
  const int pid = fork_worker();
  if (pid == 0) {
    copy_written_pages();  // first: what comes next writes to most of them
    PyOS_AfterFork_Child();
  } else {
    PyOS_AfterFork_Parent();
  }
  if (pid < 0) return PyErr_SetFromErrno(PyExc_OSError);
  return PyLong_FromLong(pid);
}

PyObject* die_with_supervisor_attached(PyObject* /*module*/, PyObject* descriptor) {
  const long number = PyLong_AsLong(descriptor);
  if (number == -1 && PyErr_Occurred() != nullptr) return nullptr;
  return PyBool_FromLong(die_with_supervisor(static_cast<int>(number)) ? 1 : 0);
}

template <void (*Function)() noexcept>
PyObject* call_core(PyObject* /*module*/, PyObject* /*unused*/) {
  Function();
  Py_RETURN_NONE;
}

PyObject* end_worker_now(PyObject* /*module*/, PyObject* code) {
  const long number = PyLong_AsLong(code);
  if (number == -1 && PyErr_Occurred() != nullptr) return nullptr;
  end_worker(static_cast<int>(number));
}

PyMethodDef methods[] = {
    {"start", as_method(supervisor_start), METH_FASTCALL | METH_KEYWORDS,
     "start($self, program, zygote_argv, preparation)\n--\n\nStarts it and waits until it is ready; an OSError says why not."},
    {"request", as_method(supervisor_request), METH_FASTCALL | METH_KEYWORDS,
     "request($self, record, descriptors, standby)\n--\n\n"
     "Asks for a worker; as a standby, for the case that one of its crew dies and none is asked for. False: there is no\n"
     "supervisor, or it is gone."},
    {"withdraw", supervisor_withdraw, METH_O,
     "withdraw($self, record, /)\n--\n\n"
     "A worker that was asked for is not needed any more: it ends without having run, unless it has a process already."},
    {"end_task", as_method(supervisor_end_task), METH_FASTCALL,
     "end_task($self, record, tag, /)\n--\n\n"
     "Has the worker killed if it is in the task of that tag; its record says so then. It may come too early or too late."},
    {"import_modules", supervisor_import_modules, METH_O,
     "import_modules($self, description, /)\n--\n\n"
     "Has workers that are asked for later begin with the modules that the file of this descriptor names (_zygote.py)."},
    {"renew_zygote", supervisor_renew_zygote, METH_NOARGS,
     "renew_zygote($self, /)\n--\n\nHas workers that are asked for later come from a new zygote, without the modules of this one."},
    {"stop", supervisor_stop, METH_O,
     "stop($self, timeout, /)\n--\n\nEnds it and all workers; waits timeout seconds for its end."},
    {"abandon", supervisor_abandon, METH_NOARGS, "abandon($self, /)\n--\n\nForgets it without touching it: in a forked child."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"pid", get_pid, nullptr, "Its process id; 0: there is none.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("Supervisor()\n--\n\nThe process that starts and watches the workers. Not thread-safe.")},
    {Py_tp_new, reinterpret_cast<void*>(supervisor_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(supervisor_dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.Supervisor", sizeof(SupervisorObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};

PyMethodDef functions[] = {
    {"fork_worker", fork_worker_attached, METH_NOARGS,
     "fork_worker()\n--\n\nForks a child that becomes the supervisor's: 0 in the child, its process id in the caller."},
    {"die_with_supervisor", die_with_supervisor_attached, METH_O,
     "die_with_supervisor(fd, /)\n--\n\nHas the kernel kill this process with the supervisor. False: that is gone already."},
    {"expect_workers", call_core<expect_workers>, METH_NOARGS,
     "expect_workers()\n--\n\nIn the zygote, before it forks: has the pages noted that workers write to."},
    {"note_written_pages", call_core<note_written_pages>, METH_NOARGS,
     "note_written_pages()\n--\n\nIn a worker, at its end: notes the pages that it has written to, if none has before."},
    {"end_worker", end_worker_now, METH_O,
     "end_worker(code, /)\n--\n\nEnds this process at once; its memory may be given back behind its end."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_supervisor(PyObject* module, State* state) {
  if (add_type(module, state, TypeIndex::kSupervisor, &spec) == nullptr) return -1;
  return PyModule_AddFunctions(module, functions);
}

}  // namespace freethreading::binding
