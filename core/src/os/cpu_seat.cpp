#include "freethreading/cpu_seat.hpp"

#include <sched.h>

#include <algorithm>

namespace freethreading {

namespace {

// Whether the calling thread may run elsewhere, and does now.
bool leave(int cpu) noexcept {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0 || !CPU_ISSET(cpu, &all) || CPU_COUNT(&all) == 1) {
    return false;
  }
  cpu_set_t others = all;
  CPU_CLR(cpu, &others);
  return sched_setaffinity(0, sizeof others, &others) == 0 && sched_setaffinity(0, sizeof all, &all) == 0;
}

}  // namespace

std::uint32_t CpuSeat::here() noexcept { return static_cast<std::uint32_t>(sched_getcpu() + 1); }

bool CpuSeat::has_work_from(std::uint32_t cpu) noexcept {
  if (cpu == 0 || cpu != here()) {
    beside_ = 0;
    if (well_ < kSettled && ++well_ == kSettled) {
      limit_ = kFirstLimit;
    }
    return false;
  }
  well_ = 0;
  if (++beside_ < limit_) {
    return false;
  }
  beside_ = 0;
  limit_ = std::min(2 * limit_, kLastLimit);
  shared_ = static_cast<int>(cpu) - 1;
  return true;
}

bool CpuSeat::move() noexcept { return leave(shared_); }

}  // namespace freethreading
