// MapJob, the program's side of a map's job: what its files share (map_job.cpp, map_job_open.cpp).
#pragma once

#include <vector>

#include "compat.hpp"
#include "freethreading/memory/shared_buffer.hpp"
#include "job.hpp"
#include "placement.hpp"
#include "state.hpp"

namespace freethreading::binding {

struct JobObject {
  PyObject_HEAD
  PyObject* buffer;       // the SharedBuffer
  PyObject* sent;         // index -> (whether it is done, its value or exception) of what came as a message
  std::uint64_t low;      // all before it are collected
  std::vector<bool>* had;  // which were collected out of order; null: none
  std::uint32_t process;  // that made it; another one, a forked child, changes nothing of it
};

inline JobObject* job_object(PyObject* self) { return reinterpret_cast<JobObject*>(self); }
inline JobHeader* job_of(PyObject* self) { return job_of(*body_of<SharedBuffer>(job_object(self)->buffer)); }

// A MapJob for so many items in so many bytes of zeros (JobHeader::size_for()). Null: an error is set.
PyObject* make_map_job(PyTypeObject* type, State* state, std::size_t count, std::size_t size, std::uint32_t workers);

// It takes no more items.
void seal(PyObject* self);

// Methods of an open job (map_job_open.cpp).
PyObject* job_open(PyObject* type, PyObject* const* args, Py_ssize_t nargs);
PyObject* job_extend(PyObject* self, PyObject* const* args, Py_ssize_t nargs);
PyObject* job_seal(PyObject* self, PyObject* unused);
PyObject* job_ask(PyObject* self, PyObject* unused);
PyObject* job_keep_telling(PyObject* self, PyObject* unused);

}  // namespace freethreading::binding
