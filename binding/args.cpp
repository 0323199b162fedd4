#include "args.hpp"

#include <cmath>

namespace freethreading::binding {
namespace {

// Seconds, as threading.TIMEOUT_MAX: the largest whole number whose nanoseconds fit.
constexpr double kLongestTimeout = 9223372036.0;
constexpr double kNanosecondsInSecond = 1e9;

bool bind_keyword(const Signature& signature, PyObject* name, PyObject* value, PyObject** values) {
  for (int i = 0; i < signature.count; ++i) {
    if (PyUnicode_CompareWithASCIIString(name, signature.names[i]) != 0) continue;
    if (values[i] != nullptr) {
      PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", signature.function, name);
      return false;
    }
    values[i] = value;
    return true;
  }
  PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", signature.function, name);
  return false;
}

bool bind_positional(const Signature& signature, PyObject* const* args, Py_ssize_t nargs, PyObject** values) {
  if (nargs > signature.positional) {
    PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional argument%s (%zd given)", signature.function,
                 signature.positional, signature.positional == 1 ? "" : "s", nargs);
    return false;
  }
  for (int i = 0; i < signature.count; ++i) values[i] = i < nargs ? args[i] : nullptr;
  return true;
}

bool have_required(const Signature& signature, PyObject* const* values) {
  for (int i = 0; i < signature.required; ++i) {
    if (values[i] != nullptr) continue;
    PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", signature.function, signature.names[i]);
    return false;
  }
  return true;
}

}  // namespace

bool bind(const Signature& signature, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames, PyObject** values) {
  if (!bind_positional(signature, args, nargs, values)) return false;
  const Py_ssize_t keywords = kwnames == nullptr ? 0 : PyTuple_GET_SIZE(kwnames);
  for (Py_ssize_t i = 0; i < keywords; ++i) {
    if (!bind_keyword(signature, PyTuple_GET_ITEM(kwnames, i), args[nargs + i], values)) return false;
  }
  return have_required(signature, values);
}

bool bind_call(const Signature& signature, PyObject* args, PyObject* kwargs, PyObject** values) {
  PyObject** first = reinterpret_cast<PyTupleObject*>(args)->ob_item;
  if (!bind_positional(signature, first, PyTuple_GET_SIZE(args), values)) return false;
  if (kwargs != nullptr) {
    // The dict is this call's own: nobody changes it meanwhile, and it keeps the values alive.
    Py_ssize_t position = 0;
    PyObject* name = nullptr;
    PyObject* value = nullptr;
    while (PyDict_Next(kwargs, &position, &name, &value) != 0) {
      if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "%s() keywords must be strings", signature.function);
        return false;
      }
      if (!bind_keyword(signature, name, value, values)) return false;
    }
  }
  return have_required(signature, values);
}

namespace {

void refuse_timeout(PyObject* timeout) {
  PyErr_Format(PyExc_OverflowError, "timeout value is too large: %R; None waits for ever", timeout);
}

}  // namespace

bool deadline_of(PyObject* timeout, Negative negative, Deadline* deadline) {
  if (timeout == nullptr || timeout == Py_None) {
    *deadline = Deadline::never();
    return true;
  }
  const double seconds = PyFloat_AsDouble(timeout);
  if (seconds == -1.0 && PyErr_Occurred() != nullptr) {
    if (PyErr_ExceptionMatches(PyExc_OverflowError) != 0) {
      refuse_timeout(timeout);
    } else if (PyErr_ExceptionMatches(PyExc_TypeError) != 0) {
      PyErr_Format(PyExc_TypeError, "'timeout' must be a number of seconds or None, not %R (%s)", timeout, Py_TYPE(timeout)->tp_name);
    }
    return false;
  }
  if (std::isnan(seconds)) {
    PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds, not NaN");
    return false;
  }
  if (seconds < 0) {
    *deadline = negative == Negative::kForEver ? Deadline::never() : Deadline::immediate();
    return true;
  }
  if (seconds > kLongestTimeout) {
    refuse_timeout(timeout);
    return false;
  }
  *deadline = seconds == 0 ? Deadline::immediate()
                           : Deadline::after(static_cast<Nanoseconds>(std::ceil(seconds * kNanosecondsInSecond)));
  return true;
}

bool acquire_deadline(PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames, Deadline* deadline) {
  static constexpr const char* kNames[] = {"blocking", "timeout"};
  static constexpr Signature kSignature{"acquire", kNames, 2, 2, 0};
  PyObject* values[2];
  if (!bind(kSignature, args, nargs, kwnames, values)) return false;
  const int blocking = values[0] == nullptr ? 1 : PyObject_IsTrue(values[0]);
  if (blocking < 0 || !deadline_of(values[1], Negative::kForEver, deadline)) return false;
  if (blocking == 0) {
    if (!deadline->is_never()) {
      PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
      return false;
    }
    *deadline = Deadline::immediate();
  }
  return true;
}

}  // namespace freethreading::binding
