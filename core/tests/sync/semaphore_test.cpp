#include "freethreading/sync/semaphore.hpp"

#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

template <class Subject>
class SemaphoreTest : public WatchedTest {
 protected:
  WaitOutcome acquire(Semaphore& semaphore, Nanoseconds timeout = kPatience) {
    WaitContext context = within(timeout);
    return semaphore.acquire_until(place_, context);
  }
  Place& place_ = Subject::place();
};
TYPED_TEST_SUITE(SemaphoreTest, Subjects);

TYPED_TEST(SemaphoreTest, CountsPermits) {
  Semaphore& semaphore = make<Semaphore>(this->place_, 2U);
  EXPECT_EQ(semaphore.try_acquire(this->place_), WaitOutcome::kReady);
  EXPECT_EQ(this->acquire(semaphore), WaitOutcome::kReady);
  EXPECT_EQ(semaphore.try_acquire(this->place_), WaitOutcome::kTimedOut);
  EXPECT_EQ(this->acquire(semaphore, 10 * kMillisecond), WaitOutcome::kTimedOut);
  EXPECT_TRUE(semaphore.release(this->place_, 3));
  EXPECT_EQ(semaphore.value(), 3U);
}

TYPED_TEST(SemaphoreTest, KeepsItsBound) {
  Semaphore& semaphore = make<Semaphore>(this->place_, 1U, 2U);
  EXPECT_FALSE(semaphore.release(this->place_, 2));
  EXPECT_TRUE(semaphore.release(this->place_));
  EXPECT_FALSE(semaphore.release(this->place_));
  EXPECT_FALSE(semaphore.release(this->place_, ~std::uint32_t{0}));
  EXPECT_EQ(semaphore.value(), 2U);
  Semaphore& full = make<Semaphore>(this->place_, Semaphore::kMaxValue);
  EXPECT_FALSE(full.release(this->place_));
  EXPECT_EQ(full.value(), Semaphore::kMaxValue);
}

TYPED_TEST(SemaphoreTest, AReleaseOfManyWakesMany) {
  constexpr int kSleepers = 4;
  Semaphore& semaphore = make<Semaphore>(this->place_, 0U);
  std::atomic<int> through{0};
  std::vector<std::unique_ptr<Sleeper>> sleepers;
  for (int i = 0; i < kSleepers; ++i) {
    sleepers.push_back(std::make_unique<Sleeper>([&] {
      ASSERT_EQ(this->acquire(semaphore), WaitOutcome::kReady);
      through.fetch_add(1);
    }));
    ASSERT_TRUE(sleepers.back()->falls_asleep());
  }
  const Nanoseconds before = monotonic_now();
  EXPECT_TRUE(semaphore.release(this->place_, kSleepers - 1));
  EXPECT_TRUE(eventually([&] { return through.load() == kSleepers - 1; }));
  EXPECT_TRUE(semaphore.release(this->place_));
  sleepers.clear();
  EXPECT_LT(monotonic_now() - before, kSecond);
  EXPECT_EQ(semaphore.value(), 0U);
}

TYPED_TEST(SemaphoreTest, PermitsAreNeitherLostNorDoubled) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 5'000;
  Semaphore& items = make<Semaphore>(this->place_, 0U);
  Semaphore& room = make<Semaphore>(this->place_, 2U, 2U);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round) {
        ASSERT_EQ(this->acquire(i % 2 == 0 ? items : room), WaitOutcome::kReady);
        ASSERT_TRUE((i % 2 == 0 ? room : items).release(this->place_));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(items.value(), 0U);
  EXPECT_EQ(room.value(), 2U);
}

TYPED_TEST(SemaphoreTest, AnInterruptibleWaitComesBack) {
  let_signals_interrupt();
  Semaphore& semaphore = make<Semaphore>(this->place_, 0U);
  Sleeper waiter([&] {
    WaitContext context = within(kPatience, true);
    EXPECT_EQ(semaphore.acquire_until(this->place_, context), WaitOutcome::kInterrupted);
  });
  ASSERT_TRUE(waiter.falls_asleep());
  waiter.interrupt();
}

using SharedSemaphoreTest = SemaphoreTest<SharedSubject>;

TEST_F(SharedSemaphoreTest, ProcessesPlayPingPong) {
  constexpr int kRounds = 2'000;
  Semaphore& ping = make<Semaphore>(place_, 0U);
  Semaphore& pong = make<Semaphore>(place_, 0U);
  Child child([&] {
    for (int round = 0; round < kRounds; ++round) {
      if (acquire(ping) != WaitOutcome::kReady || !pong.release(place_)) {
        return false;
      }
    }
    return true;
  });
  for (int round = 0; round < kRounds; ++round) {
    ASSERT_TRUE(ping.release(place_));
    ASSERT_EQ(acquire(pong), WaitOutcome::kReady);
  }
  EXPECT_TRUE(child.succeeds());
}

}  // namespace
}  // namespace freethreading::testing
