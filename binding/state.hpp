// State: what one module object of freethreading._core keeps. There are no static Python objects: several interpreters
// may each import the module.
//
// A type's file has one `int add_xxx(PyObject* module, State* state)` (0, or -1 with an error), declared here and called
// from module.cpp. A new type takes an enumerator of TypeIndex; a new Python object that C needs, one of Import and a row of
// the table in errors.cpp.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "compat.hpp"

namespace freethreading {
class Session;
}

namespace freethreading::binding {

// The types before kSupervisor have a Proxy (placement.hpp) at the start of their objects.
enum class TypeIndex : std::uint8_t {
  kLock,
  kRLock,
  kSemaphore,
  kBoundedSemaphore,
  kCondition,
  kEvent,
  kBarrier,
  kQueue,
  kSimpleQueue,
  kAtomicInt64,
  kSharedBuffer,
  kChannel,
  kWorkerRecord,
  kBlobLog,
  kSupervisor,
  kBlock,
  kPrivateView,
  kFuture,
  kCalls,
  kMapJob,
  kThreadJob,
  kWorkerTerms,
  kTaker,
  kListTaker,
  kSubmitter,
  kCount,
};

// Python objects that are imported when they are first needed. The table in errors.cpp says from where.
enum class Import : std::uint8_t {
  kLockMisuseError,
  kOwnershipError,
  kShutDown,
  kHandleGoneError,
  kWorkerLostError,
  kOwnerDiedWarning,
  kBrokenBarrierError,
  kQueueEmpty,
  kQueueFull,
  kReduceShared,
  kStateOf,
  kSessionOpened,
  kDumpsMessage,
  kLoadsMessage,
  kStandardFuture,
  kStandardCondition,
  kCancelledError,
  kInvalidStateError,
  kFutureTimeoutError,
  kCount,
};

// The memory comes zeroed from the interpreter; no constructor runs.
struct State {
  PyObject* module;  // borrowed: it owns this state
  std::array<PyTypeObject*, static_cast<std::size_t>(TypeIndex::kCount)> types;
  // Each is set once and then stays, so that a borrowed pointer is good as long as the module.
  std::array<std::atomic<PyObject*>, static_cast<std::size_t>(Import::kCount)> imports;

  // backend.cpp
  PyObject* sys_dict;
  PyObject* gil_question_name;  // "_is_gil_enabled"
  PyObject* gil_question;       // the interpreter's own sys._is_gil_enabled; null before 3.13
  std::array<PyObject*, 2> backend_names;

  // placement.cpp: the session in which new shared objects are made, null before the first one.
  std::atomic<Session*> session;
  std::atomic<bool> session_announced;

  [[nodiscard]] PyTypeObject* type(TypeIndex index) const { return types[static_cast<std::size_t>(index)]; }
};

extern PyModuleDef core_module;

inline State* state_of_module(PyObject* module) { return static_cast<State*>(PyModule_GetState(module)); }
// Also for a subclass made in Python. Null with a TypeError for a type that is not ours.
inline State* state_of_type(PyTypeObject* type) {
  PyObject* module = module_of_type(type, &core_module);
  return module == nullptr ? nullptr : state_of_module(module);
}
inline State* state_of(PyObject* self) { return state_of_type(Py_TYPE(self)); }

// Makes the heap type of `spec`, remembers it under `index` and, where it is public, puts it into the module.
// Null (borrowed otherwise): an error is set.
PyTypeObject* add_type(PyObject* module, State* state, TypeIndex index, PyType_Spec* spec, PyTypeObject* base = nullptr);

int add_backend(PyObject* module, State* state);
int add_handles(PyObject* module, State* state);
int add_crash_points(PyObject* module, State* state);
int add_lock(PyObject* module, State* state);
int add_rlock(PyObject* module, State* state);
int add_semaphore(PyObject* module, State* state);
int add_event(PyObject* module, State* state);
int add_condition(PyObject* module, State* state);
int add_barrier(PyObject* module, State* state);
int add_atomic_int64(PyObject* module, State* state);
int add_shared_buffer(PyObject* module, State* state);
int add_queues(PyObject* module, State* state);
int add_sessions(PyObject* module, State* state);
int add_private_view(PyObject* module, State* state);
int add_block(PyObject* module, State* state);
int add_channel(PyObject* module, State* state);
int add_worker_record(PyObject* module, State* state);
int add_blob_log(PyObject* module, State* state);
int add_future(PyObject* module, State* state);
int add_calls(PyObject* module, State* state);
int add_map_job(PyObject* module, State* state);
int add_thread_job(PyObject* module, State* state);
int add_submitter(PyObject* module, State* state);
int add_forked_memory(PyObject* module, State* state);
int add_worker_terms(PyObject* module, State* state);
int add_taker(PyObject* module, State* state);
int add_supervisor(PyObject* module, State* state);

}  // namespace freethreading::binding
