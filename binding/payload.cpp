#include "payload.hpp"

#include <cstring>

#include "handle.hpp"
#include "placement.hpp"
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

bool fill_block(PyObject* self, PyObject* payload, PyObject* shared, Message* message) {
  State* state = state_of(self);
  const Ref objects = shared == nullptr ? Ref::take(PyTuple_New(0)) : Ref::take(PySequence_Tuple(shared));
  if (state == nullptr || !objects) return false;
  const Py_ssize_t count = PyTuple_GET_SIZE(objects.get());
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* object = PyTuple_GET_ITEM(objects.get(), i);
    if (!is_proxy(state, object) || proxy_of(object)->header == nullptr) {
      PyErr_Format(PyExc_TypeError, "%s is not a shared object of freethreading", Py_TYPE(object)->tp_name);
      return false;
    }
  }
  Place& place = place_of(self);
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(payload));
  if (!allocate_block(place, *message, size, static_cast<std::size_t>(count))) {
    PyErr_Format(PyExc_MemoryError, "no shared memory for an item of %zu bytes", size);
    return false;
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    // It has a proxy; only in a process that has left its sessions is it gone all the same.
    if (!carry(place, *message, handle_of_proxy(proxy_of(PyTuple_GET_ITEM(objects.get(), i))))) {
      PyErr_SetString(PyExc_RuntimeError, "this process has left the session whose object it sends");
      discard(place, *message);
      return false;
    }
  }
  copy_bytes(payload_of(place, *message), PyBytes_AS_STRING(payload), size);
  return true;
}

PyObject* bytes_of_block(Place& place, const Message& message) {
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(message.size));
  if (bytes == nullptr) return nullptr;
  copy_bytes(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes)),
             payload_of(place, message), message.size);
  return bytes;
}

}  // namespace freethreading::binding
