// Submitter: how a call gets to a thread engine's workers without a line of Python (docs/design/futures.md).
#include <atomic>

#include "args.hpp"
#include "freethreading/sync/atomic_int64.hpp"
#include "future.hpp"
#include "placement.hpp"
#include "queue_type.hpp"
#include "state.hpp"

namespace freethreading::binding {

bool grow_engine(PyObject* engine) {
  PyObject* there = PyObject_CallNoArgs(engine);
  PyObject* grown = there == nullptr ? nullptr : PyObject_CallMethod(there, "grow", nullptr);
  Py_XDECREF(there);
  Py_XDECREF(grown);
  return grown != nullptr;
}

namespace {

struct SubmitterObject {
  PyObject_HEAD
  PyObject* future_type;
  PyObject* engine;       // a weak reference
  PyObject* queue;        // the engine's, private
  PyObject* outstanding;  // its AtomicInt64
  std::atomic<bool> is_open;
  std::atomic<bool> is_full;
  std::atomic<std::int64_t> enough;
  std::uint32_t process;  // that made it
};

SubmitterObject* submitter_of(PyObject* self) { return reinterpret_cast<SubmitterObject*>(self); }

// give(function, args, kwargs)
PyObject* submitter_give(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  SubmitterObject* submitter = submitter_of(self);
  if (nargs != 3 || !PyTuple_Check(args[1]) || !PyDict_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "give() takes a function, a tuple and a dict");
    return nullptr;
  }
  if (!submitter->is_open.load() || submitter->process != Place::private_memory().self()) Py_RETURN_NONE;
  PyObject* future = new_call(reinterpret_cast<PyTypeObject*>(submitter->future_type), submitter->engine, args[0], args[1], args[2]);
  if (future == nullptr) return nullptr;
  AtomicInt64* outstanding = body_of<AtomicInt64>(submitter->outstanding);
  const std::int64_t out = outstanding->fetch_add(1) + 1;
  PyObject* put = queue_put_lazily(submitter->queue, future);
  if (put == nullptr) {
    outstanding->fetch_sub(1);
    Py_DECREF(future);
    return nullptr;
  }
  Py_DECREF(put);
  // Behind the put: a worker that leaves takes itself off first, and then looks into the queue.
  if (!submitter->is_full.load() && out > submitter->enough.load() && !grow_engine(submitter->engine)) Py_CLEAR(future);
  return future;
}

PyObject* submitter_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"future_type", "engine", "queue", "outstanding"};
  static constexpr Signature kSignature{"Submitter", kNames, 4, 4, 4};
  PyObject* values[4] = {};
  if (!bind_call(kSignature, args, kwargs, values)) return nullptr;
  const State* state = state_of_type(type);
  if (state == nullptr) return nullptr;
  PyTypeObject* base = state->type(TypeIndex::kFuture);
  if (!PyType_Check(values[0]) || PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(values[0]), base) == 0 ||
      PyCallable_Check(values[1]) == 0 || !PyObject_TypeCheck(values[2], state->type(TypeIndex::kSimpleQueue)) ||
      !is_private_queue(values[2]) || !PyObject_TypeCheck(values[3], state->type(TypeIndex::kAtomicInt64))) {
    PyErr_SetString(PyExc_TypeError, "Submitter() takes a type of NativeFutures, a reference, a private SimpleQueue and an AtomicInt64");
    return nullptr;
  }
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  SubmitterObject* submitter = submitter_of(self);
  submitter->future_type = Py_NewRef(values[0]);
  submitter->engine = Py_NewRef(values[1]);
  submitter->queue = Py_NewRef(values[2]);
  submitter->outstanding = Py_NewRef(values[3]);
  submitter->process = Place::private_memory().self();
  body_of<MessageQueue>(values[2])->keep_sentry();
  return self;
}

int submitter_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(submitter_of(self)->future_type);
  Py_VISIT(submitter_of(self)->engine);
  Py_VISIT(submitter_of(self)->queue);
  Py_VISIT(submitter_of(self)->outstanding);
  return 0;
}

// No tp_clear: whoever still has it may call it. The queue has futures that refer to the engine weakly.
void submitter_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_CLEAR(submitter_of(self)->future_type);
  Py_CLEAR(submitter_of(self)->engine);
  Py_CLEAR(submitter_of(self)->queue);
  Py_CLEAR(submitter_of(self)->outstanding);
  type->tp_free(self);
  Py_DECREF(type);
}

template <std::atomic<bool> SubmitterObject::* Flag>
PyObject* get_flag(PyObject* self, void* /*closure*/) {
  return PyBool_FromLong((submitter_of(self)->*Flag).load() ? 1 : 0);
}

template <std::atomic<bool> SubmitterObject::* Flag>
int set_flag(PyObject* self, PyObject* value, void* /*closure*/) {
  const int flag = value == nullptr ? -1 : PyObject_IsTrue(value);
  if (value == nullptr) PyErr_SetString(PyExc_TypeError, "it cannot be deleted");
  if (flag >= 0) (submitter_of(self)->*Flag).store(flag == 1);
  return flag < 0 ? -1 : 0;
}

PyObject* get_enough(PyObject* self, void* /*closure*/) { return PyLong_FromLongLong(submitter_of(self)->enough.load()); }

int set_enough(PyObject* self, PyObject* value, void* /*closure*/) {
  const long long enough = value == nullptr ? -1 : PyLong_AsLongLong(value);
  if (value == nullptr) PyErr_SetString(PyExc_TypeError, "it cannot be deleted");
  if (PyErr_Occurred() != nullptr) return -1;
  submitter_of(self)->enough.store(enough);
  return 0;
}

PyGetSetDef attributes[] = {
    {"is_open", get_flag<&SubmitterObject::is_open>, set_flag<&SubmitterObject::is_open>, "Whether it takes calls.", nullptr},
    {"is_full", get_flag<&SubmitterObject::is_full>, set_flag<&SubmitterObject::is_full>,
     "Whether there are as many workers as there may be. If not, grow() of the engine is called behind calls that are more than\n"
     "`enough`.", nullptr},
    {"enough", get_enough, set_enough, "How many calls may be outstanding for the workers that there are.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMethodDef methods[] = {
    {"give", as_method(submitter_give), METH_FASTCALL,
     "give($self, function, args, kwargs, /)\n--\n\n"
     "Puts a future with that call, its args a tuple and its kwargs a dict, into the queue, and counts it in outstanding. The future;\n"
     "None: it is not open, or this is a forked child."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Submitter(future_type, engine, queue, outstanding)\n--\n\n"
                    "How calls get to a thread engine's workers; `engine` is a weak reference.")},
    {Py_tp_new, reinterpret_cast<void*>(submitter_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(submitter_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(submitter_traverse)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.Submitter", sizeof(SubmitterObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

int add_submitter(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kSubmitter, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
