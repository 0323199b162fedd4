// The control groups (cgroups v1 and v2) that this process is in: what limits it.
//
// These functions allocate, and throw std::bad_alloc where there is no memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace freethreading::os {

// The beginning of a file of the kernel's, 16 KiB at most; empty where it cannot be read.
[[nodiscard]] std::string read_file(const std::string& path);

// The path of a process's group in the hierarchy of `controller` ("" for v2), from the text of its /proc/PID/cgroup.
[[nodiscard]] std::string group_path(std::string_view table, std::string_view controller);

// Calls visit(folder) for the group at `path` in the hierarchy mounted at `root`, and for each group above it. Where a container
// shows its own group as the root, the folders below it are missing: what is read there is empty.
template <class Visit>
void visit_groups(const std::string& root, std::string path, Visit visit) {
  for (;;) {
    const bool top = path.empty() || path == "/";
    visit(top ? root : root + path);
    if (top) {
      return;
    }
    path.resize(std::min(path.rfind('/'), path.size() - 1));
  }
}

}  // namespace freethreading::os
