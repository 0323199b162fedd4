// freethreading.AtomicInt64 over the core's AtomicInt64.
#include "freethreading/sync/atomic_int64.hpp"

#include "args.hpp"
#include "placement.hpp"

namespace freethreading::binding {
namespace {

using AtomicObject = ProxyOf<AtomicInt64>;

// False: TypeError, or OverflowError outside of 64 bits.
bool number_of(PyObject* object, std::int64_t* number) {
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (value == -1 && PyErr_Occurred() != nullptr) return false;
  if (overflow != 0) {
    PyErr_Format(PyExc_OverflowError, "an AtomicInt64 holds 64 bits: its values are from -2**63 to 2**63 - 1, not %R", object);
    return false;
  }
  *number = value;
  return true;
}

AtomicInt64& atomic_of(PyObject* self) { return *body_of<AtomicInt64>(self); }

PyObject* atomic_load(PyObject* self, PyObject* /*unused*/) { return PyLong_FromLongLong(atomic_of(self).load()); }

PyObject* atomic_store(PyObject* self, PyObject* value) {
  std::int64_t number = 0;
  if (!number_of(value, &number)) return nullptr;
  atomic_of(self).store(number);
  Py_RETURN_NONE;
}

PyObject* atomic_fetch_add(PyObject* self, PyObject* value) {
  std::int64_t number = 0;
  return number_of(value, &number) ? PyLong_FromLongLong(atomic_of(self).fetch_add(number)) : nullptr;
}

PyObject* atomic_fetch_sub(PyObject* self, PyObject* value) {
  std::int64_t number = 0;
  return number_of(value, &number) ? PyLong_FromLongLong(atomic_of(self).fetch_sub(number)) : nullptr;
}

PyObject* atomic_exchange(PyObject* self, PyObject* value) {
  std::int64_t number = 0;
  return number_of(value, &number) ? PyLong_FromLongLong(atomic_of(self).exchange(number)) : nullptr;
}

PyObject* atomic_compare_exchange(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"expected", "desired"};
  static constexpr Signature kSignature{"compare_exchange", kNames, 2, 2, 2};
  PyObject* values[2];
  if (!bind(kSignature, args, nargs, kwnames, values)) return nullptr;
  std::int64_t expected = 0;
  std::int64_t desired = 0;
  if (!number_of(values[0], &expected) || !number_of(values[1], &desired)) return nullptr;
  return PyBool_FromLong(atomic_of(self).compare_exchange_strong(expected, desired));
}

PyObject* atomic_repr(PyObject* self) {
  return PyUnicode_FromFormat("<%s at %p: value=%lld>", Py_TYPE(self)->tp_name, self,
                              static_cast<long long>(atomic_of(self).load()));
}

PyObject* atomic_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_private<AtomicObject, AtomicInt64>(type, std::int64_t{0});
}

int atomic_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"value", "shared"};
  static constexpr Signature kSignature{"AtomicInt64", kNames, 2, 1, 0};
  PyObject* values[2];
  std::int64_t first = 0;
  if (!bind_call(kSignature, args, kwargs, values)) return -1;
  if (values[0] != nullptr && !number_of(values[0], &first)) return -1;
  State* state = state_of(self);
  return state != nullptr && place_body<AtomicInt64>(self, state, values[1], ObjectType::kAtomicInt64, first) ? 0 : -1;
}

PyMethodDef atomic_methods[] = {
    {"load", atomic_load, METH_NOARGS, "load($self, /)\n--\n\nThe value now."},
    {"store", atomic_store, METH_O, "store($self, value, /)\n--\n\nSets the value."},
    {"fetch_add", atomic_fetch_add, METH_O,
     "fetch_add($self, value, /)\n--\n\nAdds, and returns what the value was before; past 64 bits it wraps around."},
    {"fetch_sub", atomic_fetch_sub, METH_O,
     "fetch_sub($self, value, /)\n--\n\nSubtracts, and returns what the value was before; past 64 bits it wraps around."},
    {"exchange", atomic_exchange, METH_O,
     "exchange($self, value, /)\n--\n\nSets the value, and returns what it was before."},
    {"compare_exchange", as_method(atomic_compare_exchange), METH_FASTCALL | METH_KEYWORDS,
     "compare_exchange($self, /, expected, desired)\n--\n\n"
     "Sets the value to desired if it is expected; whether it was."},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef atomic_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot atomic_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "AtomicInt64(value=0, *, shared=None)\n--\n\n"
                    "A 64-bit signed integer that threads and, where it is shared, processes change without a lock.\n\n"
                    "Each method is one atomic operation, sequentially consistent. A number that does not fit in 64 bits is\n"
                    "an OverflowError; sums and differences wrap around, as int64_t's in C++'s std::atomic.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs.")},
    {Py_tp_new, reinterpret_cast<void*>(atomic_new)},
    {Py_tp_init, reinterpret_cast<void*>(atomic_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_repr, reinterpret_cast<void*>(atomic_repr)},
    {Py_tp_methods, atomic_methods},
    {Py_tp_members, atomic_members},
    {0, nullptr},
};

PyType_Spec atomic_spec = {"freethreading.AtomicInt64", sizeof(AtomicObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, atomic_slots};

}  // namespace

int add_atomic_int64(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kAtomicInt64, &atomic_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
