// A pipe by which processes die with the one that holds its other end.
//
// Only the holder has the write end. A process bound to it opens the read end anew (an open file description of its own) and
// has the kernel send it SIGKILL when the last write end is closed. It does not follow threads as PR_SET_PDEATHSIG
// does, and the children that the process forks are not bound: the signal goes to the process that asked for it.
#pragma once

namespace freethreading::os {

// Both ends close-on-exec. False: errno.
[[nodiscard]] bool make_death_pipe(int& read_end, int& write_end) noexcept;
// Binds the calling process. False: the holder is gone already, or the system refuses (no /proc): then it is bound to its
// parent's life instead, if that can be had.
[[nodiscard]] bool die_with(int read_end) noexcept;

}  // namespace freethreading::os
