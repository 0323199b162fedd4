// freethreading.Semaphore and BoundedSemaphore over the core's Semaphore.
#include "freethreading/sync/semaphore.hpp"

#include "args.hpp"
#include "errors.hpp"
#include "placement.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

using SemaphoreObject = ProxyOf<Semaphore>;

PyObject* acquire_permit(PyObject* self, Deadline deadline) {
  Place& place = place_of(self);
  Semaphore& semaphore = *body_of<Semaphore>(self);
  WaitOutcome outcome = semaphore.try_acquire(place);
  if (outcome == WaitOutcome::kTimedOut && !deadline.is_immediate()) {
    outcome = wait_detached(deadline, [&](WaitContext& context) { return semaphore.acquire_until(place, context); });
  }
  return acquired(self, outcome, [] {});
}

PyObject* semaphore_enter(PyObject* self, PyObject* /*unused*/) { return acquire_permit(self, Deadline::never()); }

PyObject* semaphore_acquire(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  Deadline deadline = Deadline::never();
  if (!no_arguments(nargs, kwnames) && !acquire_deadline(args, nargs, kwnames, &deadline)) return nullptr;
  return acquire_permit(self, deadline);
}

PyObject* release_permits(PyObject* self, std::uint32_t count) {
  if (body_of<Semaphore>(self)->release(place_of(self), count)) Py_RETURN_NONE;
  PyErr_SetString(PyExc_ValueError, "Semaphore released too many times");
  return nullptr;
}

PyObject* semaphore_release(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  if (no_arguments(nargs, kwnames)) return release_permits(self, 1);
  static constexpr const char* kNames[] = {"n"};
  static constexpr Signature kSignature{"release", kNames, 1, 1, 0};
  PyObject* value = nullptr;
  if (!bind(kSignature, args, nargs, kwnames, &value)) return nullptr;
  int overflow = 0;
  const long count = PyLong_AsLongAndOverflow(value, &overflow);
  if (count == -1 && PyErr_Occurred() != nullptr) return nullptr;
  if (overflow < 0 || (overflow == 0 && count < 1)) {
    PyErr_SetString(PyExc_ValueError, "n must be one or more");
    return nullptr;
  }
  // More permits than a count can hold pass every bound.
  const bool countable = overflow == 0 && count <= static_cast<long>(Semaphore::kMaxValue);
  return release_permits(self, countable ? static_cast<std::uint32_t>(count) : Semaphore::kMaxValue + 1);
}

PyObject* semaphore_exit(PyObject* self, PyObject* const* /*args*/, Py_ssize_t /*nargs*/) {
  return release_permits(self, 1);
}

PyObject* semaphore_get_value(PyObject* self, PyObject* /*unused*/) {
  return PyLong_FromUnsignedLong(body_of<Semaphore>(self)->value());
}

PyObject* semaphore_repr(PyObject* self) {
  const Semaphore* semaphore = body_of<Semaphore>(self);
  const char* type = Py_TYPE(self)->tp_name;
  if (semaphore->bound() == Semaphore::kMaxValue) {
    return PyUnicode_FromFormat("<%s at %p: value=%u>", type, self, semaphore->value());
  }
  return PyUnicode_FromFormat("<%s at %p: value=%u/%u>", type, self, semaphore->value(), semaphore->bound());
}

PyObject* semaphore_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_private<SemaphoreObject, Semaphore>(type, std::uint32_t{1}, Semaphore::kMaxValue);
}

int initialise(PyObject* self, const char* name, ObjectType type, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"value", "shared"};
  const Signature signature{name, kNames, 2, 1, 0};
  PyObject* values[2];
  if (!bind_call(signature, args, kwargs, values)) return -1;
  long first = 1;
  int overflow = 0;
  if (values[0] != nullptr) first = PyLong_AsLongAndOverflow(values[0], &overflow);
  if (first == -1 && PyErr_Occurred() != nullptr) return -1;
  if (overflow < 0 || (overflow == 0 && first < 0)) {
    PyErr_SetString(PyExc_ValueError, "semaphore initial value must be >= 0");
    return -1;
  }
  if (overflow > 0 || first > static_cast<long>(Semaphore::kMaxValue)) {
    PyErr_Format(PyExc_OverflowError, "semaphore initial value must be <= %u", Semaphore::kMaxValue);
    return -1;
  }
  const auto value = static_cast<std::uint32_t>(first);
  const std::uint32_t bound = type == ObjectType::kBoundedSemaphore ? value : Semaphore::kMaxValue;
  State* state = state_of(self);
  return state != nullptr && place_body<Semaphore>(self, state, values[1], type, value, bound) ? 0 : -1;
}

int semaphore_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  return initialise(self, "Semaphore", ObjectType::kSemaphore, args, kwargs);
}

int bounded_semaphore_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  return initialise(self, "BoundedSemaphore", ObjectType::kBoundedSemaphore, args, kwargs);
}

PyMethodDef semaphore_methods[] = {
    {"acquire", as_method(semaphore_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"
     "Takes a permit and returns True, or returns False if none was to be had.\n\n"
     "Waits for ever where timeout (seconds) is None or negative; not at all where blocking is false or timeout is zero."},
    {"release", as_method(semaphore_release), METH_FASTCALL | METH_KEYWORDS,
     "release($self, /, n=1)\n--\n\n"
     "Gives n permits; ValueError if n is less than one, or the count would pass its bound (then none is given)."},
    {"get_value", semaphore_get_value, METH_NOARGS, "get_value($self, /)\n--\n\nHow many permits there are now."},
    {"__enter__", semaphore_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes a permit; True."},
    {"__exit__", as_method(semaphore_exit), METH_FASTCALL, "__exit__($self, /, *exc_info)\n--\n\nGives a permit back."},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef semaphore_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot semaphore_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Semaphore(value=1, *, shared=None)\n--\n\n"
                    "A count of permits: acquire() takes one and waits while there are none, release() gives some.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs. Permits have no owner: those of a process that dies stay taken.")},
    {Py_tp_new, reinterpret_cast<void*>(semaphore_new)},
    {Py_tp_init, reinterpret_cast<void*>(semaphore_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_repr, reinterpret_cast<void*>(semaphore_repr)},
    {Py_tp_methods, semaphore_methods},
    {Py_tp_members, semaphore_members},
    {0, nullptr},
};

PyType_Spec semaphore_spec = {"freethreading.Semaphore", sizeof(SemaphoreObject), 0,
                              Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, semaphore_slots};

PyType_Slot bounded_semaphore_slots[] = {
    {Py_tp_doc, const_cast<char*>("BoundedSemaphore(value=1, *, shared=None)\n--\n\n"
                                  "A Semaphore whose count never passes its first value: a release() too many is a "
                                  "ValueError.")},
    {Py_tp_init, reinterpret_cast<void*>(bounded_semaphore_init)},
    // Its own, though they are the base's: the interpreter specialises calls of methods that the type itself has.
    {Py_tp_methods, semaphore_methods},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {0, nullptr},
};

PyType_Spec bounded_semaphore_spec = {"freethreading.BoundedSemaphore", sizeof(SemaphoreObject), 0,
                                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
                                      bounded_semaphore_slots};

}  // namespace

int add_semaphore(PyObject* module, State* state) {
  PyTypeObject* base = add_type(module, state, TypeIndex::kSemaphore, &semaphore_spec);
  if (base == nullptr) return -1;
  return add_type(module, state, TypeIndex::kBoundedSemaphore, &bounded_semaphore_spec, base) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
