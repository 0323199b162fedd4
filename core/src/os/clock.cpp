#include <ctime>

#include "freethreading/deadline.hpp"

namespace freethreading {

Nanoseconds monotonic_now() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<Nanoseconds>(now.tv_sec) * kSecond + now.tv_nsec;
}

Deadline Deadline::after(Nanoseconds delay) noexcept {
  if (delay <= 0) {
    return immediate();
  }
  const Nanoseconds now = monotonic_now();
  return delay >= kNever - now ? never() : Deadline(now + delay);
}

bool Deadline::passed() const noexcept {
  return is_immediate() || (!is_never() && monotonic_now() >= at_);
}

Nanoseconds Deadline::remaining() const noexcept {
  if (is_never()) {
    return kNever;
  }
  if (is_immediate()) {
    return 0;
  }
  const Nanoseconds left = at_ - monotonic_now();
  return left > 0 ? left : 0;
}

}  // namespace freethreading
