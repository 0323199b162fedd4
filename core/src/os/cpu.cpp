#include "os/cpu.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

namespace freethreading::os {

namespace {

int count_cpus() noexcept {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    return std::max(1, CPU_COUNT(&set));
  }
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));  // more than 1024 processors
}

}  // namespace

int available_cpus() noexcept {
  static const int count = count_cpus();
  return count;
}

}  // namespace freethreading::os
