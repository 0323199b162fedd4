// Event: a flag that threads wait for. A wait that began before a set() ends, also when a clear() follows at once.
#pragma once

#include <atomic>
#include <cstdint>

#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"

namespace freethreading {

class Event {
 public:
  void set(Place& place) noexcept;
  void clear() noexcept;
  [[nodiscard]] bool is_set() const noexcept;
  // kReady, kTimedOut, kInterrupted. `epoch` belongs to this wait: start with begin_wait(), pass it to every call.
  [[nodiscard]] std::uint32_t begin_wait() const noexcept;
  WaitOutcome wait_until(Place& place, std::uint32_t epoch, WaitContext& context) noexcept;

 private:
  std::atomic<std::uint32_t> word_{0};
};

}  // namespace freethreading
