// freethreading.Event over the core's Event.
#include "freethreading/sync/event.hpp"

#include "args.hpp"
#include "errors.hpp"
#include "placement.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

using EventObject = ProxyOf<Event>;

PyObject* event_is_set(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(body_of<Event>(self)->is_set()); }

PyObject* event_set(PyObject* self, PyObject* /*unused*/) {
  body_of<Event>(self)->set(place_of(self));
  Py_RETURN_NONE;
}

PyObject* event_clear(PyObject* self, PyObject* /*unused*/) {
  body_of<Event>(self)->clear();
  Py_RETURN_NONE;
}

PyObject* event_wait(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"timeout"};
  static constexpr Signature kSignature{"wait", kNames, 1, 1, 0};
  PyObject* timeout = nullptr;
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, &timeout)) return nullptr;
  if (!deadline_of(timeout, Negative::kPassed, &deadline)) return nullptr;
  Place& place = place_of(self);
  Event& event = *body_of<Event>(self);
  // The epoch first: a set() from here on ends this wait, whatever follows it.
  const std::uint32_t epoch = event.begin_wait();
  if (event.is_set()) Py_RETURN_TRUE;
  if (deadline.is_immediate()) Py_RETURN_FALSE;
  const WaitOutcome outcome =
      wait_detached(deadline, [&](WaitContext& context) { return event.wait_until(place, epoch, context); });
  return acquired(self, outcome, [] {});
}

PyObject* event_repr(PyObject* self) {
  return PyUnicode_FromFormat("<%s at %p: %s>", Py_TYPE(self)->tp_name, self,
                              body_of<Event>(self)->is_set() ? "set" : "unset");
}

PyObject* event_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_private<EventObject, Event>(type);
}

int event_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"shared"};
  static constexpr Signature kSignature{"Event", kNames, 1, 0, 0};
  PyObject* shared = nullptr;
  if (!bind_call(kSignature, args, kwargs, &shared)) return -1;
  State* state = state_of(self);
  return state != nullptr && place_body<Event>(self, state, shared, ObjectType::kEvent) ? 0 : -1;
}

PyMethodDef event_methods[] = {
    {"is_set", event_is_set, METH_NOARGS, "is_set($self, /)\n--\n\nWhether the flag is up."},
    {"set", event_set, METH_NOARGS, "set($self, /)\n--\n\nPuts the flag up: everybody who waits goes on."},
    {"clear", event_clear, METH_NOARGS, "clear($self, /)\n--\n\nTakes the flag down: wait() waits again."},
    {"wait", as_method(event_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\n"
     "Waits until the flag is up and returns True; False if timeout (seconds) passed first.\n\n"
     "A wait that began before a set() ends, also where a clear() follows at once."},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef event_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot event_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Event(*, shared=None)\n--\n\n"
                    "A flag, down at first, that threads and, where it is shared, processes wait for.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs.")},
    {Py_tp_new, reinterpret_cast<void*>(event_new)},
    {Py_tp_init, reinterpret_cast<void*>(event_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_repr, reinterpret_cast<void*>(event_repr)},
    {Py_tp_methods, event_methods},
    {Py_tp_members, event_members},
    {0, nullptr},
};

PyType_Spec event_spec = {"freethreading.Event", sizeof(EventObject), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, event_slots};

}  // namespace

int add_event(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kEvent, &event_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
