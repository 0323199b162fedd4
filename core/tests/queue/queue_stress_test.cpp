// Many producers and consumers at once: every item arrives exactly once, and each producer's in the order of its puts.
#include <algorithm>
#include <array>
#include <memory>
#include <thread>
#include <vector>

#include "freethreading/queue/message_queue.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

constexpr std::size_t kProducers = 3;
constexpr std::size_t kConsumers = 3;
constexpr std::uint64_t kItemsEach = 3000;
constexpr std::uint64_t kItems = kProducers * kItemsEach;

// An item is 1 + producer * kItemsEach + its number there.
struct Ledger {
  std::array<std::atomic<std::uint32_t>, kItems + 1> seen;
  std::atomic<std::uint64_t> torn;
  std::atomic<std::uint64_t> disorder;
  std::atomic<std::uint64_t> refused;
};

void produce(MessageQueue& queue, Place& place, Ledger& ledger, std::size_t producer) {
  for (std::uint64_t i = 0; i < kItemsEach; ++i) {
    if (put(queue, place, 1 + producer * kItemsEach + i, 100 * kSecond) != QueueOutcome::kDone) {
      ++ledger.refused;
    }
  }
}

// Until the queue is shut down and empty.
void consume(MessageQueue& queue, Place& place, Ledger& ledger) {
  std::array<std::uint64_t, kProducers> last{};
  for (;;) {
    Message message;
    WaitContext context(Deadline::after(100 * kSecond));
    if (queue.get_until(place, message, context) != QueueOutcome::kDone) {
      return;
    }
    const std::uint64_t item = open_item(place, message);
    if (item == 0 || item > kItems) {
      ++ledger.torn;
      continue;
    }
    ++ledger.seen[item];
    std::uint64_t& before = last[(item - 1) / kItemsEach];
    ledger.disorder += item <= before ? 1 : 0;
    before = item;
    static_cast<void>(queue.task_done(place));
  }
}

void check(MessageQueue& queue, Place& place, Ledger& ledger) {
  EXPECT_EQ(ledger.torn, 0U);
  EXPECT_EQ(ledger.disorder, 0U);
  EXPECT_EQ(ledger.refused, 0U);
  for (std::uint64_t item = 1; item <= kItems; ++item) {
    ASSERT_EQ(ledger.seen[item], 1U) << "item " << item;
  }
  EXPECT_EQ(queue.taken(), kItems);
  OwnerId dead = kNobody;
  WaitContext now(Deadline::immediate());
  EXPECT_EQ(queue.join_until(place, now, dead), WaitOutcome::kReady);
}

template <class Subject>
class QueueStressTest : public WatchedTest {
 protected:
  void run(std::uint64_t capacity) {
    Place& place = subject_.place();
    MessageQueue& queue = subject_.make(capacity);
    auto ledger = std::make_unique<Ledger>();
    std::vector<std::thread> producers;
    std::vector<std::thread> consumers;
    for (std::size_t i = 0; i < kConsumers; ++i) {
      consumers.emplace_back([&] { consume(queue, place, *ledger); });
    }
    for (std::size_t i = 0; i < kProducers; ++i) {
      producers.emplace_back([&, i] { produce(queue, place, *ledger, i); });
    }
    std::for_each(producers.begin(), producers.end(), [](std::thread& thread) { thread.join(); });
    queue.shut_down(place, false);
    std::for_each(consumers.begin(), consumers.end(), [](std::thread& thread) { thread.join(); });
    check(queue, place, *ledger);
  }
  Subject subject_;
};

using Subjects = ::testing::Types<PrivateSubject, SessionSubject>;
TYPED_TEST_SUITE(QueueStressTest, Subjects);

TYPED_TEST(QueueStressTest, ThreadsUnbounded) { this->run(0); }
TYPED_TEST(QueueStressTest, ThreadsBounded) { this->run(7); }
TYPED_TEST(QueueStressTest, ThreadsOneCell) { this->run(1); }

class QueueProcessStressTest : public WatchedTest, public ::testing::WithParamInterface<std::uint64_t> {};

TEST_P(QueueProcessStressTest, Processes) {
  const SessionUsage before = test_session().usage();
  SessionSubject subject;
  Place& place = subject.place();
  MessageQueue& queue = subject.make(GetParam());
  Scoreboard<Ledger> ledger;
  std::vector<pid_t> producers;
  std::vector<pid_t> consumers;
  for (std::size_t i = 0; i < kConsumers; ++i) {
    consumers.push_back(in_child([&] { consume(queue, place, *ledger); }));
  }
  for (std::size_t i = 0; i < kProducers; ++i) {
    producers.push_back(in_child([&, i] { produce(queue, place, *ledger, i); }));
  }
  for (const pid_t pid : producers) {
    EXPECT_EQ(await_child(pid), 0);
  }
  queue.shut_down(place, false);
  for (const pid_t pid : consumers) {
    EXPECT_EQ(await_child(pid), 0);
  }
  check(queue, place, *ledger);
  test_session().sweep();
  subject.drop();
  EXPECT_EQ(test_session().usage().blocks, before.blocks);
}

INSTANTIATE_TEST_SUITE_P(Capacity, QueueProcessStressTest, ::testing::Values(0, 1, 7));

}  // namespace
}  // namespace freethreading::testing
