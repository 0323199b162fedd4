// Open jobs: a stream's items, put into shared memory as they come (docs/design/jobs.md).
#include <limits>

#include "args.hpp"
#include "codec.hpp"
#include "extend.hpp"
#include "map_job.hpp"

namespace freethreading::binding {
namespace {

// Puts an item into the job, where workers see it at once.
Taken append(PyObject* self, PyObject* item) noexcept {
  Encoding encoding;
  switch (encoding.encode(item)) {
    case Encoding::Outcome::kDone:
      break;
    case Encoding::Outcome::kError:
      PyErr_Clear();  // whoever pickles it says it
      return Taken::kForeign;
    case Encoding::Outcome::kNotNative:
      return Taken::kForeign;
  }
  JobHeader* header = job_of(self);
  // Only the thread that appends writes these, and what is behind them.
  const std::uint64_t index = header->available.load(std::memory_order_relaxed);
  const std::uint32_t begin = header->offsets()[index];
  const bool fits = index < header->count && encoding.size() <= header->room - begin;
  if (fits) {
    encoding.copy_to(header->items() + begin);
    header->offsets()[index + 1] = begin + static_cast<std::uint32_t>(encoding.size());
  }
  Taken taken = Taken::kFull;
  Py_BEGIN_CRITICAL_SECTION(self);
  if (header->is_open.load() != 0) {
    if (fits) {
      // Sequentially consistent: a worker that leaves looks here behind its leave of `helpers`.
      header->available.store(index + 1);
      taken = Taken::kDone;
    } else {
      header->is_open.store(0);
    }
  }
  Py_END_CRITICAL_SECTION();
  return taken;
}

}  // namespace

// MapJob.open(items, room, workers)
PyObject* job_open(PyObject* type, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 3) {
    PyErr_SetString(PyExc_TypeError, "open() takes three numbers");
    return nullptr;
  }
  State* state = state_of_type(reinterpret_cast<PyTypeObject*>(type));
  const std::size_t count = PyLong_AsSize_t(args[0]);
  if (state == nullptr || PyErr_Occurred() != nullptr) return nullptr;
  const std::size_t room = PyLong_AsSize_t(args[1]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  const unsigned long workers = PyLong_AsUnsignedLong(args[2]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  if (room > std::numeric_limits<std::uint32_t>::max() || count > std::numeric_limits<std::uint32_t>::max()) {
    PyErr_SetString(PyExc_ValueError, "open() takes numbers below 2**32");
    return nullptr;
  }
  PyObject* self = make_map_job(reinterpret_cast<PyTypeObject*>(type), state, count, JobHeader::size_for(count, room),
                                static_cast<std::uint32_t>(workers));
  if (self == nullptr) return nullptr;
  job_of(self)->room = room;
  job_of(self)->is_open.store(1);
  return self;
}

// extend(iterator, most, invite)
PyObject* job_extend(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return extend_job(args, nargs, job_of(self), [self](PyObject* item) { return append(self, item); });
}

void seal(PyObject* self) {
  Py_BEGIN_CRITICAL_SECTION(self);
  job_of(self)->is_open.store(0);
  Py_END_CRITICAL_SECTION();
}

PyObject* job_seal(PyObject* self, PyObject* /*unused*/) {
  seal(self);
  Py_RETURN_NONE;
}

PyObject* job_ask(PyObject* self, PyObject* /*unused*/) {
  job_of(self)->asked.store(1);
  Py_RETURN_NONE;
}

PyObject* job_keep_telling(PyObject* self, PyObject* /*unused*/) {
  job_of(self)->is_telling.store(1);
  Py_RETURN_NONE;
}

}  // namespace freethreading::binding
