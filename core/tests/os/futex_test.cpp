// Sleeping on a word.
#include "os/futex.hpp"

#include <pthread.h>

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using os::futex_wait;
using os::futex_wake;
using os::FutexResult;

class FutexTest : public WatchedTest {
 protected:
  std::atomic<std::uint32_t> word_{0};
};

TEST_F(FutexTest, DoesNotSleepOnAnotherValue) {
  EXPECT_EQ(futex_wait(word_, 1, Deadline::never(), false), FutexResult::kChanged);
  EXPECT_EQ(futex_wait(word_, 1, Deadline::never(), true), FutexResult::kChanged);
  EXPECT_EQ(futex_wait(word_, 1, Deadline::immediate(), false), FutexResult::kChanged);
}

TEST_F(FutexTest, EndsAtItsDeadline) {
  const Nanoseconds start = monotonic_now();
  EXPECT_EQ(futex_wait(word_, 0, Deadline::after(20 * kMillisecond), false), FutexResult::kTimedOut);
  EXPECT_GE(monotonic_now() - start, 20 * kMillisecond);
  EXPECT_EQ(futex_wait(word_, 0, Deadline::immediate(), false), FutexResult::kTimedOut);
}

TEST_F(FutexTest, AWakeWithoutSleepersWakesNobody) { EXPECT_EQ(futex_wake(word_, 1, false), 0); }

TEST_F(FutexTest, AWakeEndsASleep) {
  FutexResult result = FutexResult::kTimedOut;
  std::thread sleeper([&] { result = futex_wait(word_, 0, Deadline::never(), false); });
  EXPECT_TRUE(eventually([&] { return futex_wake(word_, 1, false) == 1; }));
  sleeper.join();
  EXPECT_EQ(result, FutexResult::kWoken);
}

TEST_F(FutexTest, AWakeCountsItsSleepers) {
  std::atomic<int> woken{0};
  std::vector<std::thread> sleepers;
  for (int i = 0; i < 4; ++i) {
    sleepers.emplace_back([&] {
      while (word_.load() == 0) {
        static_cast<void>(futex_wait(word_, 0, Deadline::never(), false));
      }
      ++woken;
    });
  }
  int slept = 0;
  EXPECT_TRUE(eventually([&] { return (slept += futex_wake(word_, 1, false)) >= 2; }));
  word_ = 1;
  EXPECT_TRUE(eventually([&] {
    futex_wake(word_, 100, false);
    return woken == 4;
  }));
  for (std::thread& sleeper : sleepers) {
    sleeper.join();
  }
}

TEST_F(FutexTest, ASharedWordWakesAnotherProcess) {
  Scoreboard<Steps> steps;
  std::atomic<std::uint32_t>* word = new (&*steps) std::atomic<std::uint32_t>{0};  // as good a place as any
  const pid_t child =
      in_plain_child([&] { EXPECT_EQ(futex_wait(*word, 0, Deadline::never(), true), FutexResult::kWoken); });
  EXPECT_TRUE(eventually([&] { return futex_wake(*word, 1, true) == 1; }));
  EXPECT_EQ(await_child(child), 0);
}

TEST_F(FutexTest, ASignalInterrupts) {
  struct sigaction action {};
  action.sa_handler = [](int /*number*/) {};
  sigaction(SIGUSR1, &action, nullptr);
  std::atomic<bool> done{false};
  FutexResult result = FutexResult::kTimedOut;
  std::thread sleeper([&] {
    result = futex_wait(word_, 0, Deadline::never(), false);
    done = true;
  });
  EXPECT_TRUE(eventually([&] {
    if (!done) {
      pthread_kill(sleeper.native_handle(), SIGUSR1);
    }
    return done.load();
  }));
  sleeper.join();
  EXPECT_EQ(result, FutexResult::kInterrupted);
}

}  // namespace
}  // namespace freethreading::testing
