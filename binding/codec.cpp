#include "codec.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>

#include "copy.hpp"
#include "ref.hpp"

namespace freethreading::binding {
namespace {

using Outcome = Encoding::Outcome;

constexpr int kDeepest = 16;
constexpr std::size_t kLong = 512;     // a longer string is worth keeping as one, and worth no copy of its own
constexpr std::size_t kMostBytes = 10;  // of a length

// Bytes of the two's complement of an int that fits in no 64 bits; 0: an error is set.
std::size_t big_int_size(PyObject* value) {
  const Ref bits = Ref::take(PyObject_CallMethod(value, "bit_length", nullptr));
  const std::size_t count = bits ? PyLong_AsSize_t(bits.get()) : 0;
  return PyErr_Occurred() == nullptr ? count / 8 + 1 : 0;
}

}  // namespace

// --- encoding ---------------------------------------------------------------------------------------------------------

bool Encoding::append(const void* bytes, std::size_t size) {
  if (size > room_ - used_) {
    const std::size_t room = std::max(2 * room_, used_ + size);
    std::unique_ptr<std::byte[]> more(new (std::nothrow) std::byte[room]);
    if (more == nullptr) {
      PyErr_NoMemory();
      return false;
    }
    std::memcpy(more.get(), grown_ == nullptr ? in_place_.data() : grown_.get(), used_);
    grown_ = std::move(more);
    room_ = room;
  }
  std::memcpy((grown_ == nullptr ? in_place_.data() : grown_.get()) + used_, bytes, size);
  used_ += size;
  return true;
}

bool Encoding::tagged(char tag, std::size_t length) {
  std::array<unsigned char, 1 + kMostBytes> bytes;
  bytes[0] = static_cast<unsigned char>(tag);
  std::size_t used = 1;
  for (; length >= 0x80; length >>= 7) bytes[used++] = static_cast<unsigned char>(length | 0x80);
  bytes[used++] = static_cast<unsigned char>(length);
  return append(bytes.data(), used);
}

// Whether the object is met for the first time, as far as anything else may refer to it.
bool Encoding::first_sight(PyObject* object, int depth) {
  if (depth != 0 && Py_REFCNT(object) == 1) return true;
  for (std::size_t i = 0; i < seen_count_; ++i) {
    if (seen_[i] == object) return false;
  }
  if (seen_count_ == kMostSeen) return false;
  seen_[seen_count_++] = object;
  return true;
}

Outcome Encoding::integer(PyObject* object) {
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (overflow == 0) {
    std::array<std::byte, 9> bytes;
    const bool tiny = number >= std::numeric_limits<std::int8_t>::min() && number <= std::numeric_limits<std::int8_t>::max();
    bytes[0] = static_cast<std::byte>(tiny ? 'j' : 'i');
    std::memcpy(&bytes[1], &number, sizeof number);  // little end first, as every machine that this runs on has it
    return append(bytes.data(), tiny ? 2 : bytes.size()) ? Outcome::kDone : Outcome::kError;
  }
  const std::size_t size = big_int_size(object);
  if (size == 0) return Outcome::kError;
  std::unique_ptr<unsigned char[]> bytes(new (std::nothrow) unsigned char[size]);
  if (bytes == nullptr) {
    PyErr_NoMemory();
    return Outcome::kError;
  }
  long_as_bytes(object, bytes.get(), size);
  return raw('I', size, bytes.get(), size, false);
}

// `whole`: the bytes are those of the value that is encoded, and stay where they are.
Outcome Encoding::raw(char tag, std::size_t length, const void* bytes, std::size_t size, bool whole) {
  if (!tagged(tag, length)) return Outcome::kError;
  if (whole && size >= kLong) {
    tail_ = bytes;
    tail_size_ = size;
    return Outcome::kDone;
  }
  return append(bytes, size) ? Outcome::kDone : Outcome::kError;
}

Outcome Encoding::text(PyObject* object, int depth) {
  if (PyUnicode_READY(object) != 0) return Outcome::kError;
  const auto length = static_cast<std::size_t>(PyUnicode_GET_LENGTH(object));
  const auto width = static_cast<std::size_t>(PyUnicode_KIND(object));
  if (length >= kLong && !first_sight(object, depth)) return Outcome::kNotNative;
  return raw(static_cast<char>('0' + width), length, PyUnicode_DATA(object), length * width, depth == 0);
}

Outcome Encoding::sequence(PyObject* object, int depth) {
  const bool list = PyList_CheckExact(object);
  const bool one_for_all = !list && Py_SIZE(object) == 0;  // the empty tuple
  if (depth == kDeepest || (!one_for_all && !first_sight(object, depth))) return Outcome::kNotNative;
  Outcome outcome = Outcome::kDone;
  Py_BEGIN_CRITICAL_SECTION(object);
  const Py_ssize_t length = Py_SIZE(object);
  if (!tagged(list ? '[' : '(', static_cast<std::size_t>(length))) outcome = Outcome::kError;
  for (Py_ssize_t i = 0; outcome == Outcome::kDone && i < length; ++i) {
    if (i >= Py_SIZE(object)) {
      outcome = Outcome::kNotNative;  // another thread has changed it
    } else {
      PyObject* item = list ? PyList_GET_ITEM(object, i) : PyTuple_GET_ITEM(object, i);
      outcome = value(item, depth + 1);
    }
  }
  if (outcome == Outcome::kDone && Py_SIZE(object) != length) outcome = Outcome::kNotNative;
  Py_END_CRITICAL_SECTION();
  return outcome;
}

Outcome Encoding::dict(PyObject* object, int depth) {
  if (depth == kDeepest || !first_sight(object, depth)) return Outcome::kNotNative;
  Outcome outcome = Outcome::kDone;
  Py_BEGIN_CRITICAL_SECTION(object);
  Py_ssize_t left = PyDict_GET_SIZE(object);
  if (!tagged('{', static_cast<std::size_t>(left))) outcome = Outcome::kError;
  PyObject* key = nullptr;
  PyObject* item = nullptr;
  for (Py_ssize_t at = 0; outcome == Outcome::kDone && PyDict_Next(object, &at, &key, &item) != 0; --left) {
    outcome = value(key, depth + 1);
    if (outcome == Outcome::kDone) outcome = value(item, depth + 1);
  }
  if (outcome == Outcome::kDone && left != 0) outcome = Outcome::kNotNative;  // another thread has changed it
  Py_END_CRITICAL_SECTION();
  return outcome;
}

Outcome Encoding::value(PyObject* object, int depth) {
  const auto done = [](bool fine) { return fine ? Outcome::kDone : Outcome::kError; };
  if (object == Py_None) return done(append("N", 1));
  if (object == Py_True) return done(append("T", 1));
  if (object == Py_False) return done(append("F", 1));
  const PyTypeObject* type = Py_TYPE(object);
  if (type == &PyLong_Type) return integer(object);
  if (type == &PyUnicode_Type) return text(object, depth);
  if (type == &PyFloat_Type) {
    std::array<std::byte, 9> bytes;
    const double number = PyFloat_AS_DOUBLE(object);
    bytes[0] = static_cast<std::byte>('d');
    std::memcpy(&bytes[1], &number, sizeof number);
    return done(append(bytes.data(), bytes.size()));
  }
  if (type == &PyBytes_Type) {
    const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(object));
    if (size >= kLong && !first_sight(object, depth)) return Outcome::kNotNative;
    return raw('b', size, PyBytes_AS_STRING(object), size, depth == 0);
  }
  if (type == &PyTuple_Type || type == &PyList_Type) return sequence(object, depth);
  if (type == &PyDict_Type) return dict(object, depth);
  if (type == &PyByteArray_Type) {
    if (!first_sight(object, depth)) return Outcome::kNotNative;
    Outcome outcome = Outcome::kDone;
    Py_BEGIN_CRITICAL_SECTION(object);
    const auto size = static_cast<std::size_t>(PyByteArray_GET_SIZE(object));
    outcome = raw('y', size, PyByteArray_AS_STRING(object), size, false);  // it may be changed meanwhile
    Py_END_CRITICAL_SECTION();
    return outcome;
  }
  return Outcome::kNotNative;
}

Outcome Encoding::encode(PyObject* object) { return value(object, 0); }

void Encoding::copy_to(std::byte* target) const {
  std::memcpy(target, grown_ == nullptr ? in_place_.data() : grown_.get(), used_);
  if (tail_size_ != 0) copy_bytes(target + used_, tail_, tail_size_);
}

// --- decoding ---------------------------------------------------------------------------------------------------------

namespace {

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

// A length of things of `width` bytes at least, which must be there.
bool take_length(Reader& reader, std::size_t width, std::size_t* length) {
  std::size_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    unsigned char byte = 0;
    if (!take(reader, &byte, 1) || (shift == 63 && byte > 1)) return false;  // more than 64 bits
    value |= static_cast<std::size_t>(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) {
      *length = value;
      return value <= reader.left / width;
    }
  }
  return false;
}

const std::byte* take_bytes(Reader& reader, std::size_t size) {
  const std::byte* bytes = reader.at;
  reader.at += size;
  reader.left -= size;
  return bytes;
}

PyObject* get_value(Reader& reader, int depth);

PyObject* get_sequence(Reader& reader, int depth, bool list) {
  std::size_t length = 0;
  if (depth == kDeepest || !take_length(reader, 1, &length)) return malformed();
  const auto count = static_cast<Py_ssize_t>(length);
  Ref sequence = Ref::take(list ? PyList_New(count) : PyTuple_New(count));
  for (Py_ssize_t i = 0; sequence && i < count; ++i) {
    PyObject* item = get_value(reader, depth + 1);
    if (item == nullptr) return nullptr;
    if (list) {
      PyList_SET_ITEM(sequence.get(), i, item);
    } else {
      PyTuple_SET_ITEM(sequence.get(), i, item);
    }
  }
  return sequence.release();
}

PyObject* get_dict(Reader& reader, int depth) {
  std::size_t length = 0;
  if (depth == kDeepest || !take_length(reader, 2, &length)) return malformed();
  Ref dict = Ref::take(PyDict_New());
  for (std::size_t i = 0; dict && i < length; ++i) {
    const Ref key = Ref::take(get_value(reader, depth + 1));
    const Ref item = key ? Ref::take(get_value(reader, depth + 1)) : Ref();
    if (!item) return nullptr;
    if (PyDict_SetItem(dict.get(), key.get(), item.get()) != 0) {
      if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) return nullptr;
      PyErr_Clear();  // a key without a hash, which no dict had
      return malformed();
    }
  }
  return dict.release();
}

// A str of `Character`s, which need not be aligned. The interpreter relies on there being none beyond Unicode's, and on each str having
// the narrowest that hold it.
template <class Character>
PyObject* get_wide_text(Reader& reader) {
  constexpr Py_UCS4 kLastOfUnicode = 0x10FFFF;
  std::size_t length = 0;
  if (!take_length(reader, sizeof(Character), &length)) return malformed();
  const std::byte* source = take_bytes(reader, length * sizeof(Character));
  const auto character = [source](std::size_t index) {
    Character value = 0;
    std::memcpy(&value, source + index * sizeof value, sizeof value);
    return Py_UCS4{value};
  };
  Py_UCS4 greatest = 0;
  for (std::size_t i = 0; i < length; ++i) greatest = std::max(greatest, character(i));
  if (greatest > kLastOfUnicode) return malformed();
  PyObject* made = PyUnicode_New(static_cast<Py_ssize_t>(length), greatest);
  if (made == nullptr) return nullptr;
  if (static_cast<std::size_t>(PyUnicode_KIND(made)) == sizeof(Character)) {
    std::memcpy(PyUnicode_DATA(made), source, length * sizeof(Character));
  } else {
    for (std::size_t i = 0; i < length; ++i) {
      PyUnicode_WRITE(PyUnicode_KIND(made), PyUnicode_DATA(made), static_cast<Py_ssize_t>(i), character(i));
    }
  }
  return made;
}

PyObject* get_raw(Reader& reader, char tag, int depth) {
  std::size_t size = 0;
  if (!take_length(reader, 1, &size)) return malformed();
  const std::byte* source = take_bytes(reader, size);
  if (tag == 'I') return long_from_bytes(reinterpret_cast<const unsigned char*>(source), size);
  const auto length = static_cast<Py_ssize_t>(size);
  PyObject* made = tag == 'b' ? PyBytes_FromStringAndSize(nullptr, length) : PyByteArray_FromStringAndSize(nullptr, length);
  if (made == nullptr) return nullptr;
  char* target = tag == 'b' ? PyBytes_AS_STRING(made) : PyByteArray_AS_STRING(made);
  if (depth == 0) {
    copy_to_fresh(reinterpret_cast<std::byte*>(target), source, size);
  } else {
    std::memcpy(target, source, size);
  }
  return made;
}

PyObject* get_value(Reader& reader, int depth) {
  char tag = 0;
  if (!take(reader, &tag, 1)) return malformed();
  switch (tag) {
    case 'N':
      Py_RETURN_NONE;
    case 'T':
      Py_RETURN_TRUE;
    case 'F':
      Py_RETURN_FALSE;
    case 'j': {
      std::int8_t number = 0;
      return take(reader, &number, sizeof number) ? PyLong_FromLong(number) : malformed();
    }
    case 'i': {
      std::int64_t number = 0;
      return take(reader, &number, sizeof number) ? PyLong_FromLongLong(number) : malformed();
    }
    case 'd': {
      double number = 0;
      return take(reader, &number, sizeof number) ? PyFloat_FromDouble(number) : malformed();
    }
    case '1': {
      std::size_t length = 0;
      if (!take_length(reader, 1, &length)) return malformed();
      return PyUnicode_FromKindAndData(PyUnicode_1BYTE_KIND, take_bytes(reader, length), static_cast<Py_ssize_t>(length));
    }
    case '2':
      return get_wide_text<Py_UCS2>(reader);
    case '4':
      return get_wide_text<Py_UCS4>(reader);
    case 'I':
    case 'b':
    case 'y':
      return get_raw(reader, tag, depth);
    case '(':
      return get_sequence(reader, depth, false);
    case '[':
      return get_sequence(reader, depth, true);
    case '{':
      return get_dict(reader, depth);
    default:
      return malformed();
  }
}

}  // namespace

PyObject* decode(const std::byte* source, std::size_t size) {
  Reader reader{source, size};
  PyObject* value = get_value(reader, 0);
  if (value == nullptr || reader.left == 0) return value;
  Py_DECREF(value);
  return malformed();
}

}  // namespace freethreading::binding
