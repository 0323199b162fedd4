#include "freethreading/sync/waiter_table.hpp"

#include "freethreading/sync/condition.hpp"
#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

template <class Subject>
class WaiterTableTest : public WatchedTest {
 protected:
  ~WaiterTableTest() override { table_.destroy(place_); }
  WaitOutcome wait(WaiterTable::Cell cell, Nanoseconds timeout = kPatience) {
    WaitContext context = within(timeout);
    return table_.wait_until(place_, cell, context);
  }
  Place& place_ = Subject::place();
  WaiterTable& table_ = make<WaiterTable>(place_);
};
TYPED_TEST_SUITE(WaiterTableTest, Subjects);

TYPED_TEST(WaiterTableTest, NotifiesTheOldest) {
  constexpr std::uint32_t kWaiters = 40;  // more than two blocks of cells
  std::vector<WaiterTable::Cell> cells;
  for (std::uint32_t i = 0; i < kWaiters; ++i) {
    cells.push_back(this->table_.enter(this->place_));
    ASSERT_NE(cells.back(), kNoOffset);
  }
  EXPECT_FALSE(this->table_.leave(this->place_, cells[3]));
  EXPECT_EQ(this->table_.waiting(this->place_), kWaiters - 1);
  EXPECT_EQ(this->table_.notify(this->place_, 5), 5U);
  for (std::uint32_t i = 0; i < kWaiters; ++i) {
    if (i != 3) {
      EXPECT_EQ(this->wait(cells[i], 0), i <= 5 ? WaitOutcome::kReady : WaitOutcome::kTimedOut) << i;
    }
  }
  // A cell that is taken again is the youngest, wherever it lies.
  EXPECT_TRUE(this->table_.leave(this->place_, cells[0]));
  cells[0] = this->table_.enter(this->place_);
  EXPECT_EQ(this->table_.notify(this->place_, 1), 1U);
  EXPECT_EQ(this->wait(cells[0], 0), WaitOutcome::kTimedOut);
  EXPECT_EQ(this->wait(cells[6], 0), WaitOutcome::kReady);
  EXPECT_EQ(this->table_.notify(this->place_, WaiterTable::kAll, true), kWaiters - 6);
  EXPECT_EQ(this->wait(cells[0], 0), WaitOutcome::kBroken);
  EXPECT_FALSE(this->table_.leave(this->place_, cells[0]));
  EXPECT_EQ(this->table_.notify(this->place_, 1), 0U);
  EXPECT_EQ(this->table_.waiting(this->place_), 0U);
}

TYPED_TEST(WaiterTableTest, WakesWhoSleeps) {
  std::atomic<int> through{0};
  std::vector<std::unique_ptr<Sleeper>> sleepers;
  for (int i = 0; i < 3; ++i) {
    sleepers.push_back(std::make_unique<Sleeper>([&] {
      const WaiterTable::Cell cell = this->table_.enter(this->place_);
      EXPECT_EQ(this->wait(cell), WaitOutcome::kReady);
      EXPECT_TRUE(this->table_.leave(this->place_, cell));
      through.fetch_add(1);
    }));
    ASSERT_TRUE(eventually([&] { return this->table_.waiting(this->place_) == static_cast<unsigned>(i + 1); }));
    ASSERT_TRUE(sleepers.back()->falls_asleep());
  }
  EXPECT_EQ(this->table_.notify(this->place_, 2), 2U);
  EXPECT_TRUE(eventually([&] { return through.load() == 2; }));
  EXPECT_EQ(this->table_.notify(this->place_, WaiterTable::kAll), 1U);
}

TYPED_TEST(WaiterTableTest, ANotificationThatComesWithTheTimeoutCounts) {
  const WaiterTable::Cell cell = this->table_.enter(this->place_);
  EXPECT_EQ(this->wait(cell, kMillisecond), WaitOutcome::kTimedOut);
  EXPECT_EQ(this->table_.notify(this->place_, 1), 1U);
  EXPECT_TRUE(this->table_.leave(this->place_, cell));
}

using PrivateWaiterTableTest = WaiterTableTest<PrivateSubject>;

TEST_F(PrivateWaiterTableTest, WaitersOfTheForkingProcessAreNotNotifiedInTheChild) {
  const WaiterTable::Cell cell = table_.enter(place_);
  Child child([&] {
    const WaiterTable::Cell own = table_.enter(place_);
    return table_.waiting(place_) == 1 && table_.notify(place_, 1) == 1 && table_.leave(place_, own);
  });
  EXPECT_TRUE(child.succeeds());
  EXPECT_FALSE(table_.leave(place_, cell));
}

using SharedWaiterTableTest = WaiterTableTest<SharedSubject>;

TEST_F(SharedWaiterTableTest, ADeadWaitersNotificationGoesToTheNext) {
  Child child([&] {
    static_cast<void>(table_.enter(place_));
    pause();
    return true;
  });
  ASSERT_TRUE(eventually([&] { return table_.waiting(place_) == 1; }));
  const WaiterTable::Cell cell = table_.enter(place_);
  EXPECT_EQ(table_.notify(place_, 1), 1U);
  EXPECT_EQ(wait(cell, 0), WaitOutcome::kTimedOut);
  child.kill();
  EXPECT_EQ(wait(cell, kNoticed), WaitOutcome::kReady);
  EXPECT_TRUE(table_.leave(place_, cell));
}

TEST_F(SharedWaiterTableTest, ASweepPassesOnAndFrees) {
  auto& dead = make<std::atomic<OwnerId>>(place_);
  Child child([&] {
    dead.store(place_.self());
    return table_.enter(place_) != kNoOffset && table_.enter(place_) != kNoOffset;
  });
  ASSERT_TRUE(child.succeeds());
  EXPECT_TRUE(table_.has_dead_waiter(place_));
  EXPECT_EQ(table_.notify(place_, 1), 1U);
  const WaiterTable::Cell cell = table_.enter(place_);
  EXPECT_EQ(table_.sweep(place_, dead.load(), true), 1U);
  EXPECT_EQ(wait(cell, 0), WaitOutcome::kReady);
  EXPECT_FALSE(table_.has_dead_waiter(place_));
  EXPECT_EQ(table_.waiting(place_), 0U);
}

}  // namespace
}  // namespace freethreading::testing
