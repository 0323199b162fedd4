#include "freethreading/cpu_budget.hpp"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>

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

std::string read_file(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return {};
  }
  std::string text(4096, '\0');
  const ssize_t length = read(descriptor, text.data(), text.size());
  close(descriptor);
  text.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
  return text;
}

// The path of this process's group in the hierarchy of `controller` ("" for v2), from /proc/self/cgroup's lines
// "id:controllers:path".
std::string group_path(std::string_view table, std::string_view controller) {
  while (!table.empty()) {
    const std::string_view line = table.substr(0, table.find('\n'));
    table.remove_prefix(std::min(line.size() + 1, table.size()));
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) {
      continue;
    }
    const std::string list = "," + std::string(line.substr(first + 1, second - first - 1)) + ",";
    if (list.find("," + std::string(controller) + ",") != std::string::npos) {
      return std::string(line.substr(second + 1));
    }
  }
  return {};
}

// The tightest quota of the group and those above it; 0: none.
template <class Quota>
int tightest(std::string path, Quota quota_at) {
  int limit = 0;
  for (;;) {
    const int here = quota_at(path == "/" ? "" : path);
    if (here > 0 && (limit == 0 || here < limit)) {
      limit = here;
    }
    if (path.empty() || path == "/") {
      return limit;
    }
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

int group_quota() {
  const std::string table = read_file("/proc/self/cgroup");
  const std::string root = "/sys/fs/cgroup";
  const int unified = tightest(group_path(table, ""),
                               [&](const std::string& path) { return cpus_of_quota(read_file(root + path + "/cpu.max")); });
  if (unified > 0) {
    return unified;
  }
  return tightest(group_path(table, "cpu"), [&](const std::string& path) {
    return cpus_of_quota(read_file(root + "/cpu" + path + "/cpu.cfs_quota_us"),
                         read_file(root + "/cpu" + path + "/cpu.cfs_period_us"));
  });
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
