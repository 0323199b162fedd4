// The extension module freethreading._core: multi-phase init, one State per module object.
#include "placement.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

int execute(PyObject* module) {
  State* state = state_of_module(module);
  state->module = module;
  using Add = int (*)(PyObject*, State*);
  constexpr Add kAdds[] = {
      add_backend,
      add_handles,
      add_crash_points,
      add_lock,
      add_rlock,
      add_semaphore,
      add_event,
      add_condition,
      add_barrier,
      add_atomic_int64,
      add_shared_buffer,
      add_queues,
      add_sessions,
      add_block,
      add_private_view,
      add_channel,
      add_worker_record,
      add_blob_log,
      add_supervisor,
      add_future,
      add_calls,
      add_map_job,
      add_thread_job,
      add_submitter,
      add_forked_memory,
      add_worker_terms,
      add_taker,
  };
  for (const Add add : kAdds) {
    if (add(module, state) != 0) return -1;
  }
  return 0;
}

int traverse(PyObject* module, visitproc visit, void* arg) {
  State* state = state_of_module(module);
  for (PyTypeObject* type : state->types) Py_VISIT(type);
  // Relaxed: the collector has stopped all other threads, or holds the GIL.
  for (auto& import : state->imports) Py_VISIT(import.load(std::memory_order_relaxed));
  Py_VISIT(state->sys_dict);
  Py_VISIT(state->gil_question);
  return 0;
}

int clear(PyObject* module) {
  State* state = state_of_module(module);
  for (PyTypeObject*& type : state->types) Py_CLEAR(type);
  // Relaxed: as in traverse.
  for (auto& import : state->imports) Py_XDECREF(import.exchange(nullptr, std::memory_order_relaxed));
  Py_CLEAR(state->sys_dict);
  Py_CLEAR(state->gil_question_name);
  Py_CLEAR(state->gil_question);
  for (PyObject*& name : state->backend_names) Py_CLEAR(name);
  return 0;
}

void free_module(void* module) { clear(static_cast<PyObject*>(module)); }

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(execute)},
#ifdef FT_MODULE_ABILITIES
    FT_MODULE_ABILITIES,
#endif
    {0, nullptr},
};

}  // namespace

PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    "freethreading._core",
    "The native half of freethreading: its primitives, queues and sessions.",
    sizeof(State),
    nullptr,
    slots,
    traverse,
    clear,
    free_module,
};

PyTypeObject* add_type(PyObject* module, State* state, TypeIndex index, PyType_Spec* spec, PyTypeObject* base) {
  auto* type = reinterpret_cast<PyTypeObject*>(
      PyType_FromModuleAndSpec(module, spec, reinterpret_cast<PyObject*>(base)));
  if (type == nullptr) return nullptr;
  state->types[static_cast<std::size_t>(index)] = type;
  return PyModule_AddType(module, type) == 0 ? type : nullptr;
}

}  // namespace freethreading::binding

PyMODINIT_FUNC PyInit__core() { return PyModuleDef_Init(&freethreading::binding::core_module); }
