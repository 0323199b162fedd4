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

// The same in batches of 1, 2, 3, ...
void produce_batches(MessageQueue& queue, Place& place, Ledger& ledger, std::size_t producer) {
  std::uint64_t done = 0;
  for (std::size_t size = 1; done < kItemsEach; size = size % 150 + 1) {
    const std::size_t count = std::min<std::size_t>(size, kItemsEach - done);
    ledger.refused += count - put_many(queue, place, 1 + producer * kItemsEach + done, count, 100 * kSecond);
    done += count;
  }
}

class Consumer {
 public:
  Consumer(MessageQueue& queue, Place& place, Ledger& ledger) : queue_(queue), place_(place), ledger_(ledger) {}

  void check(std::uint64_t item) {
    if (item == 0 || item > kItems) {
      ++ledger_.torn;
      return;
    }
    ++ledger_.seen[item];
    std::uint64_t& before = last_[(item - 1) / kItemsEach];
    ledger_.disorder += item <= before ? 1 : 0;
    before = item;
    static_cast<void>(queue_.task_done(place_));
  }

 private:
  MessageQueue& queue_;
  Place& place_;
  Ledger& ledger_;
  std::array<std::uint64_t, kProducers> last_{};
};

// Until the queue is shut down and empty.
void consume(MessageQueue& queue, Place& place, Ledger& ledger) {
  Consumer consumer(queue, place, ledger);
  for (;;) {
    Message message;
    WaitContext context(Deadline::after(100 * kSecond));
    if (queue.get_until(place, message, context) != QueueOutcome::kDone) {
      return;
    }
    consumer.check(open_item(place, message));
  }
}

void consume_batches(MessageQueue& queue, Place& place, Ledger& ledger) {
  Consumer consumer(queue, place, ledger);
  for (std::size_t most = 1;; most = most % 200 + 1) {
    const std::vector<std::uint64_t> items = get_many(queue, place, most, 100 * kSecond);
    if (items.empty()) {
      return;
    }
    std::for_each(items.begin(), items.end(), [&](std::uint64_t item) { consumer.check(item); });
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
  // `batches`: of the producers and consumers one each puts or takes one by one, the others several.
  void run(std::uint64_t capacity, std::uint64_t max_bytes = 0, bool batches = false) {
    Place& place = subject_.place();
    MessageQueue& queue = subject_.make(capacity, true, max_bytes);
    auto ledger = std::make_unique<Ledger>();
    std::vector<std::thread> producers;
    std::vector<std::thread> consumers;
    for (std::size_t i = 0; i < kConsumers; ++i) {
      consumers.emplace_back([&, many = batches && i > 0] { (many ? consume_batches : consume)(queue, place, *ledger); });
    }
    for (std::size_t i = 0; i < kProducers; ++i) {
      producers.emplace_back(
          [&, i, many = batches && i > 0] { (many ? produce_batches : produce)(queue, place, *ledger, i); });
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
TYPED_TEST(QueueStressTest, ThreadsInBatches) { this->run(0, 0, true); }
TYPED_TEST(QueueStressTest, ThreadsInBatchesBounded) { this->run(100, 0, true); }
TYPED_TEST(QueueStressTest, ThreadsInBatchesBoundedInBytes) { this->run(0, 1000, true); }

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
