// How long a thread spins, after what its last spins came to.
#include "sync/spin.hpp"

#include <gtest/gtest.h>

namespace freethreading {
namespace {

constexpr Nanoseconds kProbe = 200 * kMicrosecond;
constexpr Nanoseconds kLongest = 50 * kMicrosecond;

class SpinBudgetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (os::available_cpus() == 1) {
      GTEST_SKIP() << "with one processor nobody spins";
    }
  }

  // Waits until the next one that may spin; how many there were without a spin, and how long that one may take.
  std::pair<int, Nanoseconds> next_spin() {
    int without = 0;
    Nanoseconds limit = 0;
    while ((limit = budget.begin()) == 0) {
      ++without;
    }
    return {without, limit};
  }

  void fail_until_it_stops() {
    while (budget.begin() != 0) {
      budget.failed();
    }
  }

  SpinBudget budget{kProbe};
};

TEST_F(SpinBudgetTest, GrowsToTwiceWhatASuccessTook) {
  budget.succeeded(0);
  EXPECT_EQ(budget.begin(), 40 * kMicrosecond);
  budget.succeeded(0);
  EXPECT_EQ(budget.begin(), kLongest);
  SpinBudget other{kProbe};
  other.succeeded(23 * kMicrosecond);
  EXPECT_EQ(other.begin(), 46 * kMicrosecond);
}

TEST_F(SpinBudgetTest, HalvesDownToNoneAndProbesMoreAndMoreSeldom) {
  EXPECT_EQ(next_spin(), std::pair(0, 20 * kMicrosecond));
  budget.failed();
  EXPECT_EQ(next_spin(), std::pair(0, 10 * kMicrosecond));
  fail_until_it_stops();
  for (const int waits : {7, 16, 32, 64, 64}) {  // the first of eight has been counted
    EXPECT_EQ(next_spin(), std::pair(waits, kProbe));
    budget.failed();
  }
}

TEST_F(SpinBudgetTest, AProbeThatTookLongIsFollowedByLongSpinsUntilThePartnerProbesToo) {
  fail_until_it_stops();
  EXPECT_EQ(next_spin().second, kProbe);
  for (int wait = 0; wait < 64; ++wait) {  // as seldom as a partner may probe
    budget.succeeded(120 * kMicrosecond);
    EXPECT_EQ(next_spin(), std::pair(0, kProbe));
  }
  budget.succeeded(20 * kMicrosecond);
  EXPECT_EQ(next_spin(), std::pair(0, kLongest));
}

TEST_F(SpinBudgetTest, APartnerThatTakesLongEveryTimeIsNotWaitedForSo) {
  int spins = 0;
  int waits = 0;
  for (; waits < 10'000; ++waits) {
    const Nanoseconds limit = budget.begin();
    if (limit > kLongest) {
      budget.succeeded(120 * kMicrosecond);
      ++spins;
    } else if (limit != 0) {
      budget.failed();
    }
  }
  EXPECT_GT(spins, 0);
  EXPECT_LT(spins, waits / 10);
}

TEST_F(SpinBudgetTest, OfALockKnowsNoLongSpins) {
  SpinBudget lock{kLongest};
  for (int wait = 0; wait < 1000; ++wait) {
    const Nanoseconds limit = lock.begin();
    EXPECT_LE(limit, kLongest);
    if (limit != 0) {
      lock.failed();
    }
  }
}

}  // namespace
}  // namespace freethreading
