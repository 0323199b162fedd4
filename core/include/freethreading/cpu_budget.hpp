// How many CPUs' worth of work this process may do: its affinity mask, and the quota of its control group.
#pragma once

#include <string_view>

namespace freethreading {

// At least 1. A quota counts rounded up: half a CPU is one worker. Looked up at each call.
[[nodiscard]] int cpu_budget() noexcept;

// CPUs that a quota allows, rounded up; 0: no limit. `cpu_max` is the text of cgroup v2's cpu.max ("max 100000", "150000
// 100000").
[[nodiscard]] int cpus_of_quota(std::string_view cpu_max) noexcept;
// The same of cgroup v1's cpu.cfs_quota_us and cpu.cfs_period_us.
[[nodiscard]] int cpus_of_quota(std::string_view quota, std::string_view period) noexcept;

}  // namespace freethreading
