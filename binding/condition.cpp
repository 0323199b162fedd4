// freethreading.Condition over the core's Condition and the operations of its lock.
#include "freethreading/sync/condition.hpp"

#include "condition_lock.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

struct ConditionObject {
  Proxy base;
  Condition own;
  PyObject* lock;
  const LockOperations* operations;  // never null: kNoLock while there is no lock
};

ConditionObject* condition_of(PyObject* self) { return reinterpret_cast<ConditionObject*>(self); }

PyObject* condition_acquire(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  const ConditionObject* condition = condition_of(self);
  return condition->operations->acquire(condition->lock, args, nargs, kwnames);
}

PyObject* condition_enter(PyObject* self, PyObject* /*unused*/) {
  const ConditionObject* condition = condition_of(self);
  return condition->operations->enter(condition->lock, nullptr);
}

PyObject* condition_release(PyObject* self, PyObject* /*unused*/) {
  const ConditionObject* condition = condition_of(self);
  return condition->operations->release(condition->lock, nullptr);
}

PyObject* condition_exit(PyObject* self, PyObject* const* /*args*/, Py_ssize_t /*nargs*/) {
  return condition_release(self, nullptr);
}

PyObject* condition_locked(PyObject* self, PyObject* /*unused*/) {
  const ConditionObject* condition = condition_of(self);
  return condition->operations->locked(condition->lock, nullptr);
}

PyObject* condition_is_owned(PyObject* self, PyObject* /*unused*/) {
  const ConditionObject* condition = condition_of(self);
  const int owned = condition->operations->is_owned(condition->lock);
  return owned < 0 ? nullptr : PyBool_FromLong(owned);
}

// False: an error is set.
bool check_owned(PyObject* self, const char* message) {
  const ConditionObject* condition = condition_of(self);
  const int owned = condition->operations->is_owned(condition->lock);
  if (owned == 0) raise(self, Import::kOwnershipError, message);
  return owned > 0;
}

// 1: notified, 0: the deadline passed, -1: an error is set. The lock is held again in every case.
int wait_once(PyObject* self, Deadline deadline) {
  if (!check_owned(self, "cannot wait on un-acquired lock")) return -1;
  const ConditionObject* object = condition_of(self);
  Place& place = place_of(self);
  Condition& condition = *body_of<Condition>(self);
  const WaiterTable::Cell cell = condition.enter(place);
  if (cell == kNoOffset) {
    PyErr_NoMemory();
    return -1;
  }
  Hold hold;
  if (!object->operations->release_all(object->lock, &hold)) {
    static_cast<void>(condition.leave(place, cell));
    return -1;
  }
  const WaitOutcome outcome =
      wait_detached(deadline, [&](WaitContext& context) { return condition.wait_until(place, cell, context); });
  const bool notified = condition.leave(place, cell);
  const bool quiet = object->operations->take_back(object->lock, &hold);
  if (outcome != WaitOutcome::kInterrupted && quiet) return notified ? 1 : 0;
  // This wait ends by an exception: a notification that had reached it is for another waiter.
  if (notified) condition.notify(place, 1);
  return -1;
}

PyObject* condition_wait(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"timeout"};
  static constexpr Signature kSignature{"wait", kNames, 1, 1, 0};
  PyObject* timeout = nullptr;
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, &timeout)) return nullptr;
  if (!deadline_of(timeout, Negative::kPassed, &deadline)) return nullptr;
  const int notified = wait_once(self, deadline);
  return notified < 0 ? nullptr : PyBool_FromLong(notified);
}

PyObject* condition_wait_for(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"predicate", "timeout"};
  static constexpr Signature kSignature{"wait_for", kNames, 2, 2, 1};
  PyObject* values[2];
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, values)) return nullptr;
  if (!deadline_of(values[1], Negative::kPassed, &deadline)) return nullptr;
  for (;;) {
    PyObject* result = PyObject_CallNoArgs(values[0]);
    const int done = result == nullptr ? -1 : PyObject_IsTrue(result);
    if (done > 0 || (done == 0 && deadline.passed())) return result;
    Py_XDECREF(result);
    // A wait that times out asks the predicate once more.
    if (done < 0 || wait_once(self, deadline) < 0) return nullptr;
  }
}

PyObject* condition_notify(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  long count = 1;
  if (!no_arguments(nargs, kwnames)) {
    static constexpr const char* kNames[] = {"n"};
    static constexpr Signature kSignature{"notify", kNames, 1, 1, 0};
    PyObject* value = nullptr;
    if (!bind(kSignature, args, nargs, kwnames, &value)) return nullptr;
    int overflow = 0;
    count = PyLong_AsLongAndOverflow(value, &overflow);
    if (count == -1 && PyErr_Occurred() != nullptr) return nullptr;
    if (overflow > 0 || count > static_cast<long>(WaiterTable::kAll)) count = WaiterTable::kAll;
  }
  if (!check_owned(self, "cannot notify on un-acquired lock")) return nullptr;
  if (count > 0) body_of<Condition>(self)->notify(place_of(self), static_cast<std::uint32_t>(count));
  Py_RETURN_NONE;
}

PyObject* condition_notify_all(PyObject* self, PyObject* /*unused*/) {
  if (!check_owned(self, "cannot notify on un-acquired lock")) return nullptr;
  body_of<Condition>(self)->notify_all(place_of(self));
  Py_RETURN_NONE;
}

PyObject* condition_repr(PyObject* self) {
  const ConditionObject* condition = condition_of(self);
  if (condition->lock == nullptr) return PyUnicode_FromFormat("<%s at %p: no lock>", Py_TYPE(self)->tp_name, self);
  return PyUnicode_FromFormat("<%s(%R, %u)>", Py_TYPE(self)->tp_name, condition->lock,
                              body_of<Condition>(self)->waiting(place_of(self)));
}

// Takes `lock` as the condition's. False: TypeError.
bool set_lock(PyObject* self, State* state, PyObject* lock) {
  const LockOperations* operations = operations_of(state, lock);
  if (operations == nullptr) return false;
  ConditionObject* condition = condition_of(self);
  condition->lock = Py_NewRef(lock);
  condition->operations = operations;
  return true;
}

// `shared` with None resolved by the back end: True or False, borrowed. Null: an error is set.
PyObject* shared_answer(State* state, PyObject* shared) {
  const int region = wants_region(state, shared);
  if (region < 0) return nullptr;
  return region != 0 ? Py_True : Py_False;
}

// As shared_answer(), for a condition with this lock: None puts it where the lock is.
PyObject* shared_beside(State* state, PyObject* lock, PyObject* shared) {
  if (operations_of(state, lock) == nullptr) return nullptr;
  PyObject* lock_is_shared = proxy_of(lock)->header != nullptr ? Py_True : Py_False;
  if (shared == nullptr || shared == Py_None) return lock_is_shared;
  PyObject* answer = shared_answer(state, shared);
  if (answer == Py_True && lock_is_shared == Py_False) {
    PyErr_SetString(PyExc_ValueError,
                    "Condition(shared=True) needs a lock that is shared too: make it with shared=True, or give none");
    return nullptr;
  }
  return answer;
}

PyObject* condition_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  PyObject* self = new_private<ConditionObject, Condition>(type);
  if (self != nullptr) condition_of(self)->operations = &kNoLockOperations;
  return self;
}

int condition_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"lock", "shared"};
  static constexpr Signature kSignature{"Condition", kNames, 2, 1, 0};
  PyObject* values[2];
  if (!bind_call(kSignature, args, kwargs, values)) return -1;
  State* state = state_of(self);
  if (state == nullptr) return -1;
  const bool own_lock = values[0] == nullptr || values[0] == Py_None;
  PyObject* shared = own_lock ? shared_answer(state, values[1]) : shared_beside(state, values[0], values[1]);
  if (shared == nullptr) return -1;
  const Ref lock = own_lock ? Ref::take(new_rlock(state, shared)) : Ref::share(values[0]);
  if (!lock || !place_body<Condition>(self, state, shared, ObjectType::kCondition)) return -1;
  return set_lock(self, state, lock.get()) ? 0 : -1;
}

PyObject* condition_reduce(PyObject* self, PyObject* /*unused*/) {
  const ConditionObject* condition = condition_of(self);
  if (condition->lock == nullptr) return kNoLockOperations.enter(nullptr, nullptr);
  PyObject* own_state = PyTuple_Pack(1, condition->lock);
  return own_state == nullptr ? nullptr : reduce_proxy_with(self, own_state);
}

PyObject* condition_setstate(PyObject* self, PyObject* saved) {
  State* state = state_of(self);
  if (state == nullptr) return nullptr;
  PyObject* own = own_state_of(self, saved);
  if (own == nullptr) return nullptr;
  if (condition_of(self)->lock != nullptr || PyTuple_GET_SIZE(own) != 1) {
    PyErr_SetString(PyExc_TypeError, "this Condition has a lock: __setstate__() is for unpickling only");
    return nullptr;
  }
  if (!set_lock(self, state, PyTuple_GET_ITEM(own, 0))) return nullptr;
  Py_RETURN_NONE;
}

int condition_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(condition_of(self)->lock);
  return 0;
}

int condition_clear(PyObject* self) {
  condition_of(self)->operations = &kNoLockOperations;
  Py_CLEAR(condition_of(self)->lock);
  return 0;
}

void condition_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  PyTypeObject* type = Py_TYPE(self);
  release_proxy(self);
  if (proxy_of(self)->header == nullptr) body_of<Condition>(self)->destroy(place_of(self));
  condition_clear(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef condition_methods[] = {
    {"acquire", as_method(condition_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\nThe lock's acquire()."},
    {"release", condition_release, METH_NOARGS, "release($self, /)\n--\n\nThe lock's release()."},
    {"locked", condition_locked, METH_NOARGS, "locked($self, /)\n--\n\nWhether somebody holds the lock."},
    {"__enter__", condition_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes the lock; True."},
    {"__exit__", as_method(condition_exit), METH_FASTCALL, "__exit__($self, /, *exc_info)\n--\n\nFrees the lock."},
    {"wait", as_method(condition_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\n"
     "Gives up the lock, waits to be notified, and takes the lock again: True; False if timeout (seconds) passed first.\n\n"
     "OwnershipError if the lock is not held. The lock is held again when it returns and when it raises; what a dead\n"
     "process was notified of goes to another waiter."},
    {"wait_for", as_method(condition_wait_for), METH_FASTCALL | METH_KEYWORDS,
     "wait_for($self, /, predicate, timeout=None)\n--\n\n"
     "Waits until predicate() is true, and returns what it returned last; after timeout (seconds) whatever it is then."},
    {"notify", as_method(condition_notify), METH_FASTCALL | METH_KEYWORDS,
     "notify($self, /, n=1)\n--\n\nWakes the n longest waiters, if there are any. OwnershipError if the lock is not held."},
    {"notify_all", condition_notify_all, METH_NOARGS,
     "notify_all($self, /)\n--\n\nWakes all waiters. OwnershipError if the lock is not held."},
    {"_is_owned", condition_is_owned, METH_NOARGS, nullptr},
    {"__reduce__", condition_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nHow a shared one goes to another process; a TypeError for one made for threads."},
    {"__setstate__", condition_setstate, METH_O, "__setstate__($self, state, /)\n--\n\nGives an unpickled one its lock."},
    FT_NO_COPY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef condition_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot condition_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Condition(lock=None, *, shared=None)\n--\n\n"
                    "Waiters that wait to be notified under a lock.\n\n"
                    "lock: a Lock or RLock of freethreading; None makes an RLock. shared: True puts it into memory that\n"
                    "processes share, False into this process's own; None puts it beside its lock, and a new lock where\n"
                    "the back end (get_backend()) needs it.")},
    {Py_tp_new, reinterpret_cast<void*>(condition_new)},
    {Py_tp_init, reinterpret_cast<void*>(condition_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(condition_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(condition_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(condition_clear)},
    {Py_tp_repr, reinterpret_cast<void*>(condition_repr)},
    {Py_tp_methods, condition_methods},
    {Py_tp_members, condition_members},
    {0, nullptr},
};

PyType_Spec condition_spec = {
    "freethreading.Condition", sizeof(ConditionObject), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC, condition_slots};

}  // namespace

int add_condition(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kCondition, &condition_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
