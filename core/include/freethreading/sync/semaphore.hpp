// Semaphore: a count of permits. Permits have no owner: one taken by a process that dies is not given back.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"

namespace freethreading {

class Semaphore {
 public:
  static constexpr std::uint32_t kMaxValue = std::numeric_limits<std::int32_t>::max();
  // `bound`: the highest count that release() may reach (a BoundedSemaphore's is its first value).
  // REQUIRES: value <= bound <= kMaxValue.
  explicit Semaphore(std::uint32_t value, std::uint32_t bound = kMaxValue) noexcept;

  WaitOutcome try_acquire(Place& place) noexcept;
  WaitOutcome acquire_until(Place& place, WaitContext& context) noexcept;
  // False: the count would pass the bound; nothing was done.
  [[nodiscard]] bool release(Place& place, std::uint32_t count = 1) noexcept;
  [[nodiscard]] std::uint32_t value() const noexcept;
  [[nodiscard]] std::uint32_t bound() const noexcept { return bound_; }

 private:
  std::atomic<std::uint32_t> word_;
  std::uint32_t bound_;  // never written after construction
};

}  // namespace freethreading
