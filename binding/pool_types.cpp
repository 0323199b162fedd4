#include "pool_types.hpp"

namespace freethreading::binding {

PyObject* open_pool_object(PyTypeObject* type, PyObject* bytes, ObjectType object_type) {
  State* state = state_of_type(type);
  Handle handle;
  if (state == nullptr || !handle_of_bytes(bytes, &handle)) return nullptr;
  if (handle.type != object_type) return PyErr_Format(PyExc_ValueError, "this is not the handle of a %s", type->tp_name);
  PyObject* self = type->tp_alloc(type, 0);
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

PyObject* handle_attribute(PyObject* self, void* /*closure*/) { return bytes_of_handle(handle_of_proxy(proxy_of(self))); }

WorkerRecord* record_of(PyObject* self, PyObject* object) {
  const State* state = state_of(self);
  if (state == nullptr) return nullptr;
  if (!PyObject_TypeCheck(object, state->type(TypeIndex::kWorkerRecord))) {
    PyErr_Format(PyExc_TypeError, "record must be a WorkerRecord, not %s", Py_TYPE(object)->tp_name);
    return nullptr;
  }
  return body_of<WorkerRecord>(object);
}

}  // namespace freethreading::binding
