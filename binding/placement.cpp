#include "placement.hpp"

#include <algorithm>

#include "backend.hpp"
#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

// Has Python register its hooks for fork and exit, once a session is there. False: an error is set.
bool announce_session(State* state) {
  // Relaxed: a thread that reads false announces once more, which session_opened() allows for.
  if (state->session_announced.load(std::memory_order_relaxed)) return true;
  PyObject* opened = imported(state, Import::kSessionOpened);
  if (opened == nullptr || !Ref::take(PyObject_CallNoArgs(opened))) return false;
  state->session_announced.store(true, std::memory_order_relaxed);
  return true;
}

constexpr auto kProxyTypes = static_cast<std::ptrdiff_t>(TypeIndex::kSupervisor);

// Sets the attributes that state_of() gave: a dict, or a pair of dicts, the second one for __slots__.
bool set_attributes(PyObject* self, PyObject* attributes) {
  PyObject* dict = attributes;
  PyObject* slots = Py_None;
  if (PyTuple_Check(attributes) && PyTuple_GET_SIZE(attributes) == 2) {
    dict = PyTuple_GET_ITEM(attributes, 0);
    slots = PyTuple_GET_ITEM(attributes, 1);
  }
  if (dict != Py_None) {
    const Ref own = Ref::take(PyObject_GetAttrString(self, "__dict__"));
    if (!own || PyDict_Update(own.get(), dict) != 0) return false;
  }
  if (slots == Py_None) return true;
  const Ref items = Ref::take(PyMapping_Items(slots));
  if (!items) return false;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items.get()); ++i) {
    PyObject* item = PyList_GET_ITEM(items.get(), i);
    if (PyObject_SetAttr(self, PyTuple_GET_ITEM(item, 0), PyTuple_GET_ITEM(item, 1)) != 0) return false;
  }
  return true;
}

}  // namespace

bool is_proxy_type(const State* state, const PyTypeObject* type) {
  return std::find(state->types.begin(), state->types.begin() + kProxyTypes, type) != state->types.begin() + kProxyTypes;
}

bool is_proxy(const State* state, PyObject* object) {
  return std::any_of(state->types.begin(), state->types.begin() + kProxyTypes, [object](PyTypeObject* type) {
    return type != nullptr && PyObject_TypeCheck(object, type);
  });
}

int wants_region(State* state, PyObject* shared) {
  if (shared != nullptr && shared != Py_None) return PyObject_IsTrue(shared);
  Backend backend = Backend::kThreading;
  if (!backend_now(state, &backend)) return -1;
  return backend == Backend::kMultiprocessing ? 1 : 0;
}

bool use_session(State* state, Session* session) {
  state->session.store(session);
  return announce_session(state);
}

Session* default_session(State* state) {
  // sync: SESSION (acquire): the session was complete before another thread stored it; pairs with use_session's exchange.
  Session* session = state->session.load(std::memory_order_acquire);
  if (session != nullptr) return announce_session(state) ? session : nullptr;
  SessionResult result;
  // One thread makes it, the others then find it.
  Py_BEGIN_CRITICAL_SECTION(state->module);
  result.session = state->session.load(std::memory_order_acquire);
  if (result.session == nullptr) {
    result = Session::create();
    if (result.session != nullptr) state->session.store(result.session);
  }
  Py_END_CRITICAL_SECTION();
  if (result.session == nullptr) {
    raise_session_error(result);
    return nullptr;
  }
  return announce_session(state) ? result.session : nullptr;
}

ObjectHeader* new_object(State* state, ObjectType type, std::size_t size) {
  Session* session = default_session(state);
  if (session == nullptr) return nullptr;
  ObjectHeader* header = session->create_object(type, size);
  if (header == nullptr) {
    SessionResult full;
    full.error = SessionError::kNoMemory;
    raise_session_error(full);
  }
  return header;
}

void attach_object(Proxy* proxy, Session* session, ObjectHeader* header) {
  proxy->place = &session->place();
  proxy->header = header;
  proxy->body = header->body<std::byte>();
  proxy->placed = true;
}

void publish(State* state, Proxy* proxy, ObjectHeader* header) {
  // Relaxed: new_object() gave the header of this very session to this thread.
  Session* session = state->session.load(std::memory_order_relaxed);
  static_cast<void>(session->publish_object(header));
  attach_object(proxy, session, header);
}

void release_proxy(PyObject* self) {
  Proxy* proxy = proxy_of(self);
  if (proxy->weak_references != nullptr) PyObject_ClearWeakRefs(self);
  if (proxy->header != nullptr) proxy->place->session()->drop_reference(proxy->header);
}

void dealloc_proxy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  release_proxy(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* reduce_proxy(PyObject* self, PyObject* /*unused*/) { return reduce_proxy_with(self, nullptr); }

PyObject* reduce_proxy_with(PyObject* self, PyObject* own_state) { return reduce_proxy_by(self, self, own_state); }

PyObject* reduce_proxy_by(PyObject* self, PyObject* substitute, PyObject* own_state) {
  const Ref own = Ref::take(own_state);
  if (proxy_of(substitute)->header == nullptr) {
    PyErr_Format(PyExc_TypeError,
                 "this %s was made for threads and cannot go to another process; make it with shared=True or under "
                 "FREETHREADING_BACKEND=multiprocessing",
                 Py_TYPE(self)->tp_name);
    return nullptr;
  }
  State* state = state_of(self);
  PyObject* reduce = state == nullptr ? nullptr : imported(state, Import::kReduceShared);
  if (reduce == nullptr) return nullptr;
  Ref reduced = Ref::take(PyObject_CallOneArg(reduce, substitute));
  if (!reduced) return nullptr;
  const bool subclass = !is_proxy_type(state, Py_TYPE(self));
  if (!subclass && !own) return reduced.release();
  if (!PyTuple_Check(reduced.get()) || PyTuple_GET_SIZE(reduced.get()) != 2) {
    PyErr_SetString(PyExc_TypeError, "reduce_shared() must return a callable and its arguments");
    return nullptr;
  }
  PyObject* state_of_object = imported(state, Import::kStateOf);
  const Ref attributes = state_of_object == nullptr ? Ref() : Ref::take(PyObject_CallOneArg(state_of_object, self));
  const Ref saved = !attributes ? Ref() : own ? Ref::take(PyTuple_Pack(2, own.get(), attributes.get()))
                                              : Ref::share(attributes.get());
  if (!saved) return nullptr;
  PyObject* rebuild = PyTuple_GET_ITEM(reduced.get(), 0);
  PyObject* arguments = PyTuple_GET_ITEM(reduced.get(), 1);
  if (!subclass) return PyTuple_Pack(3, rebuild, arguments, saved.get());
  const Ref open_as = Ref::take(PyObject_GetAttrString(state->module, "open_as"));
  const Ref within = Ref::take(PyTuple_Pack(3, Py_TYPE(self), rebuild, arguments));
  return open_as && within ? PyTuple_Pack(3, open_as.get(), within.get(), saved.get()) : nullptr;
}

PyObject* own_state_of(PyObject* self, PyObject* saved) {
  if (!PyTuple_Check(saved) || PyTuple_GET_SIZE(saved) != 2 || !PyTuple_Check(PyTuple_GET_ITEM(saved, 0))) {
    return PyErr_Format(PyExc_TypeError, "__setstate__() of %s is for unpickling only", Py_TYPE(self)->tp_name);
  }
  return set_attributes(self, PyTuple_GET_ITEM(saved, 1)) ? PyTuple_GET_ITEM(saved, 0) : nullptr;
}

PyObject* refuse_copy(PyObject* self, PyObject* /*unused*/) {
  return PyErr_Format(PyExc_TypeError, "cannot copy a %s: pass the object itself on", Py_TYPE(self)->tp_name);
}

}  // namespace freethreading::binding
