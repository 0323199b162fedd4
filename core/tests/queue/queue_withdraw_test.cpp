// Messages that are taken back while they wait.
#include <optional>
#include <thread>

#include "queue/queue_crash_support.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

constexpr std::uint64_t kWaiting = 200;  // several segments

QueueOutcome withdraw(MessageQueue& queue, Place& place, std::uint64_t sequence) {
  WaitContext context(Deadline::after(20 * kSecond));
  return queue.withdraw_until(place, sequence, context);
}

// The number in the next message, nothing where that was withdrawn.
std::optional<std::uint64_t> take(MessageQueue& queue, Place& place) {
  Message message;
  EXPECT_EQ(queue.try_get(place, message), QueueOutcome::kDone);
  if (message.kind == Message::kWithdrawn) {
    discard(place, message);
    return std::nullopt;
  }
  return open_item(place, message);
}

template <class Subject>
class QueueWithdrawTest : public WatchedTest {
 protected:
  Place& place() { return subject_.place(); }
  MessageQueue& fill() {
    MessageQueue& queue = subject_.make(0, false);
    for (std::uint64_t i = 1; i <= kWaiting; ++i) {
      const Message message = make_item(place(), i);
      std::uint64_t sequence = 0;
      EXPECT_EQ(queue.try_put(place(), message, &sequence), QueueOutcome::kDone);
      EXPECT_EQ(sequence, i);
    }
    return queue;
  }
  Subject subject_;
};

using Subjects = ::testing::Types<PrivateSubject, SessionSubject>;
TYPED_TEST_SUITE(QueueWithdrawTest, Subjects);

TYPED_TEST(QueueWithdrawTest, WhoeverTakesItSeesThatItIsWithdrawn) {
  MessageQueue& queue = this->fill();
  for (const std::uint64_t sequence : {std::uint64_t{1}, std::uint64_t{64}, std::uint64_t{130}, kWaiting}) {
    EXPECT_EQ(withdraw(queue, this->place(), sequence), QueueOutcome::kDone);
  }
  for (std::uint64_t i = 1; i <= kWaiting; ++i) {
    const std::optional<std::uint64_t> number = take(queue, this->place());
    EXPECT_EQ(number.has_value(), i != 1 && i != 64 && i != 130 && i != kWaiting);
    EXPECT_EQ(number.value_or(i), i);
  }
  EXPECT_EQ(queue.taken(), kWaiting);
}

TYPED_TEST(QueueWithdrawTest, WhatWasTakenIsNot) {
  MessageQueue& queue = this->fill();
  for (std::uint64_t i = 1; i <= 70; ++i) {
    ASSERT_EQ(take(queue, this->place()), i);
  }
  EXPECT_EQ(withdraw(queue, this->place(), 70), QueueOutcome::kEmpty);
  EXPECT_EQ(withdraw(queue, this->place(), 1), QueueOutcome::kEmpty);
  EXPECT_EQ(withdraw(queue, this->place(), 71), QueueOutcome::kDone);
  EXPECT_EQ(take(queue, this->place()), std::nullopt);
  EXPECT_EQ(take(queue, this->place()), 72U);
}

TYPED_TEST(QueueWithdrawTest, EachIsTakenOrWithdrawnNeverBoth) {
  MessageQueue& queue = this->fill();
  std::vector<bool> withdrawn(kWaiting + 1);
  std::thread other([&] {
    for (std::uint64_t i = kWaiting; i >= 1; --i) {
      withdrawn[i] = withdraw(queue, this->place(), i) == QueueOutcome::kDone;
    }
  });
  std::vector<bool> taken(kWaiting + 1);
  for (std::uint64_t i = 1; i <= kWaiting; ++i) {
    Message message;
    WaitContext context(Deadline::after(20 * kSecond));
    ASSERT_EQ(queue.get_until(this->place(), message, context), QueueOutcome::kDone);
    taken[i] = message.kind != Message::kWithdrawn;
    discard(this->place(), message);
  }
  other.join();
  for (std::uint64_t i = 1; i <= kWaiting; ++i) {
    EXPECT_NE(taken[i], withdrawn[i]) << i;
  }
}

#ifdef FT_CRASH_POINTS

class QueueWithdrawCrashTest : public QueueCrashTest, public ::testing::WithParamInterface<CrashCase> {};

TEST_P(QueueWithdrawCrashTest, ItIsThereOrWithdrawnAndTheOthersAreThere) {
  const auto& [point, nth, swept] = GetParam();
  for (std::uint64_t i = 1; i <= kWaiting; ++i) {
    ASSERT_EQ(put(*queue_, place(), i), QueueOutcome::kDone);
  }
  const int status = await_child(in_child([&, at = point, count = nth] {
    set_crash_point(at, count);
    for (const std::uint64_t sequence : {std::uint64_t{100}, std::uint64_t{150}}) {
      ASSERT_EQ(withdraw(*queue_, place(), sequence), QueueOutcome::kDone);
      progress_->done = sequence;
    }
  }));
  ASSERT_TRUE(was_killed(status)) << "did not come by " << point;
  if (swept) {
    test_session().sweep();
  }
  const Nanoseconds start = monotonic_now();
  WaitContext context(Deadline::after(kAtOnce));
  Message message;
  for (std::uint64_t i = 1; i <= kWaiting; ++i) {
    ASSERT_EQ(queue_->get_until(place(), message, context), QueueOutcome::kDone);
    if (i == 100 || (i == 150 && nth == 2)) {
      EXPECT_EQ(message.kind, Message::kWithdrawn);
      discard(place(), message);
    } else {
      EXPECT_EQ(open_item(place(), message), i);
    }
  }
  EXPECT_LT(monotonic_now() - start, kAtOnce);
}

INSTANTIATE_TEST_SUITE_P(Points, QueueWithdrawCrashTest,
                         ::testing::Combine(::testing::ValuesIn(points("queue.withdraw.")), ::testing::Values(1, 2),
                                            ::testing::Bool()),
                         case_name);

#endif

}  // namespace
}  // namespace freethreading::testing
