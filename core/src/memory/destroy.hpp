// What an object's type knows to do for the session: frees what the object owns, and recovers it from a process's end.
#pragma once

#include "freethreading/memory/object.hpp"

namespace freethreading::memory {

// Frees what the object owns besides its own block. May run again after a death in the middle.
void destroy_body(Place& place, ObjectHeader& object) noexcept;
// Recovers the object from the end of `gone`: what it held is given up, or, after a clean exit, stays held by nobody.
void sweep_body(Place& place, ObjectHeader& object, OwnerId gone, bool left_cleanly) noexcept;

}  // namespace freethreading::memory
