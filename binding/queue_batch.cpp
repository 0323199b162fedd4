// put_many() and get_many(): groups of items, each put or taken with one synchronisation.
//
// A group is drawn from the iterable and encoded before any lock is taken, and decoded after: Python code never runs under
// one. No Ref and no destructor here: a wait, and the copy of a large item, detach.
#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "args.hpp"
#include "errors.hpp"
#include "freethreading/deadline.hpp"
#include "payload.hpp"
#include "queue_type.hpp"

namespace freethreading::binding {
namespace {

constexpr std::size_t kGroupItems = 128;
constexpr std::size_t kGroupBytes = 1 << 20;
// What a slow iterator has yielded is put after this long.
constexpr Nanoseconds kGroupTime = 5 * kMillisecond;

// Not initialised: a batch is often small, and what is read of it was written.
union Messages {
  Messages() {}
  std::array<Message, kGroupItems> at;
};

// Sets an attribute of an exception, also where its class refuses that (a frozen dataclass). Steals the value.
void set_on(PyObject* error, const char* name, PyObject* value) {
  PyObject* key = value == nullptr ? nullptr : PyUnicode_InternFromString(name);
  if (key == nullptr || PyObject_GenericSetAttr(error, key, value) != 0) PyErr_Clear();
  Py_XDECREF(key);
  Py_XDECREF(value);
}

// Takes back the notes that begin with `head`: an exception may be raised twice.
void drop_notes(PyObject* error, const char* head) {
  PyObject* notes = PyObject_GetAttrString(error, "__notes__");
  for (Py_ssize_t i = notes != nullptr && PyList_Check(notes) ? PyList_GET_SIZE(notes) : 0; i-- > 0;) {
    PyObject* note = PyList_GET_ITEM(notes, i);
    const char* text = PyUnicode_Check(note) ? PyUnicode_AsUTF8(note) : nullptr;
    if (text != nullptr && std::string_view(text).starts_with(head)) static_cast<void>(PySequence_DelItem(notes, i));
  }
  PyErr_Clear();
  Py_XDECREF(notes);
}

// Steals the note. Before Python 3.11 there are none.
void add_note(PyObject* error, PyObject* note) {
  PyObject* none = note == nullptr ? nullptr : PyObject_CallMethod(error, "add_note", "O", note);
  if (none == nullptr) PyErr_Clear();
  Py_XDECREF(none);
  Py_XDECREF(note);
}

// Between groups: other threads, and signal handlers in the main one. An iterator in C gives neither a chance. False: an error is
// set.
bool let_others_run() {
  Py_BEGIN_ALLOW_THREADS;
  Py_END_ALLOW_THREADS;
  return PyErr_CheckSignals() == 0;
}

// --- put_many ---------------------------------------------------------------------------------------------------------

struct Group {
  std::size_t drawn;    // items from the iterable; a strong reference each, until it is put
  std::size_t encoded;  // messages of the first ones
  std::size_t put;
  bool last;  // the iterable has no more
  std::array<PyObject*, kGroupItems> items;
  Messages messages;

  [[nodiscard]] std::span<const Message> rest() const { return {messages.at.data() + put, encoded - put}; }
};

// Fills the group. False: an error is set, of the iterable or of the last item's encoding; what was drawn is in the group.
bool draw(PyObject* self, PyObject* iterator, bool lazy, Group& group) {
  group.drawn = group.encoded = group.put = 0;
  group.last = false;
  std::uint64_t bytes = 0;
  const Nanoseconds begin = lazy ? monotonic_now() : 0;
  while (group.drawn < kGroupItems && bytes < kGroupBytes) {
    PyObject* item = PyIter_Next(iterator);
    if (item == nullptr) {
      group.last = true;
      return PyErr_Occurred() == nullptr;
    }
    group.items[group.drawn++] = item;
    Message& message = group.messages.at[group.encoded];
    message = is_private_queue(self) ? message_of_reference(item) : Message();
    if (!is_private_queue(self) && !encode_item(self, item, &message)) return false;
    ++group.encoded;
    bytes += message.size;
    if (lazy && monotonic_now() - begin >= kGroupTime) break;
  }
  return true;
}

// Puts what was encoded. False: an error is set.
bool put_group(PyObject* self, Group& group, Deadline deadline) {
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  while (group.put < group.encoded) {
    std::size_t put = 0;
    QueueOutcome outcome = queue.try_put_many(place, group.rest(), put);
    if (is_private_queue(self)) {
      group.put += put;  // the references are the queue's
    } else {
      for (; put != 0; --put) Py_DECREF(group.items[group.put++]);
    }
    if (outcome == QueueOutcome::kFull && deadline.is_immediate()) outcome = QueueOutcome::kTimedOut;
    if (outcome == QueueOutcome::kFull || outcome == QueueOutcome::kBusy) {
      const std::uint64_t size = group.messages.at[group.put].size;
      outcome =
          queue_wait_detached(deadline, [&](WaitContext& context) { return queue.wait_not_full(place, context, size); });
    }
    if (outcome != QueueOutcome::kDone) {
      raise_queue(self, outcome, Import::kQueueFull);
      return false;
    }
  }
  return true;
}

// The items of a group that were not put, a new list; their messages are given back. Null: no memory; they are dropped.
PyObject* give_back(PyObject* self, Group& group) {
  if (!is_private_queue(self)) {
    for (std::size_t i = group.put; i < group.encoded; ++i) discard(place_of(self), group.messages.at[i]);
  }
  PyObject* items = PyList_New(static_cast<Py_ssize_t>(group.drawn - group.put));
  for (std::size_t i = group.put; i < group.drawn; ++i) {
    if (items == nullptr) {
      Py_DECREF(group.items[i]);
    } else {
      PyList_SET_ITEM(items, static_cast<Py_ssize_t>(i - group.put), group.items[i]);
    }
  }
  return items;
}

// The error of a failed group, from what drawing raised (null: nothing) and what putting has set (or not).
PyObject* error_of_group(PyObject* drawing) {
  PyObject* putting = take_exception();
  if (putting == nullptr) return drawing;
  if (drawing != nullptr && PyErr_GivenExceptionMatches(drawing, PyExc_Exception) == 0) {
    Py_DECREF(putting);  // the queue was only tried
    return drawing;
  }
  if (drawing != nullptr) PyException_SetContext(putting, drawing);
  return putting;
}

PyObject* put_items(PyObject* self, PyObject* iterator, bool lazy, Deadline deadline) {
  Group group;
  std::size_t put = 0;
  for (;;) {
    PyObject* error = draw(self, iterator, lazy, group) ? nullptr : take_exception();
    // As if one by one: what came before an error is put. After a KeyboardInterrupt nothing is waited for.
    const bool wait = error == nullptr || PyErr_GivenExceptionMatches(error, PyExc_Exception) != 0;
    const bool done = put_group(self, group, wait ? deadline : Deadline::immediate());
    put += group.put;
    if (done && error == nullptr) {
      if (group.last) Py_RETURN_NONE;
      if (let_others_run()) continue;
    }
    error = error_of_group(error);
    PyObject* remaining = give_back(self, group);
    drop_notes(error, "put_many() had put ");
    add_note(error, PyUnicode_FromFormat("put_many() had put %zu items; `remaining` has the %zu that it had drawn besides", put,
                                         group.drawn - group.put));
    set_on(error, "put_count", PyLong_FromSize_t(put));
    set_on(error, "remaining", remaining);
    give_exception(error);
    return nullptr;
  }
}

// --- get_many ---------------------------------------------------------------------------------------------------------

// Appends the items of messages that were taken. Of those that cannot be rebuilt the first one's error goes to `error`, where
// that is null, and every other error takes its item's place.
void unpack(PyObject* self, std::span<Message> messages, PyObject* items, PyObject** error) {
  for (Message& message : messages) {
    PyObject* item = decode_item(self, message);
    if (item == nullptr && *error != nullptr) item = take_exception();
    if (item == nullptr || PyList_Append(items, item) != 0) {
      PyObject* failure = take_exception();
      if (*error == nullptr) {
        *error = failure;
      } else {
        Py_DECREF(failure);
      }
    }
    Py_XDECREF(item);
  }
}

// Sets `error` (stolen), with what the call had taken besides (stolen); null.
PyObject* fail_with_items(PyObject* error, PyObject* items) {
  const Py_ssize_t count = PyList_GET_SIZE(items);
  if (count != 0) add_note(error, PyUnicode_FromFormat("get_many() had taken %zd items besides; items has them", count));
  set_on(error, "items", items);
  give_exception(error);
  return nullptr;
}

PyObject* get_items(PyObject* self, std::size_t most, Deadline deadline) {
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  PyObject* items = PyList_New(0);
  if (items == nullptr) return nullptr;
  Messages messages;
  for (std::size_t taken = 0;;) {
    std::size_t got = 0;
    QueueOutcome outcome = queue.try_get_many(place, std::span(messages.at).first(std::min(most - taken, kGroupItems)), got);
    if (outcome == QueueOutcome::kDone) {
      if (taken == 0) {
        most = std::min<std::size_t>(most, got + queue.size());  // what is there now, however fast it is refilled
        deadline = Deadline::immediate();
      }
      taken += got;
      PyObject* error = nullptr;
      unpack(self, std::span(messages.at).first(got), items, &error);
      if (error != nullptr) return fail_with_items(error, items);
      if (taken == most) return items;
      if (!let_others_run()) return fail_with_items(take_exception(), items);
      continue;
    }
    if (outcome == QueueOutcome::kEmpty && deadline.is_immediate()) outcome = QueueOutcome::kTimedOut;
    if (outcome == QueueOutcome::kEmpty || outcome == QueueOutcome::kBusy) {
      outcome = queue_wait_detached(deadline, [&](WaitContext& context) { return queue.wait_not_empty(place, context); });
    }
    if (outcome == QueueOutcome::kDone) continue;
    if (taken != 0 && outcome != QueueOutcome::kInterrupted) return items;
    if (taken != 0) return fail_with_items(take_exception(), items);
    Py_DECREF(items);
    return raise_queue(self, outcome, Import::kQueueEmpty);
  }
}

// The number that max_items means, null where it was left out. False: an error is set.
bool most_of(PyObject* max_items, std::size_t* most) {
  *most = std::numeric_limits<std::size_t>::max();
  if (max_items == nullptr || max_items == Py_None) return true;
  const Py_ssize_t count = PyNumber_AsSsize_t(max_items, nullptr);
  if (count == -1 && PyErr_Occurred() != nullptr) return false;
  if (count <= 0) {
    PyErr_Format(PyExc_ValueError, "'max_items' must be a positive number or None, not %R", max_items);
    return false;
  }
  *most = static_cast<std::size_t>(count);
  return true;
}

}  // namespace

PyObject* queue_put_many(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"iterable", "block", "timeout"};
  static constexpr Signature kSignature{"put_many", kNames, 3, 3, 1};
  std::array<PyObject*, 3> values{};
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  if (!queue_deadline(values[1], values[2], &deadline)) return nullptr;
  PyObject* iterator = PyObject_GetIter(values[0]);
  if (iterator == nullptr) return nullptr;
  const bool lazy = !PyList_CheckExact(values[0]) && !PyTuple_CheckExact(values[0]);
  PyObject* result = put_items(self, iterator, lazy, deadline);
  Py_DECREF(iterator);
  return result;
}

PyObject* queue_get_many(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"max_items", "block", "timeout"};
  static constexpr Signature kSignature{"get_many", kNames, 3, 3, 0};
  std::array<PyObject*, 3> values{};
  Deadline deadline = Deadline::never();
  std::size_t most = 0;
  if (!bind(kSignature, args, nargs, kwnames, values.data())) return nullptr;
  if (!most_of(values[0], &most) || !queue_deadline(values[1], values[2], &deadline)) return nullptr;
  return get_items(self, most, deadline);
}

}  // namespace freethreading::binding
