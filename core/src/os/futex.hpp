// Sleeping on a 32-bit word until another thread or process wakes it (futex(2)).
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/deadline.hpp"

namespace freethreading::os {

enum class [[nodiscard]] FutexResult : std::uint8_t {
  kWoken,        // by futex_wake, or spuriously
  kChanged,      // the word was not `expected`
  kTimedOut,     // the deadline passed
  kInterrupted,  // a signal handler ran
};

// Sleeps while `word` is `expected`. `shared`: the word lies in memory that other processes map.
FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline, bool shared) noexcept;

// Wakes up to `count` sleepers; says how many there were.
int futex_wake(std::atomic<std::uint32_t>& word, int count, bool shared) noexcept;

}  // namespace freethreading::os
