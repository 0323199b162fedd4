// Answers: who takes them, and how they become outcomes of futures (docs/design/calls.md). No Ref in what calls the user's code,
// or waits: a thread may end there, with the interpreter.
#include <chrono>
#include <thread>
#include <utility>

#include "calls.hpp"
#include "channel.hpp"
#include "codec.hpp"
#include "errors.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "state.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

// The waits of this thread that take answers just now, the innermost first: one may begin in a signal handler, or while an answer is
// rebuilt, and be for another engine's.
struct Wait {
  const CallsObject* calls;
  const Wait* outer;
};
thread_local const Wait* waits_here = nullptr;

std::uint32_t count_waits_here(const CallsObject* calls) {
  std::uint32_t count = 0;
  for (const Wait* wait = waits_here; wait != nullptr; wait = wait->outer) count += wait->calls == calls ? 1 : 0;
  return count;
}

constexpr int kMostLooks = 2000;

bool is_answer(const Message& message) {
  const std::uint32_t kind = message.kind & ~kBeside;
  return kind == kValueAnswer || kind == kErrorAnswer || kind == kNativeValueAnswer;
}

// The future that a message is the answer for, a new reference. REQUIRES: in the critical section.
PyObject* find_future(CallsObject* calls, const Message& message) {
  if (!is_answer(message)) return nullptr;
  return Py_XNewRef(calls->futures->find(tag_of(message)));
}

// What of an answer is cheap, and runs nobody's code.
bool is_plain(const Message& message) { return message.kind == kNativeValueAnswer && message.is_inline(); }

PyObject* decode_native(PyObject* results, Message& message) {
  Place& place = place_of(results);
  PyObject* value = message.is_inline() ? decode(message.bytes.data() + kHead, message.size - kHead)
                                        : decode(payload_of(place, message), message.size);
  discard(place, message);
  return value;
}

// Settles it and tells who is to be told. One of both is null; borrowed.
void finish(PyObject* self, PyObject* value, PyObject* exception) {
  bool has_callbacks = false;
  PyObject* told = Py_None;
  switch (settle_future(self, value, exception, &has_callbacks)) {
    case Change::kStandard:
      told = value != nullptr ? call_standard(self, "set_result", value) : call_standard(self, "set_exception", exception);
      break;
    case Change::kDone:
      if (has_callbacks) told = call_standard(self, "_invoke_callbacks");
      break;
    case Change::kRefused:
      break;  // somebody else has settled it
  }
  if (told == nullptr) {
    PyObject* raised = take_exception();
    State* state = state_of(self);
    PyObject* invalid = state == nullptr ? nullptr : imported(state, Import::kInvalidStateError);
    if (invalid == nullptr || PyErr_GivenExceptionMatches(raised, invalid) == 0) {  // else somebody has settled it
      PyObject* reported = PyObject_CallOneArg(calls_of_future(self)->report, raised);
      if (reported == nullptr) PyErr_WriteUnraisable(self);
      Py_XDECREF(reported);
    }
    Py_DECREF(raised);
  } else if (told != Py_None) {
    Py_DECREF(told);
  }
}

// Decodes the answer that is kept. False: there is none, or it is a parent's.
bool resolve(PyObject* self) {
  if (future_of(self)->process != Place::private_memory().self()) return false;
  Raw* raw = future_of(self)->sent.raw.exchange(nullptr);
  if (raw == nullptr) return false;
  settle_call(self, raw->results, raw->message);
  Py_DECREF(raw->results);
  delete raw;
  return true;
}

// Takes one answer, if there is one, and settles or keeps it. `mine`: the future whose answer is decoded whatever it is, or null.
bool take_one(CallsObject* calls, PyObject* results, PyObject* mine, Take which = Take::kAny) {
  Message message;
  PyObject* future = nullptr;
  switch (take_answer(calls, results, mine, &message, &future, which)) {
    case Answer::kNone:
      return false;
    case Answer::kKept:
      detach_call(future);
      break;
    case Answer::kTaken:
      if (future == mine && index_of(message) == kMoves) expect_partner();
      settle_call(future, results, message);
      break;
  }
  Py_DECREF(future);
  return true;
}

bool is_done(PyObject* self) {
  // sync: STATE (acquire): who sees that it is done sees the result; pairs with enter_state in future.cpp
  return future_of(self)->state.load(std::memory_order_acquire) >= FutureState::kCancelled;
}

}  // namespace

PyObject* member_of(CallsObject* calls, PyObject* CallsObject::*member) {
  PyObject* found = nullptr;
  Py_BEGIN_CRITICAL_SECTION(calls);
  found = Py_XNewRef(calls->*member);
  Py_END_CRITICAL_SECTION();
  return found;
}

void nudge(CallsObject* calls) {
  for (PyObject* CallsObject::*which : {&CallsObject::inbox, &CallsObject::results}) {
    PyObject* channel = member_of(calls, which);
    if (channel == nullptr) continue;
    body_of<MessageQueue>(channel)->wake_consumers(place_of(channel));
    Py_DECREF(channel);
  }
}

void call_drainer(CallsObject* calls) {
  if (calls->is_drained.load() || calls->is_called.exchange(true)) return;
  PyObject* inbox = member_of(calls, &CallsObject::inbox);
  if (inbox == nullptr) return;
  Message message;
  write_head(&message, kAttached, 0, 0);
  if (!put_message(inbox, message)) {
    PyErr_Clear();  // no memory, or the engine has ended
    calls->is_called.store(false);
    nudge(calls);
  }
  Py_DECREF(inbox);
}

PyObject* leave_call(CallsObject* calls, std::uint64_t number) {
  PyObject* future = nullptr;
  Py_BEGIN_CRITICAL_SECTION(calls);
  future = calls->futures->take(number);
  Py_END_CRITICAL_SECTION();
  return future;
}

Answer take_answer(CallsObject* calls, PyObject* results, PyObject* mine, Message* message, PyObject** future, Take which) {
  MessageQueue& queue = *body_of<MessageQueue>(results);
  const bool is_drainer = mine == as_drainer(calls);
  for (;;) {
    Answer answer = Answer::kNone;
    bool is_deferred = false;
    *future = nullptr;
    // Between the taking of an answer and the removal of its future nobody looks for what a dead worker had: no garbage collection
    // comes between, since nothing that it counts is made. Nor does anybody attach the future before its answer is kept.
    Py_BEGIN_CRITICAL_SECTION(calls);
    if (is_drainer && !calls->deferred->empty()) {
      *message = calls->deferred->front();
      calls->deferred->pop_front();
      answer = Answer::kTaken;
    } else if (queue.try_get(place_of(results), *message) == QueueOutcome::kDone) {
      answer = Answer::kTaken;
    }
    if (answer == Answer::kTaken) {
      *future = find_future(calls, *message);
      is_deferred = !is_drainer && (*future == nullptr || future_of(*future)->attached.load() ||
                                    (which == Take::kPlain && !is_plain(*message)));
      if (is_deferred) {
        calls->deferred->push_back(*message);
      } else if (*future != nullptr) {
        Py_DECREF(calls->futures->take(tag_of(*message)));  // not the last: it has the one above
        if (!is_drainer && *future != mine && !is_plain(*message)) {
          future_of(*future)->sent.raw.store(new Raw{*message, Py_NewRef(results)});
          answer = Answer::kKept;
        }
      }
    }
    Py_END_CRITICAL_SECTION();
    if (!is_deferred) return answer;
    Py_XDECREF(*future);
    nudge(calls);
  }
}

void settle_call(PyObject* future, PyObject* results, Message& message) {
  PyObject* value = nullptr;
  PyObject* answer = nullptr;
  PyObject* exception = nullptr;
  if (message.kind == kNativeValueAnswer) {
    value = decode_native(results, message);
  } else if (PyObject* fields = unpack_message(results, message); fields != nullptr) {
    answer = PyObject_CallFunctionObjArgs(calls_of_future(future)->load, PyTuple_GET_ITEM(fields, 0),
                                          PyTuple_GET_ITEM(fields, 3), nullptr);
    Py_DECREF(fields);  // and with it the block, which has kept alive what the payload refers to
    if (answer != nullptr) {
      PyObject* outcome = Py_NewRef(PyTuple_GET_ITEM(answer, 1));
      (PyTuple_GET_ITEM(answer, 0) == Py_True ? value : exception) = outcome;
      Py_DECREF(answer);
    }
  }
  if (value == nullptr && exception == nullptr) exception = take_exception();
  finish(future, value, exception);
  Py_XDECREF(value);
  Py_XDECREF(exception);
}

void poll_answers(CallsObject* calls) {
  // While the engine's own thread takes them, or is to, they are nobody else's.
  if (calls->is_drained.load()) return;
  PyObject* results = member_of(calls, &CallsObject::results);
  if (results == nullptr) return;
  if (body_of<MessageQueue>(results)->size() != 0) {
    while (take_one(calls, results, nullptr)) {
    }
  }
  Py_DECREF(results);
}

// --- a future with a call on its way ----------------------------------------------------------------------------------

void refresh_call(PyObject* self) {
  FutureObject* future = future_of(self);
  CallsObject* calls = calls_of_future(self);
  if (future->process != Place::private_memory().self()) return;
  poll_answers(calls);
  resolve(self);
  if (future->state.load() != FutureState::kPending) return;
  PyObject* tasks = member_of(calls, &CallsObject::tasks);
  if (tasks == nullptr) return;
  // In the section: withdraw_call() wipes the number before it asks.
  Py_BEGIN_CRITICAL_SECTION(self);
  const std::uint64_t sequence = future->sent.sequence.load();
  FutureState pending = FutureState::kPending;
  if (sequence != 0 && body_of<MessageQueue>(tasks)->taken() >= sequence) {
    future->state.compare_exchange_strong(pending, FutureState::kRunning);
  }
  Py_END_CRITICAL_SECTION();
  Py_DECREF(tasks);
}

void attach_call(PyObject* self) {
  FutureObject* future = future_of(self);
  CallsObject* calls = calls_of_future(self);
  if (future->process != Place::private_memory().self()) return;
  bool first = false;
  Py_BEGIN_CRITICAL_SECTION(calls);
  // Once it is done, or its answer is kept, there is nothing to wait for.
  if (!is_done(self) && future->sent.raw.load() == nullptr && !future->attached.exchange(true)) {
    calls->attached.fetch_add(1);
    first = true;
  }
  Py_END_CRITICAL_SECTION();
  if (first) call_drainer(calls);
  resolve(self);
  if (first && is_done(self)) detach_call(self);
}

void detach_call(PyObject* self) {
  CallsObject* calls = calls_of_future(self);
  if (future_of(self)->attached.exchange(false)) calls->attached.fetch_sub(1);
  PyObject* kept = nullptr;
  PyObject* function = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  kept = std::exchange(future_of(self)->args, nullptr);
  function = std::exchange(future_of(self)->function, nullptr);
  Py_END_CRITICAL_SECTION();
  Py_XDECREF(kept);
  Py_XDECREF(function);
  if (calls->waiting.load() <= count_waits_here(calls)) return;
  PyObject* results = member_of(calls, &CallsObject::results);
  if (results == nullptr) return;
  body_of<MessageQueue>(results)->wake_consumers(place_of(results));
  Py_DECREF(results);
}

bool withdraw_call(PyObject* self) {
  FutureObject* future = future_of(self);
  CallsObject* calls = calls_of_future(self);
  PyObject* tasks = member_of(calls, &CallsObject::tasks);
  if (tasks == nullptr || future->process != Place::private_memory().self()) {
    Py_XDECREF(tasks);
    return false;
  }
  std::uint64_t sequence = 0;
  // Wiped first: a message that is withdrawn is taken too in the end, and that is not a beginning of the call.
  Py_BEGIN_CRITICAL_SECTION(self);
  if (future->state.load() == FutureState::kPending) sequence = future->sent.sequence.exchange(0);
  Py_END_CRITICAL_SECTION();
  const QueueOutcome outcome = sequence == 0 ? QueueOutcome::kEmpty : withdraw_message(tasks, sequence);
  if (outcome != QueueOutcome::kDone && sequence != 0) future->sent.sequence.store(sequence);
  Py_DECREF(tasks);
  return outcome == QueueOutcome::kDone;
}

bool await_withdrawal(PyObject* self) {
  FutureObject* future = future_of(self);
  // Another thread is between two lines of cancel() or submit(). Where it is this one, in a signal handler, it gives up.
  for (int i = 0; i < kMostLooks; ++i) {
    if (future->state.load() != FutureState::kPending || future->sent.sequence.load() != 0) return true;
    Py_BEGIN_ALLOW_THREADS;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    Py_END_ALLOW_THREADS;
  }
  return false;
}

bool look_for_call(PyObject* self) {
  CallsObject* calls = calls_of_future(self);
  PyObject* results = calls->is_drained.load() ? nullptr : member_of(calls, &CallsObject::results);
  if (results == nullptr) return false;
  if (body_of<MessageQueue>(results)->size() != 0) {
    while (!is_done(self) && take_one(calls, results, self, Take::kPlain)) {
    }
  }
  Py_DECREF(results);
  return true;
}

WaitOutcome wait_for_call(PyObject* self, Deadline deadline, bool* by_event, Take which) {
  CallsObject* calls = calls_of_future(self);
  *by_event = false;
  PyObject* results = member_of(calls, &CallsObject::results);
  if (results == nullptr) {
    // The engine has ended: its answer was kept before, or another thread settles it.
    if (which == Take::kAny && resolve(self)) return WaitOutcome::kReady;
    *by_event = true;
    return WaitOutcome::kTimedOut;
  }
  Place& place = place_of(results);
  MessageQueue& queue = *body_of<MessageQueue>(results);
  calls->waiting.fetch_add(1);
  const Wait here{calls, waits_here};
  waits_here = &here;
  WaitOutcome outcome = WaitOutcome::kTimedOut;
  for (;;) {
    const std::uint32_t epoch = queue.wake_epoch();
    const bool drained = calls->is_drained.load();
    while (!drained && !is_done(self) && take_one(calls, results, self, which)) {
    }
    if (!is_done(self) && which == Take::kAny) resolve(self);
    if (is_done(self)) {
      outcome = WaitOutcome::kReady;
      break;
    }
    if (drained) {
      if (which == Take::kAny) attach_call(self);
      *by_event = true;
      break;
    }
    if (deadline.passed()) break;
    const QueueOutcome waited = queue_wait_detached(
        deadline, [&](WaitContext& context) { return queue.wait_not_empty(place, context, epoch); });
    if (waited == QueueOutcome::kInterrupted) {
      outcome = WaitOutcome::kInterrupted;
      break;
    }
  }
  waits_here = here.outer;
  // What is left may have woken this thread, and nobody else.
  const bool others = calls->waiting.fetch_sub(1) != 1 || calls->is_drained.load();
  if (others && queue.size() != 0) queue.wake_consumers(place);
  Py_DECREF(results);
  return outcome;
}

void drop_raw(PyObject* self) {
  Raw* raw = future_of(self)->sent.raw.exchange(nullptr);
  if (raw == nullptr) return;
  // In a child of a fork the block is the parent's.
  if (future_of(self)->process == Place::private_memory().self()) discard(place_of(raw->results), raw->message);
  Py_DECREF(raw->results);
  delete raw;
}

}  // namespace freethreading::binding
