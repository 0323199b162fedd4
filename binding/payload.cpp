#include "payload.hpp"

#include <algorithm>
#include <cstring>

#include "copy.hpp"
#include "handle.hpp"
#include "placement.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::uint64_t kReadOnly = std::uint64_t{1} << 63;

struct BufferTable {
  std::uint64_t count;
  std::uint64_t pickle;

  struct Entry {
    std::uint64_t offset;
    std::uint64_t size;
  };
  Entry* entries() { return reinterpret_cast<Entry*>(this + 1); }
};

std::size_t aligned(std::size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

Py_ssize_t length_of(PyObject* sequence) { return sequence == nullptr ? 0 : PySequence_Fast_GET_SIZE(sequence); }

// Whether all are shared objects; else an error is set.
bool check_shared(const State* state, PyObject* shared) {
  for (Py_ssize_t i = 0; i < length_of(shared); ++i) {
    PyObject* object = PySequence_Fast_GET_ITEM(shared, i);
    if (!is_proxy(state, object) || proxy_of(object)->header == nullptr) {
      PyErr_Format(PyExc_TypeError, "%s is not a shared object of freethreading", Py_TYPE(object)->tp_name);
      return false;
    }
  }
  return true;
}

// A block for `size` bytes that keeps the objects alive.
bool allocate_for(PyObject* self, PyObject* shared, std::size_t size, Message* message) {
  State* state = state_of(self);
  if (state == nullptr || !check_shared(state, shared)) return false;
  Place& place = place_of(self);
  const Py_ssize_t count = length_of(shared);
  if (!allocate_block(place, *message, size, static_cast<std::size_t>(count))) {
    PyErr_Format(PyExc_MemoryError, "no shared memory for an item of %zu bytes", size);
    return false;
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    // It has a proxy; only in a process that has left its sessions is it gone all the same.
    if (!carry(place, *message, handle_of_proxy(proxy_of(PySequence_Fast_GET_ITEM(shared, i))))) {
      PyErr_SetString(PyExc_RuntimeError, "this process has left the session whose object it sends");
      discard(place, *message);
      return false;
    }
  }
  return true;
}

const Py_buffer* buffer_at(PyObject* buffers, Py_ssize_t index) {
  return PyMemoryView_GET_BUFFER(PyList_GET_ITEM(buffers, index));
}

// Whether the table, the pickle and the buffers lie within the payload's `size` bytes.
bool is_within(BufferTable* table, std::size_t size) {
  if (size < sizeof(BufferTable) || table->count > (size - sizeof(BufferTable)) / sizeof(BufferTable::Entry)) return false;
  if (table->pickle > size - sizeof(BufferTable) - table->count * sizeof(BufferTable::Entry)) return false;
  return std::all_of(table->entries(), table->entries() + table->count, [size](const BufferTable::Entry& entry) {
    return entry.offset <= size && (entry.size & ~kReadOnly) <= size - entry.offset;
  });
}

// The views of a block's buffers, a new list. `block` is a Block's memoryview, its first byte the table's.
PyObject* views_of(PyObject* block, BufferTable* table) {
  Ref views = Ref::take(PyList_New(static_cast<Py_ssize_t>(table->count)));
  for (std::uint64_t i = 0; views && i < table->count; ++i) {
    const BufferTable::Entry& entry = table->entries()[i];
    const auto begin = static_cast<Py_ssize_t>(entry.offset);
    const auto end = begin + static_cast<Py_ssize_t>(entry.size & ~kReadOnly);
    Ref view = Ref::take(PySequence_GetSlice(block, begin, end));
    if (view && (entry.size & kReadOnly) != 0) view = Ref::take(PyObject_CallMethod(view.get(), "toreadonly", nullptr));
    if (!view) return nullptr;
    PyList_SET_ITEM(views.get(), static_cast<Py_ssize_t>(i), view.release());
  }
  return views.release();
}

}  // namespace

bool fill_block(PyObject* self, PyObject* payload, PyObject* shared, Message* message) {
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(payload));
  if (!allocate_for(self, shared, size, message)) return false;
  copy_bytes(payload_of(place_of(self), *message), PyBytes_AS_STRING(payload), size);
  return true;
}

bool fill_block_with_buffers(PyObject* self, PyObject* payload, PyObject* shared, PyObject* buffers, Message* message) {
  const Py_ssize_t count = PyList_GET_SIZE(buffers);
  const auto pickle = static_cast<std::size_t>(PyBytes_GET_SIZE(payload));
  const std::size_t head = sizeof(BufferTable) + static_cast<std::size_t>(count) * sizeof(BufferTable::Entry);
  std::size_t size = aligned(head + pickle);
  for (Py_ssize_t i = 0; i < count; ++i) size += aligned(static_cast<std::size_t>(buffer_at(buffers, i)->len));
  // Whatever is in front of the payload, a Carried, keeps the alignment: the buffers begin at the payload's next multiple.
  if (!allocate_for(self, shared, size + kAlignment, message)) return false;
  message->kind = kBuffers;
  std::byte* begin = payload_of(place_of(self), *message);
  auto* table = reinterpret_cast<BufferTable*>(begin);
  table->count = static_cast<std::uint64_t>(count);
  table->pickle = pickle;
  std::memcpy(begin + head, PyBytes_AS_STRING(payload), pickle);
  const std::size_t shift = payload_offset(message->handles) % kAlignment;
  std::size_t offset = aligned(shift + head + pickle) - shift;
  for (Py_ssize_t i = 0; i < count; ++i) {
    const Py_buffer* buffer = buffer_at(buffers, i);
    const auto length = static_cast<std::size_t>(buffer->len);
    table->entries()[i] = {offset, length | (buffer->readonly != 0 ? kReadOnly : 0)};
    copy_bytes(begin + offset, buffer->buf, length);
    offset += aligned(length);
  }
  return true;
}

PyObject* bytes_of_block(Place& place, const Message& message) {
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(message.size));
  if (bytes == nullptr) return nullptr;
  copy_to_fresh(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes)), payload_of(place, message), message.size);
  return bytes;
}

PyObject* parts_of_block(PyObject* self, Message& message) {
  Place& place = place_of(self);
  if (message.is_inline() || !is_within(reinterpret_cast<BufferTable*>(payload_of(place, message)), message.size)) {
    discard(place, message);
    PyErr_SetString(PyExc_ValueError, "malformed item with buffers");
    return nullptr;
  }
  auto* table = reinterpret_cast<BufferTable*>(payload_of(place, message));
  const auto head = static_cast<Py_ssize_t>(sizeof(BufferTable) + table->count * sizeof(BufferTable::Entry));
  const auto size = static_cast<Py_ssize_t>(table->pickle);
  const Ref block = Ref::take(block_of(self, message));
  const Ref whole = block ? Ref::take(PyMemoryView_FromObject(block.get())) : Ref();
  const Ref pickle = whole ? Ref::take(PySequence_GetSlice(whole.get(), head, head + size)) : Ref();
  const Ref views = pickle ? Ref::take(views_of(whole.get(), table)) : Ref();
  return views ? PyTuple_Pack(2, pickle.get(), views.get()) : nullptr;
}

PyObject* load_block(PyObject* self, PyObject* loads, Message& message) {
  if (message.kind == kBuffers) {
    const Ref parts = Ref::take(parts_of_block(self, message));
    return parts ? PyObject_CallObject(loads, parts.get()) : nullptr;
  }
  const Ref block = Ref::take(block_of(self, message));
  const Ref pickle = block ? Ref::take(PyMemoryView_FromObject(block.get())) : Ref();
  return pickle ? PyObject_CallOneArg(loads, pickle.get()) : nullptr;
}

}  // namespace freethreading::binding
