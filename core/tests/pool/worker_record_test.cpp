#include "freethreading/pool/worker_record.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

class WorkerRecordTest : public WatchedTest {
 protected:
  void SetUp() override {
    WatchedTest::SetUp();
    object_ = test_session().create_object(ObjectType::kWorker, sizeof(WorkerRecord));
    record_ = object_->body<WorkerRecord>();
    static_cast<void>(test_session().publish_object(object_));
  }
  void TearDown() override {
    test_session().drop_reference(object_);
    WatchedTest::TearDown();
  }
  Place& place() { return test_session().place(); }
  // The record's: an object of its own.
  MessageQueue& make_queue() {
    queue_ = test_session().create_object(ObjectType::kChannel, sizeof(MessageQueue));
    EXPECT_TRUE(queue_->body<MessageQueue>()->initialise(place(), 0, false));
    record_->queues[0] = test_session().publish_object(queue_);
    return *queue_->body<MessageQueue>();
  }
  ObjectHeader* object_ = nullptr;
  ObjectHeader* queue_ = nullptr;
  WorkerRecord* record_ = nullptr;
};

TEST_F(WorkerRecordTest, AWaitEndsAtItsDeadline) {
  WaitContext context(Deadline::after(10 * kMillisecond));
  EXPECT_EQ(wait_for_exit(place(), *record_, context), WaitOutcome::kTimedOut);
  WaitContext now(Deadline::immediate());
  EXPECT_EQ(wait_for_start(place(), *record_, now), WaitOutcome::kTimedOut);
}

TEST_F(WorkerRecordTest, AnInterruptibleWaitComesBackInBetween) {
  WaitContext context(Deadline::after(10 * kSecond), true);
  EXPECT_EQ(wait_for_exit(place(), *record_, context), WaitOutcome::kInterrupted);
}

TEST_F(WorkerRecordTest, ARunningWorkerHasStartedAndNotEnded) {
  static_cast<void>(advance_worker_state(place(), *record_, WorkerState::kStarting));
  WaitContext now(Deadline::immediate());
  EXPECT_EQ(wait_for_start(place(), *record_, now), WaitOutcome::kTimedOut);
  static_cast<void>(advance_worker_state(place(), *record_, WorkerState::kRunning));
  EXPECT_EQ(wait_for_start(place(), *record_, now), WaitOutcome::kReady);
  EXPECT_EQ(wait_for_exit(place(), *record_, now), WaitOutcome::kTimedOut);
}

TEST_F(WorkerRecordTest, AnotherProcessEndsTheWait) {
  const pid_t pid = in_child([&] {
    record_->wait_status = 9;
    static_cast<void>(advance_worker_state(place(), *record_, WorkerState::kExited));
  });
  WaitContext context(Deadline::after(20 * kSecond));
  EXPECT_EQ(wait_for_exit(place(), *record_, context), WaitOutcome::kReady);
  EXPECT_EQ(record_->wait_status, 9);
  EXPECT_EQ(await_child(pid), 0);
}

TEST_F(WorkerRecordTest, AnExitWakesTheConsumersOfItsQueue) {
  MessageQueue& queue = make_queue();
  const std::uint32_t epoch = queue.wake_epoch();
  const pid_t pid = in_child([&] { static_cast<void>(advance_worker_state(place(), *record_, WorkerState::kExited)); });
  WaitContext context(Deadline::after(20 * kSecond));
  EXPECT_EQ(queue.wait_not_empty(place(), context, epoch), QueueOutcome::kDone);
  EXPECT_EQ(static_cast<WorkerState>(record_->state.load()), WorkerState::kExited);
  EXPECT_EQ(await_child(pid), 0);
  test_session().drop_reference(queue_);
}

// Who has seen the state drops the queue; its memory is somebody else's by the time of the wake.
TEST_F(WorkerRecordTest, AnExitTouchesNoQueueThatIsGone) {
  static_cast<void>(make_queue());
  test_session().drop_reference(queue_);
  const std::size_t size = ObjectHeader::kBodyOffset + sizeof(MessageQueue);
  std::vector<Offset> blocks;  // the same memory among them
  for (int times = 0; times < 8; ++times) {
    blocks.push_back(place().allocate(size));
    std::memset(place().at<std::byte>(blocks.back()), 0x6D, size);
  }
  EXPECT_NE(std::find(blocks.begin(), blocks.end(), place().offset_of(queue_)), blocks.end());
  EXPECT_TRUE(advance_worker_state(place(), *record_, WorkerState::kExited));
  for (const Offset block : blocks) {
    const auto* bytes = place().at<std::byte>(block);
    EXPECT_EQ(std::count(bytes, bytes + size, std::byte{0x6D}), static_cast<std::ptrdiff_t>(size));
    place().free(block);
  }
}

// The queue lives until its consumers have been woken, also where the state lets its last owner drop it.
TEST_F(WorkerRecordTest, AQueueIsHeldUntilItIsWoken) {
  for (int times = 0; times < 200; ++times) {
    static_cast<void>(make_queue());
    record_->state = 0;
    std::thread waiter([&] {
      WaitContext context(Deadline::after(20 * kSecond));
      EXPECT_EQ(wait_for_exit(place(), *record_, context), WaitOutcome::kReady);
      test_session().drop_reference(queue_);
      const Offset block = place().allocate(ObjectHeader::kBodyOffset + sizeof(MessageQueue));
      std::memset(place().at<std::byte>(block), 0x6D, ObjectHeader::kBodyOffset + sizeof(MessageQueue));
      std::this_thread::yield();
      const auto* bytes = place().at<std::byte>(block);
      EXPECT_EQ(std::count(bytes, bytes + ObjectHeader::kBodyOffset + sizeof(MessageQueue), std::byte{0x6D}),
                static_cast<std::ptrdiff_t>(ObjectHeader::kBodyOffset + sizeof(MessageQueue)));
      place().free(block);
    });
    EXPECT_TRUE(advance_worker_state(place(), *record_, WorkerState::kExited));
    waiter.join();
  }
}

// As many leave as are to, whoever they are, and their records say so.
TEST_F(WorkerRecordTest, EachLeaveIsTakenOnce) {
  constexpr int kWorkers = 8;
  constexpr int kLeaves = 5;
  for (int times = 0; times < 200; ++times) {
    std::array<WorkerRecord, kWorkers> records{};
    AtomicInt64 surplus{kLeaves};
    std::atomic<int> left{0};
    std::vector<std::thread> workers;
    workers.reserve(kWorkers);
    for (WorkerRecord& record : records) {
      workers.emplace_back([&] { left += take_leave(record, surplus) ? 1 : 0; });
    }
    for (std::thread& worker : workers) {
      worker.join();
    }
    EXPECT_EQ(left.load(), kLeaves);
    EXPECT_EQ(surplus.load(), 0);
    const auto leaving = std::count_if(records.begin(), records.end(), [](const WorkerRecord& record) {
      return static_cast<Leaving>(record.leaving.load()) == Leaving::kSurplus;
    });
    EXPECT_EQ(leaving, kLeaves);
  }
}

}  // namespace
}  // namespace freethreading::testing
