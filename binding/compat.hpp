// Everything that depends on the interpreter's version or build: the only file with PY_VERSION_HEX or Py_GIL_DISABLED.
//
// The other files write the newest spelling; for the interpreters without it, it is defined here.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <atomic>
#include <cstdint>

#if PY_VERSION_HEX < 0x030A0000
#error "freethreading needs Python 3.10 or later"
#endif

namespace freethreading::binding {

// Whether this interpreter was built so that it can run without the GIL.
#ifdef Py_GIL_DISABLED
inline constexpr bool kFreeThreadedBuild = true;
#else
inline constexpr bool kFreeThreadedBuild = false;
#endif

// The slots that say what the module can do where the interpreter asks: run without the GIL, and in several interpreters
// each with a GIL of its own.
#if PY_VERSION_HEX >= 0x030D0000
#define FT_MODULE_ABILITIES                                                   \
  {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}, {     \
    Py_mod_gil, Py_MOD_GIL_NOT_USED                                           \
  }
#elif PY_VERSION_HEX >= 0x030C0000
#define FT_MODULE_ABILITIES {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}
#endif

// The module of `definition` that `type` or one of its bases was made for, borrowed; null with a TypeError.
inline PyObject* module_of_type(PyTypeObject* type, PyModuleDef* definition) {
#if PY_VERSION_HEX >= 0x030B0000
  return PyType_GetModuleByDef(type, definition);
#else
  PyObject* mro = type->tp_mro;
  const Py_ssize_t count = mro == nullptr ? 0 : PyTuple_GET_SIZE(mro);
  for (Py_ssize_t i = 0; i < count; ++i) {
    auto* base = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, i));
    if ((base->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0) continue;
    PyObject* module = reinterpret_cast<PyHeapTypeObject*>(base)->ht_module;
    if (module != nullptr && PyModule_GetDef(module) == definition) return module;
  }
  PyErr_Format(PyExc_TypeError, "%s is not a type of freethreading", type->tp_name);
  return nullptr;
#endif
}

// PyDict_GetItemRef: 1 and a new reference, 0 and null where the key is absent, -1 with an error.
inline int dict_get(PyObject* dict, PyObject* key, PyObject** value) {
#if PY_VERSION_HEX >= 0x030D0000
  return PyDict_GetItemRef(dict, key, value);
#else
  PyObject* found = PyDict_GetItemWithError(dict, key);
  *value = Py_XNewRef(found);
  if (found != nullptr) return 1;
  return PyErr_Occurred() == nullptr ? 0 : -1;
#endif
}

// The exception that is set, taken away (a new reference, null when there is none), and set again.
#if PY_VERSION_HEX >= 0x030C0000
inline PyObject* take_exception() { return PyErr_GetRaisedException(); }
inline void give_exception(PyObject* exception) { PyErr_SetRaisedException(exception); }
#else
inline PyObject* take_exception() {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  if (type == nullptr) return nullptr;
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr) PyException_SetTraceback(value, traceback);
  Py_DECREF(type);
  Py_XDECREF(traceback);
  return value;
}
inline void give_exception(PyObject* exception) {
  PyObject* type = Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(exception)));
  PyErr_Restore(type, exception, PyException_GetTraceback(exception));
}
#endif

// An int as `size` bytes of two's complement, little end first, which must hold it; and back.
inline void long_as_bytes(PyObject* value, unsigned char* target, std::size_t size) {
#if PY_VERSION_HEX >= 0x030D0000
  PyLong_AsNativeBytes(value, target, static_cast<Py_ssize_t>(size), Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
  _PyLong_AsByteArray(reinterpret_cast<PyLongObject*>(value), target, size, 1, 1);
#endif
}
inline PyObject* long_from_bytes(const unsigned char* source, std::size_t size) {
#if PY_VERSION_HEX >= 0x030D0000
  return PyLong_FromNativeBytes(source, size, Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
  return _PyLong_FromByteArray(source, size, 1, 1);
#endif
}

// Whether the calling thread's context has no variables.
inline bool has_empty_context() {
  PyObject* context = PyThreadState_Get()->context;
  return context == nullptr || PyObject_Size(context) == 0;
}

// Whether `object`, an int that the caller has made, is nobody else's; then it is this number from now on (docs/design/jobs.md).
inline bool renew_long([[maybe_unused]] PyObject* object, [[maybe_unused]] long long number) {
#if PY_VERSION_HEX >= 0x030C0000
  constexpr long long kLargestShared = 256;  // of which the interpreter has one for all
  const auto is_own = [](long long value) { return value > kLargestShared && value < (1LL << PyLong_SHIFT); };
  if (!is_own(number) || Py_REFCNT(object) != 1 || PyUnstable_Long_IsCompact(reinterpret_cast<PyLongObject*>(object)) == 0 ||
      !is_own(PyUnstable_Long_CompactValue(reinterpret_cast<PyLongObject*>(object)))) {
    return false;
  }
  reinterpret_cast<PyLongObject*>(object)->long_value.ob_digit[0] = static_cast<digit>(number);
  return true;
#else
  return false;
#endif
}

// Makes one of the caller's references to `object` such that any thread may give it up. Without it, where there is no GIL, a
// thread that gives up the last reference to an object of another thread's leaves that to the other, through a queue with a
// lock: for what goes from thread to thread, that costs more than all the rest.
inline void hand_over([[maybe_unused]] PyObject* object) {
#ifdef Py_GIL_DISABLED
  if (object == nullptr || !_Py_IsOwnedByCurrentThread(object)) return;
  const std::uint32_t local = object->ob_ref_local;
  if (local == _Py_IMMORTAL_REFCNT_LOCAL || local == 0) return;
  const std::atomic_ref<Py_ssize_t> shared(object->ob_ref_shared);
  const std::atomic_ref<std::uint32_t> mine(object->ob_ref_local);
  // Relaxed, as the interpreter's own: others learn of the object by what gives it to them.
  if (local == 1 && shared.load(std::memory_order_relaxed) == 0) {  // nobody else can see it: it is what merging makes of it
    std::atomic_ref<std::uintptr_t>(object->ob_tid).store(0, std::memory_order_relaxed);
    mine.store(0, std::memory_order_relaxed);
    shared.store((Py_ssize_t{1} << _Py_REF_SHARED_SHIFT) | _Py_REF_MERGED, std::memory_order_relaxed);
    return;
  }
  shared.fetch_add(Py_ssize_t{1} << _Py_REF_SHARED_SHIFT, std::memory_order_relaxed);
  // Other threads read it too, but only its owner, this thread, writes it.
  mine.store(local - 1, std::memory_order_relaxed);
  if (local == 1) _Py_MergeZeroLocalRefcount(object);
#endif
}

// The same of an object of the user's, unless it is a container: what is in that stays its maker's, and whoever gave up the container
// would give up each of these through that queue (and until then look them up in other dictionaries under their locks only).
inline void hand_over_value([[maybe_unused]] PyObject* object) {
#ifdef Py_GIL_DISABLED
  constexpr unsigned long kContainers = Py_TPFLAGS_DICT_SUBCLASS | Py_TPFLAGS_LIST_SUBCLASS | Py_TPFLAGS_TUPLE_SUBCLASS;
  if (object == nullptr || PyType_HasFeature(Py_TYPE(object), kContainers) || PyAnySet_Check(object)) return;
  hand_over(object);
#endif
}

}  // namespace freethreading::binding

// One object's critical section: a lock where there is no GIL, nothing where there is one.
#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif
