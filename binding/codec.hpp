// The native encoding of plain values: None, bool, int, float, str, bytes, bytearray, and tuples, lists and dicts of them.
//
// One byte says the type, the value follows; `length` is 7 bits a byte, low bits first, the high bit says that more follow:
//
//   N T F        None, True, False
//   j i          1 or 8 bytes, an int that fits
//   I            length, that many bytes of two's complement, little end first
//   d            8 bytes, a float
//   1 2 4        length in characters, a str of that many bytes a character, as the interpreter holds it
//   b y          length, bytes or a bytearray
//   ( [          length, that many values: a tuple or a list
//   {            length, that many keys and values: a dict
//
// Exact types only, so that what arrives equals what was sent, type included. A container (or a long string) that may be in a
// value twice keeps its identity: such a value is pickled, as is everything else. The decoder checks every bound: bytes that
// are no encoding are a ValueError.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "compat.hpp"

namespace freethreading::binding {

// The encoding of one value, in memory of its own; the bytes of a long bytes or str stay where they are, so the value must
// outlive it.
class Encoding {
 public:
  enum class Outcome { kDone, kNotNative, kError };

  // Once. kNotNative: the value has no encoding; no error is set.
  Outcome encode(PyObject* value);
  [[nodiscard]] std::size_t size() const { return used_ + tail_size_; }
  // May detach from the interpreter, where it is long. REQUIRES: room for size() bytes.
  void copy_to(std::byte* target) const;

 private:
  static constexpr std::size_t kInPlace = 512;
  static constexpr std::size_t kMostSeen = 32;

  Outcome value(PyObject* object, int depth);
  Outcome integer(PyObject* object);
  Outcome text(PyObject* object, int depth);
  Outcome raw(char tag, std::size_t length, const void* bytes, std::size_t size, bool whole);
  Outcome sequence(PyObject* object, int depth);
  Outcome dict(PyObject* object, int depth);
  bool first_sight(PyObject* object, int depth);
  bool append(const void* bytes, std::size_t size);
  bool tagged(char tag, std::size_t length);

  std::array<std::byte, kInPlace> in_place_;  // what is used of it
  std::unique_ptr<std::byte[]> grown_;
  std::size_t used_ = 0;
  std::size_t room_ = kInPlace;
  const void* tail_ = nullptr;
  std::size_t tail_size_ = 0;
  std::array<PyObject*, kMostSeen> seen_;  // borrowed: whoever encodes holds the value
  std::size_t seen_count_ = 0;
};

// The value of an encoding, a new reference. May detach, where it is long.
PyObject* decode(const std::byte* source, std::size_t size);

}  // namespace freethreading::binding
