#include "os/signals.hpp"

#include <sys/signalfd.h>
#include <unistd.h>

#include <initializer_list>

namespace freethreading::os {

int read_signals(SignalMask& before) noexcept {
  sigset_t taken;
  sigemptyset(&taken);
  for (const int number : {SIGCHLD, SIGTERM, SIGQUIT, SIGINT, SIGHUP}) {
    sigaddset(&taken, number);
    // An ignored SIGCHLD, inherited from who started us, would have the kernel reap the children.
    if (number == SIGCHLD) {
      static_cast<void>(signal(number, SIG_DFL));
    }
  }
  if (sigprocmask(SIG_BLOCK, &taken, &before.set) != 0) {
    return -1;
  }
  return signalfd(-1, &taken, SFD_NONBLOCK | SFD_CLOEXEC);
}

int next_signal(int descriptor) noexcept {
  signalfd_siginfo info{};
  return read(descriptor, &info, sizeof info) == static_cast<ssize_t>(sizeof info) ? static_cast<int>(info.ssi_signo) : 0;
}

}  // namespace freethreading::os
