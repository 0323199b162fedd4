// The items of a map that are a range's: each worker makes the numbers that it calls the function with.
#pragma once

#include "compat.hpp"

namespace freethreading::binding {

struct Range {
  long long start = 0;
  long long step = 0;
  Py_ssize_t count = 0;

  [[nodiscard]] long long at(std::uint64_t index) const { return start + static_cast<long long>(index) * step; }
};

// What a range object says. False: with an error set, or without one, where long long has not all its numbers.
inline bool read_range(PyObject* object, Range* range) {
  const auto number_of = [object](const char* name, long long* number) {
    PyObject* value = PyObject_GetAttrString(object, name);
    *number = value == nullptr ? 0 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return PyErr_Occurred() == nullptr;
  };
  long long stop = 0;
  range->count = PyObject_Size(object);
  if (range->count >= 0 && number_of("start", &range->start) && number_of("stop", &stop) && number_of("step", &range->step)) return true;
  if (PyErr_ExceptionMatches(PyExc_OverflowError) != 0) PyErr_Clear();
  return false;
}

// Makes the numbers that one worker needs, one after another. drop() at the end.
struct Numbers {
  PyObject* last = nullptr;

  // An int, a new reference; null with its exception set.
  PyObject* make(long long value) {
    if (last == nullptr || !renew_long(last, value)) {
      Py_XDECREF(last);
      last = PyLong_FromLongLong(value);
    }
    return Py_XNewRef(last);
  }
  void drop() { Py_CLEAR(last); }
};

}  // namespace freethreading::binding
