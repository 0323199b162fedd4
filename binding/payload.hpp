// Bytes and handles in a block of the region, and the waits of queues.
//
// A block begins with the handles of the shared objects that its payload carries (each counted in flight); the payload
// follows.
#pragma once

#include "compat.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "wait.hpp"

namespace freethreading::binding {

// Copies `payload` (bytes) and `handles` (null, or a sequence of handles) into a new block of the message's. False: an
// error is set and the message has no block.
bool fill_block(Place& place, PyObject* payload, PyObject* handles, Message* message);
// The handles in front of a block's payload, a new list.
PyObject* list_of_handles(Place& place, const Message& message);
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
