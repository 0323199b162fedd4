// NativeFuture: how one is made, with its call, and how it ends (docs/design/futures.md).
#include <new>

#include "args.hpp"
#include "calls.hpp"
#include "errors.hpp"
#include "future.hpp"
#include "placement.hpp"

namespace freethreading::binding {
namespace {

// Its call, with the variables of the context, null: as they are now. False: an error is set.
bool take_call(FutureObject* future, PyObject* function, PyObject* args, PyObject* kwargs, PyObject* context) {
  if (context != nullptr || !has_empty_context()) {
    future->carried.context = context != nullptr ? PyContext_Copy(context) : PyContext_CopyCurrent();
    if (future->carried.context == nullptr) return false;
  }
  future->function = Py_NewRef(function);
  future->args = Py_NewRef(args);
  future->carried.kwargs = kwargs == nullptr || PyDict_GET_SIZE(kwargs) == 0 ? nullptr : Py_NewRef(kwargs);
  // The thread that runs it gives them up.
  hand_over(future->function);
  hand_over(future->args);
  hand_over(future->carried.kwargs);
  hand_over(future->carried.context);
  return true;
}

}  // namespace

int future_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"engine", "function", "args", "kwargs", "context"};
  static constexpr Signature kSignature{"NativeFuture", kNames, 5, 5, 0};
  PyObject* values[5] = {};
  if (!bind_call(kSignature, args, kwargs, values)) return -1;
  FutureObject* future = future_of(self);
  if (future->engine != nullptr || future->function != nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "this future is in use: __init__ may be called once only");
    return -1;
  }
  if (values[1] != nullptr && (values[2] == nullptr || !PyTuple_Check(values[2]))) {
    PyErr_Format(PyExc_TypeError, "args must be a tuple, not %R", values[2] == nullptr ? Py_None : values[2]);
    return -1;
  }
  if (values[3] != nullptr && values[3] != Py_None && !PyDict_Check(values[3])) {
    PyErr_Format(PyExc_TypeError, "kwargs must be a dict, not %R", values[3]);
    return -1;
  }
  if (values[1] != nullptr) {
    PyObject* context = values[4] == Py_None ? nullptr : values[4];
    PyObject* kwargs = values[3] == Py_None ? nullptr : values[3];
    if (!take_call(future, values[1], values[2], kwargs, context)) return -1;
  }
  future->engine = values[0] == Py_None ? nullptr : Py_XNewRef(values[0]);
  return 0;
}

PyObject* future_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  FutureObject* future = future_of(self);
  new (&future->state) std::atomic<FutureState>(FutureState::kPending);
  new (&future->done) Event();
  new (&future->attached) std::atomic<bool>(false);
  new (&future->is_to_end) std::atomic<bool>(false);
  future->process = Place::private_memory().self();
  return self;
}

PyObject* new_future(PyTypeObject* type, PyObject* engine) {
  PyObject* self = future_new(type, nullptr, nullptr);
  if (self != nullptr) future_of(self)->engine = Py_NewRef(engine);
  return self;
}

PyObject* new_call(PyTypeObject* type, PyObject* engine, PyObject* function, PyObject* args, PyObject* kwargs) {
  PyObject* self = new_future(type, engine);
  if (self != nullptr && !take_call(future_of(self), function, args, kwargs, nullptr)) Py_CLEAR(self);
  return self;
}

int future_traverse(PyObject* self, visitproc visit, void* arg) {
  FutureObject* future = future_of(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(future->outcome);
  Py_VISIT(future->callbacks);
  if (future->standard != nullptr) {
    Py_VISIT(future->standard->waiters);
    Py_VISIT(future->standard->condition);
  }
  Py_VISIT(future->engine);
  Py_VISIT(future->owner);
  Py_VISIT(future->calls);
  Py_VISIT(future->function);
  Py_VISIT(future->args);
  if (future->calls != nullptr) return 0;
  Py_VISIT(future->carried.kwargs);
  Py_VISIT(future->carried.context);
  return 0;
}

int future_clear(PyObject* self) {
  FutureObject* future = future_of(self);
  Py_CLEAR(future->outcome);
  Py_CLEAR(future->callbacks);
  if (future->standard != nullptr) {
    Py_CLEAR(future->standard->waiters);
    Py_CLEAR(future->standard->condition);
  }
  Py_CLEAR(future->engine);
  Py_CLEAR(future->owner);
  Py_CLEAR(future->function);
  Py_CLEAR(future->args);
  if (future->calls != nullptr) return 0;
  Py_CLEAR(future->carried.kwargs);
  Py_CLEAR(future->carried.context);
  return 0;
}

void enter_collector(FutureObject* future) {
  auto* self = reinterpret_cast<PyObject*>(future);
  future->is_collected = true;
  if (PyObject_GC_IsTracked(self) == 0) PyObject_GC_Track(self);
}

#ifdef Py_GIL_DISABLED

// A collection without the GIL walks over all memory of the collector's, and comes the sooner the less it tracks.
void leave_collector(PyObject* /*self*/) {}

#else

void leave_collector(PyObject* self) {
  const FutureObject* future = future_of(self);
  Py_BEGIN_CRITICAL_SECTION(self);
  const bool has_call = future->function != nullptr || future->args != nullptr ||
                        (future->calls == nullptr && (future->carried.kwargs != nullptr || future->carried.context != nullptr));
  const bool has_container = future->outcome != nullptr && PyObject_IS_GC(future->outcome) != 0;
  const bool has_others = future->callbacks != nullptr || future->standard != nullptr || future->owner != nullptr;
  if (!future->is_collected && !has_call && !has_container && !has_others) PyObject_GC_UnTrack(self);
  Py_END_CRITICAL_SECTION();
}

#endif

int future_setattro(PyObject* self, PyObject* name, PyObject* value) {
  Py_BEGIN_CRITICAL_SECTION(self);
  enter_collector(future_of(self));
  Py_END_CRITICAL_SECTION();
  return PyObject_GenericSetAttr(self, name, value);
}

void future_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  if (future_of(self)->calls != nullptr) drop_raw(self);
  future_clear(self);
  Py_CLEAR(future_of(self)->calls);
  PyMem_Free(future_of(self)->standard);
  type->tp_free(self);
  Py_DECREF(type);
}

}  // namespace freethreading::binding
