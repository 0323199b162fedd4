#include "freethreading/sync/lock.hpp"

#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

bool holds(WaitOutcome outcome) { return outcome == WaitOutcome::kReady || outcome == WaitOutcome::kOwnerDied; }

template <class Subject>
class LockTest : public WatchedTest {
 protected:
  WaitOutcome lock(Nanoseconds timeout = kPatience) {
    WaitContext context = within(timeout);
    return lock_.lock_until(place_, context);
  }
  Place& place_ = Subject::place();
  Lock& lock_ = make<Lock>(place_);
};
TYPED_TEST_SUITE(LockTest, Subjects);

TYPED_TEST(LockTest, IsTakenOnceAndGivenBackOnce) {
  EXPECT_FALSE(this->lock_.unlock(this->place_));
  EXPECT_EQ(this->lock_.try_lock(this->place_), WaitOutcome::kReady);
  EXPECT_TRUE(this->lock_.is_locked());
  EXPECT_EQ(this->lock_.owner(), this->place_.self());
  EXPECT_EQ(this->lock_.try_lock(this->place_), WaitOutcome::kTimedOut);
  EXPECT_TRUE(this->lock_.unlock(this->place_));
  EXPECT_FALSE(this->lock_.is_locked());
  EXPECT_EQ(this->lock_.owner(), kNobody);
  EXPECT_FALSE(this->lock_.unlock(this->place_));
}

TYPED_TEST(LockTest, TimesOutNoEarlierThanAsked) {
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  EXPECT_EQ(this->lock(0), WaitOutcome::kTimedOut);
  const Nanoseconds before = monotonic_now();
  EXPECT_EQ(this->lock(30 * kMillisecond), WaitOutcome::kTimedOut);
  EXPECT_GE(monotonic_now() - before, 30 * kMillisecond);
  EXPECT_TRUE(this->lock_.unlock(this->place_));
  EXPECT_EQ(this->lock(0), WaitOutcome::kReady);
}

TYPED_TEST(LockTest, ExcludesThreads) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 10'000;
  int counter = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        ASSERT_EQ(this->lock(), WaitOutcome::kReady);
        ++counter;
        ASSERT_TRUE(this->lock_.unlock(this->place_));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(counter, kThreads * kRounds);
  EXPECT_FALSE(this->lock_.is_locked());
}

TYPED_TEST(LockTest, AnotherThreadMayUnlock) {
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  Sleeper waiter([&] { EXPECT_EQ(this->lock(), WaitOutcome::kReady); });
  ASSERT_TRUE(waiter.falls_asleep());
  EXPECT_TRUE(this->lock_.unlock(this->place_));
  waiter.join();
  EXPECT_TRUE(this->lock_.unlock(this->place_));
}

TYPED_TEST(LockTest, AnInterruptibleWaitComesBack) {
  let_signals_interrupt();
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  Sleeper waiter([&] {
    WaitContext context = within(kPatience, true);
    EXPECT_EQ(this->lock_.lock_until(this->place_, context), WaitOutcome::kInterrupted);
    EXPECT_EQ(this->lock_.lock_until(this->place_, context), WaitOutcome::kInterrupted);  // by the slice's end
  });
  ASSERT_TRUE(waiter.falls_asleep());
  waiter.interrupt();
  waiter.join();
}

TYPED_TEST(LockTest, AWaitThatIsNotInterruptibleGoesOn) {
  let_signals_interrupt();
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  Sleeper waiter([&] { EXPECT_EQ(this->lock(), WaitOutcome::kReady); });
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(waiter.falls_asleep());
    waiter.interrupt();
  }
  EXPECT_FALSE(waiter.done());
  EXPECT_TRUE(this->lock_.unlock(this->place_));
}

TYPED_TEST(LockTest, AStarvingWaiterIsHandedTheLock) {
  std::atomic<bool> got{false};
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  Sleeper waiter([&] {
    ASSERT_EQ(this->lock(), WaitOutcome::kReady);
    got.store(true);
    ASSERT_TRUE(this->lock_.unlock(this->place_));
  });
  ASSERT_TRUE(waiter.falls_asleep());
  // Gives the lock back for an instant only, again and again.
  const Nanoseconds start = monotonic_now();
  while (!got.load() && monotonic_now() - start < kPatience) {
    ASSERT_TRUE(this->lock_.unlock(this->place_));
    ASSERT_EQ(this->lock(), WaitOutcome::kReady);
    const Nanoseconds section = monotonic_now();
    while (monotonic_now() - section < 100 * kMicrosecond) {
    }
  }
  EXPECT_TRUE(got.load());
  EXPECT_LT(monotonic_now() - start, kSecond);
}

TYPED_TEST(LockTest, TimeoutsAndHandOffsStrandNobody) {
  constexpr int kThreads = 6;
  std::atomic<int> taken{0};
  const Deadline end = Deadline::after(kSecond);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      while (!end.passed()) {
        if (!holds(this->lock(i == 0 ? kPatience : (1 + i) * kMillisecond))) {
          continue;
        }
        taken.fetch_add(1);
        const Nanoseconds section = monotonic_now();
        while (monotonic_now() - section < 300 * kMicrosecond) {
        }
        ASSERT_TRUE(this->lock_.unlock(this->place_));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_GT(taken.load(), 100);
  EXPECT_FALSE(this->lock_.is_locked());
  EXPECT_EQ(this->lock(0), WaitOutcome::kReady);
}

using PrivateLockTest = LockTest<PrivateSubject>;

TEST_F(PrivateLockTest, ACopyThatAForkMadeWhileItWasHeldIsTakenOverAtOnce) {
  ASSERT_EQ(lock(), WaitOutcome::kReady);
  Child child([&] {
    WaitContext now(Deadline::immediate());
    return lock_.try_lock(place_) == WaitOutcome::kTimedOut && lock_.lock_until(place_, now) == WaitOutcome::kOwnerDied &&
           lock_.unlock(place_);
  });
  EXPECT_TRUE(child.succeeds());
  EXPECT_TRUE(lock_.unlock(place_));
}

using SharedLockTest = LockTest<SharedSubject>;

TEST_F(SharedLockTest, ExcludesProcesses) {
  constexpr int kRounds = 20'000;
  struct Counter {
    int value = 0;
  };
  Counter& counter = make<Counter>(place_);
  const auto count = [&] {
    for (int round = 0; round < kRounds; ++round) {
      if (lock() != WaitOutcome::kReady) {
        return false;
      }
      ++counter.value;
      if (!lock_.unlock(place_)) {
        return false;
      }
    }
    return true;
  };
  Child one(count);
  Child two(count);
  EXPECT_TRUE(count());
  EXPECT_TRUE(one.succeeds());
  EXPECT_TRUE(two.succeeds());
  EXPECT_EQ(counter.value, 3 * kRounds);
}

TEST_F(SharedLockTest, AKilledHoldersLockGoesToAWaiter) {
  Child child([&] {
    static_cast<void>(lock());
    pause();
    return true;
  });
  ASSERT_TRUE(eventually([&] { return lock_.is_locked(); }));
  EXPECT_EQ(lock(0), WaitOutcome::kTimedOut);
  std::atomic<WaitOutcome> outcome{WaitOutcome::kTimedOut};
  Sleeper waiter([&] { outcome.store(lock()); });
  ASSERT_TRUE(waiter.falls_asleep());
  const Nanoseconds death = monotonic_now();
  child.kill();
  waiter.join();
  EXPECT_EQ(outcome.load(), WaitOutcome::kOwnerDied);
  EXPECT_LT(monotonic_now() - death, kNoticed);
  EXPECT_TRUE(lock_.unlock(place_));
  EXPECT_EQ(lock(0), WaitOutcome::kReady);
}

TEST_F(SharedLockTest, AnExitedHoldersLockIsTakenWithoutAWait) {
  Child child([&] { return lock() == WaitOutcome::kReady; });
  ASSERT_TRUE(child.succeeds());
  EXPECT_EQ(lock(0), WaitOutcome::kOwnerDied);
}

TEST_F(SharedLockTest, AStoppedHolderKeepsIt) {
  Child child([&] {
    static_cast<void>(lock());
    raise(SIGSTOP);
    return lock_.unlock(place_);
  });
  int status = 0;
  ASSERT_EQ(waitpid(child.pid(), &status, WUNTRACED), child.pid());
  EXPECT_EQ(lock(100 * kMillisecond), WaitOutcome::kTimedOut);
  kill(child.pid(), SIGCONT);
  EXPECT_EQ(lock(), WaitOutcome::kReady);
  EXPECT_TRUE(child.succeeds());
}

TEST_F(SharedLockTest, ADisownedLockStaysHeldUntilSomebodyUnlocksIt) {
  ASSERT_EQ(lock(), WaitOutcome::kReady);
  lock_.disown(place_.self());
  EXPECT_TRUE(lock_.is_locked());
  EXPECT_EQ(lock_.owner(), kNobody);
  EXPECT_EQ(lock(30 * kMillisecond), WaitOutcome::kTimedOut);
  EXPECT_TRUE(lock_.unlock(place_));
  EXPECT_EQ(lock(0), WaitOutcome::kReady);
}

TEST_F(SharedLockTest, TheSweepersMarkWakesAWaiter) {
  ASSERT_EQ(lock(), WaitOutcome::kReady);
  Sleeper waiter([&] { EXPECT_EQ(lock(), WaitOutcome::kOwnerDied); });
  ASSERT_TRUE(waiter.falls_asleep());
  lock_.mark_owner_died(place_.self());
  waiter.join();
  EXPECT_TRUE(lock_.unlock(place_));
}

TEST_F(SharedLockTest, AMarkedLockMayBeUnlockedByAnybody) {
  ASSERT_EQ(lock(), WaitOutcome::kReady);
  lock_.mark_owner_died(place_.self());
  EXPECT_TRUE(lock_.is_locked());
  EXPECT_EQ(lock_.try_lock(place_), WaitOutcome::kTimedOut);
  EXPECT_TRUE(lock_.unlock(place_));
  EXPECT_EQ(lock(0), WaitOutcome::kReady);
}

}  // namespace
}  // namespace freethreading::testing
