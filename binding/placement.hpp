// Proxy: the Python object in front of one struct of the core, and where that struct lies.
//
//   place     the struct (body)                  header    ends
//   private   inside the Python object itself    null      with the Python object
//   region    behind an ObjectHeader             that      when the last proxy of any process and the last message that
//                                                          carries a handle are gone
//
// A proxy is usable from the moment it is made: tp_new puts a default struct in private memory, and tp_init (or open_handle)
// replaces it once. So methods never have to ask whether __init__ ran. Methods reach the struct by one load, body.
#pragma once

#include <new>
#include <utility>

#include "compat.hpp"
#include "freethreading/memory/object.hpp"
#include "freethreading/place.hpp"
#include "state.hpp"

namespace freethreading::binding {

struct Proxy {
  PyObject_HEAD
  PyObject* weak_references;
  Place* place;
  void* body;
  ObjectHeader* header;  // null in private memory
  bool placed;           // __init__ ran, or a handle was opened
};

// A Proxy with room for its private struct.
template <class Body>
struct ProxyOf {
  Proxy base;
  Body own;
};

template <class Body>
Body* body_of(PyObject* self) {
  return static_cast<Body*>(reinterpret_cast<Proxy*>(self)->body);
}
inline Proxy* proxy_of(PyObject* self) { return reinterpret_cast<Proxy*>(self); }
inline Place& place_of(PyObject* self) { return *reinterpret_cast<Proxy*>(self)->place; }

// Whether it is an instance of a type of ours with a Proxy, or of a subclass.
bool is_proxy(const State* state, PyObject* object);
// Whether `type` is such a type itself.
bool is_proxy_type(const State* state, const PyTypeObject* type);

// tp_new's work: a proxy over Body(arguments...) in private memory.
template <class Object, class Body, class... Arguments>
PyObject* new_private(PyTypeObject* type, Arguments... arguments) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  Proxy* proxy = proxy_of(self);
  proxy->place = &Place::private_memory();
  proxy->body = new (&reinterpret_cast<Object*>(self)->own) Body(arguments...);
  return self;
}

// Whether `shared` (a keyword's value, null where it was left out) asks for the region: 1, 0, or -1 with an error. None asks
// the back end.
int wants_region(State* state, PyObject* shared);

// A block of the default session for a body of `size` bytes; the first one opens the session. Null: an error is set.
ObjectHeader* new_object(State* state, ObjectType type, std::size_t size);
// Makes it live as the proxy's.
void attach_object(Proxy* proxy, Session* session, ObjectHeader* header);
void publish(State* state, Proxy* proxy, ObjectHeader* header);

// The session in which shared objects are made, opened when there is none yet; null with an error.
Session* default_session(State* state);
// Makes `session` the default one from now on: what a child makes can go back to who gave it the session. Has the fork hooks
// registered. False: an error is set.
bool use_session(State* state, Session* session);

// tp_init's work: puts Body(arguments...) where `shared` says, once in the proxy's life. False: an error is set.
template <class Body, class... Arguments>
bool place_body(PyObject* self, State* state, PyObject* shared, ObjectType type, Arguments... arguments) {
  Proxy* proxy = proxy_of(self);
  if (proxy->placed) {
    PyErr_Format(PyExc_RuntimeError, "this %s is in use: __init__ may be called once only", Py_TYPE(self)->tp_name);
    return false;
  }
  const int region = wants_region(state, shared);
  if (region < 0) return false;
  if (region == 0) {
    new (proxy->body) Body(arguments...);
    proxy->placed = true;
    return true;
  }
  ObjectHeader* header = new_object(state, type, sizeof(Body));
  if (header == nullptr) return false;
  new (header->body<Body>()) Body(arguments...);
  publish(state, proxy, header);
  return true;
}

// tp_dealloc's work for a type without references to other Python objects.
void dealloc_proxy(PyObject* self);
// For a type with references: what comes before tp_free, after PyObject_GC_UnTrack.
void release_proxy(PyObject* self);

// The methods __reduce__, __copy__ and __deepcopy__ that every type has (FT_PROXY_METHODS; with a __reduce__ of its own,
// FT_NO_COPY_METHODS).
PyObject* reduce_proxy(PyObject* self, PyObject* unused);
PyObject* refuse_copy(PyObject* self, PyObject* unused);
// __reduce__ of a type with state of its own: `own_state` (stolen) is a tuple, null for none. An instance of a
// subclass arrives as one, with what its __getstate__() gives (its attributes); its __init__ is not called again.
PyObject* reduce_proxy_with(PyObject* self, PyObject* own_state);
// The same with a proxy of the base type that stands in for `self`: it is what lives as long as the pickle is on its way.
PyObject* reduce_proxy_by(PyObject* self, PyObject* substitute, PyObject* own_state);
// __setstate__'s first half: sets the attributes, and returns reduce_proxy_with()'s `own_state`, borrowed; null: an error.
PyObject* own_state_of(PyObject* self, PyObject* saved);

#define FT_PROXY_METHODS                                                                                            \
  {"__reduce__", reduce_proxy, METH_NOARGS,                                                                         \
   "__reduce__($self, /)\n--\n\nHow a shared one goes to another process; a TypeError for one made for threads."}, \
      FT_NO_COPY_METHODS
#define FT_NO_COPY_METHODS                                                                                            \
  {"__copy__", refuse_copy, METH_NOARGS, "__copy__($self, /)\n--\n\nA TypeError: there is no second one."}, {         \
    "__deepcopy__", refuse_copy, METH_O, "__deepcopy__($self, memo, /)\n--\n\nA TypeError: there is no second one." \
  }

// The member that makes weak references possible.
#define FT_PROXY_MEMBERS \
  { "__weaklistoffset__", T_PYSSIZET, offsetof(Proxy, weak_references), READONLY, nullptr }

}  // namespace freethreading::binding
