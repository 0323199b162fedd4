// Parking in slices: what every wait of the core does after it has spun.
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"

namespace freethreading {

// The first slice of a wait is short, so that a death that came before it is noticed at once.
inline constexpr Nanoseconds kFirstParkSlice = 20 * kMillisecond;

enum class [[nodiscard]] ParkResult : std::uint8_t {
  kLook,         // woken, or the word had changed: look at it
  kSliceOver,    // nobody woke it: look at the word, and whether its owner is alive
  kInterrupted,  // as kSliceOver; and the wait is interruptible: after the look, come back with kInterrupted
};

// Sleeps while `word` is `expected`, for one slice, or until the deadline where that comes first (the caller looks at its
// deadline itself). Keeps the context's `since` and `parked`.
ParkResult park(std::atomic<std::uint32_t>& word, std::uint32_t expected, Place& place, WaitContext& context) noexcept;

}  // namespace freethreading
