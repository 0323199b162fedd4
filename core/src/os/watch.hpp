// Waiting for descriptors, and for the end of another process.
#pragma once

#include <vector>

#include "freethreading/deadline.hpp"

namespace freethreading::os {

// A descriptor that becomes readable when the process ends (pidfd_open(2)), close-on-exec; -1: errno. A process id that
// was given again is only told apart by who knows that the process had not been reaped before this call.
[[nodiscard]] int watch_process(int pid) noexcept;

// Waits until one of the descriptors (negative ones are passed over) is readable or closed at its other end, or the deadline
// passes; bit i of the result: descriptor i is. 0 also after a signal.
[[nodiscard]] unsigned wait_readable(const std::vector<int>& descriptors, Deadline deadline) noexcept;

}  // namespace freethreading::os
