// Arguments: from a vectorcall (or a tuple and a dict) to borrowed values in the order of the parameters, and from a
// timeout in seconds to a Deadline.
#pragma once

#include <cstddef>

#include "compat.hpp"
#include "freethreading/deadline.hpp"

namespace freethreading::binding {

struct Signature {
  const char* function;      // for messages: "acquire"
  const char* const* names;  // of the parameters, in order
  int count;
  int positional;  // so many of them may be given by position; the others by keyword only
  int required;    // so many must be given
};

// Fills values[0..count) with borrowed references, null for a parameter that was left out. False: TypeError.
bool bind(const Signature& signature, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames, PyObject** values);
// The same for tp_init's tuple and dict (which may be null).
bool bind_call(const Signature& signature, PyObject* args, PyObject* kwargs, PyObject** values);

// What a negative timeout means.
enum class Negative { kForEver, kPassed };
// None (and a value left out, null) never passes. False: TypeError, ValueError (not a number), OverflowError.
bool deadline_of(PyObject* timeout, Negative negative, Deadline* deadline);

// The deadline of acquire(blocking=True, timeout=None): immediate where it may not block. False: an error is set.
bool acquire_deadline(PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames, Deadline* deadline);

// A method of METH_FASTCALL as PyMethodDef stores it; the flags say how it is called.
template <class Function>
PyCFunction as_method(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

// A call without any argument: what the fast paths ask first.
inline bool no_arguments(Py_ssize_t nargs, PyObject* kwnames) {
  return nargs == 0 && (kwnames == nullptr || PyTuple_GET_SIZE(kwnames) == 0);
}

}  // namespace freethreading::binding
