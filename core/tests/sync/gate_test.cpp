#include "sync/gate.hpp"

#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

template <class Subject>
class GateTest : public WatchedTest {
 protected:
  struct Shared {
    std::atomic<std::uint32_t> word{0};
    std::atomic<int> items{0};
  };
  // Waits for an item and takes it.
  bool take() {
    WaitContext context = within(kPatience);
    Gate gate(shared_.word);
    for (;;) {
      const std::uint32_t token = gate.prepare();
      int items = shared_.items.load();
      while (items > 0) {
        if (shared_.items.compare_exchange_weak(items, items - 1)) {
          return true;
        }
      }
      if (gate.wait(place_, token, context) != WaitOutcome::kReady) {
        return false;
      }
    }
  }
  void put() {
    shared_.items.fetch_add(1);
    Gate(shared_.word).notify_one(place_);
  }
  Place& place_ = Subject::place();
  Shared& shared_ = make<Shared>(place_);
};
TYPED_TEST_SUITE(GateTest, Subjects);

TYPED_TEST(GateTest, EveryItemFindsATaker) {
  constexpr int kTakers = 3;
  constexpr int kItems = 5'000;
  std::vector<std::thread> takers;
  const Nanoseconds start = monotonic_now();
  for (int i = 0; i < kTakers; ++i) {
    takers.emplace_back([&] {
      for (int n = 0; n < kItems; ++n) {
        ASSERT_TRUE(this->take());
      }
    });
  }
  for (int n = 0; n < kTakers * kItems; ++n) {
    this->put();
  }
  for (std::thread& taker : takers) {
    taker.join();
  }
  EXPECT_EQ(this->shared_.items.load(), 0);
  EXPECT_LT(monotonic_now() - start, 10 * kSecond);
}

TYPED_TEST(GateTest, TwoNotificationsWakeTwoSleepers) {
  Sleeper one([&] { EXPECT_TRUE(this->take()); });
  ASSERT_TRUE(one.falls_asleep());
  Sleeper two([&] { EXPECT_TRUE(this->take()); });
  ASSERT_TRUE(two.falls_asleep());
  this->put();
  this->put();
}

TYPED_TEST(GateTest, TimesOut) {
  Gate gate(this->shared_.word);
  WaitContext context = within(10 * kMillisecond);
  EXPECT_EQ(gate.wait(this->place_, gate.prepare(), context), WaitOutcome::kTimedOut);
}

TYPED_TEST(GateTest, NotifyAllEndsAPostThatNobodyHolds) {
  Gate gate(this->shared_.word);
  ASSERT_TRUE(gate.take_post(gate.prepare()));  // and dies
  gate.notify_one(this->place_);
  EXPECT_TRUE(gate.has_post_taken());
  gate.notify_all(this->place_);
  EXPECT_FALSE(gate.has_post_taken());
  EXPECT_TRUE(gate.take_post(gate.prepare()));
}

TYPED_TEST(GateTest, NotifyAllReachesEverybody) {
  Gate gate(this->shared_.word);
  Sleeper one([&] { EXPECT_TRUE(this->take()); });
  Sleeper two([&] { EXPECT_TRUE(this->take()); });
  ASSERT_TRUE(one.falls_asleep());
  ASSERT_TRUE(two.falls_asleep());
  this->shared_.items.store(2);
  gate.notify_all(this->place_);
}

}  // namespace
}  // namespace freethreading::testing
