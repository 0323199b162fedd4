#include "errors.hpp"

#include <cerrno>

#include "ref.hpp"

namespace freethreading::binding {
namespace {

struct ImportSource {
  const char* module;
  const char* name;
};

// In the order of Import.
constexpr ImportSource kSources[] = {
    {"freethreading._exceptions", "LockMisuseError"},
    {"freethreading._exceptions", "OwnershipError"},
    {"freethreading._exceptions", "ShutDown"},
    {"freethreading._exceptions", "HandleGoneError"},
    {"freethreading._exceptions", "WorkerLostError"},
    {"freethreading._exceptions", "OwnerDiedWarning"},
    {"threading", "BrokenBarrierError"},
    {"queue", "Empty"},
    {"queue", "Full"},
    {"freethreading._serialize", "reduce_shared"},
    {"freethreading._serialize", "state_of"},
    {"freethreading._session", "session_opened"},
    {"freethreading._serialize", "dumps_message"},
    {"freethreading._serialize", "loads_message"},
    {"concurrent.futures._base", "Future"},
    {"threading", "Condition"},
    {"concurrent.futures", "CancelledError"},
    {"concurrent.futures", "InvalidStateError"},
    {"concurrent.futures", "TimeoutError"},
};
static_assert(std::size(kSources) == static_cast<std::size_t>(Import::kCount));

void raise_os_error(int error_number, const char* message) {
  const Ref arguments = Ref::take(Py_BuildValue("(is)", error_number, message));
  if (arguments) PyErr_SetObject(PyExc_OSError, arguments.get());
}

}  // namespace

PyObject* imported(State* state, Import which) {
  const auto index = static_cast<std::size_t>(which);
  std::atomic<PyObject*>& place = state->imports[index];
  // sync: IMPORTED (acquire): the object was complete before another thread stored it; pairs with the exchange below.
  PyObject* found = place.load(std::memory_order_acquire);
  if (found != nullptr) return found;
  const Ref module = Ref::take(PyImport_ImportModule(kSources[index].module));
  if (!module) return nullptr;
  Ref object = Ref::take(PyObject_GetAttrString(module.get(), kSources[index].name));
  if (!object) return nullptr;
  // sync: IMPORTED (release): publishes the object; pairs with the load above. The first thread's stays.
  if (place.compare_exchange_strong(found, object.get(), std::memory_order_acq_rel)) return object.release();
  return found;
}

PyObject* raise(State* state, Import which, const char* message) {
  PyObject* type = imported(state, which);
  if (type != nullptr) PyErr_SetString(type, message);
  return nullptr;
}

PyObject* raise(PyObject* self, Import which, const char* message) {
  State* state = state_of(self);
  return state == nullptr ? nullptr : raise(state, which, message);
}

bool warn_owner_died(PyObject* self) {
  State* state = state_of(self);
  PyObject* category = state == nullptr ? nullptr : imported(state, Import::kOwnerDiedWarning);
  if (category == nullptr) return false;
  return PyErr_WarnFormat(category, 1,
                          "the process that held this %s died without releasing it; it is yours now, and what it guards "
                          "may be half changed",
                          Py_TYPE(self)->tp_name) == 0;
}

void raise_session_error(const SessionResult& result) {
  switch (result.error) {
    case SessionError::kNoMemory:
      PyErr_SetString(PyExc_MemoryError,
                      "no memory for what processes share: look at the limits on address space (ulimit -v), on file size "
                      "(ulimit -f) and on the container's memory");
      return;
    case SessionError::kNoMemfd:
      raise_os_error(result.error_number != 0 ? result.error_number : ENOSYS,
                     "this system refuses memfd_create, which sharing between processes needs; allow it in the sandbox's "
                     "rules, or use threads (FREETHREADING_BACKEND=threading, or shared=False)");
      return;
    case SessionError::kNoDescriptor:
      raise_os_error(result.error_number != 0 ? result.error_number : EMFILE,
                     "no file descriptor is left for what processes share; close some, or raise the limit (ulimit -n)");
      return;
    case SessionError::kNotASession:
      PyErr_SetString(PyExc_RuntimeError,
                      "the descriptor is not the memory of a session of freethreading, but some other file, pipe or socket; "
                      "was its number closed and used again, or not passed on?");
      return;
    case SessionError::kOtherVersion:
      PyErr_SetString(PyExc_RuntimeError,
                      "the descriptor is the memory of a session of another version of freethreading; the processes must all "
                      "use the same version");
      return;
    case SessionError::kCopy:
      PyErr_SetString(PyExc_RuntimeError,
                      "the descriptor is a copy of a session's memory, whole or in part, and not that memory itself; pass on "
                      "the session's own descriptor");
      return;
    case SessionError::kReadOnly:
      raise_os_error(EACCES, "the session's descriptor is open for reading only; pass on the session's own descriptor");
      return;
    case SessionError::kTooManyProcesses:
      PyErr_Format(PyExc_RuntimeError, "more than %u processes share this session; end some of them first", kMaxProcesses);
      return;
    case SessionError::kDescriptorGone:
      PyErr_SetString(PyExc_RuntimeError,
                      "the session's file descriptor was closed in this process (by os.closerange or a daemon library?); "
                      "let it be, or pass it to pass_fds");
      return;
    case SessionError::kSystem:
      raise_os_error(result.error_number, "the memory that processes share could not be set up");
      return;
    case SessionError::kNone:
      break;
  }
  PyErr_SetString(PyExc_SystemError, "a session error without a reason");
}

}  // namespace freethreading::binding
