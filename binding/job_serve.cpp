// A worker's side of a map's job (docs/design/jobs.md). No Ref in what calls the user's code.
#include <algorithm>

#include "args.hpp"
#include "call_serve.hpp"
#include "codec.hpp"
#include "job.hpp"
#include "pace.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "ranges.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

enum class Step : std::uint8_t { kDone, kTaken, kLeaves, kForked, kError, kYields };

struct Worker {
  Server server;
  JobHeader* job;
  std::uint64_t number;  // the job's
  std::uint32_t state;   // of a slot that this worker has
  PyObject* function;
  OwnerId process;
  TermsObject* terms;
  PyObject* tasks;  // the channel
  mutable Numbers numbers = {};  // items of a range
};

// The value of an item, or null with its exception set.
PyObject* call_item(const Worker& worker, std::uint64_t index) {
  JobHeader* job = worker.job;
  PyObject* item = nullptr;
  if (job->is_range != 0) {
    item = worker.numbers.make(Range{.start = job->start, .step = job->step}.at(index));
  } else {
    const std::uint32_t begin = job->offsets()[index];
    item = decode(job->items() + begin, job->offsets()[index + 1] - begin);
  }
  if (item == nullptr) return nullptr;
  PyObject* value = serve_call(worker.server, [&] { return call_with(worker.function, item, job->star != 0); });
  Py_DECREF(item);
  return value;
}

// What follows the call: the outcome is there once the slot says so. False: an error is set.
bool publish(const Worker& worker, std::uint64_t index, PyObject* value, PyObject* exception) {
  JobSlot& slot = worker.job->slots()[index];
  std::uint32_t state = worker.state;
  std::uint32_t done = JobSlot::kSent;
  Encoding encoding;
  const Encoding::Outcome outcome = value == nullptr ? Encoding::Outcome::kNotNative : encoding.encode(value);
  if (outcome == Encoding::Outcome::kError) PyErr_Clear();  // write_outcome() says it
  const bool is_native = outcome == Encoding::Outcome::kDone;
  if (is_native && encoding.size() <= JobSlot::kBytes) {
    encoding.copy_to(slot.bytes.data());
    done = static_cast<std::uint32_t>(1 + encoding.size());
  } else {
    Message message;  // first: then the slot may say that it was sent
    write_head(&message, kNativeValueAnswer, worker.number, index);
    if (!write_outcome(worker.server, value, exception, is_native ? &encoding : nullptr, &message)) return false;
    if (!put_message(worker.server.results, message)) return false;
  }
  // sync: SLOT (release): what is in it; pairs with MapJob.collect(). Where the program has given the item up, it stays so.
  // Sequentially consistent: who asks looks at the slots behind that, this worker looks at `asked` behind this.
  slot.head.compare_exchange_strong(state, done);
  return true;
}

// kDone, kTaken (by another), or why the worker ends its work on the job. REQUIRES: the worker's terms have not ended.
Step run_item(const Worker& worker, std::uint64_t index) {
  if (!worker.job->slots()[index].claim(worker.state)) return Step::kTaken;
  worker.terms->record->item.store(index + 1);  // whoever looks how large this worker is sees another task by it
  PyObject* value = call_item(worker, index);
  PyObject* exception = value == nullptr ? take_exception() : nullptr;
  Step step = Place::private_memory().self() != worker.process ? Step::kForked : Step::kDone;
  if (step == Step::kDone && !publish(worker, index, value, exception)) step = Step::kError;
  worker.terms->has_worked = true;
  Py_XDECREF(value);
  Py_XDECREF(exception);
  return step;
}

bool ends_work(Step step) { return step != Step::kDone && step != Step::kTaken; }

// Tells the program to look. False: an error is set.
bool tell(const Worker& worker) {
  Message message;
  write_head(&message, kProgressOfJob, worker.number, 0);
  message.size = kHead;
  return put_message(worker.server.results, message);
}

// Tells where somebody waits. False: an error is set.
bool tell_if_asked(const Worker& worker) {
  std::atomic<std::uint32_t>& asked = worker.job->asked;
  return asked.load() == 0 || asked.exchange(0) == 0 || tell(worker);
}

// The same where it is time to. False: an error is set.
bool tell_if_due(const Worker& worker, Pace& pace) {
  const bool is_due = worker.job->is_telling.load(std::memory_order_relaxed) != 0 && pace.is_due();
  return is_due ? tell(worker) : tell_if_asked(worker);
}

// Takes items of an open job one by one, so that none waits for another that its worker has set out to run, until there are none
// and it has left; or, once no more will come, until nobody has to set out for any. kYields: others have their turn; kLeaves: the worker
// goes. It counts as a helper still: somebody takes its place.
Step run_open(const Worker& worker, Pace& pace) {
  JobHeader* job = worker.job;
  const auto has_items = [job] { return job->cursor.load() < job->available.load() || job->is_open.load() == 0; };
  for (;;) {
    while (job->is_closed.load(std::memory_order_relaxed) == 0) {
      std::uint64_t index = job->cursor.load();
      if (index >= job->available.load()) {
        if (job->is_open.load() == 0 || !linger(has_items)) break;
        continue;
      }
      if (worker.terms->end()) return Step::kLeaves;  // before it takes one: nobody else looks there
      if (!job->cursor.compare_exchange_weak(index, index + 1)) continue;
      const Step step = run_item(worker, index);
      if (ends_work(step)) return step;
      if (!tell_if_asked(worker) || PyErr_CheckSignals() != 0) return Step::kError;
      if (!pace.is_due()) continue;
      if (job->is_telling.load(std::memory_order_relaxed) != 0 && !tell(worker)) return Step::kError;
      if (body_of<MessageQueue>(worker.tasks)->size() != 0) return Step::kYields;
    }
    if (job->is_open.load() == 0) return Step::kDone;
    // Sequentially consistent: whoever has appended an item looks at `helpers` behind that, this worker for an item behind this.
    job->helpers.fetch_sub(1);
    if (job->cursor.load() >= job->available.load() && job->is_open.load() != 0) return Step::kTaken;
    job->helpers.fetch_add(1);
  }
}

// Takes stints from the cursor until there are none.
Step run_stints(const Worker& worker, Pace& pace) {
  JobHeader* job = worker.job;
  while (job->is_closed.load(std::memory_order_relaxed) == 0) {
    const std::uint64_t count = job->available.load(std::memory_order_relaxed);  // relaxed: it is what it was
    const std::uint64_t first = job->cursor.fetch_add(pace.items());
    if (first >= count) break;
    const std::uint64_t end = std::min(first + pace.items(), count);
    for (std::uint64_t i = first; i < end && job->is_closed.load(std::memory_order_relaxed) == 0; ++i) {
      if (worker.terms->end()) return Step::kLeaves;
      const Step step = run_item(worker, i);
      if (ends_work(step)) return step;
      if (!tell_if_asked(worker)) return Step::kError;  // the next one may take long
    }
    pace.end_stint(count - end, job->workers);
    if (!tell_if_due(worker, pace) || PyErr_CheckSignals() != 0) return Step::kError;
  }
  return Step::kDone;
}

// Runs what others have set out to run and not begun, their last first.
Step run_rest(const Worker& worker, Pace& pace) {
  JobHeader* job = worker.job;
  for (std::uint64_t i = job->available.load(); i-- != 0 && job->is_closed.load(std::memory_order_relaxed) == 0;) {
    if (job->slots()[i].head.load(std::memory_order_relaxed) != 0) continue;
    if (worker.terms->end()) return Step::kLeaves;
    const Step step = run_item(worker, i);
    if (ends_work(step)) return step;
    if (!tell_if_due(worker, pace)) return Step::kError;
  }
  return Step::kDone;
}

}  // namespace

PyObject* run_job(PyObject* module, PyObject* const* args, Py_ssize_t nargs) {
  const State* state = state_of_module(module);
  if (nargs != 10 || !PyObject_TypeCheck(args[0], state->type(TypeIndex::kChannel)) ||
      !PyObject_TypeCheck(args[1], state->type(TypeIndex::kSharedBuffer)) || !PyContext_CheckExact(args[5]) ||
      !PyObject_TypeCheck(args[9], state->type(TypeIndex::kChannel))) {
    PyErr_SetString(PyExc_TypeError,
                    "run_job() takes a Channel, a SharedBuffer, two numbers, a function, a context, a callable or None, a "
                    "callable, WorkerTerms, and a Channel");
    return nullptr;
  }
  const std::uint64_t number = PyLong_AsUnsignedLongLong(args[2]);
  const unsigned long own = PyLong_AsUnsignedLong(args[3]);
  TermsObject* terms = terms_of(args[0], args[8]);
  if (terms == nullptr || PyErr_Occurred() != nullptr) return nullptr;
  const Worker worker{{args[0], {args[5], args[6]}, args[7]},
                      job_of(*body_of<SharedBuffer>(args[1])),
                      number,
                      JobSlot::kRuns | static_cast<std::uint32_t>(own),
                      args[4],
                      Place::private_memory().self(),
                      terms,
                      args[9]};
  Pace pace;
  Step step = worker.job->is_open.load() != 0 ? run_open(worker, pace) : run_stints(worker, pace);
  if (step == Step::kDone) step = run_rest(worker, pace);
  worker.server.contexts.leave();
  worker.numbers.drop();
  if (step == Step::kForked) Py_RETURN_FALSE;
  if (step == Step::kError) return nullptr;
  if (step == Step::kYields) Py_RETURN_NONE;
  if (worker.job->is_telling.load() != 0 && !tell(worker)) return nullptr;
  if (step == Step::kLeaves) Py_RETURN_NONE;
  Py_RETURN_TRUE;
}

}  // namespace freethreading::binding
