#include "queue_type.hpp"

#include <array>
#include <cstring>

#include "args.hpp"
#include "codec.hpp"
#include "copy.hpp"
#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "handle.hpp"
#include "payload.hpp"
#include "ref.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

QueueObject* queue_object(PyObject* self) { return reinterpret_cast<QueueObject*>(self); }
MessageQueue& queue_of(PyObject* self) { return *body_of<MessageQueue>(self); }

PyObject* reference_in(const Message& message) {
  PyObject* item = nullptr;
  std::memcpy(&item, message.bytes.data(), sizeof item);
  return item;
}

bool encode_natively(Place& place, const Encoding& encoding, Message* message) {
  const std::size_t size = encoding.size();
  message->kind = kNative;
  if (size <= Message::kInlineBytes) {
    message->size = size;
    encoding.copy_to(message->bytes.data());
    return true;
  }
  if (!allocate_block(place, *message, size)) {
    PyErr_Format(PyExc_MemoryError, "no shared memory for an item of %zu bytes", size);
    return false;
  }
  encoding.copy_to(payload_of(place, *message));
  return true;
}

bool encode_pickle(PyObject* self, PyObject* dumped, Message* message) {
  PyObject* data = PyTuple_GET_ITEM(dumped, 0);
  PyObject* shared = PyTuple_GET_ITEM(dumped, 1);
  PyObject* buffers = PyTuple_GET_ITEM(dumped, 2);
  message->kind = kPickled;
  if (PyList_GET_SIZE(buffers) != 0) return fill_block_with_buffers(self, data, shared, buffers, message);
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(data));
  if (size > Message::kInlineBytes || PyList_GET_SIZE(shared) != 0) return fill_block(self, data, shared, message);
  message->size = size;
  std::memcpy(message->bytes.data(), PyBytes_AS_STRING(data), size);
  return true;
}

bool encode_by_pickle(PyObject* self, PyObject* item, Message* message) {
  State* state = state_of(self);
  PyObject* dumps = state == nullptr ? nullptr : imported(state, Import::kDumpsMessage);
  // No Ref: much is copied detached.
  PyObject* dumped = dumps == nullptr ? nullptr : PyObject_CallOneArg(dumps, item);
  if (dumped == nullptr) return false;
  bool done = false;
  if (PyTuple_Check(dumped) && PyTuple_GET_SIZE(dumped) == 3 && PyBytes_Check(PyTuple_GET_ITEM(dumped, 0)) &&
      PyList_Check(PyTuple_GET_ITEM(dumped, 1)) && PyList_Check(PyTuple_GET_ITEM(dumped, 2))) {
    done = encode_pickle(self, dumped, message);
  } else {
    PyErr_SetString(PyExc_TypeError, "dumps_message() must return (bytes, list, list)");
  }
  Py_DECREF(dumped);
  return done;
}

}  // namespace

Message message_of_reference(PyObject* item) {
  Message message;
  message.kind = kReference;
  std::memcpy(message.bytes.data(), &item, sizeof item);
  return message;
}

bool encode_item(PyObject* self, PyObject* item, Message* message) {
  Encoding encoding;
  switch (encoding.encode(item)) {
    case Encoding::Outcome::kDone:
      return encode_natively(place_of(self), encoding, message);
    case Encoding::Outcome::kNotNative:
      return encode_by_pickle(self, item, message);
    case Encoding::Outcome::kError:
      break;
  }
  return false;
}

PyObject* decode_item(PyObject* self, Message& message) {
  if (message.kind == kReference) return reference_in(message);
  Place& place = place_of(self);
  if (message.kind == kNative) {
    PyObject* item = decode(message.is_inline() ? message.bytes.data() : payload_of(place, message), message.size);
    discard(place, message);
    return item;
  }
  State* state = state_of(self);
  PyObject* loads = state == nullptr ? nullptr : imported(state, Import::kLoadsMessage);
  if (loads == nullptr) {
    discard(place, message);
    return nullptr;
  }
  // A small pickle is not worth a Block. The message goes after the loads: it keeps alive what it carries.
  if (!message.is_inline() && (message.kind == kBuffers || message.size >= kCopyDetached)) {
    return load_block(self, loads, message);
  }
  const Ref data = message.is_inline()
                       ? Ref::take(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(message.bytes.data()),
                                                             static_cast<Py_ssize_t>(message.size)))
                       : Ref::take(bytes_of_block(place, message));
  PyObject* item = data ? PyObject_CallOneArg(loads, data.get()) : nullptr;
  discard(place, message);
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

namespace {

// What is left of a put whose first try came out as `outcome`. Apart, as that of a get: the first try seldom fails.
[[gnu::noinline]] bool put_later(PyObject* self, const Message& message, Deadline deadline, QueueOutcome outcome) {
  Place& place = place_of(self);
  MessageQueue& queue = queue_of(self);
  for (;; outcome = queue.try_put(place, message)) {
    if (outcome == QueueOutcome::kDone) return true;
    if (outcome == QueueOutcome::kFull && deadline.is_immediate()) outcome = QueueOutcome::kTimedOut;
    if (outcome == QueueOutcome::kFull || outcome == QueueOutcome::kBusy) {
      outcome = queue_wait_detached(
          deadline, [&](WaitContext& context) { return queue.wait_not_full(place, context, message.size); });
    }
    if (outcome != QueueOutcome::kDone) {
      raise_queue(self, outcome, Import::kQueueFull);
      return false;
    }
  }
}

// Puts a message that is the caller's: true when the queue has taken it.
bool put_message(PyObject* self, const Message& message, Deadline deadline) {
  const QueueOutcome outcome = queue_of(self).try_put(place_of(self), message);
  return outcome == QueueOutcome::kDone || put_later(self, message, deadline, outcome);
}

PyObject* put_item(PyObject* self, PyObject* item, Deadline deadline, Waking waking = Waking::kAtOnce) {
  if (is_private_queue(self)) {
    // The queue's reference first: once the item is in, another thread may take it and drop its own.
    const auto word = reinterpret_cast<std::uintptr_t>(Py_NewRef(item));
    hand_over_value(item);
    const QueueOutcome outcome = queue_of(self).try_put_word(place_of(self), kReference, word, waking);
    if (outcome == QueueOutcome::kDone || put_later(self, message_of_reference(item), deadline, outcome)) Py_RETURN_NONE;
    Py_DECREF(item);
    return nullptr;
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

[[gnu::noinline]] PyObject* get_later(PyObject* self, Deadline deadline, QueueOutcome outcome) {
  Place& place = place_of(self);
  MessageQueue& queue = queue_of(self);
  for (;;) {
    if (outcome == QueueOutcome::kEmpty && deadline.is_immediate()) outcome = QueueOutcome::kTimedOut;
    if (outcome == QueueOutcome::kEmpty || outcome == QueueOutcome::kBusy) {
      outcome = queue_wait_detached(deadline, [&](WaitContext& context) { return queue.wait_not_empty(place, context); });
    }
    if (outcome != QueueOutcome::kDone) return raise_queue(self, outcome, Import::kQueueEmpty);
    Message message;
    outcome = queue.try_get(place, message);
    if (outcome == QueueOutcome::kDone) return decode_item(self, message);
  }
}

PyObject* get_item(PyObject* self, Deadline deadline) {
  QueueOutcome outcome;
  if (is_private_queue(self)) {
    std::uint64_t word = 0;
    outcome = queue_of(self).try_get_word(place_of(self), word);
    if (outcome == QueueOutcome::kDone) return reinterpret_cast<PyObject*>(static_cast<std::uintptr_t>(word));
  } else {
    Message message;
    outcome = queue_of(self).try_get(place_of(self), message);
    if (outcome == QueueOutcome::kDone) return decode_item(self, message);
  }
  return get_later(self, deadline, outcome);
}

struct Visit {
  visitproc visit;
  void* arg;
};

}  // namespace

bool queue_deadline(PyObject* block, PyObject* timeout, Deadline* deadline) {
  const int blocks = block == nullptr ? 1 : PyObject_IsTrue(block);
  if (blocks < 0) return false;
  if (blocks == 0) {
    *deadline = Deadline::immediate();
    return true;
  }
  if (timeout != nullptr && timeout != Py_None) {
    const double seconds = PyFloat_AsDouble(timeout);
    if (seconds < 0 && PyErr_Occurred() == nullptr) {
      PyErr_Format(PyExc_ValueError, "'timeout' must be a non-negative number of seconds, not %R", timeout);
      return false;
    }
    PyErr_Clear();  // deadline_of() says it
  }
  return deadline_of(timeout, Negative::kPassed, deadline);
}

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

int place_queue(PyObject* self, PyObject* shared, ObjectType type, std::uint64_t capacity, std::uint64_t max_bytes,
                bool joinable) {
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
    if (queue_of(self).initialise(*proxy->place, capacity, joinable, max_bytes)) return 0;
    PyErr_NoMemory();
    return -1;
  }
  ObjectHeader* header = new_object(state, type, sizeof(MessageQueue));
  if (header == nullptr) return -1;
  auto* queue = new (header->body<MessageQueue>()) MessageQueue();
  Place& place = default_session(state)->place();
  if (!queue->initialise(place, capacity, joinable, max_bytes)) {
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
  if (!is_private_queue(self)) return 0;
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
  if (is_private_queue(self)) drop_items(self);
  return 0;
}

void queue_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  if (is_private_queue(self)) drop_items(self);
  release_proxy(self);
  Place& memory = Place::private_memory();
  if (is_private_queue(self)) queue_of(self).destroy(memory);
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

PyObject* queue_put_lazily(PyObject* self, PyObject* item) {
  return put_item(self, item, Deadline::immediate(), Waking::kLazily);
}

PyObject* queue_get_nowait(PyObject* self, PyObject* /*unused*/) { return get_item(self, Deadline::immediate()); }

PyObject* queue_qsize(PyObject* self, PyObject* /*unused*/) { return PyLong_FromUnsignedLongLong(queue_of(self).size()); }

PyObject* queue_empty(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(queue_of(self).size() == 0); }

PyObject* queue_accepted(PyObject* /*self*/, PyObject* /*unused*/) { Py_RETURN_NONE; }

}  // namespace freethreading::binding
