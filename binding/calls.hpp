// Calls: the calls of a process engine whose outcomes are futures, from their submission until their answers are here
// (docs/design/calls.md).
#pragma once

#include <atomic>
#include <deque>

#include "compat.hpp"
#include "freethreading/cpu_seat.hpp"
#include "freethreading/queue/message.hpp"
#include "freethreading/wait.hpp"
#include "future.hpp"
#include "number_map.hpp"

namespace freethreading::binding {

// Kinds of messages. What Python also reads stands in src/freethreading/_frames.py, with the same numbers.
enum CallKind : std::uint32_t {
  kNativeCall = 4,          // payload: the codec's of the arguments, a tuple; index: CallIndex
  kNativeKeywordCall = 5,   // the same of (arguments, keyword arguments)
  kValueAnswer = 18,
  kErrorAnswer = 19,
  kNativeValueAnswer = 22,  // payload: the codec's of the value
  kProgressOfJob = 23,      // of a map's job: look at its slots
  kAttached = 24,           // in the inbox: a future is attached
};

// A native call's index: the function's number in the log, the CPU that it was submitted on (CpuSeat::here()), and whether another one
// will come soon behind its answer, for which the worker is to stay awake (Patience).
struct CallIndex {
  static constexpr int kCpuShift = 48;
  static constexpr std::uint32_t kCpus = 1U << 16;
  static constexpr std::uint64_t kStays = std::uint64_t{1} << (kCpuShift - 1);

  [[nodiscard]] static std::uint64_t pack(std::uint64_t function, std::uint32_t cpu, bool stays) {
    return function | (stays ? kStays : 0) | static_cast<std::uint64_t>(cpu < kCpus ? cpu : 0) << kCpuShift;
  }
  [[nodiscard]] static std::uint64_t function_of(std::uint64_t index) { return index & (kStays - 1); }
  [[nodiscard]] static bool stays(std::uint64_t index) { return (index & kStays) != 0; }
  [[nodiscard]] static std::uint32_t cpu_of(std::uint64_t index) { return static_cast<std::uint32_t>(index >> kCpuShift); }
};

// An answer's index: 0, or that its worker leaves the CPU of who waits for it (CpuSeat).
inline constexpr std::uint64_t kMoves = 1;

struct CallsObject {
  PyObject_HEAD
  // Channels: of tasks and of results, and the inbox of the engine's own thread. Null when the engine
  // has ended, as enter_function. These, `futures`, `deferred` and `is_open` belong to the critical section.
  PyObject* tasks;
  PyObject* results;
  PyObject* inbox;
  NumberMap* futures;       // number -> the future that waits for its answer
  std::deque<Message>* deferred;  // taken by a thread that must not handle them: the engine's own thread does
  bool is_open;             // whether submit() takes calls
  PyObject* functions;      // function -> (number in the log, the namespace that has it, its name there)
  PyObject* enter_function;  // function -> such a triple, or None
  PyObject* load;           // (kind, payload) -> (done, value or exception)
  PyObject* report;         // what a callback has raised -> None
  PyObject* made_in;        // context variables of the pool's maker: a tuple of pairs, variable and value
  PyObject* future_type;    // of the futures that give() makes; null: it gives none
  PyObject* engine;         // a weak reference to theirs
  std::uint32_t process;    // that made it
  std::atomic<std::uint64_t> numbers;   // given so far
  std::atomic<std::uint32_t> waiting;   // threads that wait for answers and take them themselves
  std::atomic<std::uint32_t> attached;  // futures that wait for their answer, and whose end somebody is to be told
  std::atomic<bool> is_drained;         // whether the engine's own thread takes the answers
  std::atomic<bool> is_called;          // whether the inbox has a message
  std::atomic<bool> is_full;            // whether there are as many workers as there may be, or will be
};

inline CallsObject* calls_of(PyObject* self) { return reinterpret_cast<CallsObject*>(self); }
inline CallsObject* calls_of_future(PyObject* future) { return calls_of(future_of(future)->calls); }

// An answer that was taken for a future and is decoded when somebody asks for it.
struct Raw {
  Message message;
  PyObject* results;  // the channel that it came by
};

// One of the channels, or enter_function, a new reference; null, without an error, when the engine has ended.
PyObject* member_of(CallsObject* calls, PyObject* CallsObject::*member);
// Wakes the engine's own thread, wherever it waits, so that it looks around.
void nudge(CallsObject* calls);
// A future is attached: has the engine's own thread take answers, if it does not yet.
void call_drainer(CallsObject* calls);
// Takes a future out; a new reference, null where it is not there.
PyObject* leave_call(CallsObject* calls, std::uint64_t number);
// The function's number in the log; 0: it has none, or an error is set.
std::uint64_t number_of_function(CallsObject* calls, PyObject* function);
// Whether the context (None: the caller's) has the variables of the pool's maker, with the same values, and no others. -1: an error
// is set.
int is_at_home(const CallsObject* calls, PyObject* context);
// Methods (calls_submit.cpp).
PyObject* calls_submit(PyObject* self, PyObject* const* args, Py_ssize_t nargs);
PyObject* calls_put(PyObject* self, PyObject* const* args, Py_ssize_t nargs);
PyObject* calls_give(PyObject* self, PyObject* const* args, Py_ssize_t nargs);
PyObject* calls_gives(PyObject* self, PyObject* const* args, Py_ssize_t nargs);

// What take_answer() has taken.
enum class Answer {
  kNone,
  kTaken,  // the caller's to handle
  kKept,   // the future has it: whoever asks for that decodes it
};
// In place of a future: the engine's own thread takes the answers, which handles all of them.
inline PyObject* as_drainer(CallsObject* calls) { return reinterpret_cast<PyObject*>(calls); }
// Takes the next message that this thread may handle, which waits for the future `mine` or, null, for none. `future`: whose answer
// it is, a new reference; null: another message, for the engine's own thread only. kPlain: whatever runs somebody's code when it is
// decoded is for that thread, too.
enum class Take : std::uint8_t { kAny, kPlain };
Answer take_answer(CallsObject* calls, PyObject* results, PyObject* mine, Message* message, PyObject** future, Take which = Take::kAny);
// Decodes an answer and settles its future.
void settle_call(PyObject* future, PyObject* results, Message& message);
// Takes answers for as long as there are any. For threads that do not wait.
void poll_answers(CallsObject* calls);

// What a future with a call on its way does (`self`: one whose `calls` is set).
//
// Has it say what is so by now: running, or done.
void refresh_call(PyObject* self);
// Somebody is to be told when it is done: from now on the engine's own thread takes the answers.
void attach_call(PyObject* self);
// It is done: nobody is to be told any more, and who waits for answers looks at it.
void detach_call(PyObject* self);
// Whether its message was taken back before a worker took it. False with an error: interrupted.
bool withdraw_call(PyObject* self);
// Waits until it is known whether another thread has taken the message back, or where it is. False: it took too long.
bool await_withdrawal(PyObject* self);
// Waits for its answer, and takes answers meanwhile. kTimedOut: it is the caller's to wait (*by_event), or the time is up.
// kInterrupted: an error is set. With kPlain any other answer is left to the engine's own thread.
WaitOutcome wait_for_call(PyObject* self, Deadline deadline, bool* by_event, Take which = Take::kAny);
// Settles it if its answer is there, and is plain. False: answers are another thread's to take.
bool look_for_call(PyObject* self);
void drop_raw(PyObject* self);

extern PyMethodDef serve_functions[];

}  // namespace freethreading::binding
