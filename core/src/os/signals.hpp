// The signals of a process that reads them from a descriptor instead of being interrupted.
#pragma once

#include <csignal>

namespace freethreading::os {

struct SignalMask {
  sigset_t set;
};

inline constexpr int kTerminate = SIGTERM;
inline constexpr int kQuit = SIGQUIT;
inline constexpr int kChildEnded = SIGCHLD;
inline constexpr int kKill = SIGKILL;
inline constexpr int kStop = SIGSTOP;
inline constexpr int kContinue = SIGCONT;

// From now on SIGCHLD, SIGTERM, SIGQUIT, SIGINT and SIGHUP are read with next_signal(). `before`: what was blocked before.
// The descriptor; -1: errno.
[[nodiscard]] int read_signals(SignalMask& before) noexcept;
// The number of a signal that has come; 0: none.
[[nodiscard]] int next_signal(int descriptor) noexcept;

}  // namespace freethreading::os
