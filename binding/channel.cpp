// Channel: the engines' queue of raw messages, (kind, tag, index, payload, block), over the core's MessageQueue.
//
// A message's inline bytes are tag (8), index (8), then the payload where it fits. A larger one lies in a block,
// and so does one that keeps shared objects alive.
#include <array>
#include <cstring>

#include "args.hpp"
#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "freethreading/pool/worker_record.hpp"
#include "freethreading/queue/message_queue.hpp"
#include "handle.hpp"
#include "payload.hpp"
#include "placement.hpp"
#include "pool_types.hpp"
#include "ref.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

constexpr std::size_t kHead = 16;
constexpr std::size_t kInlinePayload = Message::kInlineBytes - kHead;

PyObject* raise_shut_down(PyObject* self) { return raise(self, Import::kShutDown, "the channel is closed"); }

PyObject* channel_put(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"kind", "tag", "index", "payload", "shared"};
  static constexpr Signature kSignature{"put", kNames, 5, 5, 4};
  std::array<PyObject*, 5> values{};
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  const long kind = PyLong_AsLong(values[0]);
  const std::uint64_t tag = PyLong_AsUnsignedLongLong(values[1]);
  const std::uint64_t index = PyLong_AsUnsignedLongLong(values[2]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  if (!PyBytes_Check(values[3])) {
    return PyErr_Format(PyExc_TypeError, "a payload is bytes, not %s", Py_TYPE(values[3])->tp_name);
  }
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  Message message;
  message.kind = static_cast<std::uint32_t>(kind);
  std::memcpy(message.bytes.data(), &tag, sizeof tag);
  std::memcpy(message.bytes.data() + sizeof tag, &index, sizeof index);
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(values[3]));
  if (values[4] != nullptr && !PyList_Check(values[4]) && !PyTuple_Check(values[4])) {
    return PyErr_Format(PyExc_TypeError, "shared objects come in a list or tuple, not %s", Py_TYPE(values[4])->tp_name);
  }
  const bool carries = values[4] != nullptr && PySequence_Fast_GET_SIZE(values[4]) > 0;
  if (size <= kInlinePayload && !carries) {
    std::memcpy(message.bytes.data() + kHead, PyBytes_AS_STRING(values[3]), size);
    message.size = kHead + size;
  } else if (!fill_block(self, values[3], values[4], &message)) {
    return nullptr;
  }
  QueueOutcome outcome = queue.try_put(place, message);
  if (outcome == QueueOutcome::kBusy) {
    outcome = queue_wait_detached(Deadline::never(), [&](WaitContext& context) { return queue.put_until(place, message, context); });
  }
  if (outcome == QueueOutcome::kDone) Py_RETURN_NONE;
  discard(place, message);
  if (outcome == QueueOutcome::kInterrupted) return nullptr;
  if (outcome == QueueOutcome::kNoMemory) return PyErr_NoMemory();
  return raise_shut_down(self);
}

// The tuple of a message that was taken; the message is freed whatever happens, at once or with its Block.
PyObject* unpack(PyObject* self, Message& message) {
  Place& place = place_of(self);
  std::uint64_t tag = 0;
  std::uint64_t index = 0;
  std::memcpy(&tag, message.bytes.data(), sizeof tag);
  std::memcpy(&index, message.bytes.data() + sizeof tag, sizeof index);
  Ref payload;
  Ref carrier = Ref::share(Py_None);
  if (message.is_inline()) {
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
  return Py_BuildValue("IKKNN", message.kind, static_cast<unsigned long long>(tag), static_cast<unsigned long long>(index),
                       payload.release(), carrier.release());
}

PyObject* channel_get(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"timeout", "record"};
  static constexpr Signature kSignature{"get", kNames, 2, 2, 0};
  std::array<PyObject*, 2> values{};
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  if (!deadline_of(values[0], Negative::kPassed, &deadline)) return nullptr;
  TakeNote* note = nullptr;
  if (values[1] != nullptr && values[1] != Py_None) {
    WorkerRecord* record = record_of(self, values[1]);
    if (record == nullptr) return nullptr;
    note = &record->task;
  }
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  const std::uint32_t epoch = queue.wake_epoch();  // once: a wake ends this call, whatever it was doing then
  for (;;) {
    Message message;
    QueueOutcome outcome = queue.try_get(place, message, note);
    if (outcome == QueueOutcome::kDone) return unpack(self, message);
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
  if (outcome == QueueOutcome::kDone) return unpack(self, message);
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
     "put($self, /, kind, tag, index, payload, shared=())\n--\n\n"
     "Sends a message, which keeps the shared objects alive."},
    {"get", as_method(channel_get), METH_FASTCALL | METH_KEYWORDS,
     "get($self, /, timeout=None, record=None)\n--\n\n"
     "(kind, tag, index, payload, block) of the next message; None after timeout seconds, or when woken. What the message\n"
     "keeps alive lives as long as block. record notes what is taken before it is taken. ShutDown when closed and empty."},
    {"try_get", channel_try_get, METH_NOARGS, "try_get($self, /)\n--\n\nThe next message if there is one, else None."},
    {"close", channel_close, METH_NOARGS, "close($self, /)\n--\n\nNo more puts; gets go on until it is empty."},
    {"discard_all", channel_discard_all, METH_NOARGS, "discard_all($self, /)\n--\n\nCloses it and drops what is in it."},
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
