#include "freethreading/sync/event.hpp"

#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

template <class Subject>
class EventTest : public WatchedTest {
 protected:
  WaitOutcome wait(Nanoseconds timeout = kPatience) {
    WaitContext context = within(timeout);
    return event_.wait_until(place_, event_.begin_wait(), context);
  }
  Place& place_ = Subject::place();
  Event& event_ = make<Event>(place_);
};
TYPED_TEST_SUITE(EventTest, Subjects);

TYPED_TEST(EventTest, IsAFlag) {
  EXPECT_FALSE(this->event_.is_set());
  EXPECT_EQ(this->wait(kMillisecond), WaitOutcome::kTimedOut);
  this->event_.set(this->place_);
  this->event_.set(this->place_);
  EXPECT_TRUE(this->event_.is_set());
  EXPECT_EQ(this->wait(0), WaitOutcome::kReady);
  this->event_.clear();
  this->event_.clear();
  EXPECT_FALSE(this->event_.is_set());
  EXPECT_EQ(this->wait(0), WaitOutcome::kTimedOut);
}

TYPED_TEST(EventTest, AWaitEndsAlsoWhenAClearFollowsAtOnce) {
  for (int round = 0; round < 20; ++round) {
    Sleeper one([&] { EXPECT_EQ(this->wait(), WaitOutcome::kReady); });
    Sleeper two([&] { EXPECT_EQ(this->wait(), WaitOutcome::kReady); });
    ASSERT_TRUE(one.falls_asleep());
    ASSERT_TRUE(two.falls_asleep());
    this->event_.set(this->place_);
    this->event_.clear();
  }
}

TYPED_TEST(EventTest, AnInterruptedWaitGoesOnAsTheSameWait) {
  let_signals_interrupt();
  std::atomic<bool> interrupted{false};
  std::atomic<bool> go_on{false};
  Sleeper waiter([&] {
    WaitContext context = within(kPatience, true);
    const std::uint32_t epoch = this->event_.begin_wait();
    EXPECT_EQ(this->event_.wait_until(this->place_, epoch, context), WaitOutcome::kInterrupted);
    interrupted.store(true);
    EXPECT_TRUE(eventually([&] { return go_on.load(); }));
    EXPECT_EQ(this->event_.wait_until(this->place_, epoch, context), WaitOutcome::kReady);
  });
  ASSERT_TRUE(waiter.falls_asleep());
  waiter.interrupt();
  ASSERT_TRUE(eventually([&] { return interrupted.load(); }));
  this->event_.set(this->place_);
  this->event_.clear();
  go_on.store(true);
}

using SharedEventTest = EventTest<SharedSubject>;

TEST_F(SharedEventTest, ReachesOtherProcesses) {
  Child child([&] { return wait() == WaitOutcome::kReady; });
  ASSERT_TRUE(child.falls_asleep());
  event_.set(place_);
  EXPECT_TRUE(child.succeeds());
}

}  // namespace
}  // namespace freethreading::testing
