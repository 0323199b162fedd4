// Starting, watching and ending processes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "freethreading/deadline.hpp"

namespace freethreading::os {

// Starts a program whose descriptors from 3 on are `descriptors`, in this order, with the signals in `mask` blocked (null:
// as they are for the caller). Its process id; 0: errno.
struct SignalMask;
[[nodiscard]] int spawn(const std::vector<std::string>& argv, const std::vector<int>& descriptors, const SignalMask* mask) noexcept;

// A child that has ended and that nobody has waited for: its status is known, its process id is still its own until reap().
struct Ended {
  int pid = 0;  // 0: none
  std::int32_t status = 0;  // as waitpid gives it
};
[[nodiscard]] Ended next_ended_child() noexcept;
void reap(int pid) noexcept;
// Waits for one child; false: it is not ours, or somebody else waits for it.
bool wait_for_child(int pid) noexcept;
void kill_process(int pid, int signal) noexcept;
// What a process does, its first thread at least. kStopped: by SIGSTOP. kEnded: also while nobody has waited for it.
enum class Activity : std::uint8_t { kRuns, kStopped, kEnded };
[[nodiscard]] Activity activity_of(int pid) noexcept;

// Continues in a child of its own that nobody waits for; the caller's process ends. False: errno.
[[nodiscard]] bool move_to_orphan() noexcept;
// Forks a child that is nobody's but the nearest subreaper's. In the child: 0. In the caller: the child's process id, or
// -1 with errno.
[[nodiscard]] int fork_orphan() noexcept;
// Makes this process the one that adopts orphans among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
void become_subreaper() noexcept;

// _exit(code), but whoever waits for the process does not wait until its memory has been given back, which takes longer than all
// the rest of its end: a process that shares the memory outlives it for that (as QEMU's async-teardown). That one has no descriptors
// and becomes the child of who adopts orphans. Only where this process has at most kLightMemory; else, or where the system
// refuses (Linux before 5.9 cannot), plainly _exit.
[[noreturn]] void exit_lightly(int code) noexcept;

// Closes every descriptor from `first` on.
void close_from(int first) noexcept;
// Puts /dev/null in the place of standard input.
void close_standard_input() noexcept;

}  // namespace freethreading::os
