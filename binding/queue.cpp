// freethreading.Queue and freethreading.SimpleQueue.
#include "args.hpp"
#include "errors.hpp"
#include "freethreading/memory/session.hpp"
#include "queue_type.hpp"
#include "ref.hpp"
#include "wait.hpp"

namespace freethreading::binding {
namespace {

// A maxsize as a capacity: zero and less mean no bound. False: an error is set.
bool capacity_of(PyObject* maxsize, std::uint64_t* capacity) {
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(maxsize, &overflow);
  if (value == -1 && PyErr_Occurred() != nullptr) return false;
  if (overflow > 0) {
    PyErr_Format(PyExc_OverflowError, "'maxsize' is too large: %R; 0 is no bound", maxsize);
    return false;
  }
  *capacity = value > 0 ? static_cast<std::uint64_t>(value) : 0;
  return true;
}

// A max_bytes, 0 for None or null. False: an error is set.
bool byte_bound_of(PyObject* max_bytes, std::uint64_t* bound) {
  *bound = 0;
  if (max_bytes == nullptr || max_bytes == Py_None) return true;
  if (!PyIndex_Check(max_bytes)) {
    PyErr_Format(PyExc_TypeError, "'max_bytes' must be a number of bytes or None, not %R", max_bytes);
    return false;
  }
  const Py_ssize_t value = PyNumber_AsSsize_t(max_bytes, PyExc_ValueError);
  if (value == -1 && PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(PyExc_ValueError) == 0) return false;
  if (value <= 0) {
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "'max_bytes' must be a positive number of bytes, 2**63 - 1 at most, or None, not %R", max_bytes);
    return false;
  }
  *bound = static_cast<std::uint64_t>(value);
  return true;
}

int queue_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"maxsize", "max_bytes", "shared"};
  static constexpr Signature kSignature{"Queue", kNames, 3, 1, 0};
  PyObject* values[3] = {};
  if (!bind_call(kSignature, args, kwargs, values)) return -1;
  std::uint64_t capacity = 0;
  std::uint64_t max_bytes = 0;
  if (values[0] != nullptr && !capacity_of(values[0], &capacity)) return -1;
  if (!byte_bound_of(values[1], &max_bytes)) return -1;
  return place_queue(self, values[2], ObjectType::kQueue, capacity, max_bytes, true);
}

PyObject* queue_full(PyObject* self, PyObject* /*unused*/) { return PyBool_FromLong(body_of<MessageQueue>(self)->full()); }

PyObject* queue_task_done(PyObject* self, PyObject* /*unused*/) {
  if (body_of<MessageQueue>(self)->task_done(place_of(self))) Py_RETURN_NONE;
  PyErr_SetString(PyExc_ValueError, "task_done() called too many times");
  return nullptr;
}

PyObject* raise_taker_lost(PyObject* self, OwnerId dead) {
  State* state = state_of(self);
  PyObject* type = state == nullptr ? nullptr : imported(state, Import::kWorkerLostError);
  if (type == nullptr) return nullptr;
  const int pid = body_of<MessageQueue>(self)->pid_of_taker(place_of(self), dead);
  const Ref none = Ref::take(PyTuple_New(0));
  const Ref kwargs = Ref::take(Py_BuildValue("{s:N,s:s}", "pid", pid == 0 ? Py_NewRef(Py_None) : PyLong_FromLong(pid), "reason",
                                             "It died owing task_done() for items that it had taken, so join() would "
                                             "never return."));
  const Ref error = none && kwargs ? Ref::take(PyObject_Call(type, none.get(), kwargs.get())) : Ref();
  if (error) PyErr_SetObject(type, error.get());
  return nullptr;
}

PyObject* queue_join(PyObject* self, PyObject* /*unused*/) {
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  if (queue.unfinished() == 0) Py_RETURN_NONE;
  OwnerId dead = kNobody;
  const WaitOutcome outcome =
      wait_detached(Deadline::never(), [&](WaitContext& context) { return queue.join_until(place, context, dead); });
  if (outcome == WaitOutcome::kInterrupted) return nullptr;
  if (outcome == WaitOutcome::kOwnerDied) return raise_taker_lost(self, dead);
  Py_RETURN_NONE;
}

PyObject* queue_shutdown(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"immediate"};
  static constexpr Signature kSignature{"shutdown", kNames, 1, 1, 0};
  PyObject* value = nullptr;
  if (!bind(kSignature, args, nargs, kwnames, &value)) return nullptr;
  const int immediate = value == nullptr ? 0 : PyObject_IsTrue(value);
  if (immediate < 0) return nullptr;
  Place& place = place_of(self);
  MessageQueue& queue = *body_of<MessageQueue>(self);
  Py_BEGIN_ALLOW_THREADS;
  queue.shut_down(place, immediate != 0);
  Py_END_ALLOW_THREADS;
  if (immediate != 0 && !place.shared()) drop_items(self);
  Py_RETURN_NONE;
}

PyObject* get_maxsize(PyObject* self, void* /*closure*/) {
  return PyLong_FromUnsignedLongLong(body_of<MessageQueue>(self)->capacity());
}

int set_maxsize(PyObject* self, PyObject* value, void* /*closure*/) {
  if (value == nullptr) {
    PyErr_SetString(PyExc_AttributeError, "maxsize cannot be deleted");
    return -1;
  }
  std::uint64_t capacity = 0;
  if (!capacity_of(value, &capacity)) return -1;
  body_of<MessageQueue>(self)->set_capacity(place_of(self), capacity);
  return 0;
}

PyObject* get_max_bytes(PyObject* self, void* /*closure*/) {
  const std::uint64_t bound = body_of<MessageQueue>(self)->max_bytes();
  return bound == 0 ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(bound);
}

PyObject* get_unfinished_tasks(PyObject* self, void* /*closure*/) {
  return PyLong_FromUnsignedLongLong(body_of<MessageQueue>(self)->unfinished());
}

PyObject* get_is_shutdown(PyObject* self, void* /*closure*/) {
  return PyBool_FromLong(body_of<MessageQueue>(self)->is_shut_down());
}

PyMethodDef queue_methods[] = {
    FT_QUEUE_METHODS,
    {"full", queue_full, METH_NOARGS, "full($self, /)\n--\n\nWhether there is room for nothing: maxsize items are in it, or max_bytes bytes."},
    {"task_done", queue_task_done, METH_NOARGS,
     "task_done($self, /)\n--\n\nOne item that was taken is finished. ValueError: more calls than items."},
    {"join", queue_join, METH_NOARGS,
     "join($self, /)\n--\n\n"
     "Waits until every item put so far is finished. WorkerLostError if a process died that had taken items and not\n"
     "called task_done() for them."},
    {"shutdown", as_method(queue_shutdown), METH_FASTCALL | METH_KEYWORDS,
     "shutdown($self, /, immediate=False)\n--\n\n"
     "From now on put() raises ShutDown, and so does get() once it is empty; immediate drops what is in it."},
    {"join_thread", queue_accepted, METH_NOARGS, "join_thread($self, /)\n--\n\nDoes nothing: there is no feeder thread."},
    {"cancel_join_thread", queue_accepted, METH_NOARGS,
     "cancel_join_thread($self, /)\n--\n\nDoes nothing: there is no feeder thread, and no item that an exit would lose."},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef queue_attributes[] = {
    {"maxsize", get_maxsize, set_maxsize, "How many items fit; 0: no bound. May be set: what is in it stays.", nullptr},
    {"max_bytes", get_max_bytes, nullptr, "How many bytes of encoded items may wait in a shared one; None: no bound.", nullptr},
    {"unfinished_tasks", get_unfinished_tasks, nullptr, "How many items were put and not yet finished by task_done().",
     nullptr},
    {"is_shutdown", get_is_shutdown, nullptr, "Whether shutdown() was called.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot queue_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "Queue(maxsize=0, *, max_bytes=None, shared=None)\n--\n\n"
                    "A first-in-first-out queue for any number of producers and consumers; without a bound where maxsize is\n"
                    "zero or less.\n\n"
                    "max_bytes: how many bytes of encoded items may wait in a shared one; a put waits while its item would\n"
                    "make them more. An item larger than that goes in when the queue is empty. Threads pass references, which\n"
                    "have no bytes of their own: there it holds nothing up.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs. A shared one pickles its items at put().")},
    {Py_tp_new, reinterpret_cast<void*>(queue_new)},
    {Py_tp_init, reinterpret_cast<void*>(queue_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(queue_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(queue_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(queue_clear)},
    {Py_tp_methods, queue_methods},
    {Py_tp_getset, queue_attributes},
    {Py_tp_members, members},
    {0, nullptr},
};

constexpr unsigned kFlags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE;

PyType_Spec queue_spec = {"freethreading.Queue", sizeof(QueueObject), 0, kFlags, queue_slots};

int simple_queue_init(PyObject* self, PyObject* args, PyObject* kwargs) {
  static constexpr const char* kNames[] = {"shared"};
  static constexpr Signature kSignature{"SimpleQueue", kNames, 1, 0, 0};
  PyObject* shared = nullptr;
  if (!bind_call(kSignature, args, kwargs, &shared)) return -1;
  return place_queue(self, shared, ObjectType::kSimpleQueue, 0, 0, false);
}

PyMethodDef simple_queue_methods[] = {FT_QUEUE_METHODS, FT_PROXY_METHODS, {nullptr, nullptr, 0, nullptr}};

PyType_Slot simple_queue_slots[] = {
    {Py_tp_doc, const_cast<char*>(
                    "SimpleQueue(*, shared=None)\n--\n\n"
                    "A first-in-first-out queue without a bound and without task_done(). put() may be called again from a\n"
                    "finaliser or a signal handler that runs inside it.\n\n"
                    "shared: True puts it into memory that processes share, False into this process's own; None does what\n"
                    "the back end (get_backend()) needs. A shared one pickles its items at put().")},
    {Py_tp_new, reinterpret_cast<void*>(queue_new)},
    {Py_tp_init, reinterpret_cast<void*>(simple_queue_init)},
    {Py_tp_dealloc, reinterpret_cast<void*>(queue_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(queue_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(queue_clear)},
    {Py_tp_methods, simple_queue_methods},
    {Py_tp_members, members},
    {0, nullptr},
};

PyType_Spec simple_queue_spec = {"freethreading.SimpleQueue", sizeof(QueueObject), 0, kFlags, simple_queue_slots};

}  // namespace

int add_queues(PyObject* module, State* state) {
  if (add_type(module, state, TypeIndex::kQueue, &queue_spec) == nullptr) return -1;
  return add_type(module, state, TypeIndex::kSimpleQueue, &simple_queue_spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
