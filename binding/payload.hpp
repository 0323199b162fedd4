// What lies in the blocks of messages, and the waits of queues.
//
// A block of kind kPickled holds a pickle. One of kind kBuffers holds a table, a pickle, and the buffers that the pickle
// refers to, each where the table says, aligned as whatever may lie in it needs:
//
//   8 bytes      number of buffers
//   8 bytes      bytes of the pickle
//   16 a buffer  its offset from the table, its bytes (and in the highest bit whether it is read-only)
#pragma once

#include "compat.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "wait.hpp"

namespace freethreading::binding {

// What a queue's message is.
enum Kind : std::uint32_t { kReference = 0, kNative = 1, kPickled = 2, kBuffers = 3 };

// Copies `payload` (bytes) into a new block of the message's, which keeps `shared` (null, or a list or tuple of shared
// objects) alive. `self`: a proxy in that region. False: an error is set and the message has no block.
bool fill_block(PyObject* self, PyObject* payload, PyObject* shared, Message* message);
// The same with `buffers`, a list of one-dimensional contiguous memoryviews of bytes, for a message of kind kBuffers.
bool fill_block_with_buffers(PyObject* self, PyObject* payload, PyObject* shared, PyObject* buffers, Message* message);
// The payload of a block, new bytes.
PyObject* bytes_of_block(Place& place, const Message& message);
// What a block filled with buffers has, a new pair: its pickle, a memoryview, and the list of its buffers' memoryviews. They own the block
// from now on. A ValueError where the block has no such table; the message is discarded then.
PyObject* parts_of_block(PyObject* self, Message& message);
// What loads_message() gives for the pickle in a block, which is freed when nothing of what came refers to it any more.
PyObject* load_block(PyObject* self, PyObject* loads, Message& message);

// A new Block (block.cpp) that owns the message's block from now on. Null: an error is set and the message is discarded.
PyObject* block_of(PyObject* self, Message& message);

// As wait_detached, for the waits of queues.
template <class Step>
QueueOutcome queue_wait_detached(Deadline deadline, Step step) {
  WaitContext context(deadline, in_main_thread());
  for (;;) {
    QueueOutcome outcome;
    Py_BEGIN_ALLOW_THREADS;
    outcome = step(context);
    Py_END_ALLOW_THREADS;
    if (outcome != QueueOutcome::kInterrupted || PyErr_CheckSignals() != 0) return outcome;
  }
}

}  // namespace freethreading::binding
