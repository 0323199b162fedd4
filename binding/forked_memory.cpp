// What the zygote does so that its forks write to few of its pages: each of these is a copy (docs/design/workers.md, "Written pages").
#include "args.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

// Where the interpreter knows such objects, and counts as this file thinks that it does.
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED)

void make_immortal(PyObject* object) {
  if (object != nullptr && !_Py_IsImmortal(object)) object->ob_refcnt = _Py_IMMORTAL_REFCNT;
}

void walk_code(PyCodeObject* code);

// A tuple of names, or a constant of a code object's.
void walk_constant(PyObject* constant) {
  if (constant == nullptr) return;
  make_immortal(constant);
  if (PyCode_Check(constant)) walk_code(reinterpret_cast<PyCodeObject*>(constant));
  if (!PyTuple_CheckExact(constant)) return;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constant); ++i) walk_constant(PyTuple_GET_ITEM(constant, i));
}

void walk_code(PyCodeObject* code) {
  for (PyObject* part : {code->co_consts, code->co_names, code->co_localsplusnames, code->co_localspluskinds, code->co_filename,
                         code->co_name, code->co_qualname, code->co_linetable, code->co_exceptiontable}) {
    walk_constant(part);
  }
}

bool is_atom(PyObject* object) {
  return PyUnicode_CheckExact(object) || PyLong_CheckExact(object) || PyBytes_CheckExact(object) || PyFloat_CheckExact(object);
}

// The dictionary of a module or a type, its keys, and those of its values that have nothing to do at their end.
void walk_names(PyObject* dict) {
  if (dict == nullptr) return;
  make_immortal(dict);
  PyObject* name = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t at = 0;
  while (PyDict_Next(dict, &at, &name, &value) != 0) {
    make_immortal(name);
    if (is_atom(value)) make_immortal(value);
  }
}

void walk_function(PyFunctionObject* function) {
  walk_constant(function->func_code);
  for (PyObject* part : {function->func_name, function->func_qualname, function->func_doc, function->func_module,
                         function->func_builtins, function->func_defaults}) {
    make_immortal(part);
  }
}

void walk_type(PyTypeObject* type) {
  make_immortal(type->tp_bases);
  make_immortal(type->tp_mro);
  PyObject* dict = PyType_GetDict(type);
  walk_names(dict);
  Py_XDECREF(dict);
}

// Whether what it is of has nothing to do at its end, and lives as long as what it belongs to.
bool is_definition(PyTypeObject* type) {
  for (PyTypeObject* each : {&PyCFunction_Type, &PyMethodDescr_Type, &PyClassMethodDescr_Type, &PyWrapperDescr_Type,
                             &PyGetSetDescr_Type, &PyMemberDescr_Type, &PyProperty_Type, &PyClassMethod_Type, &PyStaticMethod_Type}) {
    if (type == each) return true;
  }
  return false;
}

void walk(PyObject* object) {
  if (PyFunction_Check(object)) {
    auto* function = reinterpret_cast<PyFunctionObject*>(object);
    // Somebody may wait for the end of one that has closed over a value, or that is referred to weakly.
    if (function->func_closure == nullptr && function->func_weakreflist == nullptr) make_immortal(object);
    walk_function(function);
  } else if (PyType_Check(object)) {
    make_immortal(object);
    walk_type(reinterpret_cast<PyTypeObject*>(object));
  } else if (PyModule_Check(object)) {
    make_immortal(object);
    walk_names(PyModule_GetDict(object));
  } else if (is_definition(Py_TYPE(object))) {
    make_immortal(object);
  }
}

#else

void walk(PyObject* /*object*/) {}

#endif

PyObject* keep_definitions(PyObject* /*module*/, PyObject* objects) {
  if (!PyList_CheckExact(objects)) return PyErr_Format(PyExc_TypeError, "keep_definitions() takes a list, not %R", objects);
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(objects); ++i) walk(PyList_GET_ITEM(objects, i));
  Py_RETURN_NONE;
}

// Of the interpreter's allocator for small objects: pools of so many bytes, each for blocks of one size, behind a header. It takes
// blocks from pools that have some left before it begins another pool.
constexpr std::uintptr_t kPool = 16384;
constexpr std::uintptr_t kMostHeader = 64;
constexpr std::size_t kLargestSmall = 512;
constexpr std::size_t kSizes = 16;  // from one to the next
constexpr std::size_t kMostOfSize = 131072;  // where the allocator is another one

PyObject* fill_memory(PyObject* /*module*/, PyObject* /*unused*/) {
#ifndef Py_GIL_DISABLED
  for (std::size_t size = kSizes; size <= kLargestSmall; size += kSizes) {
    for (std::size_t taken = 0; taken < kMostOfSize; taken += size) {
      void* block = PyObject_Malloc(size);
      if (block == nullptr) return PyErr_NoMemory();
      if (reinterpret_cast<std::uintptr_t>(block) % kPool <= kMostHeader) {  // the first one of a new pool
        PyObject_Free(block);
        break;
      }
    }
  }
#endif
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"fill_memory", fill_memory, METH_NOARGS,
     "fill_memory()\n--\n\n"
     "Takes, for ever, what the interpreter's allocator has left in between the objects that there are: new ones lie beside each other."},
    {"keep_definitions", keep_definitions, METH_O,
     "keep_definitions(objects, /)\n--\n\n"
     "Modules, functions and types among these objects, with what they are made of but for values, live for ever from now on, where\n"
     "the interpreter knows such objects: their references are not counted any more."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_forked_memory(PyObject* module, State* /*state*/) { return PyModule_AddFunctions(module, functions); }

}  // namespace freethreading::binding
