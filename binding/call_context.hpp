// How a function of the user's is called in a context of its own. No Ref on this way, and no destructor: a thread may end in a call,
// with the interpreter.
#pragma once

#include "compat.hpp"

namespace freethreading::binding {

// The value of call() in the context; null with its exception set.
template <class Call>
PyObject* run_in(PyObject* context, Call call) {
  if (PyContext_Enter(context) != 0) return nullptr;
  PyObject* value = call();
  PyObject* exception = value == nullptr ? take_exception() : nullptr;
  if (PyContext_Exit(context) != 0) {
    Py_CLEAR(value);
    Py_CLEAR(exception);
  }
  if (exception != nullptr) give_exception(exception);
  return value;
}

// function(item), or function(*item). Null with its exception set.
inline PyObject* call_with(PyObject* function, PyObject* item, bool star) {
  if (!star) return PyObject_CallOneArg(function, item);
  PyObject* args = PySequence_Tuple(item);
  PyObject* value = args == nullptr ? nullptr : PyObject_Call(function, args, nullptr);
  Py_XDECREF(args);
  return value;
}

// The contexts of calls that are made one after the other. leave() at the end.
struct CallContexts {
  PyObject* base;               // borrowed
  PyObject* prepare;            // base -> a new one for a call, or None: a copy; borrowed
  PyObject* entered = nullptr;  // the last call's, which may be as good as a new one

  // The value of call() in the next one; null with its exception set.
  template <class Call>
  PyObject* run(Call call) {
    // What has no variables and is nobody else's (but this one's, and the thread's, which has entered it) is as good as a new one.
    if (entered != nullptr && (PyObject_Size(entered) != 0 || Py_REFCNT(entered) != 2)) leave();
    if (entered == nullptr && !enter()) return nullptr;
    PyObject* value = call();
    if (value == nullptr || prepare != Py_None) leave();
    return value;
  }
  void leave() {
    if (entered == nullptr) return;
    PyObject* exception = PyErr_Occurred() == nullptr ? nullptr : take_exception();
    if (PyContext_Exit(entered) != 0) PyErr_WriteUnraisable(entered);  // it is the one that is entered: this cannot be
    Py_CLEAR(entered);
    if (exception != nullptr) give_exception(exception);
  }

 private:
  bool enter() {
    PyObject* context = prepare == Py_None ? PyContext_Copy(base) : PyObject_CallOneArg(prepare, base);
    if (context == nullptr) return false;
    if (PyContext_Enter(context) != 0) {
      Py_DECREF(context);
      return false;
    }
    entered = context;
    return true;
  }
};

inline bool append_failure(PyObject* failures, Py_ssize_t at) {
  PyObject* index = PyLong_FromSsize_t(at);
  const bool added = index != nullptr && PyList_Append(failures, index) == 0;
  Py_XDECREF(index);
  return added;
}

// Appends an outcome, and where it is an exception its index to `failures`. False: an error is set.
inline bool append_outcome(PyObject* values, PyObject* failures, PyObject* value, bool done) {
  if (PyList_Append(values, value) != 0) return false;
  return done || append_failure(failures, PyList_GET_SIZE(values) - 1);
}

// Puts it at its place of a list that has room for it, nothing or None, and takes its reference.
inline bool place_outcome(PyObject* values, PyObject* failures, Py_ssize_t at, PyObject* value, bool done) {
  PyObject* before = PyList_GET_ITEM(values, at);
  PyList_SET_ITEM(values, at, value);
  Py_XDECREF(before);
  return done || append_failure(failures, at);
}

// values[size:] goes. False: an error is set.
inline bool cut(PyObject* values, Py_ssize_t size) {
  return PyList_GET_SIZE(values) == size || PyList_SetSlice(values, size, PyList_GET_SIZE(values), nullptr) == 0;
}

}  // namespace freethreading::binding
