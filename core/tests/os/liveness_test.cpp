// Whether a process is still there.
#include "os/liveness.hpp"

#include "memory/memory_test_support.hpp"
#include "os/process.hpp"
#include "os/watch.hpp"

namespace freethreading::testing {
namespace {

class LivenessTest : public WatchedTest {
 protected:
  LivenessTest() : file_(memfd_create("liveness", MFD_CLOEXEC)) {}
  ~LivenessTest() override { close(file_); }
  // A process that holds byte 7 and waits to be killed.
  pid_t holder() {
    Scoreboard<Steps> steps;
    const pid_t child = in_plain_child([&] {
      EXPECT_TRUE(os::hold_byte(file_, 7));
      steps->reach(1);
      pause();
    });
    EXPECT_TRUE(steps->await(1));
    return child;
  }
  int file_;
};

TEST_F(LivenessTest, AByteIsHeldUntilItsHolderDies) {
  const pid_t child = holder();
  EXPECT_TRUE(os::is_byte_held(file_, 7));
  EXPECT_FALSE(os::is_byte_held(file_, 6));
  EXPECT_FALSE(os::is_byte_held(file_, 8));
  EXPECT_FALSE(os::hold_byte(file_, 7));
  kill(child, SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(os::is_byte_held(file_, 7)) << "a zombie holds it";
  await_child(child);
}

TEST_F(LivenessTest, AByteIsReleased) {
  ASSERT_TRUE(os::hold_byte(file_, 7));
  ASSERT_TRUE(os::hold_byte(file_, 7)) << "again is fine";
  EXPECT_FALSE(os::is_byte_held(file_, 7)) << "a process does not see its own";
  EXPECT_EQ(await_child(in_plain_child([&] { EXPECT_TRUE(os::is_byte_held(file_, 7)); })), 0);
  os::release_byte(file_, 7);
  EXPECT_EQ(await_child(in_plain_child([&] { EXPECT_FALSE(os::is_byte_held(file_, 7)); })), 0);
}

TEST_F(LivenessTest, ABytesPositionMayLieBeyondTheFile) {
  constexpr std::uint64_t kFar = std::uint64_t{1} << 40;
  ASSERT_TRUE(os::hold_byte(file_, kFar));
  EXPECT_EQ(await_child(in_plain_child([&] {
              EXPECT_TRUE(os::is_byte_held(file_, kFar));
              EXPECT_FALSE(os::is_byte_held(file_, kFar + 1));
            })),
            0);
}

TEST_F(LivenessTest, AClosedDescriptorHoldsNothing) {
  EXPECT_FALSE(os::hold_byte(-1, 7));
  EXPECT_FALSE(os::is_byte_held(-1, 7));
  os::release_byte(-1, 7);
}

TEST_F(LivenessTest, AProcessIsKnownByWhenItBegan) {
  const std::uint64_t mine = os::start_time_of(getpid());
  EXPECT_NE(mine, 0U);
  EXPECT_EQ(os::start_time_of(getpid()), mine);
  EXPECT_TRUE(os::is_running(getpid(), mine));
  EXPECT_FALSE(os::is_running(getpid(), mine + 1));
  EXPECT_FALSE(os::is_running(getpid(), 0));
  EXPECT_EQ(os::start_time_of(0), 0U);
  EXPECT_EQ(os::start_time_of(-1), 0U);
}

TEST_F(LivenessTest, AZombieDoesNotRun) {
  const pid_t child = holder();
  const std::uint64_t began = os::start_time_of(child);
  EXPECT_TRUE(os::is_running(child, began));
  kill(child, SIGSTOP);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  EXPECT_TRUE(os::is_running(child, began)) << "a stopped one does";
  kill(child, SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(os::is_running(child, began));
  await_child(child);
  EXPECT_FALSE(os::is_running(child, began));
}

TEST_F(LivenessTest, AProcessesNameDoesNotConfuse) {
  const std::uint64_t began = os::start_time_of(getpid());
  prctl(PR_SET_NAME, "a ) Z (b");
  EXPECT_EQ(os::start_time_of(getpid()), began);
  prctl(PR_SET_NAME, "test_os");
}

TEST_F(LivenessTest, AWatchSeesTheEnd) {
  const pid_t child = holder();
  const int watch = os::watch_process(child);
  ASSERT_GE(watch, 0);
  EXPECT_EQ(os::wait_readable({watch, -1}, Deadline::immediate()), 0U);
  kill(child, SIGKILL);
  EXPECT_EQ(os::wait_readable({-1, watch}, Deadline::after(kPatience)), 2U);
  await_child(child);
  close(watch);
}

TEST_F(LivenessTest, AWordIsWipedByAFork) {
  std::atomic<std::uint32_t>* word = os::make_word_wiped_on_fork();
  if (word == nullptr) {
    GTEST_SKIP() << "this kernel does not wipe pages";
  }
  EXPECT_EQ(word->load(), 0U);
  word->store(5);
  EXPECT_EQ(await_child(in_plain_child([&] {
              EXPECT_EQ(word->load(), 0U);
              word->store(6);
            })),
            0);
  EXPECT_EQ(word->load(), 5U);
}

}  // namespace
}  // namespace freethreading::testing
