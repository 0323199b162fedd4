// freethreading.Lock over the core's Lock.
#include "lock.hpp"

#include "freethreading/sync/lock.hpp"

namespace freethreading::binding {
namespace {

using LockObject = ProxyOf<Lock>;

PyObject* lock_release(PyObject* self, PyObject* /*unused*/) {
  if (body_of<Lock>(self)->unlock(place_of(self))) Py_RETURN_NONE;
  return raise(self, Import::kLockMisuseError, "release unlocked lock");
}

PyObject* lock_exit(PyObject* self, PyObject* const* /*args*/, Py_ssize_t /*nargs*/) {
  return lock_release(self, nullptr);
}

PyObject* lock_locked(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(body_of<Lock>(self)->is_locked()); }

// A Lock has no owner among threads: held by somebody is all that can be asked, as in threading.
int lock_is_owned(PyObject* self) { return body_of<Lock>(self)->is_locked() ? 1 : 0; }

bool lock_release_all(PyObject* self, Hold* /*hold*/) {
  PyObject* done = lock_release(self, nullptr);
  Py_XDECREF(done);
  return done != nullptr;
}

bool lock_take_back(PyObject* self, Hold* /*hold*/) { return take_lock_back<Lock>(self); }

PyObject* lock_acquire_restore(PyObject* self, PyObject* /*saved*/) {
  if (!take_lock_back<Lock>(self)) return nullptr;
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
    {"acquire", as_method(acquire_lock<Lock>), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"
     "Takes the lock and returns True, or returns False if it was not to be had.\n\n"
     "Waits for ever where timeout (seconds) is None or negative; not at all where blocking is false or timeout is zero.\n"
     "If the process that held it died, the lock is taken over with an OwnerDiedWarning."},
    {"release", lock_release, METH_NOARGS,
     "release($self, /)\n--\n\n"
     "Frees the lock; any thread of any process that has it may. LockMisuseError if nobody holds it."},
    {"locked", lock_locked, METH_NOARGS, "locked($self, /)\n--\n\nWhether somebody holds the lock."},
    {"__enter__", enter_lock<Lock>, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes the lock; True."},
    {"__exit__", as_method(lock_exit), METH_FASTCALL, "__exit__($self, /, *exc_info)\n--\n\nFrees the lock."},
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

const LockOperations kLockOperations = {acquire_lock<Lock>, enter_lock<Lock>,  lock_release,  lock_locked,
                                        lock_is_owned,      lock_release_all, lock_take_back};

int add_lock(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kLock, &lock_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
