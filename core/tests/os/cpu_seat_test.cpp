#include "freethreading/cpu_seat.hpp"

#include <gtest/gtest.h>
#include <sched.h>

namespace freethreading {
namespace {

cpu_set_t mask() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  return set;
}

bool equal(const cpu_set_t& a, const cpu_set_t& b) { return CPU_EQUAL(&a, &b); }

// Waits until it is to move, all of them on the waker's CPU, and has it move. The scheduler may move the thread as well: that is no
// move of the seat's.
int waits_until_it_moves(CpuSeat& seat) {
  int waits = 1;
  while (!seat.has_work_from(CpuSeat::here()) && waits < 1'000'000) {
    ++waits;
  }
  EXPECT_TRUE(seat.move());
  return waits;
}

// Puts the affinity mask back.
class CpuSeatTest : public testing::Test {
 protected:
  ~CpuSeatTest() override { sched_setaffinity(0, sizeof before_, &before_); }
  cpu_set_t before_ = mask();
};

TEST_F(CpuSeatTest, MovesEverMoreSeldomAndPutsTheMaskBack) {
  if (CPU_COUNT(&before_) == 1) {
    GTEST_SKIP() << "one processor";
  }
  CpuSeat seat;
  int least = 8;
  for (int moves = 0; moves < 8; ++moves) {
    const int waits = waits_until_it_moves(seat);
    EXPECT_GE(waits, least);
    EXPECT_LT(waits, 1'000'000);
    EXPECT_TRUE(equal(mask(), before_));
    least = least < 128 ? 2 * least : 128;
  }
}

TEST_F(CpuSeatTest, StartsAnewOnceItSitsWell) {
  if (CPU_COUNT(&before_) == 1) {
    GTEST_SKIP() << "one processor";
  }
  CpuSeat seat;
  int fewest = 1'000'000;  // in many attempts: the scheduler interrupts few rows
  for (int attempt = 0; attempt < 100 && fewest > 8; ++attempt) {
    for (int i = 0; i < 64; ++i) {
      EXPECT_FALSE(seat.has_work_from(0));
    }
    const int waits = waits_until_it_moves(seat);
    EXPECT_GE(waits, 8);
    fewest = waits < fewest ? waits : fewest;
  }
  EXPECT_EQ(fewest, 8);
}

TEST_F(CpuSeatTest, StaysWhereItsWakerIsElsewhere) {
  CpuSeat seat;
  for (int i = 0; i < 1000; ++i) {
    EXPECT_FALSE(seat.has_work_from(0x8000));
    EXPECT_FALSE(seat.has_work_from(0));
  }
}

TEST_F(CpuSeatTest, StaysWhereThereIsOneProcessor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<int>(CpuSeat::here()) - 1, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  CpuSeat seat;
  for (int i = 0; i < 1000; ++i) {
    if (seat.has_work_from(CpuSeat::here())) {
      EXPECT_FALSE(seat.move());
    }
  }
  EXPECT_TRUE(equal(mask(), one));
}

}  // namespace
}  // namespace freethreading
