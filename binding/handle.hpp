// Handles as bytes, the form in which they travel: magic, session, offset, generation and type, 8 bytes each.
#pragma once

#include "compat.hpp"
#include "freethreading/memory/object.hpp"
#include "placement.hpp"
#include "state.hpp"

namespace freethreading::binding {

inline constexpr Py_ssize_t kHandleSize = 40;

// REQUIRES: the proxy's struct lies in a region.
Handle handle_of_proxy(const Proxy* proxy);
PyObject* bytes_of_handle(const Handle& handle);
// False: TypeError, or ValueError for bytes that are no handle.
bool handle_of_bytes(PyObject* bytes, Handle* handle);
// The session that the handle names; null with a HandleGoneError where this process does not have it.
Session* session_of_handle(State* state, const Handle& handle);
// Takes a reference for a proxy of this process; null with a HandleGoneError.
ObjectHeader* open_object(State* state, const Handle& handle, Session** session);

}  // namespace freethreading::binding
