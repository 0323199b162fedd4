// MapJob: the program's side of a map's job: encodes the items, and collects what workers have made of them.
#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <vector>

#include "args.hpp"
#include "call_context.hpp"
#include "codec.hpp"
#include "collect.hpp"
#include "freethreading/memory/session.hpp"
#include "map_job.hpp"
#include "ranges.hpp"

namespace freethreading::binding {
namespace {

// The encodings of the items, one behind the other.
struct Encoded {
  std::vector<std::uint32_t> offsets{0};
  std::vector<std::byte> bytes;
  std::size_t used = 0;  // of them

  Encoding::Outcome add(PyObject* item) {
    Encoding encoding;
    const Encoding::Outcome outcome = encoding.encode(item);
    if (outcome != Encoding::Outcome::kDone) return outcome;
    const std::size_t size = encoding.size();
    if (size > std::numeric_limits<std::uint32_t>::max() - used) return Encoding::Outcome::kNotNative;
    if (bytes.size() - used < size) bytes.resize(std::max(2 * bytes.size(), used + size));
    encoding.copy_to(bytes.data() + used);
    used += size;
    offsets.push_back(static_cast<std::uint32_t>(used));
    return outcome;
  }
};

// Room for so many items. False: an error is set.
bool make_room(Encoded& encoded, std::size_t count) noexcept {
  try {
    encoded.offsets.reserve(count + 1);
    encoded.bytes.resize(16 * count);
  } catch (const std::exception&) {
    PyErr_NoMemory();
    return false;
  }
  return true;
}

Encoding::Outcome add_item(Encoded& encoded, PyObject* item) noexcept {
  try {
    return encoded.add(item);
  } catch (const std::exception&) {
    PyErr_NoMemory();
    return Encoding::Outcome::kError;
  }
}

// The job of what the iterator gives; None where the codec does not take it.
PyObject* encode_all(PyTypeObject* type, State* state, PyObject* items, Encoded& encoded, bool star, std::uint32_t workers,
                     PyObject* source) {
  const Py_ssize_t hint = PyObject_LengthHint(source, 0);
  if (hint < 0 || !make_room(encoded, static_cast<std::size_t>(hint))) return nullptr;
  Encoding::Outcome outcome = Encoding::Outcome::kDone;
  while (outcome == Encoding::Outcome::kDone) {
    PyObject* item = PyIter_Next(items);
    if (item == nullptr) break;
    // What a starred item is unpacked from may be any iterable; the codec has to keep it whole.
    outcome = star && !PyTuple_CheckExact(item) ? Encoding::Outcome::kNotNative : add_item(encoded, item);
    Py_DECREF(item);
  }
  if (outcome == Encoding::Outcome::kError || PyErr_Occurred() != nullptr) return nullptr;
  if (outcome == Encoding::Outcome::kNotNative) Py_RETURN_NONE;
  const std::size_t count = encoded.offsets.size() - 1;
  PyObject* self = make_map_job(type, state, count, JobHeader::size_for(count, encoded.used), workers);
  if (self == nullptr) return nullptr;
  JobHeader* header = job_of(self);
  header->star = star ? 1 : 0;
  std::copy(encoded.offsets.begin(), encoded.offsets.end(), header->offsets());
  std::memcpy(header->items(), encoded.bytes.data(), encoded.used);
  header->available.store(count);
  header->is_telling.store(1);
  return self;
}

// The job of a range; null without an error: its numbers are too large.
PyObject* make_range_job(PyTypeObject* type, State* state, PyObject* object, std::uint32_t workers) {
  Range range;
  if (!read_range(object, &range)) return nullptr;
  const auto count = static_cast<std::size_t>(range.count);
  PyObject* self = make_map_job(type, state, count, JobHeader::size_for(count), workers);
  if (self == nullptr) return nullptr;
  JobHeader* header = job_of(self);
  header->start = range.start;
  header->step = range.step;
  header->is_range = 1;
  header->available.store(count);
  header->is_telling.store(1);
  return self;
}

// MapJob.encode(items, star, workers)
PyObject* job_encode(PyObject* type, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 3) {
    PyErr_SetString(PyExc_TypeError, "encode() takes an iterable, a bool, and a number");
    return nullptr;
  }
  State* state = state_of_type(reinterpret_cast<PyTypeObject*>(type));
  const unsigned long workers = PyLong_AsUnsignedLong(args[2]);
  if (state == nullptr || PyErr_Occurred() != nullptr) return nullptr;
  if (PyRange_Check(args[0]) && args[1] != Py_True) {
    PyObject* of_range = make_range_job(reinterpret_cast<PyTypeObject*>(type), state, args[0], static_cast<std::uint32_t>(workers));
    if (of_range != nullptr || PyErr_Occurred() != nullptr) return of_range;
  }
  PyObject* items = PyObject_GetIter(args[0]);
  if (items == nullptr) return nullptr;
  auto* encoded = new (std::nothrow) Encoded();  // no destructor here: the items may be an iterator of the user's
  if (encoded == nullptr) {
    Py_DECREF(items);
    return PyErr_NoMemory();
  }
  PyObject* self = encode_all(reinterpret_cast<PyTypeObject*>(type), state, items, *encoded, args[1] == Py_True,
                              static_cast<std::uint32_t>(workers), args[0]);
  Py_DECREF(items);
  delete encoded;
  return self;
}

// The outcome of a done item, a new reference. Null without an error: its message is not here yet.
PyObject* outcome_of(PyObject* self, std::uint64_t index, std::uint32_t head, bool* done) {
  PyObject* value = nullptr;
  *done = true;
  if (head == JobSlot::kSent) {
    PyObject* key = PyLong_FromUnsignedLongLong(index);
    PyObject* outcome = nullptr;
    const int found = key == nullptr ? -1 : dict_get(job_object(self)->sent, key, &outcome);
    if (found == 1 && PyDict_DelItem(job_object(self)->sent, key) == 0) {
      *done = PyTuple_GET_ITEM(outcome, 0) == Py_True;
      value = Py_NewRef(PyTuple_GET_ITEM(outcome, 1));
    }
    Py_XDECREF(outcome);
    Py_XDECREF(key);
    return value;
  }
  // Whatever a worker wrote there: no more is read than a slot has.
  return decode(job_of(self)->slots()[index].bytes.data(), std::min<std::size_t>(head - 1, JobSlot::kBytes));
}

// How many items there are.
// sync: SLOT (acquire): their slots and encodings; pairs with the appending of an item
std::uint64_t available_of(PyObject* self) { return job_of(self)->available.load(std::memory_order_acquire); }

// sync: SLOT: what is in the slot; pairs with the worker's store. Sequentially consistent: also with its look at `asked`
std::uint32_t head_of(PyObject* self, std::uint64_t index) { return job_of(self)->slots()[index].head.load(); }

// Appends the outcome of an item if it is known. 1: done. 0: it is not. -1: an error is set.
int collect_item(PyObject* self, std::uint64_t index, PyObject* values, PyObject* failures) {
  const std::uint32_t head = head_of(self, index);
  if (!JobSlot::is_done(head)) return 0;
  bool done = true;
  PyObject* value = outcome_of(self, index, head, &done);
  if (value == nullptr) return PyErr_Occurred() == nullptr ? 0 : -1;
  const bool good = append_outcome(values, failures, value, done);
  Py_DECREF(value);
  return good ? 1 : -1;
}

// Those behind the last one collected, up to the first that is not known. A new list; null: an error is set.
PyObject* collect_in_order(PyObject* self, Py_ssize_t most, PyObject* failures) {
  std::uint64_t& low = job_object(self)->low;
  const std::uint64_t first = low;
  const std::uint64_t available = available_of(self);
  std::uint64_t end = first;
  while (end < available && end - first < static_cast<std::uint64_t>(most) && JobSlot::is_done(head_of(self, end))) ++end;
  PyObject* values = PyList_New(static_cast<Py_ssize_t>(end - first));
  if (values == nullptr) return nullptr;
  bool good = true;
  while (good && low < end) {
    bool done = true;
    PyObject* value = outcome_of(self, low, head_of(self, low), &done);
    good = value != nullptr && place_outcome(values, failures, static_cast<Py_ssize_t>(low - first), value, done);
    if (good) ++low;
  }
  if (PyErr_Occurred() != nullptr || !cut(values, static_cast<Py_ssize_t>(low - first))) Py_CLEAR(values);
  return values;
}

PyObject* job_collect(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return collect(self, args, nargs, job_object(self)->low,
                 [self](Py_ssize_t most, PyObject* failures) { return collect_in_order(self, most, failures); });
}

PyObject* job_collect_into(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return collect_into(self, args, nargs, [self](PyObject* values, Py_ssize_t at, PyObject* failures) -> Py_ssize_t {
    std::uint64_t& low = job_object(self)->low;
    const std::uint64_t available = available_of(self);
    while (low < available && at < PyList_GET_SIZE(values) && JobSlot::is_done(head_of(self, low))) {
      bool done = true;
      PyObject* value = outcome_of(self, low, head_of(self, low), &done);
      if (value == nullptr) return PyErr_Occurred() == nullptr ? at : -1;
      ++low;
      if (!place_outcome(values, failures, at++, value, done)) return -1;
    }
    return at;
  });
}

PyObject* job_collect_any(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  JobObject* object = job_object(self);
  return collect(self, args, nargs, object->low, [&](Py_ssize_t most, PyObject* failures) {
    if (object->had == nullptr) object->had = new std::vector<bool>(job_of(self)->count);
    return collect_known(object->low, available_of(self), *object->had, most,
                         [&](std::uint64_t index, PyObject* values) { return collect_item(self, index, values, failures); });
  });
}

// accept(index, done, value): the outcome came as a message, or is the program's to say.
PyObject* job_accept(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 3) {
    PyErr_SetString(PyExc_TypeError, "accept() takes a number, a bool and an object");
    return nullptr;
  }
  PyObject* outcome = PyTuple_Pack(2, args[1], args[2]);
  const int set = outcome == nullptr ? -1 : PyDict_SetItem(job_object(self)->sent, args[0], outcome);
  Py_XDECREF(outcome);
  if (set != 0) return nullptr;
  Py_RETURN_NONE;
}

// settle(worker): the indices that a dead worker had. Its last answer has been accepted if it was sent.
PyObject* job_settle(PyObject* self, PyObject* worker) {
  const unsigned long number = PyLong_AsUnsignedLong(worker);
  if (PyErr_Occurred() != nullptr) return nullptr;
  JobHeader* header = job_of(self);
  PyObject* lost = PyList_New(0);
  seal(self);  // the worker may have been called and not have left: `helpers` means nothing any more
  for (std::uint64_t i = job_object(self)->low; lost != nullptr && i < header->available.load(); ++i) {
    std::atomic<std::uint32_t>& head = header->slots()[i].head;
    if (head.load() != (JobSlot::kRuns | static_cast<std::uint32_t>(number))) continue;
    PyObject* index = PyLong_FromUnsignedLongLong(i);
    const int sent = index == nullptr ? -1 : PyDict_Contains(job_object(self)->sent, index);
    if (sent < 0 || (sent == 0 && PyList_Append(lost, index) != 0)) Py_CLEAR(lost);
    Py_XDECREF(index);
    head.store(JobSlot::kSent);
  }
  return lost;
}

// Gives an item that is not done the outcome, unless it is a worker's (`running`: then as well). False: an error is set.
bool give_up(PyObject* self, std::uint64_t index, bool running, PyObject* outcome) {
  std::atomic<std::uint32_t>& head = job_of(self)->slots()[index].head;
  std::uint32_t now = head.load();
  while (!JobSlot::is_done(now) && (now == 0 || running)) {
    if (!head.compare_exchange_weak(now, JobSlot::kSent)) continue;
    PyObject* key = PyLong_FromUnsignedLongLong(index);
    const int set = key == nullptr ? -1 : PyDict_SetItem(job_object(self)->sent, key, outcome);
    Py_XDECREF(key);
    return set == 0;
  }
  return true;
}

// withdraw(running, error): no item begins any more; what had not begun, and `running`, what runs, fails with the error.
PyObject* job_withdraw(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "withdraw() takes a bool and an exception");
    return nullptr;
  }
  if (job_object(self)->process != Place::private_memory().self()) Py_RETURN_NONE;
  JobHeader* header = job_of(self);
  PyObject* outcome = PyTuple_Pack(2, Py_False, args[1]);
  bool good = outcome != nullptr;
  // One section: a worker that leaves because of it is heard of behind it, and then all outcomes are there.
  Py_BEGIN_CRITICAL_SECTION(self);
  header->is_closed.store(1);
  header->is_open.store(0);
  header->is_telling.store(1);  // whoever leaves it
  for (std::uint64_t i = job_object(self)->low; good && i < header->available.load(); ++i) {
    good = give_up(self, i, args[0] == Py_True, outcome);
  }
  Py_END_CRITICAL_SECTION();
  Py_XDECREF(outcome);
  if (!good) return nullptr;
  Py_RETURN_NONE;
}

PyObject* job_has_free(PyObject* self, void* /*closure*/) {
  JobHeader* header = job_of(self);
  for (std::uint64_t i = job_object(self)->low; header->is_closed.load() == 0 && i < available_of(self); ++i) {
    if (header->slots()[i].head.load() == 0) Py_RETURN_TRUE;
  }
  Py_RETURN_FALSE;
}

PyObject* job_has_waiting(PyObject* self, void* /*closure*/) {
  JobHeader* header = job_of(self);
  return PyBool_FromLong(header->is_closed.load() == 0 && header->cursor.load() < available_of(self) ? 1 : 0);
}

PyObject* job_is_complete(PyObject* self, void* /*closure*/) {
  bool complete = false;
  Py_BEGIN_CRITICAL_SECTION(self);
  complete = job_of(self)->is_open.load() == 0 && job_object(self)->low == available_of(self);
  Py_END_CRITICAL_SECTION();
  return PyBool_FromLong(complete ? 1 : 0);
}

Py_ssize_t job_length(PyObject* self) { return static_cast<Py_ssize_t>(available_of(self)); }

int job_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(job_object(self)->buffer);
  Py_VISIT(job_object(self)->sent);
  return 0;
}

int job_clear(PyObject* self) {
  // The buffer stays: whoever still has the job may look at it.
  if (job_object(self)->sent != nullptr) PyDict_Clear(job_object(self)->sent);
  return 0;
}

void job_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  Py_CLEAR(job_object(self)->buffer);
  Py_CLEAR(job_object(self)->sent);
  delete job_object(self)->had;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* decode_value(PyObject* /*module*/, PyObject* bytes) {
  if (!PyBytes_Check(bytes)) {
    return PyErr_Format(PyExc_TypeError, "decode_value() takes bytes, not %s", Py_TYPE(bytes)->tp_name);
  }
  return decode(reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(bytes)),
                static_cast<std::size_t>(PyBytes_GET_SIZE(bytes)));
}

PyMethodDef functions[] = {
    {"decode_value", decode_value, METH_O, "decode_value(data, /)\n--\n\nThe value of an encoding of the codec's."},
    {nullptr, nullptr, 0, nullptr},
};

PyMethodDef methods[] = {
    {"encode", as_method(job_encode), METH_FASTCALL | METH_CLASS,
     "encode($type, items, star, workers, /)\n--\n\n"
     "A job of these items, which are the arguments themselves where star is True. None: they are not for the codec."},
    {"open", as_method(job_open), METH_FASTCALL | METH_CLASS,
     "open($type, items, room, workers, /)\n--\n\n"
     "One without items, for so many, whose encodings have `room` bytes at most."},
    {"extend", as_method(job_extend), METH_FASTCALL,
     "extend($self, iterator, most, invite, /)\n--\n\n"
     "Takes up to `most` items; invite() calls a worker. What ended it (0: it has taken them, 1: the input has ended, 2: it\n"
     "takes no more, 3: one is not for the codec), and the item that it could not take or None. One thread at a time."},
    {"seal", job_seal, METH_NOARGS, "seal($self, /)\n--\n\nIt takes no more items."},
    {"ask", job_ask, METH_NOARGS, "ask($self, /)\n--\n\nThe worker that has done the next item tells."},
    {"keep_telling", job_keep_telling, METH_NOARGS,
     "keep_telling($self, /)\n--\n\nWorkers tell each millisecond from now on, and when they leave."},
    {"collect", as_method(job_collect), METH_FASTCALL,
     "collect($self, most=sys.maxsize, /)\n--\n\n"
     "What has become known in order: the first index, the values, and where among them exceptions stand."},
    {"collect_into", as_method(job_collect_into), METH_FASTCALL,
     "collect_into($self, values, at, /)\n--\n\n"
     "As collect(), into a list from its index `at` on: how many, and where in the list exceptions stand. The list is nobody\n"
     "else's; jobs may be collected into different parts of it at a time."},
    {"collect_any", as_method(job_collect_any), METH_FASTCALL,
     "collect_any($self, most=sys.maxsize, /)\n--\n\n"
     "As collect(), in any order; the index says nothing. A job is collected either way, not both ways."},
    {"accept", as_method(job_accept), METH_FASTCALL,
     "accept($self, index, done, value, /)\n--\n\nAn outcome that came as a message, or that the program gives."},
    {"settle", job_settle, METH_O,
     "settle($self, worker, /)\n--\n\nThe indices of what a dead worker had, whose outcomes are to be given."},
    {"withdraw", as_method(job_withdraw), METH_FASTCALL,
     "withdraw($self, running, error, /)\n--\n\n"
     "No item begins any more; what had not begun, and where running is True what runs, fails with the error. In a forked child:\n"
     "nothing."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"has_free", job_has_free, nullptr, "Whether there are items that nobody runs.", nullptr},
    {"has_waiting", job_has_waiting, nullptr, "Whether there are items that nobody has set out to run.", nullptr},
    {"is_complete", job_is_complete, nullptr, "Whether everything is collected.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef members[] = {{"buffer", T_OBJECT, offsetof(JobObject, buffer), READONLY, "Where it lies."},
                         {nullptr, 0, 0, 0, nullptr}};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("The program's side of a map's job. Made by MapJob.encode().")},
    {Py_tp_dealloc, reinterpret_cast<void*>(job_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(job_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(job_clear)},
    {Py_sq_length, reinterpret_cast<void*>(job_length)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.MapJob", sizeof(JobObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace

PyObject* make_map_job(PyTypeObject* type, State* state, std::size_t count, std::size_t size, std::uint32_t workers) {
  PyObject* args = Py_BuildValue("(n)", static_cast<Py_ssize_t>(size));
  PyObject* kwargs = Py_BuildValue("{s:O}", "shared", Py_True);
  auto* buffer_type = reinterpret_cast<PyObject*>(state->type(TypeIndex::kSharedBuffer));
  PyObject* buffer = args == nullptr || kwargs == nullptr ? nullptr : PyObject_Call(buffer_type, args, kwargs);
  Py_XDECREF(args);
  Py_XDECREF(kwargs);
  PyObject* self = buffer == nullptr ? nullptr : type->tp_alloc(type, 0);
  if (self == nullptr) {
    Py_XDECREF(buffer);
    return nullptr;
  }
  job_object(self)->buffer = buffer;
  job_object(self)->sent = PyDict_New();
  job_object(self)->process = Place::private_memory().self();
  JobHeader* header = job_of(self);
  header->count = count;
  header->workers = workers;
  if (job_object(self)->sent == nullptr) Py_CLEAR(self);
  return self;
}

int add_map_job(PyObject* module, State* state) {
  if (PyModule_AddFunctions(module, functions) != 0) return -1;
  return add_type(module, state, TypeIndex::kMapJob, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
