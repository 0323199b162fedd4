// Who the calling thread is, for locks that belong to a thread.
#pragma once

#include <cstdint>

namespace freethreading {

// A number of the calling thread within this process and the processes it forks: never 0, never used again in this
// process, and kept by the forking thread in the child (the other threads' numbers are nobody's there).
[[nodiscard]] std::uint32_t local_thread() noexcept;

// local_thread() of the one thread that lived on when this process was forked; 0 in a process that was not.
[[nodiscard]] std::uint32_t thread_that_forked() noexcept;

}  // namespace freethreading
