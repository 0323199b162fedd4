#include "freethreading/sync/barrier.hpp"

#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

struct Party {
  WaitOutcome outcome;
  std::uint32_t index;
};

Party pass(Barrier& barrier, Place& place, Nanoseconds timeout = kPatience) {
  WaitContext coming = within(kPatience);
  const Arrival arrival = barrier.arrive(place, coming);
  if (arrival.outcome != WaitOutcome::kReady) {
    return {arrival.outcome, 0};
  }
  if (arrival.last) {
    barrier.finish(place);
    return {WaitOutcome::kReady, arrival.index};
  }
  WaitContext context = within(timeout);
  const WaitOutcome outcome = barrier.wait_until(place, arrival.cell, context);
  EXPECT_EQ(barrier.leave(place, arrival.cell) == WaitOutcome::kReady, outcome == WaitOutcome::kReady);
  return {outcome, arrival.index};
}

template <class Subject>
class BarrierTest : public WatchedTest {
 protected:
  Place& place_ = Subject::place();
};
TYPED_TEST_SUITE(BarrierTest, Subjects);

TYPED_TEST(BarrierTest, LetsAllGoTogetherRoundAfterRound) {
  constexpr std::uint32_t kParties = 3;
  constexpr int kRounds = 300;
  Barrier& barrier = make<Barrier>(this->place_, kParties);
  std::atomic<std::uint32_t> arrived{0};
  std::atomic<std::uint32_t> indexes{0};
  std::vector<std::thread> threads;
  for (std::uint32_t i = 0; i < kParties; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        arrived.fetch_add(1);
        const Party party = pass(barrier, this->place_);
        ASSERT_EQ(party.outcome, WaitOutcome::kReady);
        ASSERT_GE(arrived.load(), (round + 1) * kParties);
        indexes.fetch_add(party.index);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(indexes.load(), kRounds * (0U + 1 + 2));
  EXPECT_EQ(barrier.waiting(), 0U);
}

TYPED_TEST(BarrierTest, ATimeoutBreaksItForAll) {
  Barrier& barrier = make<Barrier>(this->place_, 3U);
  Sleeper other([&] { EXPECT_EQ(pass(barrier, this->place_).outcome, WaitOutcome::kBroken); });
  ASSERT_TRUE(other.falls_asleep());
  EXPECT_EQ(barrier.waiting(), 1U);
  EXPECT_EQ(pass(barrier, this->place_, 10 * kMillisecond).outcome, WaitOutcome::kTimedOut);
  other.join();
  EXPECT_TRUE(barrier.broken());
  EXPECT_EQ(pass(barrier, this->place_).outcome, WaitOutcome::kBroken);
  barrier.reset(this->place_);
  EXPECT_FALSE(barrier.broken());
}

TYPED_TEST(BarrierTest, AResetBreaksTheWaitersOnly) {
  Barrier& barrier = make<Barrier>(this->place_, 2U);
  Sleeper waiter([&] { EXPECT_EQ(pass(barrier, this->place_).outcome, WaitOutcome::kBroken); });
  ASSERT_TRUE(waiter.falls_asleep());
  barrier.reset(this->place_);
  waiter.join();
  Sleeper party([&] { EXPECT_EQ(pass(barrier, this->place_).outcome, WaitOutcome::kReady); });
  EXPECT_EQ(pass(barrier, this->place_).outcome, WaitOutcome::kReady);
}

TYPED_TEST(BarrierTest, NewcomersWaitWhileTheLastPartyActs) {
  Barrier& barrier = make<Barrier>(this->place_, 1U);
  WaitContext context = within(kPatience);
  const Arrival acting = barrier.arrive(this->place_, context);
  ASSERT_TRUE(acting.last);
  WaitContext impatient = within(10 * kMillisecond);
  EXPECT_EQ(barrier.arrive(this->place_, impatient).outcome, WaitOutcome::kTimedOut);
  Sleeper newcomer([&] { EXPECT_EQ(pass(barrier, this->place_).outcome, WaitOutcome::kReady); });
  ASSERT_TRUE(newcomer.falls_asleep());
  barrier.finish(this->place_);
}

using SharedBarrierTest = BarrierTest<SharedSubject>;

TEST_F(SharedBarrierTest, ADeadWaiterBreaksIt) {
  Barrier& barrier = make<Barrier>(place_, 3U);
  Child child([&] { return pass(barrier, place_).outcome == WaitOutcome::kReady; });
  ASSERT_TRUE(eventually([&] { return barrier.waiting() == 1; }));
  Sleeper waiter([&] { EXPECT_EQ(pass(barrier, place_, kNoticed).outcome, WaitOutcome::kBroken); });
  ASSERT_TRUE(waiter.falls_asleep());
  child.kill();
  waiter.join();
  EXPECT_TRUE(barrier.broken());
}

TEST_F(SharedBarrierTest, ADeadActingPartyBreaksIt) {
  Barrier& barrier = make<Barrier>(place_, 2U);
  Sleeper waiter([&] { EXPECT_EQ(pass(barrier, place_, kNoticed).outcome, WaitOutcome::kBroken); });
  ASSERT_TRUE(waiter.falls_asleep());
  Child child([&] {
    WaitContext context = within(kPatience);
    return barrier.arrive(place_, context).last;
  });
  EXPECT_TRUE(child.succeeds());
  waiter.join();
  EXPECT_TRUE(barrier.broken());
}

}  // namespace
}  // namespace freethreading::testing
