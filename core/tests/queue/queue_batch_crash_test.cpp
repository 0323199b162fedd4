// A process is killed at every named point of a batch's put and get, on a queue with and without a bound in bytes: what is in
// the queue is what the counts say, in order, nothing doubled or torn, every block comes back, and the bytes add up.
#include "queue/queue_crash_support.hpp"

#ifdef FT_CRASH_POINTS

namespace freethreading::testing {
namespace {

constexpr std::size_t kBatch = 50;  // runs of 50, 13, 37, 26, ...
constexpr std::uint64_t kManyBytes = std::uint64_t{1} << 40;

// name of the point, its nth passing dies, whether the session is swept before the survivors go on, a bound in bytes
using BatchCase = std::tuple<std::string, int, bool, bool>;

std::string batch_name(const ::testing::TestParamInfo<BatchCase>& info) {
  return readable(std::get<0>(info.param)) + "_" + std::to_string(std::get<1>(info.param)) +
         (std::get<2>(info.param) ? "_swept" : "_met") + (std::get<3>(info.param) ? "_bytes" : "");
}

std::uint64_t size_of_item(std::uint64_t number) {
  constexpr std::uint64_t kSizes[] = {kBlockWords * sizeof(number), Message::kInlineBytes, sizeof(number)};
  return kSizes[number % 3];
}

class QueueBatchCrash : public QueueCrashTest, public ::testing::WithParamInterface<BatchCase> {
 protected:
  void SetUp() override {
    QueueCrashTest::SetUp();
    if (std::get<3>(GetParam())) {
      subject_.drop();
      queue_ = &subject_.make(0, true, kManyBytes);
    }
  }
  // Runs `body` in a child that dies at the case's point; false: it comes by less often.
  bool lose(const std::function<void()>& body) {
    const auto& [point, nth, swept, bytes] = GetParam();
    const int status = await_child(in_child([&, at = point, count = nth] {
      set_crash_point(at, count);
      body();
    }));
    if (!was_killed(status)) {
      EXPECT_GT(nth, 1) << "did not come by " << point;
      EXPECT_EQ(status, 0);
      return false;
    }
    if (swept) {
      test_session().sweep();
    }
    return true;
  }
  // The bytes that wait are those of the items from `first` to `last` and of `more`.
  void expect_bytes(std::uint64_t first, std::uint64_t last, std::uint64_t more = 0) {
    std::uint64_t sum = more == 0 ? 0 : size_of_item(more);
    for (std::uint64_t number = first; number <= last; ++number) {
      sum += size_of_item(number);
    }
    EXPECT_EQ(queue_->waiting_bytes(), std::get<3>(GetParam()) ? sum : 0);
  }
};

using QueueBatchPutCrashTest = QueueBatchCrash;

TEST_P(QueueBatchPutCrashTest, WhatIsThereIsWhatTheCountSays) {
  const bool died = lose([&] {
    for (std::uint64_t i = 0; i < kItems; i += kBatch) {
      ASSERT_EQ(put_many(*queue_, place(), i + 1, kBatch), kBatch);
      progress_->done = i + kBatch;
    }
  });
  if (!died) {
    GTEST_SKIP() << "comes by less often";
  }
  const Nanoseconds start = monotonic_now();
  ASSERT_EQ(put(*queue_, place(), 1000, kAtOnce), QueueOutcome::kDone);
  EXPECT_LT(monotonic_now() - start, kAtOnce);
  const std::uint64_t in_it = queue_->size() - 1;
  EXPECT_GE(in_it, progress_->done) << "a put that returned is lost";
  EXPECT_LE(in_it, progress_->done + kBatch);
  EXPECT_TRUE(in_it % kBatch == 0 || in_it % 63 == 0) << in_it << " are not whole runs";
  expect_bytes(1, in_it, 1000);
  for (std::uint64_t i = 1; i <= in_it; ++i) {
    ASSERT_EQ(get(*queue_, place(), kAtOnce), i);
  }
  ASSERT_EQ(get(*queue_, place(), kAtOnce), 1000U);
  EXPECT_EQ(queue_->size(), 0U);
  expect_bytes(1, 0);
}

std::vector<std::string> points_of(std::initializer_list<const char*> prefixes) {
  std::vector<std::string> all;
  for (const char* prefix : prefixes) {
    const std::vector<std::string> more = points(prefix);
    all.insert(all.end(), more.begin(), more.end());
  }
  // Runs of messages in cells only, and bounded queues, are elsewhere.
  std::erase_if(all, [](const std::string& point) {
    return point == "queue.put.published" || point == "queue.get.unlocked" || point == "queue.get.noted" ||
           point.starts_with("queue.get.note_") || point == "queue.owed.claimed";
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Points, QueueBatchPutCrashTest,
                         ::testing::Combine(::testing::ValuesIn(points_of({"queue.put.", "queue.extend."})),
                                            ::testing::Values(1, 2, 3, 20), ::testing::Bool(), ::testing::Bool()),
                         batch_name);
INSTANTIATE_TEST_SUITE_P(Bytes, QueueBatchPutCrashTest,
                         ::testing::Combine(::testing::Values("queue.bytes.put"), ::testing::Values(1, 2, 3),
                                            ::testing::Bool(), ::testing::Values(true)),
                         batch_name);

using QueueBatchGetCrashTest = QueueBatchCrash;

TEST_P(QueueBatchGetCrashTest, WhatIsGoneIsWhatTheCountSays) {
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    ASSERT_EQ(put(*queue_, place(), i), QueueOutcome::kDone);
  }
  const bool died = lose([&] {
    for (std::uint64_t next = 1; next <= kItems;) {
      for (const std::uint64_t number : get_many(*queue_, place(), kBatch)) {
        ASSERT_EQ(number, next++);
        progress_->done = number;
        ASSERT_TRUE(queue_->task_done(place()));
      }
    }
  });
  if (!died) {
    GTEST_SKIP() << "comes by less often";
  }
  const std::uint64_t done = progress_->done;
  const Nanoseconds start = monotonic_now();
  const std::vector<std::uint64_t> first = get_many(*queue_, place(), 1, kAtOnce);
  EXPECT_LT(monotonic_now() - start, kAtOnce);
  ASSERT_EQ(first.size(), 1U);
  const std::uint64_t gone = first[0] - 1;
  EXPECT_GE(gone, done) << "an item came twice";
  EXPECT_LE(gone, done + kBatch);
  EXPECT_TRUE(gone % kBatch == 0 || gone % 63 == 0) << gone << " are not whole runs";
  EXPECT_EQ(queue_->taken(), gone + 1);
  expect_bytes(gone + 2, kItems);
  EXPECT_TRUE(queue_->task_done(place()));
  for (std::uint64_t i = gone + 2; i <= kItems; ++i) {
    ASSERT_EQ(get(*queue_, place(), kAtOnce), i);
    EXPECT_TRUE(queue_->task_done(place()));
  }
  expect_bytes(1, 0);
  OwnerId dead = kNobody;
  WaitContext context(Deadline::after(kAtOnce));
  EXPECT_EQ(queue_->join_until(place(), context, dead), gone != done ? WaitOutcome::kOwnerDied : WaitOutcome::kReady);
}

INSTANTIATE_TEST_SUITE_P(Points, QueueBatchGetCrashTest,
                         ::testing::Combine(::testing::ValuesIn(points_of({"queue.get.", "queue.advance.", "queue.owed."})),
                                            ::testing::Values(1, 2, 3, 20), ::testing::Bool(), ::testing::Bool()),
                         batch_name);
INSTANTIATE_TEST_SUITE_P(Bytes, QueueBatchGetCrashTest,
                         ::testing::Combine(::testing::Values("queue.bytes.taken"), ::testing::Values(1, 2, 3),
                                            ::testing::Bool(), ::testing::Values(true)),
                         batch_name);

// Whoever repairs a batch is killed in the repair, between two of its blocks.
struct RepairCase {
  const char* death;
  int nth;
  const char* repair;
  int repair_nth;
};

class QueueBatchRepairCrashTest : public QueueCrashTest, public ::testing::WithParamInterface<RepairCase> {};

TEST_P(QueueBatchRepairCrashTest, TheNextOneRepairsAgain) {
  const RepairCase& one = GetParam();
  constexpr std::uint64_t kBefore = 100;
  subject_.drop();
  queue_ = &subject_.make(0, true, kManyBytes);
  ASSERT_EQ(put_many(*queue_, place(), 1, kBefore), kBefore);
  const auto work = [&](const char* point, int nth) {
    return await_child(in_child([&] {
      set_crash_point(point, nth);
      for (std::uint64_t i = 1; i <= kItems; i += kBatch) {
        ASSERT_EQ(put_many(*queue_, place(), 3000 + i, kBatch, kSecond), kBatch);
        for (const std::uint64_t number : get_many(*queue_, place(), kBatch, kSecond)) {
          ASSERT_NE(number, 0U);
          static_cast<void>(queue_->task_done(place()));
        }
      }
    }));
  };
  ASSERT_TRUE(was_killed(work(one.death, one.nth)));
  ASSERT_TRUE(was_killed(work(one.repair, one.repair_nth)));
  const Nanoseconds start = monotonic_now();
  ASSERT_EQ(put(*queue_, place(), 5000, kAtOnce), QueueOutcome::kDone);
  std::uint64_t last = 0;
  while (queue_->size() != 0) {
    for (const std::uint64_t number : get_many(*queue_, place(), kBatch, kAtOnce)) {
      ASSERT_NE(number, 0U);
      last = number;
    }
  }
  EXPECT_EQ(last, 5000U);
  EXPECT_EQ(queue_->waiting_bytes(), 0U);
  EXPECT_LT(monotonic_now() - start, 2 * kAtOnce);
}

INSTANTIATE_TEST_SUITE_P(Points, QueueBatchRepairCrashTest,
                         ::testing::Values(RepairCase{"queue.put.linked", 5, "queue.repair.put_adopted", 3},
                                           RepairCase{"queue.put.linked", 5, "queue.repair.put_cleared", 4},
                                           RepairCase{"queue.put.intent", 2, "queue.repair.put_cleared", 1},
                                           RepairCase{"queue.get.adopted", 7, "queue.repair.get_linked", 5},
                                           RepairCase{"queue.get.committed", 1, "queue.repair.get_owed", 1},
                                           RepairCase{"queue.bytes.taken", 1, "queue.repair.get_owed", 1}),
                         [](const auto& info) {
                           return readable(info.param.death) + "_" + std::to_string(info.param.nth) + "_then_" +
                                  readable(info.param.repair);
                         });

using QueueBytesCrashTest = QueueCrashTest;

// A producer that waits for bytes, though those that the counts show are of the dead only.
TEST_F(QueueBytesCrashTest, AProducerThatWaitsMendsWhatADeadConsumerLeft) {
  SessionSubject subject;
  MessageQueue& queue = subject.make(0, true, 60);
  ASSERT_EQ(put(queue, place(), 1), QueueOutcome::kDone);  // 40 bytes
  ASSERT_EQ(put(queue, place(), 2), QueueOutcome::kDone);  // 8
  EXPECT_TRUE(was_killed(await_child(in_child([&] {
    set_crash_point("queue.get.committed");
    static_cast<void>(get(queue, place()));
  }))));
  EXPECT_EQ(queue.waiting_bytes(), 48U);
  EXPECT_EQ(put(queue, place(), 4, kAtOnce), QueueOutcome::kDone);  // 40: there is room once the death was seen
  EXPECT_EQ(queue.waiting_bytes(), 48U);
}

TEST_F(QueueBytesCrashTest, AProducerThatWaitsMendsWhatADeadProducerLeft) {
  SessionSubject subject;
  MessageQueue& queue = subject.make(0, true, 60);
  ASSERT_EQ(put(queue, place(), 2), QueueOutcome::kDone);  // 8 bytes
  EXPECT_TRUE(was_killed(await_child(in_child([&] {
    set_crash_point("queue.bytes.put");
    static_cast<void>(put(queue, place(), 1));  // 40
  }))));
  EXPECT_EQ(queue.waiting_bytes(), 48U);
  WaitContext context(Deadline::after(kAtOnce));
  EXPECT_EQ(queue.wait_not_full(place(), context, 40), QueueOutcome::kDone);
  EXPECT_EQ(queue.waiting_bytes(), 8U);
}

}  // namespace
}  // namespace freethreading::testing

#endif
