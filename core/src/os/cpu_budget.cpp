#include "freethreading/cpu_budget.hpp"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "os/control_group.hpp"
#include "os/cpu.hpp"

namespace freethreading {

namespace {

// A number at the beginning of the text; -1: there is none.
long long number_in(std::string_view text) noexcept {
  while (!text.empty() && text.front() == ' ') {
    text.remove_prefix(1);
  }
  long long value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? value : -1;
}

int rounded_up(long long quota, long long period) noexcept {
  if (quota <= 0 || period <= 0) {
    return 0;
  }
  return static_cast<int>(std::clamp<long long>(quota / period + (quota % period != 0 ? 1 : 0), 1, 1 << 20));
}

// The tighter of two quotas; 0: none.
int tighter(int one, int other) noexcept { return one == 0 || (other != 0 && other < one) ? other : one; }

int group_quota() {
  const std::string table = os::read_file("/proc/self/cgroup");
  const std::string root = "/sys/fs/cgroup";
  int quota = 0;
  os::visit_groups(root, os::group_path(table, ""), [&](const std::string& folder) {
    quota = tighter(quota, cpus_of_quota(os::read_file(folder + "/cpu.max")));
  });
  if (quota == 0) {
    os::visit_groups(root + "/cpu", os::group_path(table, "cpu"), [&](const std::string& folder) {
      quota = tighter(quota, cpus_of_quota(os::read_file(folder + "/cpu.cfs_quota_us"),
                                           os::read_file(folder + "/cpu.cfs_period_us")));
    });
  }
  return quota;
}

int affinity() noexcept {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : os::available_cpus();
}

}  // namespace

int cpus_of_quota(std::string_view cpu_max) noexcept {
  const std::size_t space = cpu_max.find(' ');
  return space == std::string_view::npos ? 0 : rounded_up(number_in(cpu_max), number_in(cpu_max.substr(space)));
}

int cpus_of_quota(std::string_view quota, std::string_view period) noexcept {
  return rounded_up(number_in(quota), number_in(period));
}

int cpu_budget() noexcept {
  const int cpus = affinity();
  try {
    const int quota = group_quota();
    return quota > 0 ? std::min(cpus, quota) : cpus;
  } catch (...) {
    return cpus;  // no memory for a path: the mask is the better part of the answer
  }
}

}  // namespace freethreading
