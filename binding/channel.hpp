// What the files of channels share. A message's inline bytes are tag (8), index (8), then the payload where it fits. A larger one
// lies in a block, and so does one that keeps shared objects alive.
#pragma once

#include "codec.hpp"
#include "compat.hpp"
#include "freethreading/queue/message_queue.hpp"

namespace freethreading::binding {

constexpr std::size_t kHead = 16;
constexpr std::size_t kInlinePayload = Message::kInlineBytes - kHead;

// A message's tag, and its index.
std::uint64_t tag_of(const Message& message);
std::uint64_t index_of(const Message& message);
void write_head(Message* message, std::uint32_t kind, std::uint64_t tag, std::uint64_t index);
// In a message's kind: buffers lie beside its payload.
constexpr std::uint32_t kBeside = 0x100;
// Puts `payload` (bytes) into the message, in a block that keeps `shared` (null, or a list or tuple of shared objects) alive, with
// `buffers` (null, or as is_buffers() wants them) beside it, where that is needed. `self`: a proxy in that region. False: an error is set,
// and the message has no block.
bool write_payload(PyObject* self, PyObject* payload, PyObject* shared, PyObject* buffers, Message* message);
// Whether it is a list of memoryviews; else an error is set.
bool is_buffers(PyObject* buffers);
// The same with an encoding. False: an error is set, and the message has no block.
bool write_encoding(PyObject* self, const Encoding& encoding, Message* message);
// Puts it into the channel, of which the message is from now on. False: an error is set, and the message is discarded.
bool put_message(PyObject* self, Message& message, std::uint64_t* sequence = nullptr, Waking waking = Waking::kAtOnce);
// Takes a message of that number back. kDone: nobody had taken it; kEmpty; kInterrupted: an error is set.
QueueOutcome withdraw_message(PyObject* self, std::uint64_t sequence);
// (kind, tag, index, payload, block) of a message that was taken; the message is freed whatever happens, at once or with its Block.
PyObject* unpack_message(PyObject* self, Message& message);
// Whether a message that was taken had been withdrawn; then it is discarded.
bool is_withdrawn(Place& place, Message& message);
// The note that a taker's record has; `record`: a WorkerRecord, null or None: there is none (*note is null). False: an error is set.
bool note_of(PyObject* self, PyObject* record, TakeNote** note);
// Sets ShutDown. Null.
PyObject* raise_shut_down(PyObject* self);

}  // namespace freethreading::binding
