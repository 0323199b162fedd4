#include "freethreading/sync/rlock.hpp"

#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

template <class Subject>
class RLockTest : public WatchedTest {
 protected:
  WaitOutcome lock(Nanoseconds timeout = kPatience) {
    WaitContext context = within(timeout);
    return lock_.lock_until(place_, context);
  }
  Place& place_ = Subject::place();
  RLock& lock_ = make<RLock>(place_);
};
TYPED_TEST_SUITE(RLockTest, Subjects);

TYPED_TEST(RLockTest, ItsOwnerTakesItAgain) {
  EXPECT_FALSE(this->lock_.unlock(this->place_));
  EXPECT_EQ(this->lock_.try_lock(this->place_), WaitOutcome::kReady);
  EXPECT_EQ(this->lock_.try_lock(this->place_), WaitOutcome::kReady);
  EXPECT_EQ(this->lock(), WaitOutcome::kReady);
  EXPECT_EQ(this->lock_.depth(), 3U);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(this->lock_.is_owned(this->place_));
    EXPECT_TRUE(this->lock_.unlock(this->place_));
  }
  EXPECT_FALSE(this->lock_.is_owned(this->place_));
  EXPECT_FALSE(this->lock_.is_locked());
  EXPECT_FALSE(this->lock_.unlock(this->place_));
}

TYPED_TEST(RLockTest, BelongsToOneThread) {
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  std::thread([&] {
    EXPECT_FALSE(this->lock_.is_owned(this->place_));
    EXPECT_FALSE(this->lock_.unlock(this->place_));
    EXPECT_EQ(this->lock_.try_lock(this->place_), WaitOutcome::kTimedOut);
    EXPECT_EQ(this->lock(kMillisecond), WaitOutcome::kTimedOut);
  }).join();
  EXPECT_TRUE(this->lock_.unlock(this->place_));
}

TYPED_TEST(RLockTest, IsReleasedAtOnceAndRestored) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  }
  EXPECT_EQ(this->lock_.release_all(this->place_), 3U);
  EXPECT_FALSE(this->lock_.is_locked());
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  this->lock_.restore_depth(3);
  EXPECT_EQ(this->lock_.depth(), 3U);
}

TYPED_TEST(RLockTest, ADepthThatCannotGrowIsAnError) {
  ASSERT_EQ(this->lock(), WaitOutcome::kReady);
  this->lock_.restore_depth(~std::uint32_t{0});
  EXPECT_EQ(this->lock(), WaitOutcome::kNoMemory);
  EXPECT_EQ(this->lock_.depth(), ~std::uint32_t{0});
}

TYPED_TEST(RLockTest, ANewThreadDoesNotInheritFromAnEndedOne) {
  std::thread([&] { ASSERT_EQ(this->lock(), WaitOutcome::kReady); }).join();
  for (int i = 0; i < 50; ++i) {
    std::thread([&] { EXPECT_FALSE(this->lock_.is_owned(this->place_)); }).join();
  }
}

using PrivateRLockTest = RLockTest<PrivateSubject>;

TEST_F(PrivateRLockTest, TheForkingThreadOwnsTheCopyToo) {
  ASSERT_EQ(lock(), WaitOutcome::kReady);
  Child child([&] {
    bool others_kept_out = false;
    std::thread([&] { others_kept_out = lock(kMillisecond) == WaitOutcome::kTimedOut; }).join();
    return others_kept_out && lock_.is_owned(place_) && lock() == WaitOutcome::kReady && lock_.unlock(place_) &&
           lock_.unlock(place_) && !lock_.is_locked();
  });
  EXPECT_TRUE(child.succeeds());
  EXPECT_TRUE(lock_.unlock(place_));
}

TEST_F(PrivateRLockTest, ACopyThatAnotherThreadHeldIsTakenOver) {
  std::atomic<bool> over{false};
  std::thread holder([&] {
    ASSERT_EQ(lock(), WaitOutcome::kReady);
    ASSERT_TRUE(eventually([&] { return over.load(); }));
    ASSERT_TRUE(lock_.unlock(place_));
  });
  ASSERT_TRUE(eventually([&] { return lock_.is_locked(); }));
  Child child([&] { return !lock_.is_owned(place_) && lock(kPatience) == WaitOutcome::kOwnerDied && lock_.unlock(place_); });
  EXPECT_TRUE(child.succeeds());
  over.store(true);
  holder.join();
}

using SharedRLockTest = RLockTest<SharedSubject>;

TEST_F(SharedRLockTest, AChildOwnsNothing) {
  ASSERT_EQ(lock(), WaitOutcome::kReady);
  Child child([&] {
    return !lock_.is_owned(place_) && !lock_.unlock(place_) && lock(kMillisecond) == WaitOutcome::kTimedOut;
  });
  EXPECT_TRUE(child.succeeds());
  EXPECT_TRUE(lock_.unlock(place_));
}

TEST_F(SharedRLockTest, ADeadOwnersDepthDies) {
  Child child([&] { return lock() == WaitOutcome::kReady && lock() == WaitOutcome::kReady; });
  ASSERT_TRUE(child.succeeds());
  EXPECT_EQ(lock(), WaitOutcome::kOwnerDied);
  EXPECT_EQ(lock_.depth(), 1U);
  EXPECT_TRUE(lock_.unlock(place_));
  EXPECT_FALSE(lock_.is_locked());
}

}  // namespace
}  // namespace freethreading::testing
