// handle_of(), open_handle() and open_as().
#include "handle.hpp"

#include <array>
#include <cstring>
#include <limits>
#include <type_traits>

#include "args.hpp"
#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

constexpr std::uint64_t kMagic = 0x0001656c646e6168;  // "handle", version 1
using Words = std::array<std::uint64_t, 5>;
static_assert(sizeof(Words) == kHandleSize);

PyTypeObject* type_of_object(State* state, ObjectType type) {
  switch (type) {
    case ObjectType::kLock:
      return state->type(TypeIndex::kLock);
    case ObjectType::kRLock:
      return state->type(TypeIndex::kRLock);
    case ObjectType::kSemaphore:
      return state->type(TypeIndex::kSemaphore);
    case ObjectType::kBoundedSemaphore:
      return state->type(TypeIndex::kBoundedSemaphore);
    case ObjectType::kCondition:
      return state->type(TypeIndex::kCondition);
    case ObjectType::kEvent:
      return state->type(TypeIndex::kEvent);
    case ObjectType::kBarrier:
      return state->type(TypeIndex::kBarrier);
    case ObjectType::kQueue:
      return state->type(TypeIndex::kQueue);
    case ObjectType::kSimpleQueue:
      return state->type(TypeIndex::kSimpleQueue);
    case ObjectType::kAtomicInt64:
      return state->type(TypeIndex::kAtomicInt64);
    case ObjectType::kSharedBuffer:
      return state->type(TypeIndex::kSharedBuffer);
    default:
      return nullptr;
  }
}

PyObject* handle_of(PyObject* module, PyObject* object) {
  State* state = state_of_module(module);
  if (is_proxy(state, object)) {
    const Proxy* proxy = proxy_of(object);
    if (proxy->header != nullptr) return bytes_of_handle(handle_of_proxy(proxy));
    return PyErr_Format(PyExc_TypeError, "this %s was made for threads: it has no handle (make it with shared=True)",
                        Py_TYPE(object)->tp_name);
  }
  return PyErr_Format(PyExc_TypeError, "%s is not a shared object of freethreading", Py_TYPE(object)->tp_name);
}

PyObject* open_handle(PyObject* module, PyObject* bytes) {
  State* state = state_of_module(module);
  Handle handle;
  if (!handle_of_bytes(bytes, &handle)) return nullptr;
  PyTypeObject* type = type_of_object(state, handle.type);
  if (type == nullptr) {
    return PyErr_Format(PyExc_ValueError, "a handle of an unknown type: %u", static_cast<unsigned>(handle.type));
  }
  // The Python object first: an object of the region once opened cannot be lost.
  PyObject* self = type->tp_new(type, nullptr, nullptr);
  if (self == nullptr) return nullptr;
  Session* session = nullptr;
  ObjectHeader* header = open_object(state, handle, &session);
  if (header == nullptr) {
    Py_DECREF(self);
    return nullptr;
  }
  attach_object(proxy_of(self), session, header);
  return self;
}

PyObject* open_as(PyObject* module, PyObject* const* args, Py_ssize_t nargs) {
  State* state = state_of_module(module);
  if (nargs != 3 || !PyType_Check(args[0]) || !PyTuple_Check(args[2])) {
    PyErr_SetString(PyExc_TypeError, "open_as() takes a class, a callable and its arguments");
    return nullptr;
  }
  auto* type = reinterpret_cast<PyTypeObject*>(args[0]);
  const Ref opened = Ref::take(PyObject_CallObject(args[1], args[2]));
  if (!opened) return nullptr;
  PyTypeObject* base = Py_TYPE(opened.get());
  if (!is_proxy_type(state, base) || PyType_IsSubtype(type, base) == 0 || proxy_of(opened.get())->header == nullptr) {
    return PyErr_Format(PyExc_TypeError, "open_as() cannot make a %s of a %s", type->tp_name, base->tp_name);
  }
  PyObject* self = base->tp_new(type, nullptr, nullptr);
  if (self == nullptr) return nullptr;
  Proxy* proxy = proxy_of(opened.get());
  Session* session = proxy->place->session();
  session->add_reference(proxy->header);
  attach_object(proxy_of(self), session, proxy->header);
  return self;
}

PyMethodDef functions[] = {
    {"handle_of", handle_of, METH_O,
     "handle_of(obj, /)\n--\n\nThe bytes that name a shared object; a TypeError for one made for threads."},
    {"open_handle", open_handle, METH_O,
     "open_handle(handle, /)\n--\n\n"
     "The object that the handle names; HandleGoneError if it is gone, or its session is not attached here."},
    {"open_as", as_method(open_as), METH_FASTCALL,
     "open_as(cls, opener, args, /)\n--\n\nWhat opener(*args) opens, as an instance of the subclass cls."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

Handle handle_of_proxy(const Proxy* proxy) {
  return Handle{proxy->place->session()->id(), proxy->place->offset_of(proxy->header), proxy->header->generation,
                proxy->header->type};
}

PyObject* bytes_of_handle(const Handle& handle) {
  const Words words = {kMagic, handle.session, handle.offset, handle.generation, static_cast<std::uint64_t>(handle.type)};
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(words.data()), kHandleSize);
}

bool handle_of_bytes(PyObject* bytes, Handle* handle) {
  if (!PyBytes_Check(bytes)) {
    PyErr_Format(PyExc_TypeError, "a handle is bytes, not %s", Py_TYPE(bytes)->tp_name);
    return false;
  }
  Words words{};
  if (PyBytes_GET_SIZE(bytes) == kHandleSize) std::memcpy(words.data(), PyBytes_AS_STRING(bytes), kHandleSize);
  if (words[0] != kMagic || words[4] > std::numeric_limits<std::underlying_type_t<ObjectType>>::max()) {
    PyErr_SetString(PyExc_ValueError, "these bytes are not a handle of this version of freethreading");
    return false;
  }
  *handle = Handle{words[1], words[2], words[3], static_cast<ObjectType>(words[4])};
  return true;
}

Session* session_of_handle(State* state, const Handle& handle) {
  Session* session = Session::find(handle.session);
  if (session == nullptr) {
    raise(state, Import::kHandleGoneError,
          "this process does not have the memory in which the shared object lies; pass the object as an argument to the "
          "worker or process, or through a queue of its, instead of as bare pickled bytes");
  }
  return session;
}

ObjectHeader* open_object(State* state, const Handle& handle, Session** session) {
  *session = session_of_handle(state, handle);
  if (*session == nullptr) return nullptr;
  ObjectHeader* header = (*session)->open(handle);
  if (header == nullptr) {
    raise(state, Import::kHandleGoneError,
          "the shared object is gone: nothing referred to it any more (pickled bytes alone keep nothing alive)");
  }
  return header;
}

int add_handles(PyObject* module, State* /*state*/) { return PyModule_AddFunctions(module, functions); }

}  // namespace freethreading::binding
