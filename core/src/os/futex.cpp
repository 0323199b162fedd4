#include "os/futex.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace freethreading::os {

namespace {

timespec as_timespec(Nanoseconds time) noexcept {
  return {.tv_sec = static_cast<time_t>(time / kSecond), .tv_nsec = static_cast<long>(time % kSecond)};
}

}  // namespace

FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline, bool shared) noexcept {
  if (deadline.is_immediate()) {
    return word.load() == expected ? FutexResult::kTimedOut : FutexResult::kChanged;
  }
  // FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC; FUTEX_WAIT's is relative and would drift over EINTR.
  timespec until{};
  const timespec* limit = nullptr;
  if (!deadline.is_never()) {
    until = as_timespec(monotonic_now() + deadline.remaining());
    limit = &until;
  }
  const int operation = FUTEX_WAIT_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG);
  if (syscall(SYS_futex, &word, operation, expected, limit, nullptr, FUTEX_BITSET_MATCH_ANY) == 0) {
    return FutexResult::kWoken;
  }
  switch (errno) {
    case ETIMEDOUT:
      return FutexResult::kTimedOut;
    case EINTR:
      return FutexResult::kInterrupted;
    default:
      return FutexResult::kChanged;  // EAGAIN; anything else has the caller look again
  }
}

int futex_wake(std::atomic<std::uint32_t>& word, int count, bool shared) noexcept {
  const int operation = FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG);
  const long woken = syscall(SYS_futex, &word, operation, count, nullptr, nullptr, 0);
  return woken < 0 ? 0 : static_cast<int>(woken);
}

}  // namespace freethreading::os
