#include "codec.hpp"

#include <cstdint>
#include <cstring>

#include "ref.hpp"

namespace freethreading::binding {
namespace {

constexpr Py_ssize_t kLongestTuple = 8;
constexpr int kDeepestTuple = 4;
constexpr std::size_t kWord = 8;

// Bytes of the two's complement of an int that fits in no 64 bits.
std::size_t big_int_size(PyObject* value) {
  PyObject* bits = PyObject_CallMethod(value, "bit_length", nullptr);
  if (bits == nullptr) return 0;
  const std::size_t count = PyLong_AsSize_t(bits);
  Py_DECREF(bits);
  return count / 8 + 1;
}

std::size_t size_of(PyObject* value, int depth) {
  if (value == Py_None || value == Py_True || value == Py_False) return 1;
  PyTypeObject* type = Py_TYPE(value);
  if (type == &PyLong_Type) {
    int overflow = 0;
    PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) return 1 + kWord;
    const std::size_t size = big_int_size(value);
    return size == 0 || size > 0x7FFFFFFF ? 0 : 5 + size;
  }
  if (type == &PyFloat_Type) return 1 + kWord;
  if (type == &PyBytes_Type) return 1 + kWord + static_cast<std::size_t>(PyBytes_GET_SIZE(value));
  if (type == &PyUnicode_Type) {
    Py_ssize_t length = 0;
    // Cached in the str. A lone surrogate has no UTF-8: such a str is pickled.
    if (PyUnicode_AsUTF8AndSize(value, &length) == nullptr) {
      PyErr_Clear();
      return 0;
    }
    return 1 + kWord + static_cast<std::size_t>(length);
  }
  if (type != &PyTuple_Type || depth == kDeepestTuple || PyTuple_GET_SIZE(value) > kLongestTuple) return 0;
  std::size_t total = 2;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) {
    const std::size_t size = size_of(PyTuple_GET_ITEM(value, i), depth + 1);
    if (size == 0) return 0;
    total += size;
  }
  return total;
}

std::byte* put(std::byte* target, char tag) {
  *target = static_cast<std::byte>(tag);
  return target + 1;
}

std::byte* put(std::byte* target, const void* source, std::size_t size) {
  std::memcpy(target, source, size);
  return target + size;
}

std::byte* put_sized(std::byte* target, char tag, const char* text, Py_ssize_t length) {
  const auto size = static_cast<std::uint64_t>(length);
  target = put(put(target, tag), &size, sizeof size);
  return put(target, text, size);
}

std::byte* put_int(PyObject* value, std::byte* target) {
  int overflow = 0;
  const std::int64_t small = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow == 0) return put(put(target, 'i'), &small, sizeof small);
  const auto size = static_cast<std::uint32_t>(big_int_size(value));
  target = put(put(target, 'I'), &size, sizeof size);
  long_as_bytes(value, reinterpret_cast<unsigned char*>(target), size);
  return target + size;
}

std::byte* put_value(PyObject* value, std::byte* target) {
  if (value == Py_None) return put(target, 'N');
  if (value == Py_True) return put(target, 'T');
  if (value == Py_False) return put(target, 'F');
  PyTypeObject* type = Py_TYPE(value);
  if (type == &PyLong_Type) return put_int(value, target);
  if (type == &PyFloat_Type) {
    const double number = PyFloat_AS_DOUBLE(value);
    return put(put(target, 'd'), &number, sizeof number);
  }
  if (type == &PyBytes_Type) return put_sized(target, 'b', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
  if (type == &PyUnicode_Type) {
    Py_ssize_t length = 0;
    const char* text = PyUnicode_AsUTF8AndSize(value, &length);  // cached since size_of()
    return put_sized(target, 's', text, length);
  }
  target = put(target, '(');
  *target++ = static_cast<std::byte>(PyTuple_GET_SIZE(value));
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i) target = put_value(PyTuple_GET_ITEM(value, i), target);
  return target;
}

struct Reader {
  const std::byte* at;
  std::size_t left;
};

PyObject* malformed() {
  PyErr_SetString(PyExc_ValueError, "malformed item in a queue");
  return nullptr;
}

bool take(Reader& reader, void* target, std::size_t size) {
  if (reader.left < size) return false;
  std::memcpy(target, reader.at, size);
  reader.at += size;
  reader.left -= size;
  return true;
}

// The bytes of a sized value; null: it says that it is longer than what there is.
const char* take_sized(Reader& reader, Py_ssize_t* length) {
  std::uint64_t size = 0;
  if (!take(reader, &size, sizeof size) || size > reader.left) return nullptr;
  const auto* bytes = reinterpret_cast<const char*>(reader.at);
  reader.at += size;
  reader.left -= size;
  *length = static_cast<Py_ssize_t>(size);
  return bytes;
}

PyObject* get_value(Reader& reader, int depth);

PyObject* get_tuple(Reader& reader, int depth) {
  unsigned char length = 0;
  if (depth == kDeepestTuple || !take(reader, &length, 1) || length > kLongestTuple) return malformed();
  Ref tuple = Ref::take(PyTuple_New(length));
  for (unsigned char i = 0; tuple && i < length; ++i) {
    PyObject* item = get_value(reader, depth + 1);
    if (item == nullptr) return nullptr;
    PyTuple_SET_ITEM(tuple.get(), i, item);
  }
  return tuple.release();
}

PyObject* get_value(Reader& reader, int depth) {
  char tag = 0;
  if (!take(reader, &tag, 1)) return malformed();
  Py_ssize_t length = 0;
  switch (tag) {
    case 'N':
      Py_RETURN_NONE;
    case 'T':
      Py_RETURN_TRUE;
    case 'F':
      Py_RETURN_FALSE;
    case 'i': {
      std::int64_t number = 0;
      return take(reader, &number, sizeof number) ? PyLong_FromLongLong(number) : malformed();
    }
    case 'I': {
      std::uint32_t size = 0;
      if (!take(reader, &size, sizeof size) || size > reader.left) return malformed();
      PyObject* number = long_from_bytes(reinterpret_cast<const unsigned char*>(reader.at), size);
      reader.at += size;
      reader.left -= size;
      return number;
    }
    case 'd': {
      double number = 0;
      return take(reader, &number, sizeof number) ? PyFloat_FromDouble(number) : malformed();
    }
    case 's': {
      const char* text = take_sized(reader, &length);
      return text == nullptr ? malformed() : PyUnicode_DecodeUTF8(text, length, nullptr);
    }
    case 'b': {
      const char* bytes = take_sized(reader, &length);
      return bytes == nullptr ? malformed() : PyBytes_FromStringAndSize(bytes, length);
    }
    case '(':
      return get_tuple(reader, depth);
    default:
      return malformed();
  }
}

}  // namespace

std::size_t encoded_size(PyObject* value) { return size_of(value, 0); }

void encode(PyObject* value, std::byte* target) { put_value(value, target); }

PyObject* decode(const std::byte* source, std::size_t size) {
  Reader reader{source, size};
  Ref value = Ref::take(get_value(reader, 0));
  if (!value) return nullptr;
  return reader.left == 0 ? value.release() : malformed();
}

}  // namespace freethreading::binding
