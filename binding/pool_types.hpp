// What the engines' types share: they lie in the region always, have no __init__, and are opened by their handles.
#pragma once

#include <new>

#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "freethreading/pool/worker_record.hpp"
#include "handle.hpp"
#include "placement.hpp"
#include "state.hpp"

namespace freethreading::binding {

// tp_new's work: a proxy of a new object in the region. `prepare(place, body)` gets a zeroed body; false: no memory.
template <class Body, class Prepare>
PyObject* new_pool_object(PyTypeObject* type, ObjectType object_type, Prepare prepare) {
  State* state = state_of_type(type);
  if (state == nullptr) return nullptr;
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  ObjectHeader* header = new_object(state, object_type, sizeof(Body));
  if (header == nullptr) {
    Py_DECREF(self);
    return nullptr;
  }
  Place& place = default_session(state)->place();
  Body* body = new (header->body<Body>()) Body();
  if (!prepare(place, *body)) {
    place.free(place.offset_of(header));
    Py_DECREF(self);
    return PyErr_NoMemory();
  }
  publish(state, proxy_of(self), header);
  return self;
}

// The class method open(handle).
PyObject* open_pool_object(PyTypeObject* type, PyObject* bytes, ObjectType object_type);
// The attribute `handle`.
PyObject* handle_attribute(PyObject* self, void* closure);
// The struct of a WorkerRecord object; null with a TypeError for anything else. `self`: any object of the module.
WorkerRecord* record_of(PyObject* self, PyObject* object);

}  // namespace freethreading::binding
