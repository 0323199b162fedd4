#include "payload.hpp"

#include <cstring>

#include "handle.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

constexpr std::size_t kCopyDetached = 1 << 20;  // a longer copy lets other threads run meanwhile

void copy_bytes(std::byte* target, const void* source, std::size_t size) {
  if (size < kCopyDetached) {
    std::memcpy(target, source, size);
    return;
  }
  Py_BEGIN_ALLOW_THREADS;
  std::memcpy(target, source, size);
  Py_END_ALLOW_THREADS;
}

}  // namespace

bool fill_block(Place& place, PyObject* payload, PyObject* handles, Message* message) {
  const Ref list = handles == nullptr ? Ref::take(PyTuple_New(0)) : Ref::take(PySequence_Tuple(handles));
  if (!list) return false;
  const auto count = static_cast<std::size_t>(PyTuple_GET_SIZE(list.get()));
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(payload));
  const Offset block = place.allocate(count * sizeof(Handle) + size);
  if (block == kNoOffset) {
    PyErr_Format(PyExc_MemoryError, "no shared memory for an item of %zu bytes", size);
    return false;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (!handle_of_bytes(PyTuple_GET_ITEM(list.get(), static_cast<Py_ssize_t>(i)), place.at<Handle>(block) + i)) {
      place.free(block);
      return false;
    }
  }
  copy_bytes(place.at<std::byte>(block) + count * sizeof(Handle), PyBytes_AS_STRING(payload), size);
  message->block = block;
  message->size = size;
  message->handles = static_cast<std::uint32_t>(count);
  return true;
}

PyObject* list_of_handles(Place& place, const Message& message) {
  Ref list = Ref::take(PyList_New(message.handles));
  if (!list) return nullptr;
  for (std::uint32_t i = 0; i < message.handles; ++i) {
    PyObject* bytes = bytes_of_handle(place.at<Handle>(message.block)[i]);
    if (bytes == nullptr) return nullptr;
    PyList_SET_ITEM(list.get(), i, bytes);
  }
  return list.release();
}

PyObject* bytes_of_block(Place& place, const Message& message) {
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(message.size));
  if (bytes == nullptr) return nullptr;
  copy_bytes(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes)),
       place.at<std::byte>(message.block) + sizeof(Handle) * message.handles, message.size);
  return bytes;
}

}  // namespace freethreading::binding
