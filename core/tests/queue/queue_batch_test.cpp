// Several messages at once, and the bound in bytes, in private memory and in a session alike.
#include <numeric>
#include <thread>
#include <vector>

#include "freethreading/queue/message_queue.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

std::vector<std::uint64_t> from_to(std::uint64_t first, std::uint64_t last) {
  std::vector<std::uint64_t> numbers(last - first + 1);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

// An inline message of `size` bytes.
Message sized(std::size_t size) {
  Message message;
  message.size = size;
  return message;
}

template <class Subject>
class QueueBatchTest : public WatchedTest {
 protected:
  Place& place() { return subject_.place(); }
  MessageQueue& make(std::uint64_t capacity = 0, std::uint64_t max_bytes = 0) {
    return subject_.make(capacity, true, max_bytes);
  }
  QueueOutcome try_put(MessageQueue& queue, std::size_t size) { return queue.try_put(place(), sized(size)); }
  QueueOutcome try_get(MessageQueue& queue) {
    Message message;
    return queue.try_get(place(), message);
  }
  Subject subject_;
};

using Subjects = ::testing::Types<PrivateSubject, SessionSubject>;
TYPED_TEST_SUITE(QueueBatchTest, Subjects);

TYPED_TEST(QueueBatchTest, ItemsComeInTheOrderOfTheirPutsHoweverTheyWerePutAndTaken) {
  MessageQueue& queue = this->make();
  std::uint64_t put_so_far = 0;
  for (const std::size_t size : {1, 62, 1, 63, 64, 200, 5}) {  // up to, onto and across the ends of segments
    ASSERT_EQ(put_many(queue, this->place(), put_so_far + 1, size), size);
    put_so_far += size;
    ASSERT_EQ(put(queue, this->place(), ++put_so_far), QueueOutcome::kDone);
  }
  EXPECT_EQ(queue.size(), put_so_far);
  std::uint64_t taken = 0;
  for (const std::size_t size : {5, 200, 64, 63, 1}) {
    ASSERT_EQ(get_many(queue, this->place(), size), from_to(taken + 1, taken + size));
    taken += size;
    ASSERT_EQ(get(queue, this->place()), ++taken);
  }
  EXPECT_EQ(get_many(queue, this->place(), 1000), from_to(taken + 1, put_so_far));
  EXPECT_EQ(queue.taken(), put_so_far);
}

TYPED_TEST(QueueBatchTest, TakesWhatIsThereAndNoMore) {
  MessageQueue& queue = this->make();
  std::vector<Message> out(10);
  std::size_t got = 7;
  EXPECT_EQ(queue.try_get_many(this->place(), out, got), QueueOutcome::kEmpty);
  EXPECT_EQ(got, 0U);
  EXPECT_TRUE(get_many(queue, this->place(), 10, 20 * kMillisecond).empty());
  ASSERT_EQ(put_many(queue, this->place(), 1, 4), 4U);
  EXPECT_EQ(get_many(queue, this->place(), 10), from_to(1, 4));
}

TYPED_TEST(QueueBatchTest, PutsWhatFits) {
  MessageQueue& queue = this->make(100);
  EXPECT_EQ(put_many(queue, this->place(), 1, 80, kMillisecond), 80U);
  EXPECT_EQ(put_many(queue, this->place(), 81, 80, kMillisecond), 20U);
  EXPECT_EQ(put_many(queue, this->place(), 101, 80, kMillisecond), 0U);
  EXPECT_TRUE(queue.full());
  EXPECT_EQ(get_many(queue, this->place(), 10), from_to(1, 10));
  EXPECT_EQ(put_many(queue, this->place(), 101, 80, kMillisecond), 10U);
  EXPECT_EQ(get_many(queue, this->place(), 1000), from_to(11, 110));
}

TYPED_TEST(QueueBatchTest, ALargeBatchGoesThroughASmallQueue) {
  MessageQueue& queue = this->make(3);
  constexpr std::uint64_t kItems = 1000;
  std::thread producer([&] { ASSERT_EQ(put_many(queue, this->place(), 1, kItems), kItems); });
  std::vector<std::uint64_t> all;
  while (all.size() < kItems) {
    const std::vector<std::uint64_t> some = get_many(queue, this->place(), 2);
    ASSERT_FALSE(some.empty());
    all.insert(all.end(), some.begin(), some.end());
  }
  producer.join();
  EXPECT_EQ(all, from_to(1, kItems));
}

TYPED_TEST(QueueBatchTest, EveryParkedConsumerGetsSomething) {
  MessageQueue& queue = this->make();
  constexpr int kConsumers = 8;
  std::atomic<std::uint64_t> sum{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < kConsumers; ++i) {
    consumers.emplace_back([&] { sum += get(queue, this->place()); });
  }
  ASSERT_EQ(put_many(queue, this->place(), 1, kConsumers), static_cast<std::size_t>(kConsumers));
  for (std::thread& consumer : consumers) {
    consumer.join();
  }
  EXPECT_EQ(sum, kConsumers * (kConsumers + 1) / 2U);
}

TYPED_TEST(QueueBatchTest, AShutDownEndsABatch) {
  MessageQueue& queue = this->make(5);
  std::size_t put = 0;
  std::thread producer([&] { put = put_many(queue, this->place(), 1, 50); });
  while (queue.size() < 5) {
    std::this_thread::yield();
  }
  queue.shut_down(this->place(), false);
  producer.join();
  EXPECT_EQ(put, 5U);
  EXPECT_EQ(get_many(queue, this->place(), 50), from_to(1, 5));
  std::vector<Message> out(2);
  std::size_t got = 0;
  EXPECT_EQ(queue.try_get_many(this->place(), out, got), QueueOutcome::kShutDown);
}

TYPED_TEST(QueueBatchTest, JoinCountsEveryItemOfABatch) {
  MessageQueue& queue = this->make();
  ASSERT_EQ(put_many(queue, this->place(), 1, 100), 100U);
  ASSERT_EQ(get_many(queue, this->place(), 100).size(), 100U);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(queue.unfinished(), 100U - static_cast<unsigned>(i));
    ASSERT_TRUE(queue.task_done(this->place()));
  }
  EXPECT_FALSE(queue.task_done(this->place()));
  OwnerId dead = kNobody;
  WaitContext now(Deadline::immediate());
  EXPECT_EQ(queue.join_until(this->place(), now, dead), WaitOutcome::kReady);
}

TYPED_TEST(QueueBatchTest, BytesThatWaitAreBounded) {
  MessageQueue& queue = this->make(0, 100);
  EXPECT_EQ(queue.max_bytes(), 100U);
  EXPECT_EQ(this->try_put(queue, 40), QueueOutcome::kDone);
  EXPECT_EQ(this->try_put(queue, 40), QueueOutcome::kDone);
  EXPECT_EQ(this->try_put(queue, 21), QueueOutcome::kFull);
  EXPECT_FALSE(queue.full());
  EXPECT_EQ(this->try_put(queue, 20), QueueOutcome::kDone);
  EXPECT_TRUE(queue.full());
  EXPECT_EQ(queue.waiting_bytes(), 100U);
  EXPECT_EQ(this->try_get(queue), QueueOutcome::kDone);
  EXPECT_EQ(queue.waiting_bytes(), 60U);
  EXPECT_EQ(this->try_put(queue, 40), QueueOutcome::kDone);
  EXPECT_EQ(this->try_put(queue, 1), QueueOutcome::kFull);
}

TYPED_TEST(QueueBatchTest, AMessageLargerThanTheBoundGoesInAlone) {
  MessageQueue& queue = this->make(0, 10);
  EXPECT_EQ(this->try_put(queue, 1), QueueOutcome::kDone);
  EXPECT_EQ(this->try_put(queue, 40), QueueOutcome::kFull);
  EXPECT_EQ(this->try_get(queue), QueueOutcome::kDone);
  EXPECT_EQ(this->try_put(queue, 40), QueueOutcome::kDone);
  EXPECT_TRUE(queue.full());
  EXPECT_EQ(this->try_put(queue, 1), QueueOutcome::kFull);
  const std::vector<Message> batch{sized(40), sized(1)};
  EXPECT_EQ(this->try_get(queue), QueueOutcome::kDone);
  std::size_t put = 0;
  EXPECT_EQ(queue.try_put_many(this->place(), batch, put), QueueOutcome::kFull);
  EXPECT_EQ(put, 1U);
  EXPECT_EQ(queue.waiting_bytes(), 40U);
}

TYPED_TEST(QueueBatchTest, ABatchIsBoundedByBothBounds) {
  MessageQueue& queue = this->make(4, 100);
  std::size_t put = 0;
  EXPECT_EQ(queue.try_put_many(this->place(), std::vector<Message>(10, sized(30)), put), QueueOutcome::kFull);
  EXPECT_EQ(put, 3U);
  EXPECT_EQ(queue.try_put_many(this->place(), std::vector<Message>(10, sized(5)), put), QueueOutcome::kFull);
  EXPECT_EQ(put, 1U);
}

TYPED_TEST(QueueBatchTest, EveryProducerWhoseBytesFitGoesOn) {
  MessageQueue& queue = this->make(0, 40);
  ASSERT_EQ(this->try_put(queue, 40), QueueOutcome::kDone);
  std::vector<std::thread> producers;
  for (const std::size_t size : {40, 8, 40, 8, 40}) {
    producers.emplace_back([&, size] {
      WaitContext context(Deadline::after(20 * kSecond));
      ASSERT_EQ(queue.put_until(this->place(), sized(size), context), QueueOutcome::kDone);
    });
  }
  for (std::size_t taken = 0; taken <= producers.size(); ++taken) {
    Message message;
    WaitContext context(Deadline::after(20 * kSecond));
    ASSERT_EQ(queue.get_until(this->place(), message, context), QueueOutcome::kDone);
    EXPECT_LE(queue.waiting_bytes(), 40U);
  }
  for (std::thread& producer : producers) {
    producer.join();
  }
  EXPECT_EQ(queue.waiting_bytes(), 0U);
}

TYPED_TEST(QueueBatchTest, BytesAddUpOverManySegments) {
  MessageQueue& queue = this->make(0, 1 << 20);
  std::uint64_t put_so_far = 0;
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(put_many(queue, this->place(), put_so_far + 1, 97), 97U);
    put_so_far += 97;
    ASSERT_EQ(get_many(queue, this->place(), 90).size(), 90U);
  }
  EXPECT_EQ(get_many(queue, this->place(), 1000).size(), 140U);
  EXPECT_EQ(queue.waiting_bytes(), 0U);
}

}  // namespace
}  // namespace freethreading::testing
