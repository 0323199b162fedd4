#include "queue_type.hpp"

#include <array>
#include <cstring>

#include "args.hpp"
#include "codec.hpp"
#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "handle.hpp"
#include "payload.hpp"
#include "ref.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

enum Kind : std::uint32_t { kReference = 0, kNative = 1, kPickled = 2 };

QueueObject* queue_object(PyObject* self) { return reinterpret_cast<QueueObject*>(self); }
MessageQueue& queue_of(PyObject* self) { return *body_of<MessageQueue>(self); }
bool is_private(PyObject* self) { return proxy_of(self)->header == nullptr; }

PyObject* reference_in(const Message& message) {
  PyObject* item = nullptr;
  std::memcpy(&item, message.bytes.data(), sizeof item);
  return item;
}

Message message_of_reference(PyObject* item) {
  Message message;
  message.kind = kReference;
  message.size = sizeof item;
  std::memcpy(message.bytes.data(), &item, sizeof item);
  return message;
}

bool encode_natively(Place& place, PyObject* item, std::size_t size, Message* message) {
  message->kind = kNative;
  message->size = size;
  if (size <= Message::kInlineBytes) {
    encode(item, message->bytes.data());
    return true;
  }
  message->block = place.allocate(size);
  if (message->block == kNoOffset) {
    PyErr_Format(PyExc_MemoryError, "no shared memory for an item of %zu bytes", size);
    return false;
  }
  encode(item, place.at<std::byte>(message->block));
  return true;
}

bool encode_by_pickle(PyObject* self, PyObject* item, Message* message) {
  State* state = state_of(self);
  PyObject* dumps = state == nullptr ? nullptr : imported(state, Import::kDumpsMessage);
  const Ref dumped = dumps == nullptr ? Ref() : Ref::take(PyObject_CallOneArg(dumps, item));
  if (!dumped) return false;
  if (!PyTuple_Check(dumped.get()) || PyTuple_GET_SIZE(dumped.get()) != 2 ||
      !PyBytes_Check(PyTuple_GET_ITEM(dumped.get(), 0)) || !PyList_Check(PyTuple_GET_ITEM(dumped.get(), 1))) {
    PyErr_SetString(PyExc_TypeError, "dumps_message() must return (bytes, list)");
    return false;
  }
  PyObject* data = PyTuple_GET_ITEM(dumped.get(), 0);
  PyObject* shared = PyTuple_GET_ITEM(dumped.get(), 1);
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(data));
  message->kind = kPickled;
  if (size <= Message::kInlineBytes && PyList_GET_SIZE(shared) == 0) {
    message->size = size;
    std::memcpy(message->bytes.data(), PyBytes_AS_STRING(data), size);
    return true;
  }
  return fill_block(self, data, shared, message);
}

// The message of an item for the region: its block is the caller's. False: an error is set.
bool encode_item(PyObject* self, PyObject* item, Message* message) {
  const std::size_t size = encoded_size(item);
  if (size != 0) return encode_natively(place_of(self), item, size, message);
  return PyErr_Occurred() == nullptr && encode_by_pickle(self, item, message);
}

// The item of a message that was taken; the message is freed whatever happens.
PyObject* decode_item(PyObject* self, Message& message) {
  if (message.kind == kReference) return reference_in(message);
  Place& place = place_of(self);
  PyObject* item = nullptr;
  if (message.kind == kNative) {
    item = decode(message.is_inline() ? message.bytes.data() : place.at<std::byte>(message.block), message.size);
  } else {
    const Ref data = message.is_inline()
                         ? Ref::take(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(message.bytes.data()),
                                                               static_cast<Py_ssize_t>(message.size)))
                         : Ref::take(bytes_of_block(place, message));
    State* state = state_of(self);
    PyObject* loads = state == nullptr || !data ? nullptr : imported(state, Import::kLoadsMessage);
    if (loads != nullptr) item = PyObject_CallOneArg(loads, data.get());
  }
  discard(place, message);  // after the loads: until then it keeps the objects alive that it carries
  return item;
}

PyObject* raise_queue(PyObject* self, QueueOutcome outcome, Import timed_out) {
  State* state = state_of(self);
  PyObject* type = nullptr;
  switch (outcome) {
    case QueueOutcome::kInterrupted:
      return nullptr;
    case QueueOutcome::kNoMemory:
      return PyErr_NoMemory();
    case QueueOutcome::kShutDown:
      type = state == nullptr ? nullptr : imported(state, Import::kShutDown);
      break;
    default:
      type = state == nullptr ? nullptr : imported(state, timed_out);
      break;
  }
  if (type != nullptr) PyErr_SetNone(type);
  return nullptr;
}

// Puts a message that is the caller's: true when the queue has taken it.
bool put_message(PyObject* self, const Message& message, Deadline deadline) {
  Place& place = place_of(self);
  MessageQueue& queue = queue_of(self);
  for (;;) {
    QueueOutcome outcome = queue.try_put(place, message);
    if (outcome == QueueOutcome::kDone) return true;
    if (outcome == QueueOutcome::kFull && deadline.is_immediate()) outcome = QueueOutcome::kTimedOut;
    if (outcome == QueueOutcome::kFull || outcome == QueueOutcome::kBusy) {
      outcome = queue_wait_detached(deadline, [&](WaitContext& context) { return queue.wait_not_full(place, context); });
    }
    if (outcome != QueueOutcome::kDone) {
      raise_queue(self, outcome, Import::kQueueFull);
      return false;
    }
  }
}

PyObject* put_item(PyObject* self, PyObject* item, Deadline deadline) {
  if (is_private(self)) {
    // The queue's reference first: once the item is in, another thread may take it and drop its own.
    if (!put_message(self, message_of_reference(Py_NewRef(item)), deadline)) {
      Py_DECREF(item);
      return nullptr;
    }
    Py_RETURN_NONE;
  }
  Message message;
  if (!encode_item(self, item, &message)) return nullptr;
  if (!put_message(self, message, deadline)) {
    PyObject* error = take_exception();
    discard(place_of(self), message);
    give_exception(error);
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* get_item(PyObject* self, Deadline deadline) {
  Place& place = place_of(self);
  MessageQueue& queue = queue_of(self);
  for (;;) {
    Message message;
    QueueOutcome outcome = queue.try_get(place, message);
    if (outcome == QueueOutcome::kDone) return decode_item(self, message);
    if (outcome == QueueOutcome::kEmpty && deadline.is_immediate()) outcome = QueueOutcome::kTimedOut;
    if (outcome == QueueOutcome::kEmpty || outcome == QueueOutcome::kBusy) {
      outcome = queue_wait_detached(deadline, [&](WaitContext& context) { return queue.wait_not_empty(place, context); });
    }
    if (outcome != QueueOutcome::kDone) return raise_queue(self, outcome, Import::kQueueEmpty);
  }
}

// The deadline of (block, timeout), null where they were left out. False: an error is set.
bool queue_deadline(PyObject* block, PyObject* timeout, Deadline* deadline) {
  const int blocks = block == nullptr ? 1 : PyObject_IsTrue(block);
  if (blocks < 0) return false;
  if (blocks == 0) {
    *deadline = Deadline::immediate();
    return true;
  }
  if (timeout != nullptr && timeout != Py_None) {
    const double seconds = PyFloat_AsDouble(timeout);
    if (seconds < 0) {
      if (PyErr_Occurred() == nullptr) {
        PyErr_Format(PyExc_ValueError, "'timeout' must be a non-negative number of seconds, not %R", timeout);
      }
      return false;
    }
  }
  return deadline_of(timeout, Negative::kPassed, deadline);
}

struct Visit {
  visitproc visit;
  void* arg;
};

}  // namespace

PyObject* queue_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  Place& place = Place::private_memory();
  const Offset own = place.allocate(sizeof(MessageQueue));
  if (own == kNoOffset) {
    type->tp_free(self);
    return PyErr_NoMemory();
  }
  std::memset(place.at<void>(own), 0, sizeof(MessageQueue));
  queue_object(self)->own = own;
  proxy_of(self)->place = &place;
  proxy_of(self)->body = new (place.at<void>(own)) MessageQueue();
  return self;
}

int place_queue(PyObject* self, PyObject* shared, ObjectType type, std::uint64_t capacity, bool joinable) {
  State* state = state_of(self);
  Proxy* proxy = proxy_of(self);
  if (state == nullptr) return -1;
  if (proxy->placed) {
    PyErr_Format(PyExc_RuntimeError, "this %s is in use: __init__ may be called once only", Py_TYPE(self)->tp_name);
    return -1;
  }
  const int region = wants_region(state, shared);
  if (region < 0) return -1;
  if (region == 0) {
    proxy->placed = true;
    if (queue_of(self).initialise(*proxy->place, capacity, joinable)) return 0;
    PyErr_NoMemory();
    return -1;
  }
  ObjectHeader* header = new_object(state, type, sizeof(MessageQueue));
  if (header == nullptr) return -1;
  auto* queue = new (header->body<MessageQueue>()) MessageQueue();
  Place& place = default_session(state)->place();
  if (!queue->initialise(place, capacity, joinable)) {
    place.free(place.offset_of(header));
    PyErr_NoMemory();
    return -1;
  }
  publish(state, proxy, header);
  return 0;
}

void drop_items(PyObject* self) {
  Place& place = place_of(self);
  MessageQueue& queue = queue_of(self);
  for (;;) {
    Message message;
    const QueueOutcome outcome = queue.try_get(place, message);
    if (outcome == QueueOutcome::kBusy && queue.size() != 0) {
      // Another getter's lock, or a copy of it that a fork made: this waits for the one and mends the other.
      detached([&] {
        WaitContext now(Deadline::immediate());
        static_cast<void>(queue.wait_not_empty(place, now));
      });
    } else if (outcome != QueueOutcome::kDone) {
      return;
    } else {
      static_cast<void>(queue.task_done(place));
      Py_DECREF(reference_in(message));
    }
  }
}

int queue_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!is_private(self)) return 0;
  Visit work{visit, arg};
  return queue_of(self).visit(
      place_of(self),
      [](void* context, const Message& message) {
        const Visit* wanted = static_cast<Visit*>(context);
        return wanted->visit(reference_in(message), wanted->arg);
      },
      &work);
}

int queue_clear(PyObject* self) {
  if (is_private(self)) drop_items(self);
  return 0;
}

void queue_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  if (is_private(self)) drop_items(self);
  release_proxy(self);
  Place& memory = Place::private_memory();
  if (is_private(self)) queue_of(self).destroy(memory);
  memory.free(queue_object(self)->own);
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* queue_put(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  if (nargs == 1 && (kwnames == nullptr || PyTuple_GET_SIZE(kwnames) == 0)) {
    return put_item(self, args[0], Deadline::never());
  }
  static constexpr const char* kNames[] = {"item", "block", "timeout"};
  static constexpr Signature kSignature{"put", kNames, 3, 3, 1};
  std::array<PyObject*, 3> values{};
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  if (!queue_deadline(values[1], values[2], &deadline)) return nullptr;
  return put_item(self, values[0], deadline);
}

PyObject* queue_get(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  if (no_arguments(nargs, kwnames)) return get_item(self, Deadline::never());
  static constexpr const char* kNames[] = {"block", "timeout"};
  static constexpr Signature kSignature{"get", kNames, 2, 2, 0};
  std::array<PyObject*, 2> values{};
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  if (!queue_deadline(values[0], values[1], &deadline)) return nullptr;
  return get_item(self, deadline);
}

PyObject* queue_put_nowait(PyObject* self, PyObject* item) { return put_item(self, item, Deadline::immediate()); }

PyObject* queue_get_nowait(PyObject* self, PyObject* /*unused*/) { return get_item(self, Deadline::immediate()); }

PyObject* queue_qsize(PyObject* self, PyObject* /*unused*/) { return PyLong_FromUnsignedLongLong(queue_of(self).size()); }

PyObject* queue_empty(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(queue_of(self).size() == 0); }

PyObject* queue_accepted(PyObject* /*self*/, PyObject* /*unused*/) { Py_RETURN_NONE; }

}  // namespace freethreading::binding
