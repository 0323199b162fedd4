// How an open job, of processes or of threads, takes items from an iterator (docs/design/jobs.md). No Ref: the iterator may be the
// user's, and never come back.
#pragma once

#include "compat.hpp"

namespace freethreading::binding {

// What became of an item. These are also what extend() says of the one that it could not take.
enum class Taken : int {
  kDone = 0,
  kEnded = 1,    // there was none: the input has ended
  kFull = 2,     // the job takes no more: it is full, sealed or closed
  kForeign = 3,  // it is not for the codec
};

// Whether one more worker is to be called, which counts as a helper from now on. What a worker has taken already needs nobody else.
template <class Job>
bool takes_helper(Job* job) {
  if (job->helpers.load() >= job->workers || job->cursor.load() >= job->available.load()) return false;
  job->helpers.fetch_add(1);
  return true;
}

// extend(iterator, most, invite): takes up to `most` items; `append(item)` says what became of each, and invite() is called where the
// job takes_helper(). (What ended it, the item that was not taken or None). Null: an error is set, the iterator's or invite()'s.
template <class Job, class Append>
PyObject* extend_job(PyObject* const* args, Py_ssize_t nargs, Job* job, Append append) {
  const Py_ssize_t most = nargs == 3 ? PyLong_AsSsize_t(args[1]) : 0;
  if (PyErr_Occurred() != nullptr) return nullptr;
  if (nargs != 3 || PyIter_Check(args[0]) == 0) {
    PyErr_SetString(PyExc_TypeError, "extend() takes an iterator, a number and a callable");
    return nullptr;
  }
  PyObject* iterator = args[0];
  PyObject* invite = args[2];
  iternextfunc next = Py_TYPE(iterator)->tp_iternext;
  for (Py_ssize_t i = 0; i < most; ++i) {
    PyObject* item = next(iterator);
    if (item == nullptr) {
      if (PyErr_Occurred() != nullptr) {
        if (PyErr_ExceptionMatches(PyExc_StopIteration) == 0) return nullptr;
        PyErr_Clear();
      }
      return Py_BuildValue("(iO)", static_cast<int>(Taken::kEnded), Py_None);
    }
    const Taken taken = append(item);
    if (taken != Taken::kDone) return Py_BuildValue("(iN)", static_cast<int>(taken), item);
    Py_DECREF(item);
    if (takes_helper(job)) {
      PyObject* called = PyObject_CallNoArgs(invite);
      if (called == nullptr) return nullptr;
      Py_DECREF(called);
    }
  }
  return Py_BuildValue("(iO)", static_cast<int>(Taken::kDone), Py_None);
}

}  // namespace freethreading::binding
