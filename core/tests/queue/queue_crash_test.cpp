// A process is killed at every named point of the queue's protocols; what it leaves behind is what docs/design/queue.md
// says: an item is there or never was, nothing is doubled or torn, every block comes back, and the others go on at once.
#include "freethreading/crash_point.hpp"

#ifdef FT_CRASH_POINTS

#include "queue/queue_crash_support.hpp"

namespace freethreading::testing {
namespace {

std::vector<std::string> put_points() {
  std::vector<std::string> all = points("queue.put.");
  const std::vector<std::string> more = points("queue.extend.");
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

class QueuePutCrashTest : public QueueCrashTest, public ::testing::WithParamInterface<CrashCase> {};

TEST_P(QueuePutCrashTest, TheItemIsThereOrNeverWas) {
  const auto& [point, nth, swept] = GetParam();
  const int status = await_child(in_child([&, at = point, count = nth] {
    set_crash_point(at, count);
    for (std::uint64_t i = 1; i <= kItems; ++i) {
      ASSERT_EQ(put(*queue_, place(), i), QueueOutcome::kDone);
      progress_->done = i;
    }
  }));
  ASSERT_TRUE(was_killed(status)) << "did not come by " << point;
  if (swept) {
    test_session().sweep();
  }
  const Nanoseconds start = monotonic_now();
  ASSERT_EQ(put(*queue_, place(), 1000, kAtOnce), QueueOutcome::kDone);
  EXPECT_LT(monotonic_now() - start, kAtOnce);
  const std::uint64_t in_it = queue_->size() - 1;
  EXPECT_GE(in_it, progress_->done) << "a put that returned is lost";
  EXPECT_LE(in_it, progress_->done + 1);
  for (std::uint64_t i = 1; i <= in_it; ++i) {
    ASSERT_EQ(get(*queue_, place(), kAtOnce), i);
  }
  ASSERT_EQ(get(*queue_, place(), kAtOnce), 1000U);
  EXPECT_EQ(queue_->size(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Points, QueuePutCrashTest,
                         ::testing::Combine(::testing::ValuesIn(put_points()), ::testing::Values(1, 2),
                                            ::testing::Bool()),
                         case_name);

std::vector<std::string> get_points() {
  std::vector<std::string> all = points("queue.get.");
  for (const char* prefix : {"queue.advance.", "queue.owed.", "queue.task_done."}) {
    const std::vector<std::string> more = points(prefix);
    all.insert(all.end(), more.begin(), more.end());
  }
  all.erase(std::remove(all.begin(), all.end(), "queue.get.unlocked"), all.end());  // of bounded queues
  return all;
}

class QueueGetCrashTest : public QueueCrashTest, public ::testing::WithParamInterface<CrashCase> {};

TEST_P(QueueGetCrashTest, TheItemIsBackOrWentWithItsTaker) {
  const auto& [point, nth, swept] = GetParam();
  TakeNote* note = make_note();
  std::uint64_t sequence = 0;  // of the item before item 1
  if (point == "queue.owed.claimed") {
    // There is a ledger's block already, with room for one more process.
    ASSERT_EQ(put(*queue_, place(), 1), QueueOutcome::kDone);
    ASSERT_EQ(get(*queue_, place()), 1U);
    ASSERT_TRUE(queue_->task_done(place()));
    sequence = 1;
  }
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    ASSERT_EQ(put(*queue_, place(), i), QueueOutcome::kDone);
  }
  const int status = await_child(in_child([&, at = point, count = nth] {
    set_crash_point(at, count);
    for (std::uint64_t i = 1; i <= kItems; ++i) {
      ASSERT_EQ(get(*queue_, place(), kSecond, note), i);
      ASSERT_TRUE(queue_->task_done(place()));
      progress_->done = i;
    }
  }));
  if (nth > 1 && !was_killed(status)) {
    GTEST_SKIP() << "comes by only once";
  }
  ASSERT_TRUE(was_killed(status)) << "did not come by " << point;
  if (swept) {
    test_session().sweep();
  }
  const std::uint64_t done = progress_->done;
  const bool noted = queue_->was_taken(*note);
  const Nanoseconds start = monotonic_now();
  const std::uint64_t first = get(*queue_, place(), kAtOnce);
  EXPECT_LT(monotonic_now() - start, kAtOnce);
  ASSERT_TRUE(first == done + 1 || first == done + 2) << first << " after " << done;
  const bool lost = first == done + 2;
  const bool finished = point == "queue.task_done.counted";
  EXPECT_TRUE(noted || !lost);
  if (noted) {
    EXPECT_EQ(note->tag, lost ? done + 1 : done);
    EXPECT_EQ(note->sequence, note->tag + sequence);
  }
  EXPECT_TRUE(queue_->task_done(place()));
  for (std::uint64_t i = first + 1; i <= kItems; ++i) {
    ASSERT_EQ(get(*queue_, place(), kAtOnce), i);
    EXPECT_TRUE(queue_->task_done(place()));
  }
  OwnerId dead = kNobody;
  WaitContext context(Deadline::after(kAtOnce));
  EXPECT_EQ(queue_->join_until(place(), context, dead),
            lost && !finished ? WaitOutcome::kOwnerDied : WaitOutcome::kReady);
}

INSTANTIATE_TEST_SUITE_P(Points, QueueGetCrashTest,
                         ::testing::Combine(::testing::ValuesIn(get_points()), ::testing::Values(1, 2),
                                            ::testing::Bool()),
                         case_name);

// A taker dies while it gives a segment up, after another one's get: it owes what it has taken, not what the other one has.
class QueueAdvanceOwedTest : public QueueCrashTest, public ::testing::WithParamInterface<CrashCase> {};

TEST_P(QueueAdvanceOwedTest, TheDeadTakerOwesWhatItHasTaken) {
  const auto& [point, nth, swept] = GetParam();
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    ASSERT_EQ(put(*queue_, place(), i), QueueOutcome::kDone);
  }
  std::uint64_t taken = 0;
  // It takes one item, lets this process take the rest of the segment, and goes on.
  const pid_t child = in_child([&, at = point] {
    ASSERT_EQ(get(*queue_, place()), 1U);
    ASSERT_TRUE(queue_->task_done(place()));
    progress_->done = 1;
    while (queue_->taken() < 63) {
    }
    set_crash_point(at, 1);
    static_cast<void>(get(*queue_, place()));
  });
  while (progress_->done == 0) {
  }
  for (taken = 1; taken < 63; ++taken) {
    ASSERT_EQ(get(*queue_, place()), taken + 1);
    ASSERT_TRUE(queue_->task_done(place()));
  }
  ASSERT_TRUE(was_killed(await_child(child)));
  if (swept) {
    test_session().sweep();
  }
  for (; taken < kItems; ++taken) {
    ASSERT_EQ(get(*queue_, place(), kAtOnce), taken + 1);
    ASSERT_TRUE(taken + 1 == kItems || queue_->task_done(place()));
  }
  // The last item is not finished, and it is not the dead one's.
  OwnerId dead = kNobody;
  WaitContext now(Deadline::immediate());
  EXPECT_EQ(queue_->join_until(place(), now, dead), WaitOutcome::kTimedOut);
  ASSERT_TRUE(queue_->task_done(place()));
  WaitContext context(Deadline::after(kAtOnce));
  EXPECT_EQ(queue_->join_until(place(), context, dead), WaitOutcome::kReady);
}

INSTANTIATE_TEST_SUITE_P(Points, QueueAdvanceOwedTest,
                         ::testing::Combine(::testing::Values("queue.advance.intent", "queue.advance.adopted",
                                                              "queue.advance.moved"),
                                            ::testing::Values(1), ::testing::Bool()),
                         case_name);

using QueueFullCrashTest = QueueCrashTest;

TEST_F(QueueFullCrashTest, AProducerIsWokenThoughTheConsumerDiedBeforeItsWake) {
  SessionSubject subject;
  MessageQueue& queue = subject.make(1);
  ASSERT_EQ(put(queue, place(), 1), QueueOutcome::kDone);
  const pid_t producer = in_child([&] {
    ASSERT_EQ(put(queue, place(), 2, 2 * kSecond), QueueOutcome::kDone);
    progress_->done = 1;
  });
  const int status = await_child(in_child([&] {
    set_crash_point("queue.get.unlocked");
    static_cast<void>(get(queue, place()));
  }));
  EXPECT_TRUE(was_killed(status));
  EXPECT_EQ(await_child(producer), 0);
  EXPECT_EQ(get(queue, place()), 2U);
}

class QueueShutDownCrashTest : public QueueCrashTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(QueueShutDownCrashTest, JoinEndsAllTheSame) {
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    ASSERT_EQ(put(*queue_, place(), i), QueueOutcome::kDone);
  }
  const int status = await_child(in_child([&, at = GetParam()] {
    set_crash_point(at, 1);
    queue_->shut_down(place(), true);
  }));
  ASSERT_TRUE(was_killed(status));
  EXPECT_EQ(put(*queue_, place(), 1, kAtOnce), QueueOutcome::kShutDown);
  EXPECT_EQ(get(*queue_, place(), kAtOnce), 0U);
  OwnerId dead = kNobody;
  WaitContext context(Deadline::after(kAtOnce));
  EXPECT_EQ(queue_->join_until(place(), context, dead), WaitOutcome::kReady);
  EXPECT_EQ(queue_->size(), 0U);
}

std::vector<std::string> shut_down_points() {
  std::vector<std::string> all = points("queue.shut_down.");
  const std::vector<std::string> more = points("queue.drain.");
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

INSTANTIATE_TEST_SUITE_P(Points, QueueShutDownCrashTest, ::testing::ValuesIn(shut_down_points()),
                         [](const auto& info) { return readable(info.param); });

// The last process that has the queue is killed while it destroys it: the sweeper goes on.
class QueueDestroyCrashTest : public WatchedTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(QueueDestroyCrashTest, TheSweeperGoesOn) {
  test_session().sweep();
  const std::size_t before = test_session().usage().blocks;
  const int status = await_child(in_child([&, at = GetParam()] {
    SessionSubject subject;
    MessageQueue& queue = subject.make(0);
    for (std::uint64_t i = 1; i <= kItems; ++i) {
      ASSERT_EQ(put(queue, subject.place(), i), QueueOutcome::kDone);
    }
    ASSERT_EQ(get(queue, subject.place()), 1U);
    set_crash_point(at, 1);
    subject.drop();
  }));
  ASSERT_TRUE(was_killed(status));
  test_session().sweep();
  EXPECT_EQ(test_session().usage().blocks, before);
}

INSTANTIATE_TEST_SUITE_P(Points, QueueDestroyCrashTest, ::testing::ValuesIn(points("queue.destroy.")),
                         [](const auto& info) { return readable(info.param); });

// Whoever repairs is killed in the repair: the next one repairs again.
struct RepairCase {
  const char* death;
  const char* repair;  // a point in what the next one does about it
};

constexpr RepairCase kRepairCases[] = {
    {"queue.put.intent", "queue.repair.put_adopted"},     {"queue.put.linked", "queue.repair.put_cleared"},
    {"queue.extend.chained", "queue.repair.tail_linked"}, {"queue.get.adopted", "queue.repair.get_linked"},
    {"queue.get.noted", "queue.repair.note_wiped"},       {"queue.get.adopted", "queue.repair.note_wiped"},
    {"queue.get.committed", "queue.repair.get_owed"},
};

class QueueRepairCrashTest : public QueueCrashTest, public ::testing::WithParamInterface<RepairCase> {};

TEST_P(QueueRepairCrashTest, TheNextOneRepairsAgain) {
  const auto& [first_point, repair_point] = GetParam();
  constexpr std::uint64_t kBefore = 100;
  TakeNote* note = make_note();
  for (std::uint64_t i = 1; i <= kBefore; ++i) {
    ASSERT_EQ(put(*queue_, place(), i), QueueOutcome::kDone);
  }
  const auto work = [&](const std::string& point) {
    set_crash_point(point, 1);
    for (std::uint64_t i = 1; i <= kItems; ++i) {
      Message message = make_item(place(), 3000 + i);
      WaitContext put_context(Deadline::after(kSecond));
      if (queue_->put_until(place(), message, put_context) != QueueOutcome::kDone) {
        discard(place(), message);
      }
      EXPECT_NE(get(*queue_, place(), kSecond, note), 0U);
      static_cast<void>(queue_->task_done(place()));
    }
  };
  ASSERT_TRUE(was_killed(await_child(in_child([&, at = first_point] { work(at); })))) << first_point;
  ASSERT_TRUE(was_killed(await_child(in_child([&, at = repair_point] { work(at); })))) << repair_point;
  const Nanoseconds start = monotonic_now();
  ASSERT_EQ(put(*queue_, place(), 5000, kAtOnce), QueueOutcome::kDone);
  std::uint64_t got = 0;
  while (queue_->size() != 0) {
    got = get(*queue_, place(), kAtOnce);
    ASSERT_NE(got, 0U);
  }
  EXPECT_EQ(got, 5000U);
  EXPECT_LT(monotonic_now() - start, 2 * kAtOnce);
}

INSTANTIATE_TEST_SUITE_P(Points, QueueRepairCrashTest, ::testing::ValuesIn(kRepairCases), [](const auto& info) {
  return readable(info.param.death) + "_then_" + readable(info.param.repair);
});

TEST(QueueRepairCases, NameEveryPointOfARepair) {
  for (const std::string& point : points("queue.repair.")) {
    EXPECT_TRUE(std::any_of(std::begin(kRepairCases), std::end(kRepairCases),
                            [&](const RepairCase& one) { return point == one.repair; }))
        << point;
  }
}

}  // namespace
}  // namespace freethreading::testing

#endif
