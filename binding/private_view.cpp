// PrivateView: a SharedBuffer's bytes, to be written without anybody else's seeing it. It keeps the SharedBuffer alive.
#include "freethreading/memory/private_view.hpp"

#include <new>

#include "args.hpp"
#include "copy.hpp"
#include "freethreading/memory/shared_buffer.hpp"
#include "placement.hpp"
#include "state.hpp"

namespace freethreading::binding {
namespace {

struct ViewObject {
  PyObject_HEAD
  PyObject* buffer;
  PrivateView view;
};

ViewObject* view_object(PyObject* self) { return reinterpret_cast<ViewObject*>(self); }

PyObject* map_privately(PyObject* module, PyObject* buffer) {
  const State* state = state_of_module(module);
  if (!PyObject_TypeCheck(buffer, state->type(TypeIndex::kSharedBuffer)) || proxy_of(buffer)->header == nullptr) {
    return PyErr_Format(PyExc_TypeError, "map_privately() takes a SharedBuffer that is shared, not %R", buffer);
  }
  PyTypeObject* type = state->type(TypeIndex::kPrivateView);
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  ViewObject* made = view_object(self);
  new (&made->view) PrivateView();
  made->buffer = Py_NewRef(buffer);
  SharedBuffer* bytes = body_of<SharedBuffer>(buffer);
  if (made->view.map(*place_of(buffer).session(), bytes->data(), bytes->size())) return self;
  PyErr_SetFromErrno(PyExc_OSError);
  Py_DECREF(self);
  return nullptr;
}

// copy_into(target, offset, source): without the GIL, where it is much.
PyObject* copy_into(PyObject* /*module*/, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs != 3) return PyErr_Format(PyExc_TypeError, "copy_into() takes 3 arguments, not %zd", nargs);
  const Py_ssize_t offset = PyLong_AsSsize_t(args[1]);
  if (offset == -1 && PyErr_Occurred() != nullptr) return nullptr;
  Py_buffer target;
  Py_buffer source;
  if (PyObject_GetBuffer(args[0], &target, PyBUF_WRITABLE) != 0) return nullptr;
  if (PyObject_GetBuffer(args[2], &source, PyBUF_SIMPLE) != 0) {
    PyBuffer_Release(&target);
    return nullptr;
  }
  const bool fits = offset >= 0 && offset <= target.len && source.len <= target.len - offset;
  if (fits) {
    copy_bytes(static_cast<std::byte*>(target.buf) + offset, source.buf, static_cast<std::size_t>(source.len));
  } else {
    PyErr_Format(PyExc_ValueError, "%zd bytes at %zd do not fit into %zd", source.len, offset, target.len);
  }
  PyBuffer_Release(&source);
  PyBuffer_Release(&target);
  return fits ? Py_NewRef(Py_None) : nullptr;
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  view_object(self)->view.~PrivateView();
  Py_XDECREF(view_object(self)->buffer);
  type->tp_free(self);
  Py_DECREF(type);
}

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  const PrivateView& bytes = view_object(self)->view;
  return PyBuffer_FillInfo(view, self, bytes.data(), static_cast<Py_ssize_t>(bytes.size()), 0, flags);
}

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("A SharedBuffer's bytes, which may be written here without anybody else's seeing it.")},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.PrivateView", sizeof(ViewObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

PyMethodDef functions[] = {
    {"map_privately", map_privately, METH_O,
     "map_privately(buffer, /)\n--\n\nA PrivateView of a SharedBuffer, whose bytes must not change any more."},
    {"copy_into", as_method(copy_into), METH_FASTCALL,
     "copy_into(target, offset, source, /)\n--\n\nCopies a buffer's bytes to `offset` in another one."},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

int add_private_view(PyObject* module, State* state) {
  if (add_type(module, state, TypeIndex::kPrivateView, &spec) == nullptr) return -1;
  return PyModule_AddFunctions(module, functions);
}

}  // namespace freethreading::binding
