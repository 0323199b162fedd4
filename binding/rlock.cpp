// freethreading.RLock over the core's RLock.
#include "freethreading/sync/rlock.hpp"

#include "lock.hpp"

namespace freethreading::binding {
namespace {

using RLockObject = ProxyOf<RLock>;

PyObject* raise_not_owned(PyObject* self) {
  return raise(self, Import::kOwnershipError, "cannot release un-acquired lock");
}

PyObject* rlock_release(PyObject* self, PyObject* /*unused*/) {
  if (body_of<RLock>(self)->unlock(place_of(self))) Py_RETURN_NONE;
  return raise_not_owned(self);
}

PyObject* rlock_exit(PyObject* self, PyObject* const* /*args*/, Py_ssize_t /*nargs*/) {
  return rlock_release(self, nullptr);
}

PyObject* rlock_locked(PyObject* self, PyObject* /*unused*/) {
  return PyBool_FromLong(body_of<RLock>(self)->is_locked());
}

int rlock_is_owned(PyObject* self) { return body_of<RLock>(self)->is_owned(place_of(self)) ? 1 : 0; }

PyObject* rlock_is_owned_method(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(rlock_is_owned(self)); }

bool rlock_release_all(PyObject* self, Hold* hold) {
  if (rlock_is_owned(self) == 0) {
    raise_not_owned(self);
    return false;
  }
  hold->depth = body_of<RLock>(self)->release_all(place_of(self));
  return true;
}

bool rlock_take_back(PyObject* self, Hold* hold) {
  const bool quiet = take_lock_back<RLock>(self);
  body_of<RLock>(self)->restore_depth(hold->depth);
  return quiet;
}

PyObject* rlock_release_save(PyObject* self, PyObject* /*unused*/) {
  Hold hold;
  return rlock_release_all(self, &hold) ? PyLong_FromUnsignedLong(hold.depth) : nullptr;
}

PyObject* rlock_acquire_restore(PyObject* self, PyObject* saved) {
  const unsigned long depth = PyLong_AsUnsignedLong(saved);
  if (depth == static_cast<unsigned long>(-1) && PyErr_Occurred() != nullptr) return nullptr;
  Hold hold;
  hold.depth = static_cast<std::uint32_t>(depth);
  if (hold.depth == 0 || hold.depth != depth || rlock_is_owned(self) != 0) {
    PyErr_SetString(PyExc_ValueError, "_acquire_restore() takes what _release_save() returned, once");
    return nullptr;
  }
  if (!rlock_take_back(self, &hold)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* rlock_recursion_count(PyObject* self, PyObject* /*unused*/) {
  return PyLong_FromUnsignedLong(rlock_is_owned(self) != 0 ? body_of<RLock>(self)->depth() : 0);
}

PyObject* rlock_at_fork_reinit(PyObject* self, PyObject* /*unused*/) {
  RLock* lock = body_of<RLock>(self);
  Place& place = place_of(self);
  // In a region others may use it: it is freed only of what this process holds.
  if (!place.shared() || lock->owner() == place.self()) new (lock) RLock();
  Py_RETURN_NONE;
}

PyObject* rlock_repr(PyObject* self) {
  const RLock* lock = body_of<RLock>(self);
  return PyUnicode_FromFormat("<%s %s object owner=%u count=%u at %p>", lock->is_locked() ? "locked" : "unlocked",
                              Py_TYPE(self)->tp_name, static_cast<unsigned>(lock->owner()),
                              static_cast<unsigned>(lock->depth()), self);
}

PyObject* rlock_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_private<RLockObject, RLock>(type);
}

int rlock_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"shared"};
  static constexpr Signature kSignature{"RLock", kNames, 1, 0, 0};
  PyObject* shared = nullptr;
  if (!bind_call(kSignature, args, kwargs, &shared)) return -1;
  State* state = state_of(self);
  return state != nullptr && place_body<RLock>(self, state, shared, ObjectType::kRLock) ? 0 : -1;
}

PyMethodDef rlock_methods[] = {
    {"acquire", as_method(acquire_lock<RLock>), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"
     "Takes the lock, once more where this thread has it already, and returns True; False if it was not to be had.\n\n"
     "Waits for ever where timeout (seconds) is None or negative; not at all where blocking is false or timeout is zero.\n"
     "If the process that held it died, the lock is taken over with an OwnerDiedWarning."},
    {"release", rlock_release, METH_NOARGS,
     "release($self, /)\n--\n\n"
     "Undoes one acquire(); the last one frees the lock. OwnershipError if the calling thread does not own it."},
    {"locked", rlock_locked, METH_NOARGS, "locked($self, /)\n--\n\nWhether some thread of some process owns the lock."},
    {"__enter__", enter_lock<RLock>, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes the lock; True."},
    {"__exit__", as_method(rlock_exit), METH_FASTCALL, "__exit__($self, /, *exc_info)\n--\n\nUndoes one acquire()."},
    {"_is_owned", rlock_is_owned_method, METH_NOARGS, nullptr},
    {"_release_save", rlock_release_save, METH_NOARGS, nullptr},
    {"_acquire_restore", rlock_acquire_restore, METH_O, nullptr},
    {"_recursion_count", rlock_recursion_count, METH_NOARGS, nullptr},
    {"_at_fork_reinit", rlock_at_fork_reinit, METH_NOARGS, nullptr},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef rlock_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot rlock_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "RLock(*, shared=None)\n--\n\n"
                    "A lock that its owner, one thread of one process, may take again; free after as many releases.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs. A lock whose process died goes to the next one that acquires\n"
                    "it, with an OwnerDiedWarning.")},
    {Py_tp_new, reinterpret_cast<void*>(rlock_new)},
    {Py_tp_init, reinterpret_cast<void*>(rlock_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_repr, reinterpret_cast<void*>(rlock_repr)},
    {Py_tp_methods, rlock_methods},
    {Py_tp_members, rlock_members},
    {0, nullptr},
};

PyType_Spec rlock_spec = {"freethreading.RLock", sizeof(RLockObject), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, rlock_slots};

}  // namespace

const LockOperations kRLockOperations = {acquire_lock<RLock>, enter_lock<RLock>,  rlock_release,  rlock_locked,
                                         rlock_is_owned,      rlock_release_all, rlock_take_back};

int add_rlock(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kRLock, &rlock_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
