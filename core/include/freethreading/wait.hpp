// What a blocking call of the core is told by its caller, and what it keeps between two calls of the same wait.
//
// A wait that must look after other things (the main thread of a Python program runs signal handlers) sets
// `interruptible`: the core then comes back with kInterrupted after a signal or after a slice of 100 ms (of 500 ms, once it has
// lasted for a second: who waits for long shall use no CPU), having changed nothing, and the caller looks around and calls again
// *with the same WaitContext*. Other waits stay in the core, which looks again at state and owners after every slice of 500 ms.
#pragma once

#include <cstdint>

#include "freethreading/deadline.hpp"

namespace freethreading {

// How a wait ended.
enum class [[nodiscard]] WaitOutcome : std::uint8_t {
  kReady,        // what was waited for is there (the lock is held, the permit taken, the item in hand)
  kOwnerDied,    // as kReady, for locks: held now, and the owner before died while it held it
  kTimedOut,     // the deadline passed; nothing was taken
  kInterrupted,  // interruptible waits only: nothing was taken, call again with the same context
  kBroken,       // barriers: the barrier broke or was reset
  kShutDown,     // queues: shut down
  kNoMemory,     // nothing was done: the region could not grow
};

inline constexpr Nanoseconds kParkSlice = 500 * kMillisecond;
inline constexpr Nanoseconds kInterruptibleSlice = 100 * kMillisecond;
inline constexpr Nanoseconds kLongWait = kSecond;
// A lock's waiter that has waited this long asks for a hand-off.
inline constexpr Nanoseconds kStarving = kMillisecond;

struct WaitContext {
  explicit WaitContext(Deadline when, bool can_be_interrupted = false) noexcept
      : deadline(when), interruptible(can_be_interrupted) {}

  Deadline deadline;
  bool interruptible;
  // Kept by the core from call to call of one wait:
  Nanoseconds since = 0;  // when this wait first parked, 0 before
  bool parked = false;    // it has parked at least once
};

}  // namespace freethreading
