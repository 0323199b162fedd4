// Whether a process is still there: by a lock on a byte of a file, which the kernel releases when the process dies, and by
// what /proc says. A zombie is dead; a stopped process is alive.
#pragma once

#include <cstdint>

namespace freethreading::os {

// Locks byte `position` of the file for this process (F_SETLK); false: another process holds it.
bool hold_byte(int descriptor, std::uint64_t position) noexcept;
void release_byte(int descriptor, std::uint64_t position) noexcept;
// Whether another process holds the byte.
[[nodiscard]] bool is_byte_held(int descriptor, std::uint64_t position) noexcept;

// When a process began (clock ticks since boot); 0: there is none with this id, it is a zombie, or /proc says nothing.
[[nodiscard]] std::uint64_t start_time_of(int pid) noexcept;
// Whether the process with this id runs, and began at `start_time`: an id that was given again does not count.
[[nodiscard]] bool is_running(int pid, std::uint64_t start_time) noexcept;

}  // namespace freethreading::os
