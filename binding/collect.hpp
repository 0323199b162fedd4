// How the known outcomes of a job, of processes or of threads, are collected (docs/design/jobs.md).
#pragma once

#include <vector>

#include "compat.hpp"

namespace freethreading::binding {

// collect(most) and collect_any(most): (the first index, the values, where among them exceptions stand). `low`: the job's first item
// that is not collected. collect_some(most, failures) gives a new list of values; null: an error is set.
template <class Collect>
PyObject* collect([[maybe_unused]] PyObject* self, PyObject* const* args, Py_ssize_t nargs, const std::uint64_t& low,
                  Collect collect_some) {
  const Py_ssize_t most = nargs == 0 ? PY_SSIZE_T_MAX : PyLong_AsSsize_t(args[0]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  PyObject* values = nullptr;
  PyObject* failures = PyList_New(0);
  std::uint64_t first = 0;
  Py_BEGIN_CRITICAL_SECTION(self);
  first = low;
  if (failures != nullptr) values = collect_some(most, failures);
  Py_END_CRITICAL_SECTION();
  if (values != nullptr) return Py_BuildValue("(KNN)", static_cast<unsigned long long>(first), values, failures);
  Py_XDECREF(failures);
  return nullptr;
}

// collect_into(values, at): (how many outcomes were put into the list from there on, where in it exceptions stand).
// place_some(values, at, failures) gives the end of those that it has put there; -1: an error is set.
template <class Place>
PyObject* collect_into([[maybe_unused]] PyObject* self, PyObject* const* args, Py_ssize_t nargs, Place place_some) {
  const Py_ssize_t at = nargs == 2 ? PyLong_AsSsize_t(args[1]) : -1;
  if (PyErr_Occurred() != nullptr) return nullptr;
  if (nargs != 2 || !PyList_CheckExact(args[0]) || at < 0 || at > PyList_GET_SIZE(args[0])) {
    PyErr_SetString(PyExc_TypeError, "collect_into() takes a list and an index in it");
    return nullptr;
  }
  PyObject* failures = PyList_New(0);
  Py_ssize_t end = -1;
  Py_BEGIN_CRITICAL_SECTION(self);
  if (failures != nullptr) end = place_some(args[0], at, failures);
  Py_END_CRITICAL_SECTION();
  if (end >= 0) return Py_BuildValue("(nN)", end - at, failures);
  Py_XDECREF(failures);
  return nullptr;
}

// A collect_some() that takes whatever is known of the items below `available`. `had`: which were collected, one for each item that there
// may be. collect_item(index, values) appends an outcome: 1; 0: it is not known; -1: an error is set.
template <class Item>
PyObject* collect_known(std::uint64_t& low, std::uint64_t available, std::vector<bool>& had, Py_ssize_t most, Item collect_item) {
  PyObject* values = PyList_New(0);
  for (std::uint64_t i = low; values != nullptr && i < available && PyList_GET_SIZE(values) < most; ++i) {
    if (had[i]) continue;
    const int outcome = collect_item(i, values);
    had[i] = outcome == 1;
    if (outcome < 0) Py_CLEAR(values);
  }
  while (low < available && had[low]) ++low;
  return values;
}

}  // namespace freethreading::binding
