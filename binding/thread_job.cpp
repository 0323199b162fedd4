// ThreadJob: a map's items for the threads of a pool, which take them one by one (docs/design/jobs.md). No Ref in what calls the
// user's code.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "args.hpp"
#include "call_context.hpp"
#include "collect.hpp"
#include "freethreading/sync/atomic_int64.hpp"
#include "extend.hpp"
#include "pace.hpp"
#include "placement.hpp"
#include "ranges.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

// What of one item is there: an object that it owns, and in the bits that an address does not use what that is.
//
//   kItem        the item: whoever takes it out runs it. Without an object: that of a range, or of an open job, none yet
//   kNothing     it was taken out, or its outcome was
//   kValue, kException   its outcome
using Slot = std::atomic<std::uintptr_t>;
enum Content : std::uintptr_t { kItem = 0, kNothing = 1, kValue = 2, kException = 3 };
constexpr std::uintptr_t kContents = 3;

std::uintptr_t word_of(PyObject* object, Content content) { return reinterpret_cast<std::uintptr_t>(object) | content; }
PyObject* object_of(std::uintptr_t word) { return reinterpret_cast<PyObject*>(word & ~kContents); }
Content content_of(std::uintptr_t word) { return static_cast<Content>(word & kContents); }
bool is_outcome(std::uintptr_t word) { return (word & kValue) != 0; }

struct ThreadJobObject {
  PyObject_HEAD
  Slot* slots;
  std::uint64_t count;
  std::uint64_t low;       // all before it are collected; in the critical section, as `had`
  std::vector<bool>* had;  // which were collected out of order; null: none
  std::atomic<std::uint64_t> cursor;
  std::atomic<std::uint64_t> available;  // of an open job (a stream's), whose items still come: how many there are
  std::atomic<std::uint32_t> helpers;    // workers that were called to an open job and have not left it
  std::atomic<bool> is_open;         // under the guard, as the growing of `available`
  std::atomic<bool> guard;           // held for some instructions; not the critical section, which a collector holds for long
  std::atomic<bool> is_closed;
  std::atomic<bool> asked;  // somebody waits: whoever has done an item wipes it and tells
  bool star;
  bool is_stream;  // it was made open
  Range range;     // whose numbers the items are, where their slots have none
  std::uint32_t workers;
};

ThreadJobObject* job_of(PyObject* self) { return reinterpret_cast<ThreadJobObject*>(self); }

// Calls action() under the job's guard. It touches no Python object.
template <class Action>
void guarded(ThreadJobObject* job, Action action) {
  // sync: GUARD (acquire, release): what the guard's last holder has done
  while (job->guard.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  action();
  job->guard.store(false, std::memory_order_release);
}

// How a worker calls the function.
struct Caller {
  CallContexts contexts;
  PyObject* function;
  Numbers numbers = {};  // items of a range

  void leave() {
    contexts.leave();
    numbers.drop();
  }
};

// Runs it unless somebody has taken it.
void run_item(ThreadJobObject* job, Caller& caller, std::uint64_t index) {
  Slot& slot = job->slots[index];
  std::uintptr_t word = slot.load(std::memory_order_relaxed);
  // sync: TAKE (acquire): the item; pairs with what made the job known to this thread
  if (content_of(word) != kItem || !slot.compare_exchange_strong(word, kNothing, std::memory_order_acq_rel)) return;
  PyObject* item = object_of(word);
  if (item == nullptr) item = caller.numbers.make(job->range.at(index));
  PyObject* value = item == nullptr ? nullptr : caller.contexts.run([&] { return call_with(caller.function, item, job->star); });
  Py_XDECREF(item);
  const Content content = value != nullptr ? kValue : kException;
  if (value == nullptr) value = take_exception();
  hand_over_value(value);
  // sync: OUTCOME (release): the value; pairs with collect(), and with look_around()
  slot.store(word_of(value, content), std::memory_order_release);
}

// What run() says.
enum class Ran : long {
  kLeft = 0,   // there is nothing left that nobody runs
  kAsked = 1,  // somebody waits
  kDue = 2,    // it is time to look around
};

// kLeft: neither.
Ran look_around(ThreadJobObject* job, Pace& pace) {
  // Who asks looks at the states behind that, this worker looks at `asked` behind their stores.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (job->asked.load() && job->asked.exchange(false)) return Ran::kAsked;
  return pace.is_due() ? Ran::kDue : Ran::kLeft;
}

// The same behind an item; kDue also where workers are to leave, so that each run gets on. `surplus`: how many, or null.
Ran look_behind_item(ThreadJobObject* job, Pace& pace, const AtomicInt64* surplus) {
  const Ran ran = look_around(job, pace);  // first: who asks is told, whoever leaves
  // Relaxed: it carries nothing.
  return ran == Ran::kLeft && surplus != nullptr && surplus->load(std::memory_order_relaxed) > 0 ? Ran::kDue : ran;
}

// Takes items of an open job one by one, so that none waits for another that its worker has set out to run. kLeft: there are none,
// and this worker counts as a helper no more.
Ran run_open(ThreadJobObject* job, Caller& caller, Pace& pace, const AtomicInt64* surplus) {
  const auto has_items = [job] { return job->cursor.load() < job->available.load() || !job->is_open.load(); };
  for (;;) {
    while (!job->is_closed.load(std::memory_order_relaxed)) {
      std::uint64_t index = job->cursor.load();
      if (index >= job->available.load()) {
        // With the GIL held nobody could append one.
        if (!kFreeThreadedBuild || !job->is_open.load() || !linger(has_items)) break;
        continue;
      }
      if (!job->cursor.compare_exchange_weak(index, index + 1)) continue;
      run_item(job, caller, index);
      const Ran ran = look_behind_item(job, pace, surplus);
      if (ran != Ran::kLeft) return ran;
    }
    // Sequentially consistent: whoever has appended an item looks at `helpers` behind that, this worker for an item behind this.
    job->helpers.fetch_sub(1);
    if (job->cursor.load() >= job->available.load() || job->is_closed.load()) return Ran::kLeft;
    job->helpers.fetch_add(1);
  }
}

// The same of a job whose items are all there, of which a worker sets out to run some at a time.
Ran run_all(ThreadJobObject* job, Caller& caller, Pace& pace, const AtomicInt64* surplus) {
  const std::uint64_t count = job->count;
  Ran ran = Ran::kLeft;
  bool goes_on = true;
  while (goes_on && ran == Ran::kLeft && !job->is_closed.load()) {
    const std::uint64_t first = job->cursor.fetch_add(pace.items());
    goes_on = first < count;
    const std::uint64_t end = std::min(first + pace.items(), count);
    for (std::uint64_t i = first; i < end && ran == Ran::kLeft && !job->is_closed.load(std::memory_order_relaxed); ++i) {
      run_item(job, caller, i);
      // Relaxed: it carries nothing.
      if (surplus != nullptr && surplus->load(std::memory_order_relaxed) > 0) ran = Ran::kDue;
    }
    if (goes_on) pace.end_stint(count - end, job->workers);
    if (ran == Ran::kLeft) ran = look_around(job, pace);
  }
  // What others have set out to run and not begun, their last first.
  for (std::uint64_t i = count;
       !goes_on && ran == Ran::kLeft && i-- != 0 && !job->is_closed.load(std::memory_order_relaxed);) {
    if (content_of(job->slots[i].load(std::memory_order_relaxed)) != kItem) continue;
    run_item(job, caller, i);
    ran = look_behind_item(job, pace, surplus);
  }
  return job->is_closed.load() ? Ran::kLeft : ran;
}

// run(function, context, prepare, surplus)
PyObject* job_run(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  const State* state = state_of(self);
  if (state == nullptr) return nullptr;
  if (nargs != 4 || !PyContext_CheckExact(args[1]) ||
      (args[3] != Py_None && !PyObject_TypeCheck(args[3], state->type(TypeIndex::kAtomicInt64)))) {
    PyErr_SetString(PyExc_TypeError, "run() takes a function, a context, a callable or None, and an AtomicInt64 or None");
    return nullptr;
  }
  ThreadJobObject* job = job_of(self);
  Caller caller{.contexts = {.base = args[1], .prepare = args[2]}, .function = args[0]};
  Pace pace;
  const AtomicInt64* surplus = args[3] == Py_None ? nullptr : body_of<AtomicInt64>(args[3]);
  const Ran ran = job->is_stream ? run_open(job, caller, pace, surplus) : run_all(job, caller, pace, surplus);
  caller.leave();
  return PyLong_FromLong(static_cast<long>(ran));
}

// Puts an item into an open job, where workers see it at once.
Taken append(PyObject* self, PyObject* item) {
  ThreadJobObject* job = job_of(self);
  PyObject* kept = Py_NewRef(item);
  hand_over_value(kept);  // the thread that runs it gives it up
  Taken taken = Taken::kFull;
  guarded(job, [&] {
    const std::uint64_t index = job->available.load(std::memory_order_relaxed);  // relaxed: the guard's
    if (index == job->count) job->is_open.store(false);
    if (!job->is_open.load()) return;
    job->slots[index].store(word_of(kept, kItem), std::memory_order_relaxed);  // relaxed: `available` publishes it
    // Sequentially consistent: a worker that leaves looks here behind its leave of `helpers`.
    job->available.store(index + 1);
    taken = Taken::kDone;
  });
  if (taken != Taken::kDone) Py_DECREF(kept);
  return taken;
}

// extend(iterator, most, invite)
PyObject* job_extend(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  return extend_job(args, nargs, job_of(self), [self](PyObject* item) { return append(self, item); });
}

PyObject* job_seal(PyObject* self, PyObject* /*unused*/) {
  ThreadJobObject* job = job_of(self);
  guarded(job, [job] { job->is_open.store(false); });
  Py_RETURN_NONE;
}

PyObject* job_ask(PyObject* self, PyObject* /*unused*/) {
  job_of(self)->asked.store(true);
  Py_RETURN_NONE;
}

// Takes an item's outcome, if it is known. 1: done. 0: it is not. -1: an error is set.
int collect_item(ThreadJobObject* job, std::uint64_t index, PyObject* values, PyObject* failures) {
  Slot& slot = job->slots[index];
  // sync: OUTCOME: the value; pairs with run_item(). Sequentially consistent: see look_around()
  const std::uintptr_t word = slot.load();
  if (!is_outcome(word)) return 0;
  if (!append_outcome(values, failures, object_of(word), content_of(word) == kValue)) return -1;
  slot.store(kNothing, std::memory_order_relaxed);  // nobody else looks at it any more
  Py_DECREF(object_of(word));
  return 1;
}

// The end of the outcomes that are known behind the last one collected, `most` of them.
std::uint64_t known_in_order(const ThreadJobObject* job, std::uint64_t most) {
  const std::uint64_t end = job->available.load();
  std::uint64_t known = job->low;
  // sync: OUTCOME: the value; pairs with run_item(). Sequentially consistent: see look_around()
  while (known < end && known - job->low < most && is_outcome(job->slots[known].load())) ++known;
  return known;
}

// Puts the first one that was not collected at its place in the list, which has room. False: an error is set.
bool collect_next(ThreadJobObject* job, PyObject* values, Py_ssize_t at, PyObject* failures) {
  Slot& slot = job->slots[job->low++];
  const std::uintptr_t word = slot.load(std::memory_order_relaxed);  // known_in_order() has looked
  slot.store(kNothing, std::memory_order_relaxed);                   // nobody else looks at it any more
  return place_outcome(values, failures, at, object_of(word), content_of(word) == kValue);
}

// The values of a new list; null: an error is set. Those behind the last one collected, up to the first that is not known.
PyObject* collect_in_order(ThreadJobObject* job, Py_ssize_t most, PyObject* failures) {
  const std::uint64_t end = known_in_order(job, static_cast<std::uint64_t>(most));
  PyObject* values = PyList_New(static_cast<Py_ssize_t>(end - job->low));
  for (Py_ssize_t at = 0; values != nullptr && job->low < end; ++at) {
    if (!collect_next(job, values, at, failures)) Py_CLEAR(values);
  }
  return values;
}

PyObject* job_collect(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  ThreadJobObject* job = job_of(self);
  return collect(self, args, nargs, job->low,
                 [job](Py_ssize_t most, PyObject* failures) { return collect_in_order(job, most, failures); });
}

PyObject* job_collect_into(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  ThreadJobObject* job = job_of(self);
  return collect_into(self, args, nargs, [job](PyObject* values, Py_ssize_t at, PyObject* failures) {
    const std::uint64_t end = known_in_order(job, static_cast<std::uint64_t>(PyList_GET_SIZE(values) - at));
    bool good = true;
    while (good && job->low < end) good = collect_next(job, values, at++, failures);
    return good ? at : -1;
  });
}

PyObject* job_collect_any(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  ThreadJobObject* job = job_of(self);
  return collect(self, args, nargs, job->low, [job](Py_ssize_t most, PyObject* failures) {
    if (job->had == nullptr) job->had = new std::vector<bool>(job->count);
    return collect_known(job->low, job->available.load(), *job->had, most,
                         [&](std::uint64_t index, PyObject* values) { return collect_item(job, index, values, failures); });
  });
}

// withdraw(running, error): no item begins any more; what had not begun fails with the error.
PyObject* job_withdraw(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "withdraw() takes a bool and an exception");
    return nullptr;
  }
  ThreadJobObject* job = job_of(self);
  PyObject* dropped = PyList_New(0);  // their ends may run the user's code: behind the section
  if (dropped == nullptr) return nullptr;
  bool good = true;
  // One section: who finds nothing left because of it collects behind it, and then all outcomes are there.
  Py_BEGIN_CRITICAL_SECTION(self);
  guarded(job, [job] {
    job->is_closed.store(true);
    job->is_open.store(false);
  });
  const std::uint64_t available = job->available.load();
  for (std::uint64_t i = 0; i < available; ++i) {
    Slot& slot = job->slots[i];
    std::uintptr_t word = slot.load(std::memory_order_relaxed);
    if (content_of(word) != kItem || !slot.compare_exchange_strong(word, kNothing)) continue;
    if (PyObject* item = object_of(word); item != nullptr) {
      good = PyList_Append(dropped, item) == 0 && good;
      Py_DECREF(item);
    }
    slot.store(word_of(Py_NewRef(args[1]), kException), std::memory_order_release);
  }
  Py_END_CRITICAL_SECTION();
  Py_DECREF(dropped);
  if (!good) return nullptr;
  Py_RETURN_NONE;
}

PyObject* job_is_complete(PyObject* self, void* /*closure*/) {
  bool complete = false;
  Py_BEGIN_CRITICAL_SECTION(self);
  complete = !job_of(self)->is_open.load() && job_of(self)->low == job_of(self)->available.load();
  Py_END_CRITICAL_SECTION();
  return PyBool_FromLong(complete ? 1 : 0);
}

PyObject* job_has_waiting(PyObject* self, void* /*closure*/) {
  ThreadJobObject* job = job_of(self);
  return PyBool_FromLong(!job->is_closed.load() && job->cursor.load() < job->available.load() ? 1 : 0);
}

Py_ssize_t job_length(PyObject* self) { return static_cast<Py_ssize_t>(job_of(self)->available.load()); }

// One for so many items, without any yet. Null: an error is set.
PyObject* make_job(PyTypeObject* type, std::size_t count, std::uint32_t workers) noexcept {
  PyObject* self = type->tp_alloc(type, 0);  // what is atomic in it is zero then
  if (self == nullptr) return nullptr;
  ThreadJobObject* job = job_of(self);
  job->workers = workers;
  job->slots = static_cast<Slot*>(std::calloc(std::max<std::size_t>(count, 1), sizeof(Slot)));
  if (job->slots == nullptr) {
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  job->count = count;
  return self;
}

// The job of a range; null without an error: its numbers are too large.
PyObject* make_range_job(PyTypeObject* type, PyObject* object, std::uint32_t workers) {
  Range range;
  if (!read_range(object, &range)) return nullptr;
  PyObject* self = make_job(type, static_cast<std::size_t>(range.count), workers);
  if (self == nullptr) return nullptr;
  job_of(self)->range = range;
  job_of(self)->available.store(static_cast<std::uint64_t>(range.count));
  return self;
}

PyObject* job_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"items", "star", "workers"};
  static constexpr Signature kSignature{"ThreadJob", kNames, 3, 3, 3};
  PyObject* values[3] = {};
  if (!bind_call(kSignature, args, kwargs, values)) return nullptr;
  const unsigned long workers = PyLong_AsUnsignedLong(values[2]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  if (PyRange_Check(values[0]) && values[1] != Py_True) {
    PyObject* of_range = make_range_job(type, values[0], static_cast<std::uint32_t>(workers));
    if (of_range != nullptr || PyErr_Occurred() != nullptr) return of_range;
  }
  // Of a tuple it has its own references, of another sequence those of a new tuple.
  PyObject* all = PySequence_Tuple(values[0]);
  const bool is_new = all != values[0];
  const auto count = static_cast<std::size_t>(all == nullptr ? 0 : PyTuple_GET_SIZE(all));
  PyObject* self = all == nullptr ? nullptr : make_job(type, count, static_cast<std::uint32_t>(workers));
  if (self == nullptr) {
    Py_XDECREF(all);
    return nullptr;
  }
  ThreadJobObject* job = job_of(self);
  job->star = values[1] == Py_True;
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = static_cast<Py_ssize_t>(i);
    PyObject* item = PyTuple_GET_ITEM(all, at);
    if (is_new) {
      PyTuple_SET_ITEM(all, at, nullptr);
    } else {
      Py_INCREF(item);
    }
    hand_over_value(item);  // the thread that runs it gives it up
    job->slots[i].store(word_of(item, kItem), std::memory_order_relaxed);  // nobody else has the job yet
  }
  job->available.store(count);
  Py_DECREF(all);
  return self;
}

// ThreadJob.open(items, workers)
PyObject* job_open(PyObject* type, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 2) {
    PyErr_SetString(PyExc_TypeError, "open() takes two numbers");
    return nullptr;
  }
  const std::size_t count = PyLong_AsSize_t(args[0]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  const unsigned long workers = PyLong_AsUnsignedLong(args[1]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  PyObject* self = make_job(reinterpret_cast<PyTypeObject*>(type), count, static_cast<std::uint32_t>(workers));
  if (self == nullptr) return nullptr;
  job_of(self)->is_stream = true;
  job_of(self)->is_open.store(true);
  return self;
}

// Before `low` there is nothing: all was collected.
int job_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  const ThreadJobObject* job = job_of(self);
  for (std::uint64_t i = job->low; i < job->count; ++i) {
    Py_VISIT(object_of(job->slots[i].load(std::memory_order_relaxed)));  // the collector has stopped all other threads, or has the GIL
  }
  return 0;
}

int job_clear(PyObject* self) {
  const ThreadJobObject* job = job_of(self);
  for (std::uint64_t i = job->low; i < job->count; ++i) Py_XDECREF(object_of(job->slots[i].exchange(kNothing)));
  return 0;
}

void job_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  job_clear(self);
  std::free(job_of(self)->slots);
  delete job_of(self)->had;
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef methods[] = {
    {"run", as_method(job_run), METH_FASTCALL,
     "run($self, function, context, prepare, surplus, /)\n--\n\n"
     "Runs items that nobody runs, in contexts as call_items() does. 0: there are none left. 1: somebody who asks is to be told.\n"
     "2: a millisecond has passed, or surplus, an AtomicInt64 or None, is above 0."},
    {"open", as_method(job_open), METH_FASTCALL | METH_CLASS,
     "open($type, items, workers, /)\n--\n\nOne without items, for so many and so many threads."},
    {"extend", as_method(job_extend), METH_FASTCALL,
     "extend($self, iterator, most, invite, /)\n--\n\n"
     "Takes up to `most` items; invite() calls a worker. What ended it (0: it has taken them, 1: the input has ended, 2: it\n"
     "takes no more), and the item that it could not take or None. One thread at a time."},
    {"seal", job_seal, METH_NOARGS, "seal($self, /)\n--\n\nIt takes no more items."},
    {"ask", job_ask, METH_NOARGS, "ask($self, /)\n--\n\nrun() ends behind the next item."},
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
    {"withdraw", as_method(job_withdraw), METH_FASTCALL,
     "withdraw($self, running, error, /)\n--\n\nNo item begins any more; what had not begun fails with the error."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"has_waiting", job_has_waiting, nullptr, "Whether there are items that nobody has set out to run.", nullptr},
    {"is_complete", job_is_complete, nullptr, "Whether everything is collected.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("ThreadJob(items, star, workers)\n--\n\n"
                                  "The items of a map, which are the arguments themselves where star is True, for so many threads.")},
    {Py_tp_new, reinterpret_cast<void*>(job_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(job_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(job_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(job_clear)},
    {Py_sq_length, reinterpret_cast<void*>(job_length)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.ThreadJob", sizeof(ThreadJobObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

int add_thread_job(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kThreadJob, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
