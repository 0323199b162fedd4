// What a queue does for its callers, in private memory and in a session alike.
#include "freethreading/queue/message_queue.hpp"

#include <thread>
#include <vector>

#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

template <class Subject>
class MessageQueueTest : public WatchedTest {
 protected:
  Place& place() { return subject_.place(); }
  MessageQueue& make(std::uint64_t capacity = 0, bool joinable = true) { return subject_.make(capacity, joinable); }
  Subject subject_;
};

using Subjects = ::testing::Types<PrivateSubject, SessionSubject>;
TYPED_TEST_SUITE(MessageQueueTest, Subjects);

TYPED_TEST(MessageQueueTest, GivesItemsInTheOrderOfTheirPuts) {
  MessageQueue& queue = this->make();
  constexpr std::uint64_t kItems = 1000;  // many segments
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    ASSERT_EQ(put(queue, this->place(), i), QueueOutcome::kDone);
  }
  EXPECT_EQ(queue.size(), kItems);
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    ASSERT_EQ(get(queue, this->place()), i);
    ASSERT_EQ(queue.taken(), i);
  }
  EXPECT_EQ(queue.size(), 0U);
}

TYPED_TEST(MessageQueueTest, EmptySaysSoWithoutWaiting) {
  MessageQueue& queue = this->make();
  Message message;
  EXPECT_EQ(queue.try_get(this->place(), message), QueueOutcome::kEmpty);
  WaitContext context(Deadline::immediate());
  EXPECT_EQ(queue.get_until(this->place(), message, context), QueueOutcome::kTimedOut);
}

TYPED_TEST(MessageQueueTest, FullSaysSoAndTheMessageStaysTheCallers) {
  MessageQueue& queue = this->make(2);
  ASSERT_EQ(put(queue, this->place(), 1), QueueOutcome::kDone);
  EXPECT_FALSE(queue.full());
  ASSERT_EQ(put(queue, this->place(), 2), QueueOutcome::kDone);
  EXPECT_TRUE(queue.full());
  Message message = make_item(this->place(), 3);
  EXPECT_EQ(queue.try_put(this->place(), message), QueueOutcome::kFull);
  WaitContext context(Deadline::immediate());
  EXPECT_EQ(queue.put_until(this->place(), message, context), QueueOutcome::kTimedOut);
  EXPECT_EQ(get(queue, this->place()), 1U);
  EXPECT_EQ(queue.try_put(this->place(), message), QueueOutcome::kDone);
  EXPECT_EQ(get(queue, this->place()), 2U);
  EXPECT_EQ(get(queue, this->place()), 3U);
}

TYPED_TEST(MessageQueueTest, AWaitEndsAtItsDeadline) {
  MessageQueue& queue = this->make(1);
  constexpr Nanoseconds kTimeout = 20 * kMillisecond;
  Nanoseconds start = monotonic_now();
  EXPECT_EQ(get(queue, this->place(), kTimeout), 0U);
  EXPECT_GE(monotonic_now() - start, kTimeout);
  ASSERT_EQ(put(queue, this->place(), 1), QueueOutcome::kDone);
  start = monotonic_now();
  EXPECT_EQ(put(queue, this->place(), 3, kTimeout), QueueOutcome::kTimedOut);
  EXPECT_GE(monotonic_now() - start, kTimeout);
}

TYPED_TEST(MessageQueueTest, AnInterruptibleWaitComesBackInBetween) {
  MessageQueue& queue = this->make();
  Message message;
  WaitContext context(Deadline::after(10 * kSecond), true);
  EXPECT_EQ(queue.get_until(this->place(), message, context), QueueOutcome::kInterrupted);
}

TYPED_TEST(MessageQueueTest, APutWakesAParkedConsumer) {
  MessageQueue& queue = this->make();
  for (std::uint64_t i = 1; i <= 50; ++i) {
    std::uint64_t got = 0;
    std::thread consumer([&] { got = get(queue, this->place()); });
    ASSERT_EQ(put(queue, this->place(), i), QueueOutcome::kDone);
    consumer.join();
    ASSERT_EQ(got, i);
  }
}

TYPED_TEST(MessageQueueTest, AHandOverThroughOneCellTakesNoSlices) {
  MessageQueue& queue = this->make(1);
  constexpr std::uint64_t kItems = 2000;
  const Nanoseconds start = monotonic_now();
  std::thread producer([&] {
    for (std::uint64_t i = 1; i <= kItems; ++i) {
      ASSERT_EQ(put(queue, this->place(), i), QueueOutcome::kDone);
    }
  });
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    ASSERT_EQ(get(queue, this->place()), i);
  }
  producer.join();
  // A lost wake-up would cost a whole slice each time.
  EXPECT_LT(monotonic_now() - start, 20 * kParkSlice);
}

TYPED_TEST(MessageQueueTest, EveryParkedProducerGetsItsTurn) {
  MessageQueue& queue = this->make(1);
  constexpr int kProducers = 8;
  ASSERT_EQ(put(queue, this->place(), 100), QueueOutcome::kDone);
  std::vector<std::thread> producers;
  for (int i = 1; i <= kProducers; ++i) {
    producers.emplace_back([&, i] { ASSERT_EQ(put(queue, this->place(), i), QueueOutcome::kDone); });
  }
  std::uint64_t sum = 0;
  for (int i = 0; i <= kProducers; ++i) {
    sum += get(queue, this->place());
  }
  for (std::thread& producer : producers) {
    producer.join();
  }
  EXPECT_EQ(sum, 100U + kProducers * (kProducers + 1) / 2);
}

TYPED_TEST(MessageQueueTest, WakeConsumersEndsAWaitWithoutAnItem) {
  MessageQueue& queue = this->make();
  const std::uint32_t epoch = queue.wake_epoch();
  queue.wake_consumers(this->place());
  WaitContext early(Deadline::after(10 * kSecond));
  EXPECT_EQ(queue.wait_not_empty(this->place(), early, epoch), QueueOutcome::kDone);
  QueueOutcome outcome = QueueOutcome::kTimedOut;
  std::atomic<bool> done{false};
  std::thread consumer([&] {
    WaitContext context(Deadline::after(20 * kSecond));
    outcome = queue.wait_not_empty(this->place(), context);
    done = true;
  });
  while (!done) {
    queue.wake_consumers(this->place());
    std::this_thread::yield();
  }
  consumer.join();
  EXPECT_EQ(outcome, QueueOutcome::kDone);
}

TYPED_TEST(MessageQueueTest, ShutDownLetsConsumersFinish) {
  MessageQueue& queue = this->make();
  ASSERT_EQ(put(queue, this->place(), 1), QueueOutcome::kDone);
  queue.shut_down(this->place(), false);
  EXPECT_TRUE(queue.is_shut_down());
  EXPECT_EQ(put(queue, this->place(), 2), QueueOutcome::kShutDown);
  EXPECT_EQ(get(queue, this->place()), 1U);
  Message message;
  EXPECT_EQ(queue.try_get(this->place(), message), QueueOutcome::kShutDown);
  WaitContext context(Deadline::never());
  EXPECT_EQ(queue.get_until(this->place(), message, context), QueueOutcome::kShutDown);
}

TYPED_TEST(MessageQueueTest, ShutDownWakesEverybody) {
  MessageQueue& queue = this->make(1);
  QueueOutcome getting = QueueOutcome::kDone;
  std::thread consumer([&] {
    Message message;
    WaitContext context(Deadline::never());
    getting = queue.get_until(this->place(), message, context);
  });
  queue.shut_down(this->place(), false);
  consumer.join();
  EXPECT_EQ(getting, QueueOutcome::kShutDown);
}

TYPED_TEST(MessageQueueTest, AFullQueuesProducerLearnsOfTheShutDown) {
  MessageQueue& queue = this->make(1);
  ASSERT_EQ(put(queue, this->place(), 1), QueueOutcome::kDone);
  QueueOutcome putting = QueueOutcome::kDone;
  std::thread producer([&] { putting = put(queue, this->place(), 2, 100 * kSecond); });
  queue.shut_down(this->place(), true);
  producer.join();
  EXPECT_EQ(putting, QueueOutcome::kShutDown);
}

TYPED_TEST(MessageQueueTest, JoinWaitsForTheLastTaskDone) {
  MessageQueue& queue = this->make();
  EXPECT_FALSE(queue.task_done(this->place()));
  for (std::uint64_t i = 1; i <= 3; ++i) {
    ASSERT_EQ(put(queue, this->place(), i), QueueOutcome::kDone);
  }
  EXPECT_EQ(queue.unfinished(), 3U);
  OwnerId dead = kNobody;
  WaitContext now(Deadline::immediate());
  EXPECT_EQ(queue.join_until(this->place(), now, dead), WaitOutcome::kTimedOut);
  std::thread worker([&] {
    for (std::uint64_t i = 1; i <= 3; ++i) {
      ASSERT_EQ(get(queue, this->place()), i);
      ASSERT_TRUE(queue.task_done(this->place()));
    }
  });
  WaitContext context(Deadline::after(20 * kSecond));
  EXPECT_EQ(queue.join_until(this->place(), context, dead), WaitOutcome::kReady);
  worker.join();
  EXPECT_FALSE(queue.task_done(this->place()));
}

TYPED_TEST(MessageQueueTest, ANoteNamesTheTake) {
  MessageQueue& queue = this->make();
  const Offset block = this->place().allocate(sizeof(TakeNote));
  auto* note = new (this->place().template at<TakeNote>(block)) TakeNote;
  ASSERT_EQ(put(queue, this->place(), 41), QueueOutcome::kDone);
  ASSERT_EQ(put(queue, this->place(), 42), QueueOutcome::kDone);
  EXPECT_FALSE(queue.was_taken(*note));
  ASSERT_EQ(get(queue, this->place(), kSecond, note), 41U);
  ASSERT_EQ(get(queue, this->place(), kSecond, note), 42U);
  EXPECT_EQ(note->sequence, 2U);
  EXPECT_EQ(note->tag, 42U);
  EXPECT_TRUE(queue.was_taken(*note));
  this->place().free(block);
}

TYPED_TEST(MessageQueueTest, VisitSeesWhatIsInIt) {
  MessageQueue& queue = this->make();
  for (std::uint64_t i = 1; i <= 200; ++i) {
    ASSERT_EQ(put(queue, this->place(), i), QueueOutcome::kDone);
  }
  for (std::uint64_t i = 1; i <= 70; ++i) {
    ASSERT_EQ(get(queue, this->place()), i);
  }
  std::vector<std::uint64_t> seen;
  const auto collect = [](void* into, const Message& message) {
    std::uint64_t number = 0;
    std::memcpy(&number, message.bytes.data(), sizeof(number));
    static_cast<std::vector<std::uint64_t>*>(into)->push_back(number);
    return 0;
  };
  EXPECT_EQ(queue.visit(this->place(), collect, &seen), 0);
  ASSERT_EQ(seen.size(), 130U);
  EXPECT_EQ(seen.front(), 71U);
  EXPECT_EQ(seen.back(), 200U);
  EXPECT_EQ(queue.visit(this->place(), [](void*, const Message&) { return 5; }, nullptr), 5);
}

class SharedQueueTest : public WatchedTest {};

TEST_F(SharedQueueTest, AnImmediateShutDownDiscardsAndFinishes) {
  const SessionUsage before = test_session().usage();
  SessionSubject subject;
  Place& place = subject.place();
  MessageQueue& queue = subject.make(0);
  for (std::uint64_t i = 1; i <= 200; ++i) {
    ASSERT_EQ(put(queue, place, i), QueueOutcome::kDone);
  }
  queue.shut_down(place, true);
  EXPECT_EQ(queue.size(), 0U);
  EXPECT_EQ(queue.unfinished(), 0U);
  Message message;
  EXPECT_EQ(queue.try_get(place, message), QueueOutcome::kShutDown);
  subject.drop();
  EXPECT_EQ(test_session().usage().blocks, before.blocks);
}

TEST_F(SharedQueueTest, ItsEndFreesEverything) {
  const SessionUsage before = test_session().usage();
  SessionSubject subject;
  MessageQueue& queue = subject.make(0);
  for (std::uint64_t i = 1; i <= 500; ++i) {
    ASSERT_EQ(put(queue, subject.place(), i), QueueOutcome::kDone);
  }
  for (std::uint64_t i = 1; i <= 100; ++i) {
    ASSERT_EQ(get(queue, subject.place()), i);
  }
  subject.drop();
  EXPECT_EQ(test_session().usage().blocks, before.blocks);
}

TEST_F(SharedQueueTest, AQueueKeepsAliveWhatItsMessagesCarry) {
  SessionSubject subject;
  Place& place = subject.place();
  MessageQueue& queue = subject.make(0);
  SessionSubject carried;
  static_cast<void>(carried.make(0));
  Message message;
  ASSERT_TRUE(allocate_block(place, message, 8, 1));
  ASSERT_TRUE(carry(place, message, carried.handle()));
  ASSERT_EQ(queue.try_put(place, message), QueueOutcome::kDone);
  carried.drop();
  ObjectHeader* proxy = test_session().open(carried.handle());
  ASSERT_NE(proxy, nullptr);
  test_session().drop_reference(proxy);
  subject.drop();  // discards the message
  EXPECT_EQ(test_session().open(carried.handle()), nullptr);
}

TEST_F(SharedQueueTest, ATakerThatIsKilledLeavesNothingOfWhatTheMessageCarried) {
  SessionSubject subject;
  Place& place = subject.place();
  MessageQueue& queue = subject.make(0);
  SessionSubject carried;
  static_cast<void>(carried.make(0));
  Message message;
  ASSERT_TRUE(allocate_block(place, message, 8, 2));
  ASSERT_TRUE(carry(place, message, carried.handle()));
  ASSERT_TRUE(carry(place, message, carried.handle()));
  ASSERT_EQ(queue.try_put(place, message), QueueOutcome::kDone);
  const pid_t pid = in_child([&] {
    Message taken;
    ASSERT_EQ(queue.try_get(place, taken), QueueOutcome::kDone);
    kill(getpid(), SIGKILL);
  });
  static_cast<void>(await_child(pid));
  EXPECT_EQ(carried.object()->in_flight.load(), 2U);
  test_session().sweep();
  EXPECT_EQ(carried.object()->in_flight.load(), 0U);
  carried.drop();
  EXPECT_EQ(test_session().open(carried.handle()), nullptr);
}

TEST_F(SharedQueueTest, AMessageKeepsAnObjectOfAnotherSession) {
  SessionSubject subject;
  Place& place = subject.place();
  MessageQueue& queue = subject.make(0);
  Session& other = *Session::create().session;
  ObjectHeader* object = other.create_object(ObjectType::kEvent, 64);
  const Handle handle = other.publish_object(object);
  Message message;
  ASSERT_TRUE(allocate_block(place, message, 8, 1));
  ASSERT_TRUE(carry(place, message, handle));
  ASSERT_EQ(queue.try_put(place, message), QueueOutcome::kDone);
  other.drop_reference(object);
  EXPECT_EQ(object->in_flight.load(), 1U);
  subject.drop();  // discards the message
  EXPECT_EQ(other.open(handle), nullptr);
}

TEST_F(SharedQueueTest, WhatIsGoneIsNotCarried) {
  SessionSubject subject;
  Place& place = subject.place();
  static_cast<void>(subject.make(0));
  subject.drop();
  Message message;
  ASSERT_TRUE(allocate_block(place, message, 8, 1));
  EXPECT_FALSE(carry(place, message, subject.handle()));
  discard(place, message);
}

TEST_F(SharedQueueTest, JoinNamesTheDeadProcessThatOwes) {
  SessionSubject subject;
  Place& place = subject.place();
  MessageQueue& queue = subject.make(0);
  ASSERT_EQ(put(queue, place, 1), QueueOutcome::kDone);
  Scoreboard<std::atomic<OwnerId>> who;
  const pid_t pid = in_child([&] {
    *who = place.self();
    ASSERT_EQ(get(queue, place), 1U);
    kill(getpid(), SIGKILL);
  });
  static_cast<void>(await_child(pid));
  OwnerId dead = kNobody;
  WaitContext context(Deadline::after(20 * kSecond));
  EXPECT_EQ(queue.join_until(place, context, dead), WaitOutcome::kOwnerDied);
  EXPECT_EQ(dead, who->load());
  // Still so when its slot was swept and may belong to another process.
  test_session().sweep();
  EXPECT_EQ(await_child(in_child([&] { ASSERT_EQ(queue.size(), 0U); })), 0);
  EXPECT_EQ(queue.join_until(place, context, dead), WaitOutcome::kOwnerDied);
  EXPECT_EQ(dead, who->load());
  // Another may finish the work in its stead.
  EXPECT_TRUE(queue.task_done(place));
  EXPECT_EQ(queue.join_until(place, context, dead), WaitOutcome::kReady);
}

}  // namespace
}  // namespace freethreading::testing
