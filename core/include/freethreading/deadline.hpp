// Deadline: one point of monotonic time, made at the edge of the library and passed down unchanged.
//
// Every blocking call of the core takes its time limit as a Deadline, so that a call that parks several times, or that
// takes two locks in turn, never waits longer in total than its caller asked for. Setting the wall clock does not move it.
#pragma once

#include <cstdint>
#include <limits>

namespace freethreading {

using Nanoseconds = std::int64_t;

inline constexpr Nanoseconds kMicrosecond = 1'000;
inline constexpr Nanoseconds kMillisecond = 1'000'000;
inline constexpr Nanoseconds kSecond = 1'000'000'000;

// Nanoseconds of CLOCK_MONOTONIC. Defined in core/src/os/.
[[nodiscard]] Nanoseconds monotonic_now() noexcept;

class Deadline {
 public:
  // A deadline that never passes.
  static constexpr Deadline never() noexcept { return Deadline(kNever); }
  // A deadline that has passed already: "do not wait".
  static constexpr Deadline immediate() noexcept { return Deadline(kImmediate); }
  // Now + `delay`; a delay too large for the clock never passes, a negative one has passed.
  static Deadline after(Nanoseconds delay) noexcept;

  [[nodiscard]] constexpr bool is_never() const noexcept { return at_ == kNever; }
  [[nodiscard]] constexpr bool is_immediate() const noexcept { return at_ == kImmediate; }
  [[nodiscard]] bool passed() const noexcept;
  [[nodiscard]] friend constexpr bool sooner(const Deadline& one, const Deadline& other) noexcept { return one.at_ < other.at_; }
  // Nanoseconds left, 0 when passed, the largest value when it never passes.
  [[nodiscard]] Nanoseconds remaining() const noexcept;

 private:
  static constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();
  static constexpr Nanoseconds kImmediate = std::numeric_limits<Nanoseconds>::min();
  explicit constexpr Deadline(Nanoseconds at) noexcept : at_(at) {}
  Nanoseconds at_;
};

}  // namespace freethreading
