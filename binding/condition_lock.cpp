#include "condition_lock.hpp"

#include "ref.hpp"

namespace freethreading::binding {
namespace {

// --- no lock -----------------------------------------------------------------------------------------------------------

PyObject* raise_no_lock() {
  PyErr_SetString(PyExc_RuntimeError,
                  "this Condition has no lock: its __init__ was not called, or it was opened by its handle alone");
  return nullptr;
}
PyObject* no_acquire(PyObject* /*lock*/, PyObject* const* /*args*/, Py_ssize_t /*nargs*/, PyObject* /*kwnames*/) {
  return raise_no_lock();
}
PyObject* no_method(PyObject* /*lock*/, PyObject* /*unused*/) { return raise_no_lock(); }
int no_is_owned(PyObject* /*lock*/) {
  raise_no_lock();
  return -1;
}
bool no_hold(PyObject* /*lock*/, Hold* /*hold*/) { return raise_no_lock() != nullptr; }

// --- a subclass --------------------------------------------------------------------------------------------------------

PyObject* call(PyObject* lock, const char* method) { return PyObject_CallMethod(lock, method, nullptr); }

PyObject* subclass_acquire(PyObject* lock, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  const Ref method = Ref::take(PyObject_GetAttrString(lock, "acquire"));
  return method ? PyObject_Vectorcall(method.get(), args, static_cast<std::size_t>(nargs), kwnames) : nullptr;
}
PyObject* subclass_enter(PyObject* lock, PyObject* /*unused*/) { return call(lock, "__enter__"); }
PyObject* subclass_release(PyObject* lock, PyObject* /*unused*/) { return call(lock, "release"); }
PyObject* subclass_locked(PyObject* lock, PyObject* /*unused*/) { return call(lock, "locked"); }

int subclass_is_owned(PyObject* lock) {
  const Ref owned = Ref::take(call(lock, "_is_owned"));
  return owned ? PyObject_IsTrue(owned.get()) : -1;
}

bool subclass_release_all(PyObject* lock, Hold* hold) {
  hold->saved = call(lock, "_release_save");
  return hold->saved != nullptr;
}

bool subclass_take_back(PyObject* lock, Hold* hold) {
  PyObject* pending = take_exception();
  const bool quiet = static_cast<bool>(Ref::take(PyObject_CallMethod(lock, "_acquire_restore", "(O)", hold->saved)));
  Py_CLEAR(hold->saved);
  if (pending == nullptr) return quiet;
  PyErr_Clear();
  give_exception(pending);
  return false;
}

constexpr LockOperations kSubclassOperations = {subclass_acquire,     subclass_enter,  subclass_release,
                                                subclass_locked,      subclass_is_owned, subclass_release_all,
                                                subclass_take_back};

}  // namespace

const LockOperations kNoLockOperations = {no_acquire, no_method, no_method, no_method, no_is_owned, no_hold, no_hold};

const LockOperations* operations_of(State* state, PyObject* lock) {
  PyTypeObject* plain = state->type(TypeIndex::kLock);
  PyTypeObject* recursive = state->type(TypeIndex::kRLock);
  if (Py_IS_TYPE(lock, recursive)) return &kRLockOperations;
  if (Py_IS_TYPE(lock, plain)) return &kLockOperations;
  if (PyObject_TypeCheck(lock, recursive) || PyObject_TypeCheck(lock, plain)) return &kSubclassOperations;
  PyErr_Format(PyExc_TypeError, "a Condition's lock must be a freethreading.Lock or RLock, not %s",
               Py_TYPE(lock)->tp_name);
  return nullptr;
}

PyObject* new_rlock(State* state, PyObject* shared) {
  const Ref keywords = Ref::take(Py_BuildValue("{sO}", "shared", shared));
  const Ref none = Ref::take(PyTuple_New(0));
  if (!keywords || !none) return nullptr;
  return PyObject_Call(reinterpret_cast<PyObject*>(state->type(TypeIndex::kRLock)), none.get(), keywords.get());
}

}  // namespace freethreading::binding
