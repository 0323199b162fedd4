#include "freethreading/pool/worker_record.hpp"

#include <thread>

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
  ObjectHeader* object_ = nullptr;
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
  SessionSubject subject;
  MessageQueue& queue = subject.make(0, false);
  record_->queue = place().offset_of(&queue);
  const std::uint32_t epoch = queue.wake_epoch();
  const pid_t pid = in_child([&] { static_cast<void>(advance_worker_state(place(), *record_, WorkerState::kExited)); });
  WaitContext context(Deadline::after(20 * kSecond));
  EXPECT_EQ(queue.wait_not_empty(place(), context, epoch), QueueOutcome::kDone);
  EXPECT_EQ(static_cast<WorkerState>(record_->state.load()), WorkerState::kExited);
  EXPECT_EQ(await_child(pid), 0);
}

}  // namespace
}  // namespace freethreading::testing
