// The native encoding of small immutable values: None, bool, int, float, str, bytes, and short tuples of them.
//
// One byte says the type, the value follows:
//
//   N T F        None, True, False
//   i            8 bytes, an int that fits
//   I            4 bytes of length, that many bytes of two's complement, little end first
//   d            8 bytes, a float
//   s b          8 bytes of length, UTF-8 or bytes
//   (            1 byte of length, that many values
//
// Exact types only, so that what arrives equals what was sent, type included; everything else is pickled. The decoder checks
// every bound: bytes that are no encoding are a ValueError.
#pragma once

#include <cstddef>

#include "compat.hpp"

namespace freethreading::binding {

// Bytes of the encoding; 0: the value has none; no error is set.
std::size_t encoded_size(PyObject* value);
// Writes them; REQUIRES: room for encoded_size(value), which was not 0.
void encode(PyObject* value, std::byte* target);
// The value of an encoding, a new reference.
PyObject* decode(const std::byte* source, std::size_t size);

}  // namespace freethreading::binding
