// How many CPUs' worth of work a process may do.
#include "freethreading/cpu_budget.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/cpu.hpp"

namespace freethreading::testing {
namespace {

TEST(CpuQuota, OfVersionTwoIsReadFromOneLine) {
  EXPECT_EQ(cpus_of_quota("max 100000"), 0);
  EXPECT_EQ(cpus_of_quota("max 100000\n"), 0);
  EXPECT_EQ(cpus_of_quota("100000 100000\n"), 1);
  EXPECT_EQ(cpus_of_quota("400000 100000"), 4);
}

TEST(CpuQuota, IsRoundedUp) {
  EXPECT_EQ(cpus_of_quota("50000 100000"), 1);
  EXPECT_EQ(cpus_of_quota("1 100000"), 1);
  EXPECT_EQ(cpus_of_quota("150000 100000"), 2);
  EXPECT_EQ(cpus_of_quota("200001 100000"), 3);
}

TEST(CpuQuota, OfVersionOneIsReadFromTwoFiles) {
  EXPECT_EQ(cpus_of_quota("-1\n", "100000\n"), 0);
  EXPECT_EQ(cpus_of_quota("250000\n", "100000\n"), 3);
  EXPECT_EQ(cpus_of_quota("100000", "100000"), 1);
}

TEST(CpuQuota, NonsenseIsNoLimit) {
  for (const char* text : {"", " ", "max", "100000", "100000 ", "100000 0", "0 100000", "-5 100000", "a b", "1e5 x"}) {
    EXPECT_EQ(cpus_of_quota(text), 0) << '"' << text << '"';
  }
  EXPECT_EQ(cpus_of_quota("", ""), 0);
  EXPECT_EQ(cpus_of_quota("100000", "0"), 0);
  EXPECT_EQ(cpus_of_quota("100000", "-1"), 0);
  EXPECT_EQ(cpus_of_quota("99999999999999999999999 100000"), 0) << "more than a number holds";
}

TEST(CpuQuota, ALargeOneDoesNotOverflow) {
  EXPECT_GE(cpus_of_quota("9223372036854775807 1"), 1);
  EXPECT_GE(cpus_of_quota("9223372036854775807 9223372036854775807"), 1);
}

TEST(CpuBudget, IsAtLeastOneAndAtMostTheMask) {
  EXPECT_GE(cpu_budget(), 1);
  EXPECT_LE(cpu_budget(), os::available_cpus());
  EXPECT_GE(os::available_cpus(), 1);
}

TEST(CpuBudget, FollowsTheMask) {
  const pid_t child = fork();
  if (child == 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &set);
    _exit(sched_setaffinity(0, sizeof set, &set) == 0 ? cpu_budget() : 100);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

}  // namespace
}  // namespace freethreading::testing
