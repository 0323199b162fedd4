// Deadlines: one point of monotonic time.
#include <gtest/gtest.h>

#include <limits>

#include "freethreading/deadline.hpp"

namespace freethreading::testing {
namespace {

constexpr Nanoseconds kForever = std::numeric_limits<Nanoseconds>::max();

TEST(Clock, DoesNotGoBack) {
  Nanoseconds last = monotonic_now();
  for (int i = 0; i < 10'000; ++i) {
    const Nanoseconds now = monotonic_now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(Deadline, NeverDoesNotPass) {
  EXPECT_TRUE(Deadline::never().is_never());
  EXPECT_FALSE(Deadline::never().is_immediate());
  EXPECT_FALSE(Deadline::never().passed());
  EXPECT_EQ(Deadline::never().remaining(), kForever);
}

TEST(Deadline, ImmediateHasPassed) {
  EXPECT_TRUE(Deadline::immediate().is_immediate());
  EXPECT_TRUE(Deadline::immediate().passed());
  EXPECT_EQ(Deadline::immediate().remaining(), 0);
}

TEST(Deadline, NoDelayAndANegativeOneHavePassed) {
  EXPECT_TRUE(Deadline::after(0).is_immediate());
  EXPECT_TRUE(Deadline::after(-1).is_immediate());
  EXPECT_TRUE(Deadline::after(std::numeric_limits<Nanoseconds>::min()).is_immediate());
}

TEST(Deadline, ADelayBeyondTheClockNeverPasses) {
  EXPECT_TRUE(Deadline::after(kForever).is_never());
  EXPECT_TRUE(Deadline::after(kForever - 1).is_never());
}

TEST(Deadline, PassesWhenItsTimeHasCome) {
  const Nanoseconds start = monotonic_now();
  const Deadline deadline = Deadline::after(20 * kMillisecond);
  EXPECT_FALSE(deadline.is_never());
  EXPECT_LE(deadline.remaining(), 20 * kMillisecond);
  while (!deadline.passed()) {
    EXPECT_LE(deadline.remaining(), 20 * kMillisecond);
  }
  EXPECT_GE(monotonic_now() - start, 20 * kMillisecond);
  EXPECT_EQ(deadline.remaining(), 0);
}

}  // namespace
}  // namespace freethreading::testing
