// The lock of a Condition: which operations it has.
#pragma once

#include "lock.hpp"

namespace freethreading::binding {

// While a Condition has no lock (__init__ was not called, or it is being unpickled or collected): RuntimeErrors.
extern const LockOperations kNoLockOperations;

// The operations of `lock`: straight into the core for exactly Lock or RLock, through Python for a subclass, whose methods
// may be overridden. Null with a TypeError for anything else.
const LockOperations* operations_of(State* state, PyObject* lock);

// A new RLock, shared or not as `shared` (True or False) says; null with an error.
PyObject* new_rlock(State* state, PyObject* shared);

}  // namespace freethreading::binding
