// Which control groups a process is in.
#include "os/control_group.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace freethreading::os {
namespace {

constexpr const char* kHybrid = "9:name=systemd:/init\n4:memory:/a/b\n1:cpu,cpuacct:/c\n0::/d\nnonsense\n";

std::vector<std::string> visited(const std::string& path) {
  std::vector<std::string> folders;
  visit_groups("/sys", path, [&](const std::string& folder) { folders.push_back(folder); });
  return folders;
}

TEST(ControlGroup, HasAPathInEachHierarchy) {
  EXPECT_EQ(group_path(kHybrid, "memory"), "/a/b");
  EXPECT_EQ(group_path(kHybrid, "cpu"), "/c");
  EXPECT_EQ(group_path(kHybrid, "cpuacct"), "/c");
  EXPECT_EQ(group_path(kHybrid, ""), "/d");
  EXPECT_EQ(group_path(kHybrid, "pids"), "");
  EXPECT_EQ(group_path("", ""), "");
}

TEST(ControlGroup, IsVisitedWithAllAboveIt) {
  EXPECT_EQ(visited("/a/b"), (std::vector<std::string>{"/sys/a/b", "/sys/a", "/sys"}));
  EXPECT_EQ(visited("/"), std::vector<std::string>{"/sys"});
  EXPECT_EQ(visited(""), std::vector<std::string>{"/sys"});
  EXPECT_EQ(visited("a"), (std::vector<std::string>{"/sysa", "/sys"})) << "no kernel writes that; it ends";
}

TEST(ControlGroup, FilesThatAreNotThereAreEmpty) {
  EXPECT_EQ(read_file("/nonexistent/memory.max"), "");
  EXPECT_EQ(read_file("/proc"), "");
  EXPECT_NE(read_file("/proc/self/status"), "");
}

}  // namespace
}  // namespace freethreading::os
