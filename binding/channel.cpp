// Channel: the engines' queue of raw messages, (kind, tag, index, payload, block), over the core's MessageQueue.
#include "channel.hpp"

#include <array>
#include <cstring>

#include "args.hpp"
#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "freethreading/pool/worker_record.hpp"
#include "handle.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "pool_types.hpp"
#include "ref.hpp"
#include "wait.hpp"

namespace freethreading::binding {

std::uint64_t tag_of(const Message& message) {
  std::uint64_t tag = 0;
  std::memcpy(&tag, message.bytes.data(), sizeof tag);
  return tag;
}

std::uint64_t index_of(const Message& message) {
  std::uint64_t index = 0;
  std::memcpy(&index, message.bytes.data() + sizeof index, sizeof index);
  return index;
}

void write_head(Message* message, std::uint32_t kind, std::uint64_t tag, std::uint64_t index) {
  message->kind = kind;
  std::memcpy(message->bytes.data(), &tag, sizeof tag);
  std::memcpy(message->bytes.data() + sizeof tag, &index, sizeof index);
}

bool write_payload(PyObject* self, PyObject* payload, PyObject* shared, PyObject* buffers, Message* message) {
  if (buffers != nullptr && PyList_GET_SIZE(buffers) > 0) {
    const std::uint32_t kind = message->kind;
    const bool filled = fill_block_with_buffers(self, payload, shared, buffers, message);
    message->kind = kind | kBeside;
    return filled;
  }
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(payload));
  if (size > kInlinePayload || (shared != nullptr && PySequence_Fast_GET_SIZE(shared) > 0)) {
    return fill_block(self, payload, shared, message);
  }
  std::memcpy(message->bytes.data() + kHead, PyBytes_AS_STRING(payload), size);
  message->size = kHead + size;
  return true;
}

bool write_encoding(PyObject* self, const Encoding& encoding, Message* message) {
  const std::size_t size = encoding.size();
  if (size <= kInlinePayload) {
    encoding.copy_to(message->bytes.data() + kHead);
    message->size = kHead + size;
    return true;
  }
  Place& place = place_of(self);
  if (!allocate_block(place, *message, size)) {
    PyErr_Format(PyExc_MemoryError, "no shared memory for an item of %zu bytes", size);
    return false;
  }
  encoding.copy_to(payload_of(place, *message));
  return true;
}

bool is_buffers(PyObject* buffers) {
  bool good = PyList_Check(buffers);
  for (Py_ssize_t i = 0; good && i < PyList_GET_SIZE(buffers); ++i) good = PyMemoryView_Check(PyList_GET_ITEM(buffers, i));
  if (!good) PyErr_Format(PyExc_TypeError, "buffers come as a list of memoryviews, not %R", buffers);
  return good;
}

bool put_message(PyObject* self, Message& message, std::uint64_t* sequence, Waking waking) {
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  QueueOutcome outcome = queue.try_put(place, message, sequence, waking);
  if (outcome == QueueOutcome::kBusy) {
    outcome = queue_wait_detached(Deadline::never(),
                                  [&](WaitContext& context) { return queue.put_until(place, message, context, sequence); });
  }
  if (outcome == QueueOutcome::kDone) return true;
  discard(place, message);
  if (outcome == QueueOutcome::kNoMemory) PyErr_NoMemory();
  if (outcome == QueueOutcome::kShutDown) raise_shut_down(self);
  return false;
}

QueueOutcome withdraw_message(PyObject* self, std::uint64_t sequence) {
  MessageQueue& queue = *body_of<MessageQueue>(self);
  if (queue.taken() >= sequence) return QueueOutcome::kEmpty;
  return queue_wait_detached(Deadline::never(), [&](WaitContext& context) {
    return queue.withdraw_until(place_of(self), sequence, context);
  });
}

PyObject* unpack_message(PyObject* self, Message& message) {
  Place& place = place_of(self);
  Ref payload;
  Ref carrier = Ref::share(Py_None);
  if ((message.kind & kBeside) != 0) {
    payload = Ref::take(parts_of_block(self, message));
  } else if (message.is_inline()) {
    payload = Ref::take(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(message.bytes.data()) + kHead,
                                                  static_cast<Py_ssize_t>(message.size - kHead)));
  } else {
    payload = Ref::take(bytes_of_block(place, message));
    if (payload && message.handles != 0) {
      carrier = Ref::take(block_of(self, message));
    } else {
      discard(place, message);
    }
  }
  if (!payload || !carrier) return nullptr;
  return Py_BuildValue("IKKNN", message.kind & ~kBeside, static_cast<unsigned long long>(tag_of(message)),
                       static_cast<unsigned long long>(index_of(message)), payload.release(), carrier.release());
}

bool is_withdrawn(Place& place, Message& message) {
  if (message.kind != Message::kWithdrawn) return false;
  discard(place, message);
  return true;
}

bool note_of(PyObject* self, PyObject* record, TakeNote** note) {
  *note = nullptr;
  if (record == nullptr || record == Py_None) return true;
  WorkerRecord* found = record_of(self, record);
  if (found != nullptr) *note = &found->task;
  return found != nullptr;
}

PyObject* raise_shut_down(PyObject* self) { return raise(self, Import::kShutDown, "the channel is closed"); }

namespace {

PyObject* channel_put(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"kind", "tag", "index", "payload", "shared", "buffers"};
  static constexpr Signature kSignature{"put", kNames, 6, 6, 4};
  std::array<PyObject*, 6> values{};
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  const long kind = PyLong_AsLong(values[0]);
  const std::uint64_t tag = PyLong_AsUnsignedLongLong(values[1]);
  const std::uint64_t index = PyLong_AsUnsignedLongLong(values[2]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  if (!PyBytes_Check(values[3])) {
    return PyErr_Format(PyExc_TypeError, "a payload is bytes, not %s", Py_TYPE(values[3])->tp_name);
  }
  if (values[4] != nullptr && !PyList_Check(values[4]) && !PyTuple_Check(values[4])) {
    return PyErr_Format(PyExc_TypeError, "shared objects come in a list or tuple, not %s", Py_TYPE(values[4])->tp_name);
  }
  if (values[5] != nullptr && !is_buffers(values[5])) return nullptr;
  Message message;
  write_head(&message, static_cast<std::uint32_t>(kind), tag, index);
  std::uint64_t sequence = 0;
  if (!write_payload(self, values[3], values[4], values[5], &message) || !put_message(self, message, &sequence)) return nullptr;
  return PyLong_FromUnsignedLongLong(sequence);
}

PyObject* channel_withdraw(PyObject* self, PyObject* number) {
  const std::uint64_t sequence = PyLong_AsUnsignedLongLong(number);
  if (PyErr_Occurred() != nullptr) return nullptr;
  const QueueOutcome outcome = withdraw_message(self, sequence);
  if (outcome == QueueOutcome::kInterrupted) return nullptr;
  return PyBool_FromLong(outcome == QueueOutcome::kDone ? 1 : 0);
}

PyObject* channel_get(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"timeout", "record"};
  static constexpr Signature kSignature{"get", kNames, 2, 2, 0};
  std::array<PyObject*, 2> values{};
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  if (!deadline_of(values[0], Negative::kPassed, &deadline)) return nullptr;
  TakeNote* note = nullptr;
  if (!note_of(self, values[1], &note)) return nullptr;
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  const std::uint32_t epoch = queue.wake_epoch();  // once: a wake ends this call, whatever it was doing then
  for (;;) {
    Message message;
    QueueOutcome outcome = queue.try_get(place, message, note);
    if (outcome == QueueOutcome::kDone && !is_withdrawn(place, message)) return unpack_message(self, message);
    if (outcome == QueueOutcome::kDone) continue;
    if (outcome == QueueOutcome::kShutDown) return raise_shut_down(self);
    if (outcome == QueueOutcome::kNoMemory) return PyErr_NoMemory();
    if (outcome == QueueOutcome::kEmpty && (deadline.passed() || queue.wake_epoch() != epoch)) Py_RETURN_NONE;
    outcome = queue_wait_detached(deadline, [&](WaitContext& context) { return queue.wait_not_empty(place, context, epoch); });
    if (outcome == QueueOutcome::kInterrupted) return nullptr;
    if (outcome == QueueOutcome::kTimedOut && queue.size() == 0) Py_RETURN_NONE;
  }
}

PyObject* channel_try_get(PyObject* self, PyObject* /*unused*/) {
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  Message message;
  QueueOutcome outcome = queue.try_get(place, message);
  if (outcome == QueueOutcome::kBusy) {
    // Somebody is at it, or died at it: waits for the lock, not for an item.
    outcome = queue_wait_detached(Deadline::immediate(),
                                  [&](WaitContext& context) { return queue.get_until(place, message, context); });
    if (outcome == QueueOutcome::kInterrupted) return nullptr;
  }
  if (outcome == QueueOutcome::kDone) {
    return is_withdrawn(place, message) ? channel_try_get(self, nullptr) : unpack_message(self, message);
  }
  if (outcome == QueueOutcome::kNoMemory) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

PyObject* channel_close(PyObject* self, PyObject* /*unused*/) {
  body_of<MessageQueue>(self)->shut_down(place_of(self), false);
  Py_RETURN_NONE;
}

PyObject* channel_discard_all(PyObject* self, PyObject* /*unused*/) {
  body_of<MessageQueue>(self)->shut_down(place_of(self), true);
  Py_RETURN_NONE;
}

PyObject* channel_wake(PyObject* self, PyObject* /*unused*/) {
  body_of<MessageQueue>(self)->wake_consumers(place_of(self));
  Py_RETURN_NONE;
}

PyObject* channel_taken(PyObject* self, PyObject* /*unused*/) {
  return PyLong_FromUnsignedLongLong(body_of<MessageQueue>(self)->taken());
}

PyObject* channel_qsize(PyObject* self, PyObject* /*unused*/) {
  return PyLong_FromUnsignedLongLong(body_of<MessageQueue>(self)->size());
}

PyObject* channel_open(PyObject* type, PyObject* bytes) {
  return open_pool_object(reinterpret_cast<PyTypeObject*>(type), bytes, ObjectType::kChannel);
}

PyObject* channel_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr Signature kSignature{"Channel", nullptr, 0, 0, 0};
  if (!bind_call(kSignature, args, kwargs, nullptr)) return nullptr;
  return new_pool_object<MessageQueue>(type, ObjectType::kChannel, [](Place& place, MessageQueue& queue) {
    return queue.initialise(place, 0, false);
  });
}

PyMethodDef methods[] = {
    {"put", as_method(channel_put), METH_FASTCALL | METH_KEYWORDS,
     "put($self, /, kind, tag, index, payload, shared=(), buffers=[])\n--\n\n"
     "Sends a message, which keeps the shared objects alive; its number. The buffers, memoryviews of bytes, lie beside the payload."},
    {"withdraw", channel_withdraw, METH_O,
     "withdraw($self, number, /)\n--\n\nTakes the message of that number back, which was sent; whether nobody had taken it."},
    {"get", as_method(channel_get), METH_FASTCALL | METH_KEYWORDS,
     "get($self, /, timeout=None, record=None)\n--\n\n"
     "(kind, tag, index, payload, block) of the next message; None after timeout seconds, or when woken. The payload is bytes, or\n"
     "(memoryview, list of the buffers beside it). What the message keeps alive lives as long as block. record notes what is taken before it is taken. ShutDown when closed and empty."},
    {"try_get", channel_try_get, METH_NOARGS, "try_get($self, /)\n--\n\nThe next message if there is one, else None."},
    {"close", channel_close, METH_NOARGS, "close($self, /)\n--\n\nNo more puts; gets go on until it is empty."},
    {"discard_all", channel_discard_all, METH_NOARGS, "discard_all($self, /)\n--\n\nCloses it and drops what is in it."},
    {"wake", channel_wake, METH_NOARGS, "wake($self, /)\n--\n\nHas everybody who waits for a message look around."},
    {"taken", channel_taken, METH_NOARGS, "taken($self, /)\n--\n\nHow many messages were taken so far."},
    {"qsize", channel_qsize, METH_NOARGS, "qsize($self, /)\n--\n\nHow many messages are in it."},
    {"open", channel_open, METH_O | METH_CLASS, "open($type, handle, /)\n--\n\nThe channel that the handle names."},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"handle", handle_attribute, nullptr, "The bytes that name it in every process of the session.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("Channel()\n--\n\nAn unbounded queue of raw messages between processes, for the engines.")},
    {Py_tp_new, reinterpret_cast<void*>(channel_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.Channel", sizeof(Proxy), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

int add_channel(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kChannel, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
