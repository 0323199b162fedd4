// freethreading.Lock over the core's Lock.
#include "freethreading/sync/lock.hpp"

#include "lock.hpp"

#include "args.hpp"
#include "errors.hpp"
#include "placement.hpp"
#include "wait.hpp"

namespace freethreading::binding {

WaitOutcome lock_until(Place& place, Lock& lock, Deadline deadline) {
  const WaitOutcome outcome = lock.try_lock(place);
  if (outcome != WaitOutcome::kTimedOut) return outcome;
  if (deadline.is_immediate()) {
    // Does not wait, but finds out whether the owner is dead.
    WaitContext context(deadline);
    return lock.lock_until(place, context);
  }
  return wait_detached(deadline, [&](WaitContext& context) { return lock.lock_until(place, context); });
}

namespace {

using LockObject = ProxyOf<Lock>;

PyObject* lock_acquire_within(PyObject* self, Deadline deadline) {
  Place& place = place_of(self);
  Lock& lock = *body_of<Lock>(self);
  return acquired(self, lock_until(place, lock, deadline), [&] { static_cast<void>(lock.unlock(place)); });
}

PyObject* lock_enter(PyObject* self, PyObject* /*unused*/) {
  if (body_of<Lock>(self)->try_lock(place_of(self)) == WaitOutcome::kReady) Py_RETURN_TRUE;
  return lock_acquire_within(self, Deadline::never());
}

PyObject* lock_acquire(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  if (no_arguments(nargs, kwnames)) return lock_enter(self, nullptr);
  Deadline deadline = Deadline::never();
  if (!acquire_deadline(args, nargs, kwnames, &deadline)) return nullptr;
  return lock_acquire_within(self, deadline);
}

PyObject* lock_release(PyObject* self, PyObject* /*unused*/) {
  if (body_of<Lock>(self)->unlock(place_of(self))) Py_RETURN_NONE;
  return raise(self, Import::kLockMisuseError, "release unlocked lock");
}

PyObject* lock_exit(PyObject* self, PyObject* const* /*args*/, Py_ssize_t /*nargs*/) {
  return lock_release(self, nullptr);
}

PyObject* lock_locked(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(body_of<Lock>(self)->is_locked()); }

// The methods by which threading.Condition uses a lock.
PyObject* lock_acquire_restore(PyObject* self, PyObject* /*saved*/) {
  PyObject* result = lock_enter(self, nullptr);
  if (result == nullptr) return nullptr;
  Py_DECREF(result);
  Py_RETURN_NONE;
}

PyObject* lock_at_fork_reinit(PyObject* self, PyObject* /*unused*/) {
  Lock* lock = body_of<Lock>(self);
  if (!place_of(self).shared()) {
    new (lock) Lock();
  } else if (lock->owner() == place_of(self).self()) {
    // Other processes may use it: it is freed only of what this one holds.
    static_cast<void>(lock->unlock(place_of(self)));
  }
  Py_RETURN_NONE;
}

PyObject* lock_repr(PyObject* self) {
  return PyUnicode_FromFormat("<%s %s object at %p>", body_of<Lock>(self)->is_locked() ? "locked" : "unlocked",
                              Py_TYPE(self)->tp_name, self);
}

PyObject* lock_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_private<LockObject, Lock>(type);
}

int lock_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"shared"};
  static constexpr Signature kSignature{"Lock", kNames, 1, 0, 0};
  PyObject* shared = nullptr;
  if (!bind_call(kSignature, args, kwargs, &shared)) return -1;
  State* state = state_of(self);
  return state != nullptr && place_body<Lock>(self, state, shared, ObjectType::kLock) ? 0 : -1;
}

PyMethodDef lock_methods[] = {
    {"acquire", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(lock_acquire)),
     METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"
     "Takes the lock and returns True, or returns False if it was not to be had.\n\n"
     "Waits for ever where timeout (seconds) is None or negative; not at all where blocking is false or timeout is zero.\n"
     "If the process that held it died, the lock is taken over with an OwnerDiedWarning."},
    {"release", lock_release, METH_NOARGS,
     "release($self, /)\n--\n\n"
     "Frees the lock; any thread of any process that has it may. LockMisuseError if nobody holds it."},
    {"locked", lock_locked, METH_NOARGS, "locked($self, /)\n--\n\nWhether somebody holds the lock."},
    {"__enter__", lock_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes the lock; True."},
    {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(lock_exit)), METH_FASTCALL,
     "__exit__($self, /, *exc_info)\n--\n\nFrees the lock."},
    {"_is_owned", lock_locked, METH_NOARGS, nullptr},
    {"_release_save", lock_release, METH_NOARGS, nullptr},
    {"_acquire_restore", lock_acquire_restore, METH_O, nullptr},
    {"_at_fork_reinit", lock_at_fork_reinit, METH_NOARGS, nullptr},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef lock_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot lock_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Lock(*, shared=None)\n--\n\n"
                    "A mutual-exclusion lock, among threads and, where it is shared, among processes.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs. Any thread of any process may release it. A lock whose process\n"
                    "died goes to the next one that acquires it, with an OwnerDiedWarning.")},
    {Py_tp_new, reinterpret_cast<void*>(lock_new)},
    {Py_tp_init, reinterpret_cast<void*>(lock_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_repr, reinterpret_cast<void*>(lock_repr)},
    {Py_tp_methods, lock_methods},
    {Py_tp_members, lock_members},
    {0, nullptr},
};

PyType_Spec lock_spec = {"freethreading.Lock", sizeof(LockObject), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, lock_slots};

}  // namespace

int add_lock(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kLock, &lock_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
