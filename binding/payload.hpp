// Bytes and shared objects in a block of the region, and the waits of queues.
#pragma once

#include "compat.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "wait.hpp"

namespace freethreading::binding {

// Copies `payload` (bytes) into a new block of the message's, which keeps `shared` (null, or a sequence of shared objects)
// alive. `self`: a proxy in that region. False: an error is set and the message has no block.
bool fill_block(PyObject* self, PyObject* payload, PyObject* shared, Message* message);
// A new Block (block.cpp) that owns the message's block from now on. Null: an error is set and the message is discarded.
PyObject* block_of(PyObject* self, Message& message);
// The payload of a block, new bytes.
PyObject* bytes_of_block(Place& place, const Message& message);

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
