#include "os/memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <string>

#include "freethreading/memory/fresh.hpp"
#include "os/control_group.hpp"

namespace freethreading {

// The pages that lie within it: those at its ends are shared with others.
void expect_to_write(void* memory, std::size_t size) noexcept {
  constexpr std::uintptr_t kPage = 4096;
  const auto begin = (reinterpret_cast<std::uintptr_t>(memory) + kPage - 1) / kPage * kPage;  // NOLINT(*-reinterpret-cast)
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + size) / kPage * kPage;         // NOLINT(*-reinterpret-cast)
  if (begin < end) {
    // NOLINTNEXTLINE(*-reinterpret-cast,*-int-to-ptr): within the memory
    static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
  }
}

namespace os {

namespace {

constexpr std::uint64_t kUnknown = std::numeric_limits<std::uint64_t>::max();

std::uint64_t number_in(std::string_view text) noexcept {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() ? number : kUnknown;
}

// The number in the line that begins with `name`; kUnknown: there is none.
std::uint64_t entry(std::string_view table, std::string_view name) noexcept {
  std::size_t begin = table.find(name);
  while (begin != std::string_view::npos && begin != 0 && table[begin - 1] != '\n') {
    begin = table.find(name, begin + 1);
  }
  if (begin == std::string_view::npos) {
    return kUnknown;
  }
  const std::string_view rest = table.substr(begin + name.size());
  return number_in(rest.substr(0, rest.find('\n')));
}

// The bytes of a line "Name:   123 kB".
std::uint64_t bytes_of(std::string_view meminfo, std::string_view name) noexcept {
  const std::uint64_t kilobytes = entry(meminfo, name);
  return kilobytes < kUnknown / 4096 ? kilobytes * 1024 : kUnknown;
}

std::uint64_t available_in_groups() {
  const std::string table = read_file("/proc/self/cgroup");
  const std::string root = "/sys/fs/cgroup";
  std::uint64_t available = kUnknown;
  const auto look = [&](const std::string& folder, const char* limit, const char* usage) {
    const std::string most = read_file(folder + limit);
    if (!most.empty()) {
      available = std::min(available, available_memory_of_group(most, read_file(folder + usage), read_file(folder + "/memory.stat")));
    }
  };
  visit_groups(root, group_path(table, ""),
               [&](const std::string& folder) { look(folder, "/memory.max", "/memory.current"); });
  visit_groups(root + "/memory", group_path(table, "memory"),
               [&](const std::string& folder) { look(folder, "/memory.limit_in_bytes", "/memory.usage_in_bytes"); });
  return available;
}

}  // namespace

std::uint64_t available_memory_of(std::string_view meminfo) noexcept {
  const std::uint64_t available = bytes_of(meminfo, "MemAvailable:");
  const std::uint64_t swap = bytes_of(meminfo, "SwapFree:");
  return available == kUnknown ? kUnknown : available + (swap == kUnknown ? 0 : swap);
}

std::uint64_t available_memory_of_group(std::string_view limit, std::string_view usage, std::string_view stat) noexcept {
  const std::uint64_t most = number_in(limit);  // "max" is no number
  const std::uint64_t used = number_in(usage);
  if (most == kUnknown || used == kUnknown) {
    return kUnknown;
  }
  std::uint64_t cache = 0;
  // Version 1 counts what is in the groups below under another name.
  const bool below = entry(stat, "total_inactive_file ") != kUnknown;
  for (const char* name : {below ? "total_active_file " : "active_file ", below ? "total_inactive_file " : "inactive_file "}) {
    const std::uint64_t bytes = entry(stat, name);
    cache += bytes == kUnknown ? 0 : bytes;
  }
  const std::uint64_t kept = used - std::min(used, cache);
  return most - std::min(most, kept);
}

std::uint64_t available_memory() noexcept {
  try {
    return std::min(available_memory_of(read_file("/proc/meminfo")), available_in_groups());
  } catch (...) {
    return 0;  // no memory for a path
  }
}

}  // namespace os
}  // namespace freethreading
