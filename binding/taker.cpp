// Taker and ListTaker: what an iterator over results does for each of them (src/freethreading/_imap.py, _map_job.py). No Ref: _wait()
// waits.
#include <utility>

#include "args.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

struct TakerObject {
  PyObject_HEAD
  PyObject* take;     // takes what is there; an IndexError: nothing is
  PyObject* failure;  // the type of what stands for an exception
};

TakerObject* taker_of(PyObject* self) { return reinterpret_cast<TakerObject*>(self); }

// self.name(argument)
PyObject* call(PyObject* self, const char* name, PyObject* argument) {
  PyObject* method = PyObject_GetAttrString(self, name);
  PyObject* value = method == nullptr ? nullptr : PyObject_CallOneArg(method, argument);
  Py_XDECREF(method);
  return value;
}

// What a value stands for, whose reference it takes; null with an exception set.
PyObject* value_of(PyObject* self, PyObject* value, PyObject* failure) {
  if (value == nullptr || reinterpret_cast<PyObject*>(Py_TYPE(value)) != failure) return value;
  PyObject* raised = call(self, "_failed", value);
  Py_DECREF(value);
  return raised;
}

PyObject* taker_next(PyObject* self) {
  const TakerObject* taker = taker_of(self);
  PyObject* value = PyObject_CallNoArgs(taker->take);
  if (value == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_IndexError) == 0) return nullptr;
    PyErr_Clear();
    value = call(self, "_wait", Py_None);
  }
  return value_of(self, value, taker->failure);
}

PyObject* taker_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"take", "failure"};
  static constexpr Signature kSignature{"Taker", kNames, 2, 2, 2};
  PyObject* values[2] = {};
  if (!bind_call(kSignature, args, kwargs, values)) return nullptr;
  if (PyCallable_Check(values[0]) == 0 || !PyType_Check(values[1])) {
    return PyErr_Format(PyExc_TypeError, "Taker() takes a callable and a type, not %R and %R", values[0], values[1]);
  }
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  taker_of(self)->take = Py_NewRef(values[0]);
  taker_of(self)->failure = Py_NewRef(values[1]);
  return self;
}

int taker_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(taker_of(self)->take);
  Py_VISIT(taker_of(self)->failure);
  return 0;
}

// No tp_clear: whoever still has it may call it, and what it has, has nothing of it.
void taker_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_CLEAR(taker_of(self)->take);
  Py_CLEAR(taker_of(self)->failure);
  type->tp_free(self);
  Py_DECREF(type);
}

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Taker(take, failure)\n--\n\n"
                    "Base of an iterator over what take() gives. Where that raises an IndexError, _wait(None) gives the next one or\n"
                    "raises; what _failed() gives or raises stands for one of the type failure.")},
    {Py_tp_new, reinterpret_cast<void*>(taker_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(taker_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(taker_traverse)},
    {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
    {Py_tp_iternext, reinterpret_cast<void*>(taker_next)},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.Taker", sizeof(TakerObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

struct ListTakerObject {
  PyObject_HEAD
  PyObject* lists;    // a deque of lists
  PyObject* popleft;  // its method
  PyObject* failure;  // the type of what stands for an exception
  // The list whose values are given; null: the next one is. Under the guard, which the GIL is, where there is one.
  PyObject* list;
  Py_ssize_t at;  // below it they were given
#ifdef Py_GIL_DISABLED
  PyMutex guard;  // the interpreter's: who waits for it, or in the deque with it, holds up no collection
#endif
};

ListTakerObject* list_taker_of(PyObject* self) { return reinterpret_cast<ListTakerObject*>(self); }

// Calls action() under the guard.
template <class Action>
void guarded([[maybe_unused]] ListTakerObject* taker, Action action) {
#ifdef Py_GIL_DISABLED
  PyMutex_Lock(&taker->guard);
#endif
  action();
#ifdef Py_GIL_DISABLED
  PyMutex_Unlock(&taker->guard);
#endif
}

// The next value of the list, out of which it is taken: its reference is the caller's. Null: there is none.
PyObject* take_next(ListTakerObject* taker) {
  PyObject* value = nullptr;
  PyObject* done = nullptr;
  guarded(taker, [&] {
    if (taker->list == nullptr) return;
    value = PyList_GET_ITEM(taker->list, taker->at);
    PyList_SET_ITEM(taker->list, taker->at, Py_NewRef(Py_None));
    if (++taker->at == PyList_GET_SIZE(taker->list)) done = std::exchange(taker->list, nullptr);
  });
  Py_XDECREF(done);
  return value;
}

// Goes on with the next list, where there is none. False: with an error set, an IndexError where there is no next one.
bool begin_list(ListTakerObject* taker) {
  bool good = true;
  guarded(taker, [&] {
    if (taker->list != nullptr) return;
    PyObject* list = PyObject_CallNoArgs(taker->popleft);
    good = list != nullptr;
    if (good && (!PyList_CheckExact(list) || PyList_GET_SIZE(list) == 0)) {
      PyErr_Format(PyExc_TypeError, "a list with values is needed, not %R", list);
      Py_CLEAR(list);
      good = false;
    }
    taker->list = list;
    taker->at = 0;
  });
  return good;
}

PyObject* list_taker_next(PyObject* self) {
  ListTakerObject* taker = list_taker_of(self);
  PyObject* value = take_next(taker);
  while (value == nullptr) {
    if (!begin_list(taker)) {
      if (PyErr_ExceptionMatches(PyExc_IndexError) == 0) return nullptr;
      PyErr_Clear();
      PyObject* waited = call(self, "_wait", Py_None);
      if (waited == nullptr) return nullptr;
      Py_DECREF(waited);
    }
    value = take_next(taker);
  }
  return value_of(self, value, taker->failure);
}

PyObject* list_taker_drop(PyObject* self, PyObject* /*unused*/) {
  PyObject* list = nullptr;
  guarded(list_taker_of(self), [&] { list = std::exchange(list_taker_of(self)->list, nullptr); });
  Py_XDECREF(list);
  Py_RETURN_NONE;
}

PyObject* get_has_values(PyObject* self, void* /*closure*/) {
  bool has_list = false;
  guarded(list_taker_of(self), [&] { has_list = list_taker_of(self)->list != nullptr; });
  const Py_ssize_t lists = has_list ? 1 : PyObject_Size(list_taker_of(self)->lists);
  return lists < 0 ? nullptr : PyBool_FromLong(lists != 0 ? 1 : 0);
}

PyObject* list_taker_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"lists", "failure"};
  static constexpr Signature kSignature{"ListTaker", kNames, 2, 2, 2};
  PyObject* values[2] = {};
  if (!bind_call(kSignature, args, kwargs, values)) return nullptr;
  if (!PyType_Check(values[1])) return PyErr_Format(PyExc_TypeError, "ListTaker() takes a deque and a type, not %R", values[1]);
  PyObject* popleft = PyObject_GetAttrString(values[0], "popleft");
  PyObject* self = popleft == nullptr ? nullptr : type->tp_alloc(type, 0);
  if (self == nullptr) {
    Py_XDECREF(popleft);
    return nullptr;
  }
  list_taker_of(self)->lists = Py_NewRef(values[0]);
  list_taker_of(self)->popleft = popleft;
  list_taker_of(self)->failure = Py_NewRef(values[1]);
  return self;
}

int list_taker_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(list_taker_of(self)->lists);
  Py_VISIT(list_taker_of(self)->popleft);
  Py_VISIT(list_taker_of(self)->failure);
  Py_VISIT(list_taker_of(self)->list);
  return 0;
}

// No tp_clear: as Taker. What it has of values goes when it is closed.
void list_taker_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_CLEAR(list_taker_of(self)->lists);
  Py_CLEAR(list_taker_of(self)->popleft);
  Py_CLEAR(list_taker_of(self)->failure);
  Py_CLEAR(list_taker_of(self)->list);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef list_taker_methods[] = {
    {"_drop_list", list_taker_drop, METH_NOARGS, "_drop_list($self, /)\n--\n\nLets go of the values that it has."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef list_taker_attributes[] = {
    {"_has_values", get_has_values, nullptr, "Whether the next one is there.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot list_taker_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "ListTaker(lists, failure)\n--\n\n"
                    "Base of an iterator over the values of the lists in a deque, none of them empty, which it takes out of them. Where\n"
                    "there is none, _wait(None) waits for one or raises; what _failed() gives or raises stands for one of the type failure.")},
    {Py_tp_new, reinterpret_cast<void*>(list_taker_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(list_taker_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(list_taker_traverse)},
    {Py_tp_iter, reinterpret_cast<void*>(PyObject_SelfIter)},
    {Py_tp_iternext, reinterpret_cast<void*>(list_taker_next)},
    {Py_tp_methods, list_taker_methods},
    {Py_tp_getset, list_taker_attributes},
    {0, nullptr},
};

PyType_Spec list_taker_spec = {"freethreading._core.ListTaker", sizeof(ListTakerObject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
                               list_taker_slots};

}  // namespace

int add_taker(PyObject* module, State* state) {
  if (add_type(module, state, TypeIndex::kTaker, &spec) == nullptr) return -1;
  return add_type(module, state, TypeIndex::kListTaker, &list_taker_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
