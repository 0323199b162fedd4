#include "freethreading/process_memory.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <string_view>

namespace freethreading {

namespace {

// Takes a number off the front of the text, and the blank before it.
std::uint64_t take_number(std::string_view& text) noexcept {
  text.remove_prefix(text.starts_with(' ') ? 1 : 0);
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return error == std::errc() ? number : 0;
}

}  // namespace

std::uint64_t private_memory(std::int32_t pid) noexcept {
  std::array<char, 32> path{"/proc/self/statm"};
  if (pid != 0) {
    // NOLINTNEXTLINE(*-vararg): std::format allocates
    static_cast<void>(std::snprintf(path.data(), path.size(), "/proc/%d/statm", pid));
  }
  const int descriptor = open(path.data(), O_RDONLY | O_CLOEXEC);  // NOLINT(*-vararg): it is open's
  if (descriptor < 0) {
    return 0;
  }
  std::array<char, 256> bytes{};
  const ssize_t length = read(descriptor, bytes.data(), bytes.size());
  close(descriptor);
  // Pages: of the address space, resident, of those the ones of files and of shared memory; others.
  std::string_view text(bytes.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  static_cast<void>(take_number(text));
  const std::uint64_t resident = take_number(text);
  const std::uint64_t shared = take_number(text);
  return resident > shared ? (resident - shared) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace freethreading
