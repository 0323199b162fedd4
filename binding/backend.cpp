// get_backend(): which back end an object made now gets.
#include <cstdlib>
#include <cstring>

#include "backend.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

constexpr const char* kVariable = "FREETHREADING_BACKEND";

// Whether the interpreter runs with the GIL, as sys._is_gil_enabled() answers now; without that function it does.
int gil_enabled(State* state) {
  PyObject* found = nullptr;
  const int known = dict_get(state->sys_dict, state->gil_question_name, &found);
  if (known <= 0) return known < 0 ? -1 : 1;
  const Ref question = Ref::take(found);
  // A build that always has the GIL, and the interpreter's own function (not a test's): the answer needs no call.
  if (!kFreeThreadedBuild && question.get() == state->gil_question) return 1;
  const Ref answer = Ref::take(PyObject_CallNoArgs(question.get()));
  return answer ? PyObject_IsTrue(answer.get()) : -1;
}

PyObject* get_backend(PyObject* module, PyObject* /*unused*/) {
  State* state = state_of_module(module);
  Backend backend = Backend::kThreading;
  if (!backend_now(state, &backend)) return nullptr;
  return Py_NewRef(state->backend_names[static_cast<std::size_t>(backend)]);
}

PyMethodDef functions[] = {
    {"get_backend", get_backend, METH_NOARGS,
     "get_backend()\n--\n\n"
     "\"threading\" or \"multiprocessing\": what an object that is made now works on.\n\n"
     "The environment variable FREETHREADING_BACKEND decides where it is set (ValueError for another value than these\n"
     "two); else the interpreter's state now: threads where it runs without the GIL, processes where it has one."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool backend_now(State* state, Backend* backend) {
  const char* chosen = std::getenv(kVariable);
  if (chosen != nullptr && *chosen != '\0') {
    if (std::strcmp(chosen, "threading") == 0) {
      *backend = Backend::kThreading;
      return true;
    }
    if (std::strcmp(chosen, "multiprocessing") == 0) {
      *backend = Backend::kMultiprocessing;
      return true;
    }
    const Ref value = Ref::take(PyUnicode_DecodeFSDefault(chosen));
    if (value) {
      PyErr_Format(PyExc_ValueError,
                   "the environment variable %s is %R: it must be 'threading' or 'multiprocessing', or not be set",
                   kVariable, value.get());
    }
    return false;
  }
  const int gil = gil_enabled(state);
  if (gil < 0) return false;
  *backend = gil != 0 ? Backend::kMultiprocessing : Backend::kThreading;
  return true;
}

int add_backend(PyObject* module, State* state) {
  state->backend_names[static_cast<std::size_t>(Backend::kThreading)] = PyUnicode_InternFromString("threading");
  state->backend_names[static_cast<std::size_t>(Backend::kMultiprocessing)] =
      PyUnicode_InternFromString("multiprocessing");
  state->gil_question_name = PyUnicode_InternFromString("_is_gil_enabled");
  for (const PyObject* name : state->backend_names) {
    if (name == nullptr) return -1;
  }
  if (state->gil_question_name == nullptr) return -1;
  const Ref sys = Ref::take(PyImport_ImportModule("sys"));
  if (!sys) return -1;
  state->sys_dict = Py_NewRef(PyModule_GetDict(sys.get()));
  PyObject* question = nullptr;
  if (dict_get(state->sys_dict, state->gil_question_name, &question) < 0) return -1;
  // Only a builtin is the interpreter's own: the module may be imported first while a test's stand-in is there.
  if (question != nullptr && PyCFunction_Check(question)) {
    state->gil_question = question;
  } else {
    Py_XDECREF(question);
  }
  return PyModule_AddFunctions(module, functions);
}

}  // namespace freethreading::binding
