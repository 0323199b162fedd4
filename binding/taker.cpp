// Taker: what an iterator over results does for each of them (src/freethreading/_imap.py). No Ref: _wait() waits.
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

PyObject* taker_next(PyObject* self) {
  const TakerObject* taker = taker_of(self);
  PyObject* value = PyObject_CallNoArgs(taker->take);
  if (value == nullptr) {
    if (PyErr_ExceptionMatches(PyExc_IndexError) == 0) return nullptr;
    PyErr_Clear();
    value = call(self, "_wait", Py_None);
  }
  if (value == nullptr || reinterpret_cast<PyObject*>(Py_TYPE(value)) != taker->failure) return value;
  PyObject* raised = call(self, "_failed", value);
  Py_DECREF(value);
  return raised;
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

}  // namespace

int add_taker(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kTaker, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
