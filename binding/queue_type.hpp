// What freethreading.Queue and freethreading.SimpleQueue share: an object over a MessageQueue, its puts and its gets.
//
// In private memory an item is a strong reference in the cell's inline bytes. It is put and taken while attached to the
// interpreter only, so that a garbage collection never meets an item that is neither in the queue nor with its taker. In a
// region an item is bytes: the native codec's, or a pickle (payload.hpp). They are made before any lock and read after.
#pragma once

#include "compat.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "placement.hpp"

namespace freethreading::binding {

struct QueueObject {
  Proxy base;
  Offset own;  // the private queue's block
};

PyObject* queue_new(PyTypeObject* type, PyObject* args, PyObject* kwargs);
// tp_init's work. `capacity` and `max_bytes` 0: no bound. 0, or -1 with an error.
int place_queue(PyObject* self, PyObject* shared, ObjectType type, std::uint64_t capacity, std::uint64_t max_bytes,
                bool joinable);
void queue_dealloc(PyObject* self);
int queue_traverse(PyObject* self, visitproc visit, void* arg);
int queue_clear(PyObject* self);

// put(item, block=True, timeout=None), get(block=True, timeout=None) and the methods without arguments; queue_batch.cpp has
// put_many(iterable, block=True, timeout=None) and get_many(max_items=None, block=True, timeout=None).
PyObject* queue_put(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
PyObject* queue_get(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
PyObject* queue_put_many(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
PyObject* queue_get_many(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
PyObject* queue_put_nowait(PyObject* self, PyObject* item);
// The same with Waking::kLazily. REQUIRES: a private queue with a sentry.
PyObject* queue_put_lazily(PyObject* self, PyObject* item);
PyObject* queue_get_nowait(PyObject* self, PyObject* unused);
PyObject* queue_qsize(PyObject* self, PyObject* unused);
PyObject* queue_empty(PyObject* self, PyObject* unused);
// Accepted for programs written for multiprocessing; there is nothing to do.
PyObject* queue_accepted(PyObject* self, PyObject* unused);

// The message of an item for the region: its block is the caller's. False: an error is set.
bool encode_item(PyObject* self, PyObject* item, Message* message);
// The item of a message that was taken; the message is freed whatever happens, a block that arrays came in with the last of
// them.
PyObject* decode_item(PyObject* self, Message& message);
// The message of an item in private memory, which has no bytes of its own. The reference that it is must be the caller's, and
// is the queue's when it is put.
Message message_of_reference(PyObject* item);
inline bool is_private_queue(PyObject* self) { return proxy_of(self)->header == nullptr; }
// Sets the error of an outcome other than kDone: `timed_out` is Full or Empty. Null.
PyObject* raise_queue(PyObject* self, QueueOutcome outcome, Import timed_out);
// The deadline of (block, timeout), null where they were left out. False: an error is set.
bool queue_deadline(PyObject* block, PyObject* timeout, Deadline* deadline);

// Takes items out of a private queue and drops them, their finalisers run. Each counts as finished.
void drop_items(PyObject* self);

#define FT_QUEUE_METHODS                                                                                               \
  {"put", as_method(queue_put), METH_FASTCALL | METH_KEYWORDS,                                                         \
   "put($self, /, item, block=True, timeout=None)\n--\n\n"                                                             \
   "Appends an item. A queue with a bound that is full waits for room, timeout seconds at most, then raises queue.Full.\n\n" \
   "When it has returned, every process sees the item, and it stays if this process dies."},                           \
      {"get", as_method(queue_get), METH_FASTCALL | METH_KEYWORDS,                                                     \
       "get($self, /, block=True, timeout=None)\n--\n\n"                                                               \
       "Takes the oldest item; waits for one, timeout seconds at most, then raises queue.Empty."},                     \
      {"put_many", as_method(queue_put_many), METH_FASTCALL | METH_KEYWORDS,                                           \
       "put_many($self, /, iterable, block=True, timeout=None)\n--\n\n"                                               \
       "Appends the items of the iterable, in groups with one synchronisation each; waits for room as put(), timeout\n" \
       "seconds at most for all of them.\n\n"                                                                          \
       "What is raised in the middle (queue.Full, ShutDown, KeyboardInterrupt, an error of the iterable or of an item)\n" \
       "takes nothing back: what was put stays put, in order. The exception's put_count says how many items that is, and\n" \
       "its remaining is a list of those that were drawn from the iterable and not put."},                             \
      {"get_many", as_method(queue_get_many), METH_FASTCALL | METH_KEYWORDS,                                           \
       "get_many($self, /, max_items=None, block=True, timeout=None)\n--\n\n"                                         \
       "Takes the oldest items, one at least and max_items at most, as a list. Waits for the first one as get(), and for\n" \
       "no other. task_done() is due for each.\n\n"                                                                    \
       "Where an item cannot be rebuilt its error is raised, and the error's items is a list of what was taken besides."}, \
      {"put_nowait", queue_put_nowait, METH_O, "put_nowait($self, item, /)\n--\n\nput(item, block=False)."},           \
      {"get_nowait", queue_get_nowait, METH_NOARGS, "get_nowait($self, /)\n--\n\nget(block=False)."},                  \
      {"qsize", queue_qsize, METH_NOARGS, "qsize($self, /)\n--\n\nHow many items are in it now."},                     \
      {"empty", queue_empty, METH_NOARGS, "empty($self, /)\n--\n\nWhether no item is in it now."},                     \
      {"close", queue_accepted, METH_NOARGS,                                                                           \
       "close($self, /)\n--\n\nDoes nothing: there is no pipe and no thread to close."},                               \
      {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,                                                      \
       "__class_getitem__($type, item, /)\n--\n\nFor annotations."}

}  // namespace freethreading::binding
