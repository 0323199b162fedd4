#include "os/death_pipe.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

namespace freethreading::os {

bool make_death_pipe(int& read_end, int& write_end) noexcept {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return false;
  }
  read_end = ends[0];
  write_end = ends[1];
  return true;
}

bool die_with(int read_end) noexcept {
  // The description by which this process is bound; a forked child finds its parent's, which binds the parent.
  static int own = -1;
  if (own >= 0) {
    close(own);
  }
  char path[32];
  static_cast<void>(std::snprintf(path, sizeof path, "/proc/self/fd/%d", read_end));
  // Non-blocking: opening a pipe whose write end is closed would wait for a new one. Kept open as long as the process lives.
  own = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  bool bound = own >= 0 && fcntl(own, F_SETOWN, getpid()) == 0 && fcntl(own, F_SETSIG, SIGKILL) == 0 &&
               fcntl(own, F_SETFL, O_RDONLY | O_NONBLOCK | O_ASYNC) == 0;
  if (!bound) {
    bound = prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0;
  }
  // It may have closed before the kernel was asked to tell.
  pollfd closed{.fd = read_end, .events = 0, .revents = 0};
  return bound && poll(&closed, 1, 0) == 0;
}

}  // namespace freethreading::os
