// WorkerTerms: the type.
#include "worker_terms.hpp"

#include "args.hpp"
#include "freethreading/process_memory.hpp"
#include "placement.hpp"
#include "pool_types.hpp"

namespace freethreading::binding {
namespace {

TermsObject* terms(PyObject* self) { return reinterpret_cast<TermsObject*>(self); }

PyObject* terms_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"record", "surplus", "idle", "memory"};
  static constexpr Signature kSignature{"WorkerTerms", kNames, 4, 4, 4};
  PyObject* values[4] = {};
  if (!bind_call(kSignature, args, kwargs, values)) return nullptr;
  const State* state = state_of_type(type);
  if (state == nullptr) return nullptr;
  if (!PyObject_TypeCheck(values[0], state->type(TypeIndex::kWorkerRecord)) ||
      !PyObject_TypeCheck(values[1], state->type(TypeIndex::kAtomicInt64))) {
    PyErr_SetString(PyExc_TypeError, "WorkerTerms() takes a WorkerRecord, an AtomicInt64, seconds or None, and bytes or None");
    return nullptr;
  }
  const double idle = values[2] == Py_None ? -1.0 : PyFloat_AsDouble(values[2]);
  const std::uint64_t memory = values[3] == Py_None ? 0 : PyLong_AsUnsignedLongLong(values[3]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  terms(self)->record_object = Py_NewRef(values[0]);
  terms(self)->surplus_object = Py_NewRef(values[1]);
  terms(self)->record = body_of<WorkerRecord>(values[0]);
  terms(self)->surplus = body_of<AtomicInt64>(values[1]);
  terms(self)->idle = idle;
  terms(self)->memory = memory;
  return self;
}

int terms_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(terms(self)->record_object);
  Py_VISIT(terms(self)->surplus_object);
  return 0;
}

// No tp_clear: neither of what it has refers to anything.
void terms_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_XDECREF(terms(self)->record_object);
  Py_XDECREF(terms(self)->surplus_object);
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* get_worked(PyObject* self, void* /*closure*/) { return PyBool_FromLong(terms(self)->has_worked ? 1 : 0); }

int set_worked(PyObject* self, PyObject* value, void* /*closure*/) {
  const int worked = value == nullptr ? -1 : PyObject_IsTrue(value);
  if (worked >= 0) terms(self)->has_worked = worked == 1;
  if (value == nullptr) PyErr_SetString(PyExc_TypeError, "cannot delete has_worked");
  return worked < 0 ? -1 : 0;
}

PyObject* terms_end(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(terms(self)->end() ? 1 : 0); }

PyMethodDef methods[] = {
    {"end", terms_end, METH_NOARGS,
     "end($self, /)\n--\n\nBetween two tasks: whether the worker leaves now; then its record says why."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"has_worked", get_worked, set_worked, "Whether a task was done since the memory was looked at.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("WorkerTerms(record, surplus, idle, memory)\n--\n\n"
                                  "Until when the worker of the record stays. surplus: how many workers of its pool are to leave;\n"
                                  "idle: for how many seconds one may have nothing to do, or None; memory: beyond how many bytes one is to\n"
                                  "leave behind its first task, or None.")},
    {Py_tp_new, reinterpret_cast<void*>(terms_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(terms_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(terms_traverse)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.WorkerTerms", sizeof(TermsObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

bool TermsObject::is_too_large() {
  const Nanoseconds now = monotonic_now();
  if (now - looked < kLook) return false;
  looked = now;
  has_worked = false;
  if (private_memory(0) <= memory) return false;
  leave_worker(*record, Leaving::kMemory);
  return true;
}

Deadline TermsObject::wait_deadline() const {
  constexpr double kMost = 1e9;  // seconds: longer than anything runs
  return idle < 0 || idle > kMost ? Deadline::never()
                                  : Deadline::after(static_cast<Nanoseconds>(idle * static_cast<double>(kSecond)));
}

TermsObject* terms_of(PyObject* self, PyObject* object) {
  const State* state = state_of(self);
  if (state == nullptr) return nullptr;
  if (!PyObject_TypeCheck(object, state->type(TypeIndex::kWorkerTerms))) {
    PyErr_Format(PyExc_TypeError, "terms must be WorkerTerms, not %s", Py_TYPE(object)->tp_name);
    return nullptr;
  }
  return terms(object);
}

int add_worker_terms(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kWorkerTerms, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
