// BlobLog: an append-only list of bytes that every process of the session reads.
#include "freethreading/pool/blob_log.hpp"

#include "args.hpp"
#include "errors.hpp"
#include "placement.hpp"
#include "pool_types.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

PyObject* log_new(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  static constexpr Signature kSignature{"BlobLog", nullptr, 0, 0, 0};
  if (!bind_call(kSignature, args, kwargs, nullptr)) return nullptr;
  return new_pool_object<BlobLog>(type, ObjectType::kBlobLog, [](Place&, BlobLog&) { return true; });
}

PyObject* log_open(PyObject* type, PyObject* bytes) {
  return open_pool_object(reinterpret_cast<PyTypeObject*>(type), bytes, ObjectType::kBlobLog);
}

PyObject* log_append(PyObject* self, PyObject* blob) {
  if (!PyBytes_Check(blob)) return PyErr_Format(PyExc_TypeError, "append() takes bytes, not %s", Py_TYPE(blob)->tp_name);
  Place& place = place_of(self);
  BlobLog& log = *body_of<BlobLog>(self);
  const auto* bytes = reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(blob));
  const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(blob));
  std::uint64_t number = 0;
  Py_BEGIN_ALLOW_THREADS;
  number = log.append(place, bytes, size);
  Py_END_ALLOW_THREADS;
  if (number == 0) return PyErr_Format(PyExc_MemoryError, "no shared memory for %zu bytes", size);
  return PyLong_FromUnsignedLongLong(number);
}

PyObject* log_read_after(PyObject* self, PyObject* argument) {
  const std::uint64_t number = PyLong_AsUnsignedLongLong(argument);
  if (number == static_cast<std::uint64_t>(-1) && PyErr_Occurred() != nullptr) return nullptr;
  Place& place = place_of(self);
  Ref entries = Ref::take(PyList_New(0));
  if (!entries) return nullptr;
  const BlobLog::Entry* entry = body_of<BlobLog>(self)->after(place, number);
  while (entry != nullptr) {
    const Ref pair = Ref::take(Py_BuildValue("Ky#", static_cast<unsigned long long>(entry->number),
                                             reinterpret_cast<const char*>(entry->bytes()),
                                             static_cast<Py_ssize_t>(entry->size)));
    if (!pair || PyList_Append(entries.get(), pair.get()) != 0) return nullptr;
    entry = body_of<BlobLog>(self)->after(place, entry->number);
  }
  return entries.release();
}

PyObject* log_last(PyObject* self, void* /*closure*/) {
  return PyLong_FromUnsignedLongLong(body_of<BlobLog>(self)->last());
}

PyMethodDef methods[] = {
    {"append", log_append, METH_O, "append($self, blob, /)\n--\n\nAdds bytes; the entry's number, from 1 on."},
    {"read_after", log_read_after, METH_O,
     "read_after($self, number, /)\n--\n\nA list of (number, bytes) of all entries behind that number."},
    {"open", log_open, METH_O | METH_CLASS, "open($type, handle, /)\n--\n\nThe log that the handle names."},
    FT_PROXY_METHODS,
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"handle", handle_attribute, nullptr, "The bytes that name it in every process of the session.", nullptr},
    {"last", log_last, nullptr, "The number of the entry that was added last; 0: none.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyMemberDef members[] = {FT_PROXY_MEMBERS, {nullptr, 0, 0, 0, nullptr}};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("BlobLog()\n--\n\nAn append-only list of bytes that every process of the session reads.")},
    {Py_tp_new, reinterpret_cast<void*>(log_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_proxy)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, nullptr},
};

PyType_Spec spec = {"freethreading._core.BlobLog", sizeof(Proxy), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

int add_blob_log(PyObject* module, State* state) {
  return add_type(module, state, TypeIndex::kBlobLog, &spec) == nullptr ? -1 : 0;
}

}  // namespace freethreading::binding
