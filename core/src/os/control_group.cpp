#include "os/control_group.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace freethreading::os {

std::string read_file(const std::string& path) {
  constexpr std::size_t kMost = 16384;
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    return {};
  }
  std::string text(kMost, '\0');
  std::size_t size = 0;
  for (ssize_t length = 1; length > 0 && size < kMost; size += length > 0 ? static_cast<std::size_t>(length) : 0) {
    length = read(descriptor, text.data() + size, kMost - size);
  }
  close(descriptor);
  text.resize(size);
  return text;
}

// Its lines are "id:controllers:path".
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

}  // namespace freethreading::os
