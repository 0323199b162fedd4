// The points at which tests have a process die.
#include "freethreading/crash_point.hpp"

#ifdef FT_CRASH_POINTS

#include <algorithm>

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using CrashPointTest = WatchedTest;

void pass_by(int times) {
  for (int i = 0; i < times; ++i) {
    FT_CRASH_POINT("test.point");
  }
}

TEST_F(CrashPointTest, AllAreListedOnce) {
  const std::vector<std::string_view> names = list_crash_points();
  EXPECT_EQ(std::count(names.begin(), names.end(), "test.point"), 1);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_NE(std::find(names.begin(), names.end(), "blocks.free.begun"), names.end());
}

TEST_F(CrashPointTest, NothingHappensAtOneThatIsNotArmed) { pass_by(10); }

TEST_F(CrashPointTest, KillsAtTheNthPassing) {
  EXPECT_EQ(await_child(in_plain_child([] {
              set_crash_point("test.point", 3);
              pass_by(2);
            })),
            0);
  EXPECT_TRUE(was_killed(await_child(in_plain_child([] {
    set_crash_point("test.point", 3);
    pass_by(3);
  }))));
}

TEST_F(CrashPointTest, AnotherNameDoesNotCount) {
  EXPECT_EQ(await_child(in_plain_child([] {
              set_crash_point("test.other");
              pass_by(3);
              set_crash_point("test.point");
              set_crash_point("");
              pass_by(3);
            })),
            0);
}

TEST_F(CrashPointTest, ExitsWithItsStatus) {
  const int status = await_child(in_plain_child([] {
    set_crash_point("test.point", 1, CrashKind::kExit);
    pass_by(1);
  }));
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 3);
}

TEST_F(CrashPointTest, AStoppedOneGoesOn) {
  const pid_t child = in_plain_child([] {
    set_crash_point("test.point", 1, CrashKind::kStop);
    pass_by(2);
  });
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  EXPECT_TRUE(WIFSTOPPED(status));
  kill(child, SIGCONT);
  EXPECT_EQ(await_child(child), 0);
}

// The environment is read once, when a process comes by its first point: so in a new program.
class CrashEnvironmentTest : public CrashPointTest, public ::testing::WithParamInterface<std::pair<const char*, int>> {};

TEST_P(CrashEnvironmentTest, ArmsAProgram) {
  const auto& [value, expected] = GetParam();
  const pid_t child = fork();
  if (child == 0) {
    setenv("FT_CRASH_AT", value, 1);
    unsetenv("GTEST_TOTAL_SHARDS");  // this program may run a part of the tests; that one runs what it is told
    unsetenv("GTEST_SHARD_INDEX");
    execl("/proc/self/exe", "test_os", "--gtest_filter=CrashPointTest.NothingHappensAtOneThatIsNotArmed",
          "--gtest_brief=1", nullptr);
    _exit(100);
  }
  const int status = await_child(child);
  EXPECT_EQ(WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status), expected);
}

INSTANTIATE_TEST_SUITE_P(Values, CrashEnvironmentTest,
                         ::testing::Values(std::pair{"test.point", -SIGKILL}, std::pair{"test.point:10", -SIGKILL},
                                           std::pair{"test.point:11", 0}, std::pair{"test.point:2:exit", 3},
                                           std::pair{"test.point:exit", 3}, std::pair{"test.pointed", 0},
                                           std::pair{"", 0}));

}  // namespace
}  // namespace freethreading::testing

#endif
