#include "os/watch.hpp"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace freethreading::os {

int watch_process(int pid) noexcept { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

unsigned wait_readable(const std::vector<int>& descriptors, Deadline deadline) noexcept {
  std::vector<pollfd> polled;
  polled.reserve(descriptors.size());
  for (const int descriptor : descriptors) {
    polled.push_back({.fd = descriptor, .events = POLLIN, .revents = 0});
  }
  constexpr Nanoseconds kLongest = 60 * kSecond;
  // Rounded up: a deadline that is nearer than a millisecond is not polled for in a loop.
  const Nanoseconds wait = (std::min(deadline.remaining(), kLongest) + kMillisecond - 1) / kMillisecond;
  unsigned ready = 0;
  if (poll(polled.data(), polled.size(), static_cast<int>(wait)) > 0) {
    for (std::size_t index = 0; index < polled.size(); ++index) {
      ready |= polled[index].revents != 0 ? 1U << index : 0U;
    }
  }
  return ready;
}

}  // namespace freethreading::os
