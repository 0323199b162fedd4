// freethreading.Barrier over the core's Barrier.
#include "freethreading/sync/barrier.hpp"

#include "args.hpp"
#include "errors.hpp"
#include "placement.hpp"
#include "ref.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

struct BarrierObject {
  Proxy base;
  Barrier own;
  PyObject* action;   // null: none
  PyObject* timeout;  // what wait() takes where it is given none; null: for ever
};

BarrierObject* barrier_of(PyObject* self) { return reinterpret_cast<BarrierObject*>(self); }

// The last party's part: the action, then everybody goes on. False: the action raised, and the barrier is broken.
bool run_action(PyObject* self) {
  Place& place = place_of(self);
  Barrier& barrier = *body_of<Barrier>(self);
  PyObject* action = barrier_of(self)->action;
  PyObject* result = action == nullptr ? Py_NewRef(Py_None) : PyObject_CallNoArgs(action);
  if (result == nullptr) {
    detached([&] { barrier.abort(place); });
    return false;
  }
  Py_DECREF(result);
  detached([&] { barrier.finish(place); });
  return true;
}

// The others' part. kReady, kBroken, kTimedOut (which has broken the barrier), or kInterrupted with an error set.
WaitOutcome wait_for_others(Barrier& barrier, Place& place, WaiterTable::Cell cell, Deadline deadline) {
  const WaitOutcome waited =
      wait_detached(deadline, [&](WaitContext& context) { return barrier.wait_until(place, cell, context); });
  WaitOutcome left = waited;
  detached([&] {
    if (waited == WaitOutcome::kInterrupted) {
      // This party gives up, as by a timeout: that breaks the barrier unless it has let all go meanwhile.
      WaitContext now(Deadline::immediate());
      static_cast<void>(barrier.wait_until(place, cell, now));
    }
    left = barrier.leave(place, cell);
  });
  return waited == WaitOutcome::kInterrupted ? waited : left;
}

PyObject* barrier_wait(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"timeout"};
  static constexpr Signature kSignature{"wait", kNames, 1, 1, 0};
  PyObject* timeout = nullptr;
  Deadline deadline = Deadline::never();
  if (!bind(kSignature, args, nargs, kwnames, &timeout)) return nullptr;
  if (timeout == nullptr || timeout == Py_None) timeout = barrier_of(self)->timeout;
  if (!deadline_of(timeout, Negative::kPassed, &deadline)) return nullptr;

  Place& place = place_of(self);
  Barrier& barrier = *body_of<Barrier>(self);
  Arrival arrival{WaitOutcome::kBroken, 0, false, kNoOffset};
  // As in the standard library the timeout begins once this party has come.
  static_cast<void>(wait_detached(Deadline::never(), [&](WaitContext& context) {
    arrival = barrier.arrive(place, context);
    return arrival.outcome;
  }));
  if (arrival.outcome == WaitOutcome::kNoMemory) return PyErr_NoMemory();
  WaitOutcome outcome = arrival.outcome;
  if (outcome == WaitOutcome::kReady) {
    if (arrival.last) {
      if (!run_action(self)) return nullptr;
    } else {
      outcome = wait_for_others(barrier, place, arrival.cell, deadline);
    }
  }
  if (outcome == WaitOutcome::kInterrupted) return nullptr;
  if (outcome == WaitOutcome::kReady) return PyLong_FromUnsignedLong(arrival.index);
  return raise(self, Import::kBrokenBarrierError,
               "the barrier is broken: a party timed out, died or was interrupted, the action raised, or abort() or reset() "
               "was called");
}

PyObject* barrier_reset(PyObject* self, PyObject* /*unused*/) {
  detached([barrier = body_of<Barrier>(self), place = &place_of(self)] { barrier->reset(*place); });
  Py_RETURN_NONE;
}

PyObject* barrier_abort(PyObject* self, PyObject* /*unused*/) {
  detached([barrier = body_of<Barrier>(self), place = &place_of(self)] { barrier->abort(*place); });
  Py_RETURN_NONE;
}

PyObject* barrier_parties(PyObject* self, void* /*closure*/) {
  return PyLong_FromUnsignedLong(body_of<Barrier>(self)->parties());
}

PyObject* barrier_n_waiting(PyObject* self, void* /*closure*/) {
  return PyLong_FromUnsignedLong(body_of<Barrier>(self)->waiting());
}

PyObject* barrier_broken(PyObject* self, void* /*closure*/) {
  return PyBool_FromLong(body_of<Barrier>(self)->broken());
}

PyObject* barrier_repr(PyObject* self) {
  const Barrier* barrier = body_of<Barrier>(self);
  const char* type = Py_TYPE(self)->tp_name;
  if (barrier->broken()) return PyUnicode_FromFormat("<%s at %p: broken>", type, self);
  return PyUnicode_FromFormat("<%s at %p: waiters=%u/%u>", type, self, barrier->waiting(), barrier->parties());
}

PyObject* none_as_null(PyObject* value) { return value == Py_None ? nullptr : value; }

void keep(PyObject* self, PyObject* action, PyObject* timeout) {
  barrier_of(self)->action = Py_XNewRef(none_as_null(action));
  barrier_of(self)->timeout = Py_XNewRef(none_as_null(timeout));
}

PyObject* barrier_new(PyTypeObject* type, PyObject* /*args*/, PyObject* /*kwargs*/) {
  return new_private<BarrierObject, Barrier>(type, std::uint32_t{1});
}

int barrier_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"parties", "action", "timeout", "shared"};
  static constexpr Signature kSignature{"Barrier", kNames, 4, 3, 1};
  PyObject* values[4];
  if (!bind_call(kSignature, args, kwargs, values)) return -1;
  const long parties = PyLong_AsLong(values[0]);
  if (parties == -1 && PyErr_Occurred() != nullptr) return -1;
  if (parties < 1) {
    PyErr_SetString(PyExc_ValueError, "parties must be >= 1");
    return -1;
  }
  if (parties > std::numeric_limits<std::int32_t>::max()) {
    PyErr_SetString(PyExc_OverflowError, "too many parties");
    return -1;
  }
  State* state = state_of(self);
  if (state == nullptr) return -1;
  if (!place_body<Barrier>(self, state, values[3], ObjectType::kBarrier, static_cast<std::uint32_t>(parties))) return -1;
  keep(self, values[1], values[2]);
  return 0;
}

PyObject* barrier_reduce(PyObject* self, PyObject* /*unused*/) {
  const BarrierObject* barrier = barrier_of(self);
  PyObject* own_state = PyTuple_Pack(2, barrier->action == nullptr ? Py_None : barrier->action,
                                     barrier->timeout == nullptr ? Py_None : barrier->timeout);
  return own_state == nullptr ? nullptr : reduce_proxy_with(self, own_state);
}

PyObject* barrier_setstate(PyObject* self, PyObject* saved) {
  PyObject* own = own_state_of(self, saved);
  if (own == nullptr) return nullptr;
  const BarrierObject* barrier = barrier_of(self);
  if (barrier->action != nullptr || barrier->timeout != nullptr || PyTuple_GET_SIZE(own) != 2) {
    PyErr_SetString(PyExc_TypeError, "this Barrier is complete: __setstate__() is for unpickling only");
    return nullptr;
  }
  keep(self, PyTuple_GET_ITEM(own, 0), PyTuple_GET_ITEM(own, 1));
  Py_RETURN_NONE;
}

int barrier_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(barrier_of(self)->action);
  Py_VISIT(barrier_of(self)->timeout);
  return 0;
}

int barrier_clear(PyObject* self) {
  Py_CLEAR(barrier_of(self)->action);
  Py_CLEAR(barrier_of(self)->timeout);
  return 0;
}

void barrier_dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  PyTypeObject* type = Py_TYPE(self);
  release_proxy(self);
  if (proxy_of(self)->header == nullptr) body_of<Barrier>(self)->destroy(place_of(self));
  barrier_clear(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMethodDef barrier_methods[] = {
    {"wait", as_method(barrier_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\n"
     "Waits until all parties have come, and returns this one's number, 0 to parties - 1.\n\n"
     "The last to come runs the action first. threading.BrokenBarrierError if the barrier is or gets broken: after timeout\n"
     "(seconds; None: the barrier's), by an exception of the action (which its own caller gets), by abort() or reset(),\n"
     "when a waiting party is interrupted or its process dies."},
    {"reset", barrier_reset, METH_NOARGS,
     "reset($self, /)\n--\n\nMakes it whole and empty again; who waits gets threading.BrokenBarrierError."},
    {"abort", barrier_abort, METH_NOARGS, "abort($self, /)\n--\n\nBreaks it, for who waits and who comes."},
    {"__reduce__", barrier_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nHow a shared one goes to another process; a TypeError for one made for threads."},
    {"__setstate__", barrier_setstate, METH_O,
     "__setstate__($self, state, /)\n--\n\nGives an unpickled one its action and timeout."},
    FT_NO_COPY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef barrier_properties[] = {
    {"parties", barrier_parties, nullptr, "How many parties it waits for.", nullptr},
    {"n_waiting", barrier_n_waiting, nullptr, "How many parties wait now.", nullptr},
    {"broken", barrier_broken, nullptr, "Whether it is broken.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef barrier_members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot barrier_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Barrier(parties, action=None, timeout=None, *, shared=None)\n--\n\n"
                    "Lets parties threads go on when all of them have come to wait().\n\n"
                    "action: called by the last one before they go. timeout: seconds, what wait() takes where it is given\n"
                    "none. shared: True puts it into memory that processes share, False into this process's own; None\n"
                    "does what the back end (get_backend()) needs.")},
    {Py_tp_new, reinterpret_cast<void*>(barrier_new)},
    {Py_tp_init, reinterpret_cast<void*>(barrier_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(barrier_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(barrier_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(barrier_clear)},
    {Py_tp_repr, reinterpret_cast<void*>(barrier_repr)},
    {Py_tp_methods, barrier_methods},
    {Py_tp_getset, barrier_properties},
    {Py_tp_members, barrier_members},
    {0, nullptr},
};

PyType_Spec barrier_spec = {
    "freethreading.Barrier", sizeof(BarrierObject), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC, barrier_slots};

}  // namespace

int add_barrier(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kBarrier, &barrier_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
