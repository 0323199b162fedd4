#include "os/memory.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <limits>

namespace freethreading::os {

namespace {

constexpr std::uint64_t kUnknown = std::numeric_limits<std::uint64_t>::max();

// The bytes of a line "Name:   123 kB"; kUnknown: there is no such line.
std::uint64_t bytes_of(std::string_view meminfo, std::string_view name) noexcept {
  std::size_t begin = meminfo.find(name);
  if (begin == std::string_view::npos || (begin != 0 && meminfo[begin - 1] != '\n')) {
    return kUnknown;
  }
  begin = meminfo.find_first_not_of(' ', begin + name.size());
  if (begin == std::string_view::npos) {
    return kUnknown;
  }
  std::uint64_t kilobytes = 0;
  const auto [end, error] = std::from_chars(meminfo.data() + begin, meminfo.data() + meminfo.size(), kilobytes);
  return error == std::errc() && kilobytes < kUnknown / 4096 ? kilobytes * 1024 : kUnknown;
}

}  // namespace

std::uint64_t available_memory_of(std::string_view meminfo) noexcept {
  const std::uint64_t available = bytes_of(meminfo, "MemAvailable:");
  const std::uint64_t swap = bytes_of(meminfo, "SwapFree:");
  return available == kUnknown ? kUnknown : available + (swap == kUnknown ? 0 : swap);
}

std::uint64_t available_memory() noexcept {
  const int descriptor = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return kUnknown;
  }
  std::array<char, 4096> text;  // the lines that count are among the first
  const ssize_t length = read(descriptor, text.data(), text.size());
  close(descriptor);
  return available_memory_of({text.data(), length > 0 ? static_cast<std::size_t>(length) : 0});
}

}  // namespace freethreading::os
