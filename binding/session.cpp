// The functions by which Python attaches sessions, takes them over a fork, and leaves them.
#include "freethreading/memory/session.hpp"

#include <utility>
#include <vector>

#include "args.hpp"
#include "errors.hpp"
#include "freethreading/cpu_budget.hpp"
#include "freethreading/process_memory.hpp"
#include "placement.hpp"
#include "ref.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

bool number_of(PyObject* argument, int* number) {
  const long value = PyLong_AsLong(argument);
  if (value == -1 && PyErr_Occurred() != nullptr) return false;
  if (value != static_cast<int>(value)) {
    PyErr_SetString(PyExc_OverflowError, "a descriptor's number is an int");
    return false;
  }
  *number = static_cast<int>(value);
  return true;
}

bool session_id_of(PyObject* argument, std::uint64_t* id) {
  *id = PyLong_AsUnsignedLongLong(argument);
  return *id != static_cast<std::uint64_t>(-1) || PyErr_Occurred() == nullptr;
}

PyObject* session_open(PyObject* module, PyObject* /*unused*/) {
  Session* session = default_session(state_of_module(module));
  if (session == nullptr) return nullptr;
  return Py_BuildValue("Ki", static_cast<unsigned long long>(session->id()), session->descriptor());
}

PyObject* session_attach(PyObject* module, PyObject* argument) {
  int descriptor = -1;
  if (!number_of(argument, &descriptor)) return nullptr;
  const SessionResult result = Session::attach(descriptor);
  if (result.session == nullptr) {
    raise_session_error(result);
    return nullptr;
  }
  if (!use_session(state_of_module(module), result.session)) return nullptr;
  return PyLong_FromUnsignedLongLong(result.session->id());
}

PyObject* session_attached(PyObject* /*module*/, PyObject* argument) {
  std::uint64_t id = 0;
  if (!session_id_of(argument, &id)) return nullptr;
  return PyBool_FromLong(Session::find(id) != nullptr);
}

PyObject* session_fd(PyObject* /*module*/, PyObject* argument) {
  std::uint64_t id = 0;
  if (!session_id_of(argument, &id)) return nullptr;
  const Session* session = Session::find(id);
  if (session == nullptr) return PyErr_Format(PyExc_LookupError, "this process is not attached to session %S", argument);
  const int descriptor = session->descriptor();
  if (descriptor < 0) {
    SessionResult gone;
    gone.error = SessionError::kDescriptorGone;
    raise_session_error(gone);
    return nullptr;
  }
  return PyLong_FromLong(descriptor);
}

template <class Work>
PyObject* for_all_sessions(Work work) {
  for (Session* session : Session::all()) work(*session);
  Py_RETURN_NONE;
}

PyObject* before_fork(PyObject* /*module*/, PyObject* /*unused*/) {
  return for_all_sessions([](Session& session) { session.before_fork(); });
}

PyObject* after_fork_in_parent(PyObject* /*module*/, PyObject* /*unused*/) {
  return for_all_sessions([](Session& session) { session.after_fork_in_parent(); });
}

PyObject* after_fork_in_child(PyObject* /*module*/, PyObject* /*unused*/) {
  return for_all_sessions([](Session& session) { session.after_fork_in_child(); });
}

// Whether this thread's fork has the gate.
thread_local bool has_gate = false;

// shut_gate(lock, seconds)
PyObject* shut_gate(PyObject* /*module*/, PyObject* const* args, Py_ssize_t nargs) {
  has_gate = false;
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "shut_gate() takes a lock and seconds");
    return nullptr;
  }
  PyObject* taken = PyObject_CallMethod(args[0], "acquire", "OO", Py_True, args[1]);
  if (taken == nullptr && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) != 0) {
    // Nobody would hear of it here: it comes once more behind the fork.
    PyErr_Clear();
    PyErr_SetInterrupt();
    Py_RETURN_NONE;
  }
  has_gate = taken == Py_True;
  Py_XDECREF(taken);
  if (taken == nullptr) return nullptr;
  Py_RETURN_NONE;
}

PyObject* open_gate(PyObject* /*module*/, PyObject* lock) {
  if (!std::exchange(has_gate, false)) Py_RETURN_NONE;
  return PyObject_CallMethod(lock, "release", nullptr);
}

// Where this thread has not taken it, one has that is not here.
PyObject* open_gate_in_child(PyObject* /*module*/, PyObject* lock) {
  return PyObject_CallMethod(lock, std::exchange(has_gate, false) ? "release" : "_at_fork_reinit", nullptr);
}

PyObject* leave_sessions(PyObject* /*module*/, PyObject* /*unused*/) {
  return for_all_sessions([](Session& session) { session.leave(); });
}

PyObject* sweep_sessions(PyObject* /*module*/, PyObject* /*unused*/) {
  return for_all_sessions([](Session& session) { session.sweep(); });
}

PyObject* session_usage(PyObject* module, PyObject* /*unused*/) {
  // sync: SESSION (acquire): pairs with use_session's exchange.
  Session* session = state_of_module(module)->session.load(std::memory_order_acquire);
  if (session == nullptr) Py_RETURN_NONE;
  const SessionUsage usage = session->usage();
  return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K}", "file_bytes", static_cast<unsigned long long>(usage.file_bytes), "blocks",
                       static_cast<unsigned long long>(usage.blocks), "block_bytes",
                       static_cast<unsigned long long>(usage.block_bytes), "objects",
                       static_cast<unsigned long long>(usage.objects), "processes",
                       static_cast<unsigned long long>(usage.processes));
}

PyObject* count_cpus(PyObject* /*module*/, PyObject* /*unused*/) { return PyLong_FromLong(cpu_budget()); }

PyObject* measure_process(PyObject* /*module*/, PyObject* pid) {
  const long number = PyLong_AsLong(pid);
  if (number == -1 && PyErr_Occurred() != nullptr) return nullptr;
  return PyLong_FromUnsignedLongLong(private_memory(static_cast<std::int32_t>(number)));
}

PyMethodDef functions[] = {
    {"private_memory", measure_process, METH_O,
     "private_memory(pid, /)\n--\n\nBytes of anonymous memory that the process has, 0: this one. 0: it cannot be read."},
    {"session_open", session_open, METH_NOARGS,
     "session_open()\n--\n\n(id, descriptor) of the session in which shared objects are made, opened if need be."},
    {"session_attach", session_attach, METH_O,
     "session_attach(fd, /)\n--\n\nAttaches this process to the session behind fd, which it keeps; the session's id."},
    {"session_attached", session_attached, METH_O,
     "session_attached(id, /)\n--\n\nWhether this process is attached to that session."},
    {"session_fd", session_fd, METH_O, "session_fd(id, /)\n--\n\nThe session's descriptor, checked to be its own still."},
    {"before_fork", before_fork, METH_NOARGS, "before_fork()\n--\n\nReserves the child's place in every session."},
    {"after_fork_in_parent", after_fork_in_parent, METH_NOARGS, "after_fork_in_parent()\n--\n\nEnds before_fork()."},
    {"after_fork_in_child", after_fork_in_child, METH_NOARGS,
     "after_fork_in_child()\n--\n\nTakes the reserved place in every session."},
    {"shut_gate", as_method(shut_gate), METH_FASTCALL,
     "shut_gate(lock, seconds, /)\n--\n\nBefore a fork: takes the lock, an RLock, unless that takes longer."},
    {"open_gate", open_gate, METH_O, "open_gate(lock, /)\n--\n\nBehind it: gives back what shut_gate() has taken."},
    {"open_gate_in_child", open_gate_in_child, METH_O,
     "open_gate_in_child(lock, /)\n--\n\nThe same in the child: whoever else had the lock, it is free."},
    {"leave_sessions", leave_sessions, METH_NOARGS,
     "leave_sessions()\n--\n\nA clean exit: held locks stay held by nobody, everything else is given up."},
    {"sweep_sessions", sweep_sessions, METH_NOARGS, "sweep_sessions()\n--\n\nRecovers what dead processes held."},
    {"session_usage", session_usage, METH_NOARGS,
     "session_usage()\n--\n\nWhat the session holds, as a dict of counts and bytes; None where none is open."},
    {"cpu_budget", count_cpus, METH_NOARGS,
     "cpu_budget()\n--\n\nCPUs that this process may use, by its affinity and its control group's quota; at least 1."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_sessions(PyObject* module, State* /*state*/) { return PyModule_AddFunctions(module, functions); }

}  // namespace freethreading::binding
