// set_crash_point() and list_crash_points(), in builds with crash points; nothing in others.
#include "state.hpp"

#ifdef FT_CRASH_POINTS

#include <cstring>

#include "args.hpp"
#include "freethreading/crash_point.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

struct KindName {
  const char* name;
  CrashKind kind;
};
constexpr KindName kKinds[] = {{"kill", CrashKind::kKill}, {"exit", CrashKind::kExit}, {"stop", CrashKind::kStop}};

PyObject* set_point(PyObject* /*module*/, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  static constexpr const char* kNames[] = {"name", "nth", "how"};
  static constexpr Signature kSignature{"set_crash_point", kNames, 3, 3, 1};
  PyObject* values[3];
  if (!bind(kSignature, args, nargs, kwnames, values)) return nullptr;
  const char* name = PyUnicode_AsUTF8(values[0]);
  if (name == nullptr) return nullptr;
  const long nth = values[1] == nullptr ? 1 : PyLong_AsLong(values[1]);
  if (nth == -1 && PyErr_Occurred() != nullptr) return nullptr;
  const char* how = values[2] == nullptr ? "kill" : PyUnicode_AsUTF8(values[2]);
  if (how == nullptr) return nullptr;
  for (const KindName& kind : kKinds) {
    if (std::strcmp(kind.name, how) != 0) continue;
    set_crash_point(name, static_cast<int>(nth), kind.kind);
    Py_RETURN_NONE;
  }
  return PyErr_Format(PyExc_ValueError, "how is %R: it must be 'kill', 'exit' or 'stop'", values[2]);
}

PyObject* list_points(PyObject* /*module*/, PyObject* /*unused*/) {
  Ref names = Ref::take(PyList_New(0));
  if (!names) return nullptr;
  for (const std::string_view point : list_crash_points()) {
    const Ref name = Ref::take(PyUnicode_FromStringAndSize(point.data(), static_cast<Py_ssize_t>(point.size())));
    if (!name || PyList_Append(names.get(), name.get()) != 0) return nullptr;
  }
  return names.release();
}

PyMethodDef functions[] = {
    {"set_crash_point", as_method(set_point), METH_FASTCALL | METH_KEYWORDS,
     "set_crash_point(name, nth=1, how='kill')\n--\n\n"
     "Has this process die the nth time that it comes by the point; an empty name disarms."},
    {"list_crash_points", list_points, METH_NOARGS, "list_crash_points()\n--\n\nThe names of all points."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_crash_points(PyObject* module, State* /*state*/) { return PyModule_AddFunctions(module, functions); }

}  // namespace freethreading::binding

#else

namespace freethreading::binding {

int add_crash_points(PyObject* /*module*/, State* /*state*/) { return 0; }

}  // namespace freethreading::binding

#endif
