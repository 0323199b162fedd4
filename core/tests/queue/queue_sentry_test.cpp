// Lazy puts: whoever of the waiting consumers is sentry sees to it that none waits for one that is busy.
#include <atomic>
#include <thread>
#include <vector>

#include "freethreading/crash_point.hpp"
#include "queue/queue_crash_support.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

void put_lazily(MessageQueue& queue, Place& place, std::uint64_t number) {
  const Message message = make_item(place, number);
  QueueOutcome outcome = QueueOutcome::kBusy;
  while (outcome == QueueOutcome::kBusy) {
    outcome = queue.try_put(place, message, nullptr, Waking::kLazily);
  }
  ASSERT_EQ(outcome, QueueOutcome::kDone);
}

template <class Subject>
class QueueSentryTest : public WatchedTest {
 protected:
  void SetUp() override {
    WatchedTest::SetUp();
    queue_ = &subject_.make(0, false);
    queue_->keep_sentry();
  }
  Place& place() { return subject_.place(); }
  // Consumers that call use(number) for every item but 0, which ends them.
  template <class Use>
  void start(int count, Use use) {
    for (int i = 0; i < count; ++i) {
      consumers_.emplace_back([this, use] {
        while (const std::uint64_t number = get(*queue_, place(), kForever)) {
          use(number);
        }
      });
    }
  }
  void end() {
    for (std::size_t i = 0; i < consumers_.size(); ++i) {
      put_lazily(*queue_, place(), 0);
    }
    for (std::thread& consumer : consumers_) {
      consumer.join();
    }
  }

  static constexpr Nanoseconds kForever = kWatchdogSeconds * kSecond;
  Subject subject_;
  MessageQueue* queue_ = nullptr;
  std::vector<std::thread> consumers_;
};
using Subjects = ::testing::Types<PrivateSubject, SessionSubject>;
TYPED_TEST_SUITE(QueueSentryTest, Subjects);

// In each round all consumers meet, each with an item; short ones are before them and behind. So nobody may wait for one that is busy.
TYPED_TEST(QueueSentryTest, NoItemWaitsForABusyConsumer) {
  constexpr int kConsumers = 6;
  constexpr int kRounds = 1'000;
  constexpr std::uint64_t kShort = kRounds + 1;
  constexpr std::uint64_t kShortOnes = 40;  // before and behind
  const Nanoseconds start = monotonic_now();
  std::atomic<int> taken{0};
  std::atomic<std::uint64_t> short_ones{0};
  this->start(kConsumers, [&](std::uint64_t number) {
    if (number == kShort) {
      short_ones.fetch_add(1);
      return;
    }
    taken.fetch_add(1);
    while (taken.load() < static_cast<int>(number) * kConsumers) {
      std::this_thread::yield();
    }
  });
  const auto put_short_ones = [&] {
    for (std::uint64_t n = 0; n < kShortOnes; ++n) {
      put_lazily(*this->queue_, this->place(), kShort);
    }
  };
  for (std::uint64_t i = 1; i <= kRounds; ++i) {
    put_short_ones();
    for (int n = 0; n < kConsumers; ++n) {
      put_lazily(*this->queue_, this->place(), i);
    }
    put_short_ones();
    while (short_ones.load() < 2 * kShortOnes * i) {
      std::this_thread::yield();
    }
  }
  this->end();
  EXPECT_EQ(taken.load(), kRounds * kConsumers);
  EXPECT_LT(monotonic_now() - start, 15 * kSecond);  // a sleeper that nobody wakes looks again after 20 ms at the soonest
}

TYPED_TEST(QueueSentryTest, EachIsTakenOnce) {
  constexpr int kProducers = 2;
  constexpr std::uint64_t kEach = 20'000;
  std::atomic<std::uint64_t> count{0};
  std::atomic<std::uint64_t> sum{0};
  this->start(6, [&](std::uint64_t number) {
    count.fetch_add(1);
    sum.fetch_add(number);
    if (number % 1000 == 0) {  // one that takes its time
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  std::vector<std::thread> producers;
  for (int i = 0; i < kProducers; ++i) {
    producers.emplace_back([&] {
      for (std::uint64_t number = 1; number <= kEach; ++number) {
        put_lazily(*this->queue_, this->place(), number);
      }
    });
  }
  for (std::thread& producer : producers) {
    producer.join();
  }
  this->end();
  EXPECT_EQ(count.load(), kProducers * kEach);
  EXPECT_EQ(sum.load(), kProducers * kEach * (kEach + 1) / 2);
}

// A sentry whose time is up leaves its post, and somebody else sees to what it was trusted with.
TYPED_TEST(QueueSentryTest, OnesThatGiveUpLeaveNothingBehind) {
  constexpr std::uint64_t kItems = 3'000;
  std::atomic<std::uint64_t> taken{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < 3; ++i) {
    consumers.emplace_back([&, i] {
      Nanoseconds patience = (20 + 37 * i) * kMicrosecond;
      while (taken.load() < kItems) {
        patience = patience * 3 / 2 % (500 * kMicrosecond) + kMicrosecond;
        if (get(*this->queue_, this->place(), patience) != 0) {
          taken.fetch_add(1);
        }
      }
    });
  }
  std::thread last([&] {  // waits without an end: what it is not woken for it never takes
    while (get(*this->queue_, this->place(), this->kForever) != kItems + 1) {
      taken.fetch_add(1);
    }
  });
  for (std::uint64_t number = 1; number <= kItems; ++number) {
    put_lazily(*this->queue_, this->place(), number);
    while (taken.load() < number) {
      std::this_thread::yield();
    }
  }
  for (std::thread& consumer : consumers) {
    consumer.join();
  }
  put_lazily(*this->queue_, this->place(), kItems + 1);
  last.join();
  EXPECT_EQ(taken.load(), kItems);
}

TYPED_TEST(QueueSentryTest, ItsEndEndsTheWaits) {
  std::atomic<int> ended{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < 3; ++i) {
    consumers.emplace_back([&] {
      WaitContext context(Deadline::never());
      EXPECT_EQ(this->queue_->wait_not_empty(this->place(), context), QueueOutcome::kShutDown);
      ended.fetch_add(1);
    });
  }
  this->queue_->shut_down(this->place(), false);
  for (std::thread& consumer : consumers) {
    consumer.join();
  }
  EXPECT_EQ(ended.load(), 3);
}

#ifdef FT_CRASH_POINTS

using QueueSentryCrashTest = QueueCrashTest;

TEST_F(QueueSentryCrashTest, WhatADeadSentryWasTrustedWithIsTaken) {
  SessionSubject subject;
  MessageQueue& queue = subject.make(0, false);
  queue.keep_sentry();
  ASSERT_EQ(put(queue, place(), 7), QueueOutcome::kDone);
  ASSERT_EQ(get(queue, place()), 7U);  // so that the puts below look as if somebody were at work
  const pid_t sleeper = in_child([&] {
    ASSERT_EQ(get(queue, place(), 10 * kSecond), 1U);
    progress_->done = 1;
  });
  EXPECT_TRUE(was_killed(await_child(in_child([&] {
    set_crash_point("gate.post.taken");
    for (;;) {
      static_cast<void>(get(queue, place(), kMillisecond));  // the post may be the sleeper's at first
    }
  }))));
  const Nanoseconds start = monotonic_now();
  put_lazily(queue, place(), 1);
  EXPECT_EQ(await_child(sleeper), 0);
  EXPECT_EQ(progress_->done, 1U);
  EXPECT_LT(monotonic_now() - start, kAtOnce);
}

#endif

}  // namespace
}  // namespace freethreading::testing
