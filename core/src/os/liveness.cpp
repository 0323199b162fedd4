#include "os/liveness.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace freethreading::os {

namespace {

struct flock byte_lock(short type, std::uint64_t position) noexcept {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(position);
  lock.l_len = 1;
  return lock;
}

}  // namespace

bool hold_byte(int descriptor, std::uint64_t position) noexcept {
  struct flock lock = byte_lock(F_WRLCK, position);
  return fcntl(descriptor, F_SETLK, &lock) == 0;
}

void release_byte(int descriptor, std::uint64_t position) noexcept {
  struct flock lock = byte_lock(F_UNLCK, position);
  static_cast<void>(fcntl(descriptor, F_SETLK, &lock));
}

bool is_byte_held(int descriptor, std::uint64_t position) noexcept {
  struct flock lock = byte_lock(F_WRLCK, position);
  return fcntl(descriptor, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

std::uint64_t start_time_of(int pid) noexcept {
  char path[32];
  static_cast<void>(std::snprintf(path, sizeof path, "/proc/%d/stat", pid));
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return 0;
  }
  char text[1024];
  const ssize_t length = read(descriptor, text, sizeof text - 1);
  close(descriptor);
  if (length <= 0) {
    return 0;
  }
  text[length] = '\0';
  // "pid (name) state ppid ...": the name may hold anything, so the fields are counted from the last parenthesis: the state
  // is field 3, the start time field 22.
  const char* field = std::strrchr(text, ')');
  if (field == nullptr || field[1] == '\0' || field[2] == 'Z' || field[2] == 'X') {
    return 0;
  }
  for (int number = 2; number < 22 && field != nullptr; ++number) {
    field = std::strchr(field + 1, ' ');
  }
  return field == nullptr ? 0 : std::strtoull(field, nullptr, 10);
}

bool is_running(int pid, std::uint64_t start_time) noexcept { return start_time != 0 && start_time_of(pid) == start_time; }

}  // namespace freethreading::os
