// What condition.cpp needs of lock.cpp.
#pragma once

#include "compat.hpp"
#include "freethreading/deadline.hpp"
#include "freethreading/sync/lock.hpp"

namespace freethreading::binding {

// Takes the lock, detached while it waits. kReady, kOwnerDied, kTimedOut, or kInterrupted with an error set.
WaitOutcome lock_until(Place& place, Lock& lock, Deadline deadline);

}  // namespace freethreading::binding
