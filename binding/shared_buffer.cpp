// freethreading.SharedBuffer over the core's SharedBuffer: its bytes by the buffer protocol.
#include "freethreading/memory/shared_buffer.hpp"

#include <utility>

#include "args.hpp"
#include "placement.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

constexpr std::size_t kDetached = std::size_t{1} << 20;  // making a larger one lets other threads run meanwhile

struct BufferObject {
  Proxy base;          // once it is in use, read and changed under the object's critical section, as is all that follows
  SharedBuffer own;    // empty: what a proxy begins with and ends with
  SharedBuffer* heap;  // private memory that it owns; null: none
  Py_ssize_t exports;  // views that there are
  bool released;       // it refers to no memory any more
};

BufferObject* buffer(PyObject* self) { return reinterpret_cast<BufferObject*>(self); }

bool check_not_released(bool released) {
  if (released) PyErr_SetString(PyExc_ValueError, "this SharedBuffer was released");
  return !released;
}

// -1: a ValueError, it was released.
Py_ssize_t buffer_length(PyObject* self) {
  Py_ssize_t size = 0;
  bool released = false;
  Py_BEGIN_CRITICAL_SECTION(self);
  released = buffer(self)->released;
  if (!released) size = static_cast<Py_ssize_t>(body_of<SharedBuffer>(self)->size());
  Py_END_CRITICAL_SECTION();
  return check_not_released(released) ? size : -1;
}

int buffer_get(PyObject* self, Py_buffer* view, int flags) {
  int result = -1;
  bool released = false;
  Py_BEGIN_CRITICAL_SECTION(self);
  released = buffer(self)->released;
  if (!released) {
    SharedBuffer* bytes = body_of<SharedBuffer>(self);
    result = PyBuffer_FillInfo(view, self, bytes->data(), static_cast<Py_ssize_t>(bytes->size()), 0, flags);
    if (result == 0) ++buffer(self)->exports;
  }
  Py_END_CRITICAL_SECTION();
  if (released) view->obj = nullptr;
  return check_not_released(released) ? result : -1;
}

void buffer_end_view(PyObject* self, Py_buffer* /*view*/) {
  Py_BEGIN_CRITICAL_SECTION(self);
  --buffer(self)->exports;
  Py_END_CRITICAL_SECTION();
}

PyObject* buffer_release(PyObject* self, PyObject* /*unused*/) {
  Proxy* proxy = proxy_of(self);
  Py_ssize_t exports = 0;
  ObjectHeader* header = nullptr;
  SharedBuffer* heap = nullptr;
  Py_BEGIN_CRITICAL_SECTION(self);
  exports = buffer(self)->exports;
  if (exports == 0) {
    header = std::exchange(proxy->header, nullptr);
    heap = std::exchange(buffer(self)->heap, nullptr);
    proxy->body = &buffer(self)->own;
    buffer(self)->released = true;
  }
  Py_END_CRITICAL_SECTION();
  if (exports != 0) {
    return PyErr_Format(PyExc_BufferError,
                        "a SharedBuffer cannot be released while views of it exist (%zd: memoryviews, NumPy arrays)", exports);
  }
  if (header != nullptr) proxy->place->session()->drop_reference(header);
  if (heap != nullptr) SharedBuffer::end_private(heap);
  Py_RETURN_NONE;
}

PyObject* buffer_enter(PyObject* self, PyObject* /*unused*/) {
  return buffer_length(self) < 0 ? nullptr : Py_NewRef(self);
}

PyObject* buffer_exit(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  PyObject* released = buffer_release(self, nullptr);
  const bool failing = nargs != 0 && args[0] != Py_None;
  if (released != nullptr || !failing || PyErr_ExceptionMatches(PyExc_BufferError) == 0) return released;
  PyErr_Clear();  // what left the block goes on, with views in its frames: they keep the memory
  Py_RETURN_NONE;
}

PyObject* buffer_nbytes(PyObject* self, void* /*unused*/) {
  const Py_ssize_t size = buffer_length(self);
  return size < 0 ? nullptr : PyLong_FromSsize_t(size);
}

// By a second proxy: a release() after the pickling does not take the memory from what is on its way.
PyObject* buffer_reduce(PyObject* self, PyObject* /*unused*/) {
  State* state = state_of(self);
  PyTypeObject* type = state == nullptr ? nullptr : state->type(TypeIndex::kSharedBuffer);
  const Ref substitute = type == nullptr ? Ref() : Ref::take(type->tp_new(type, nullptr, nullptr));
  if (!substitute) return nullptr;
  bool released = false;
  Py_BEGIN_CRITICAL_SECTION(self);
  const Proxy* proxy = proxy_of(self);
  released = buffer(self)->released;
  if (proxy->header != nullptr) {
    proxy->place->session()->add_reference(proxy->header);
    attach_object(proxy_of(substitute.get()), proxy->place->session(), proxy->header);
  }
  Py_END_CRITICAL_SECTION();
  return check_not_released(released) ? reduce_proxy_by(self, substitute.get(), nullptr) : nullptr;
}

PyObject* buffer_repr(PyObject* self) {
  const Py_ssize_t size = buffer_length(self);
  if (size >= 0) return PyUnicode_FromFormat("<%s at %p: %zd bytes>", Py_TYPE(self)->tp_name, self, size);
  PyErr_Clear();
  return PyUnicode_FromFormat("<%s at %p: released>", Py_TYPE(self)->tp_name, self);
}

PyObject* buffer_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_private<BufferObject, SharedBuffer>(type, std::uint64_t{0});
}

// False: TypeError, ValueError, or MemoryError for more than an address can reach.
bool size_of(PyObject* nbytes, std::size_t* size) {
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(nbytes, &overflow);
  if (value == -1 && overflow == 0 && PyErr_Occurred() != nullptr) return false;
  if (overflow > 0) {
    PyErr_Format(PyExc_MemoryError, "no memory for a SharedBuffer of %S bytes", nbytes);
    return false;
  }
  if (overflow < 0 || value < 0) {
    PyErr_Format(PyExc_ValueError, "nbytes must be >= 0, not %S", nbytes);
    return false;
  }
  *size = static_cast<std::size_t>(value);
  return true;
}

// Makes the bytes and has the proxy refer to them: in the session's region where there is one, else in private memory.
bool place_bytes(PyObject* self, Session* session, std::size_t size) {
  ObjectHeader* header = nullptr;
  SharedBuffer* heap = nullptr;
  const auto make = [&] {
    if (session != nullptr) {
      header = SharedBuffer::make_shared(*session, size);
    } else {
      heap = SharedBuffer::make_private(size);
    }
  };
  if (size < kDetached) {
    make();
  } else {
    Py_BEGIN_ALLOW_THREADS;
    make();
    Py_END_ALLOW_THREADS;
  }
  if (header == nullptr && heap == nullptr) {
    PyErr_Format(PyExc_MemoryError, "no memory for a SharedBuffer of %zu bytes", size);
    return false;
  }
  Proxy* proxy = proxy_of(self);
  if (header != nullptr) {
    static_cast<void>(session->publish_object(header));
    attach_object(proxy, session, header);
  } else {
    buffer(self)->heap = heap;
    proxy->body = heap;
    proxy->placed = true;
  }
  return true;
}

int buffer_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"nbytes", "shared"};
  static constexpr Signature kSignature{"SharedBuffer", kNames, 2, 1, 1};
  PyObject* values[2];
  std::size_t size = 0;
  if (!bind_call(kSignature, args, kwargs, values) || !size_of(values[0], &size)) return -1;
  if (proxy_of(self)->placed || buffer(self)->released || buffer(self)->exports != 0) {
    PyErr_Format(PyExc_RuntimeError, "this %s is in use: __init__ may be called once only", Py_TYPE(self)->tp_name);
    return -1;
  }
  State* state = state_of(self);
  const int region = state == nullptr ? -1 : wants_region(state, values[1]);
  if (region < 0) return -1;
  Session* session = region == 0 ? nullptr : default_session(state);
  if (region != 0 && session == nullptr) return -1;
  return place_bytes(self, session, size) ? 0 : -1;
}

void buffer_dealloc(PyObject* self) {
  SharedBuffer* heap = buffer(self)->heap;
  dealloc_proxy(self);
  if (heap != nullptr) SharedBuffer::end_private(heap);
}

PyMethodDef buffer_methods[] = {
    {"release", buffer_release, METH_NOARGS,
     "release($self, /)\n--\n\n"
     "Gives the memory up, here; others that have the buffer keep it. Using it afterwards is a ValueError, releasing it\n"
     "again does nothing.\n\n"
     "BufferError while views (memoryview, NumPy arrays) exist."},
    {"__enter__", buffer_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nThe buffer itself."},
    {"__exit__", as_method(buffer_exit), METH_FASTCALL, "__exit__($self, /, *exc_info)\n--\n\nReleases it. Where an exception leaves the block, views that still exist keep the memory."},
    {"__reduce__", buffer_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nHow a shared one goes to another process; a TypeError for one made for threads."},
    FT_NO_COPY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef buffer_properties[] = {
    {"nbytes", buffer_nbytes, nullptr, "How many bytes it has.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef buffer_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot buffer_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "SharedBuffer(nbytes, *, shared=None)\n--\n\n"
                    "Bytes, zero at first, that threads and, where it is shared, processes read and write in place.\n\n"
                    "It has the buffer protocol: memoryview(buffer) and numpy.frombuffer(buffer) are views of the memory,\n"
                    "which is aligned to 64 bytes, and keep it. Sent to another worker it arrives as the same memory,\n"
                    "whatever its size. Nothing guards the bytes: use a Lock, or give each worker its part. A with statement\n"
                    "releases it.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs. Raises MemoryError where there is not as much.")},
    {Py_tp_new, reinterpret_cast<void*>(buffer_new)},
    {Py_tp_init, reinterpret_cast<void*>(buffer_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(buffer_dealloc)},
    {Py_tp_repr, reinterpret_cast<void*>(buffer_repr)},
    {Py_tp_methods, buffer_methods},
    {Py_tp_getset, buffer_properties},
    {Py_tp_members, buffer_members},
    {Py_sq_length, reinterpret_cast<void*>(buffer_length)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(buffer_get)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(buffer_end_view)},
    {0, nullptr},
};

PyType_Spec buffer_spec = {"freethreading.SharedBuffer", sizeof(BufferObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, buffer_slots};

// address_of(object): where the first element lies of what has the buffer protocol.
PyObject* address_of(PyObject* /*module*/, PyObject* object) {
  Py_buffer view;
  if (PyObject_GetBuffer(object, &view, PyBUF_STRIDED_RO) != 0) return nullptr;
  PyObject* address = PyLong_FromVoidPtr(view.buf);
  PyBuffer_Release(&view);
  return address;
}

PyMethodDef functions[] = {
    {"address_of", address_of, METH_O, "address_of(object, /)\n--\n\nWhere the first element of a buffer lies."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_shared_buffer(PyObject* module, State* state) {
  if (add_type(module, state, TypeIndex::kSharedBuffer, &buffer_spec) == nullptr) return -1;
  return PyModule_AddFunctions(module, functions);
}

}  // namespace freethreading::binding
