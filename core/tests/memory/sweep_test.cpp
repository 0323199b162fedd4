// What becomes of what a process held: when it dies, when it leaves, when its sweeper dies, when the table is full.
#include <csignal>
#include <random>

#include "freethreading/crash_point.hpp"
#include "freethreading/sync/lock.hpp"
#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using SweepTest = SessionTest;

TEST_F(SweepTest, AnybodyMaySweep) {
  Scoreboard<Steps> steps;
  const Published published = publish(session());
  const pid_t dead = in_plain_child([&] {
    steps->value = place().self();
    ASSERT_NE(session().open(published.handle), nullptr);
    ASSERT_NE(place().allocate(1000), kNoOffset);
  });
  ASSERT_EQ(await_child(dead), 0);
  EXPECT_EQ(references(*published.object), 2U);
  EXPECT_EQ(await_child(in_plain_child([&] {
              EXPECT_TRUE(session().sweep_process(static_cast<OwnerId>(steps->value)));
              EXPECT_FALSE(session().sweep_process(static_cast<OwnerId>(steps->value)));
              session().leave();
            })),
            0);
  EXPECT_EQ(references(*published.object), 1U);
  EXPECT_EQ(used_slots(session()), 1U);
  session().drop_reference(published.object);
}

TEST_F(SweepTest, TheLivingAreNotSwept) {
  Scoreboard<Steps> steps;
  const pid_t child = in_plain_child([&] {
    steps->value = place().self();
    steps->reach(1);
    pause();
  });
  ASSERT_TRUE(steps->await(1));
  const auto owner = static_cast<OwnerId>(steps->value);
  EXPECT_FALSE(session().sweep_process(owner));
  EXPECT_FALSE(session().sweep_process(place().self()));
  session().sweep();
  EXPECT_EQ(session().liveness(owner), Liveness::kAlive);
  EXPECT_EQ(session().usage().processes, 2U);
  kill(child, SIGKILL);
  await_child(child);
}

TEST_F(SweepTest, ALockOfTheDeadSaysSo) {
  const Published published = publish(session(), ObjectType::kLock, sizeof(Lock));
  Lock& lock = *published.object->body<Lock>();
  ASSERT_EQ(await_child(in_child([&] { ASSERT_EQ(lock.try_lock(place()), WaitOutcome::kReady); })), 0);
  session().sweep();
  WaitContext context(Deadline::immediate());
  EXPECT_EQ(lock.lock_until(place(), context), WaitOutcome::kOwnerDied);
  EXPECT_TRUE(lock.unlock(place()));
  session().drop_reference(published.object);
}

TEST_F(SweepTest, ALockOfALeaverStaysHeld) {
  const Published published = publish(session(), ObjectType::kLock, sizeof(Lock));
  Lock& lock = *published.object->body<Lock>();
  ASSERT_EQ(await_child(in_child([&] {
              ASSERT_EQ(lock.try_lock(place()), WaitOutcome::kReady);
              session().leave();
            })),
            0);
  EXPECT_TRUE(lock.is_locked());
  EXPECT_EQ(lock.owner(), kNobody);
  WaitContext context(Deadline::immediate());
  EXPECT_EQ(lock.lock_until(place(), context), WaitOutcome::kTimedOut);
  EXPECT_TRUE(lock.unlock(place()));
  session().drop_reference(published.object);
}

// Its slot's next owner must not make it look like a lock of the living.
TEST_F(SweepTest, ALockIsRecoveredThoughItsOwnerHadNoProxyLeft) {
  const Published published = publish(session(), ObjectType::kLock, sizeof(Lock));
  Lock& lock = *published.object->body<Lock>();
  ASSERT_EQ(await_child(in_plain_child([&] {
              ASSERT_NE(session().open(published.handle), nullptr);
              ASSERT_EQ(lock.try_lock(place()), WaitOutcome::kReady);
              session().drop_reference(published.object);
            })),
            0);
  session().sweep();
  WaitContext context(Deadline::immediate());
  EXPECT_EQ(lock.lock_until(place(), context), WaitOutcome::kOwnerDied);
  session().drop_reference(published.object);
}

TEST_F(SweepTest, AfterLeavingNothingIsTakenOrGivenUp) {
  Scoreboard<Steps> steps;
  const Published published = publish(session());
  const pid_t child = in_child([&] {
    const Offset block = place().allocate(100);
    session().leave();
    steps->value = block;
    steps->reach(1);
    ASSERT_TRUE(steps->await(2));
    place().free(block);  // the parent's by now
    session().drop_reference(published.object);
    session().add_reference(published.object);
    EXPECT_EQ(session().open(published.handle), nullptr);
    EXPECT_FALSE(session().retain_in_flight(published.handle));
    session().sweep();
    session().leave();
  });
  ASSERT_TRUE(steps->await(1));
  EXPECT_EQ(references(*published.object), 1U);
  std::vector<Offset> blocks;
  while (blocks.empty() || blocks.back() != steps->value) {
    blocks.push_back(place().allocate(100));
    ASSERT_LT(blocks.size(), 10'000U);
  }
  const std::size_t count = session().usage().blocks;
  steps->reach(2);
  EXPECT_EQ(await_child(child), 0);
  EXPECT_EQ(session().usage().blocks, count) << "it freed somebody else's block";
  for (const Offset block : blocks) {
    place().free(block);
  }
  session().drop_reference(published.object);
  EXPECT_EQ(session().usage().objects, before_.objects);
}

// Leavers and those who sweep them meet; the slot's next owner keeps what it has.
TEST_F(SweepTest, LeaversAndSweepersDoNotGetInEachOthersWay) {
  const Published published = publish(session());
  Scoreboard<Steps> steps;
  const auto come_and_go = [&] {
    for (int i = 0; i < 100 && steps->other == 0; ++i) {
      const int status = await_child(in_plain_child([&] {
        if (session().open(published.handle) == nullptr) {
          _exit(7);
        }
        const Offset block = place().allocate(200);
        *place().at<int>(block) = getpid();
        const unsigned slot = memory::slot_of(place().self());
        std::this_thread::yield();
        const bool kept = (published.object->refs[slot / 64].load() >> (slot % 64) & 1) != 0;
        if (!kept || *place().at<int>(block) != getpid()) {
          _exit(8);
        }
        if (i % 3 != 0) {
          session().leave();
        }
      }));
      if (status != 0) {
        steps->other = static_cast<std::uint64_t>(status);
      }
    }
  };
  const std::array<pid_t, 3> children{in_child(come_and_go), in_child(come_and_go), in_child(come_and_go)};
  const pid_t sweeper = in_child([&] {
    while (steps->now == 0) {
      session().sweep();
    }
  });
  for (const pid_t child : children) {
    EXPECT_EQ(await_child(child), 0);
  }
  steps->reach(1);
  EXPECT_EQ(await_child(sweeper), 0);
  EXPECT_EQ(steps->other, 0U) << "a process lost its reference or its block to the slot's last owner";
  session().sweep();
  EXPECT_EQ(references(*published.object), 1U);
  session().drop_reference(published.object);
}

TEST_F(SweepTest, AQueueIsSweptWhileItEnds) {
  Scoreboard<Steps> steps;
  const pid_t sweeper = in_child([&] {
    while (steps->now == 0) {
      session().sweep();
    }
  });
  for (int i = 0; i < 100; ++i) {
    SessionSubject subject;
    MessageQueue& queue = subject.make(0);
    const pid_t dead = in_child([&] {
      for (std::uint64_t item = 1; item < 100; ++item) {
        ASSERT_EQ(put(queue, place(), item), QueueOutcome::kDone);
      }
    });
    ASSERT_EQ(await_child(dead), 0);
    subject.drop();
  }
  steps->reach(1);
  EXPECT_EQ(await_child(sweeper), 0);
}

class FullTableTest : public WatchedTest {
 protected:
  // Claims all free slots; gives the words back that they had.
  static std::vector<std::uint32_t> fill(Session& session, memory::SlotState state, int pid) {
    std::vector<std::uint32_t> words;
    for (unsigned index = 0; index < kMaxProcesses - 1; ++index) {
      memory::ProcessSlot& slot = slots_of(session)[index];
      const std::uint32_t word = slot.word.load();
      words.push_back(word);
      if (memory::state_of(word) == memory::SlotState::kFree) {
        slot.pid = static_cast<std::uint32_t>(pid);
        slot.start_time = pid == 0 ? 1 : slot_of(session, session.place().self()).start_time.load();
        slot.word = memory::slot_word(state, 1);
      }
    }
    return words;
  }
};

TEST_F(FullTableTest, OfLivingProcessesRefusesTheNext) {
  DescriptorPost post;
  const pid_t child = in_plain_child([&] {
    const int descriptor = post.receive();
    const std::size_t sessions = Session::all().size();
    const SessionResult result = Session::attach(descriptor);
    EXPECT_EQ(result.session, nullptr);
    EXPECT_EQ(result.error, SessionError::kTooManyProcesses);
    EXPECT_EQ(Session::all().size(), sessions);
  });
  Session& session = new_session();
  fill(session, memory::SlotState::kLive, getpid());
  post.send(session.descriptor());
  EXPECT_EQ(await_child(child), 0);
  // The last slot is free again for the next one to look.
  EXPECT_EQ(used_slots(session), kMaxProcesses - 1);
}

TEST_F(FullTableTest, OfDeadProcessesIsSweptByWhoeverComes) {
  DescriptorPost post;
  const pid_t child = in_plain_child([&] {
    const SessionResult result = Session::attach(post.receive());
    ASSERT_NE(result.session, nullptr);
    EXPECT_EQ(used_slots(*result.session), 2U);
    EXPECT_NE(memory::slot_of(result.session->place().self()), kMaxProcesses - 1);
    result.session->leave();
  });
  Session& session = new_session();
  fill(session, memory::SlotState::kLive, 0);
  post.send(session.descriptor());
  EXPECT_EQ(await_child(child), 0);
}

TEST_F(FullTableTest, IsSweptBeforeAFork) {
  EXPECT_EQ(await_child(in_plain_child([&] {
              Session& session = new_session();
              fill(session, memory::SlotState::kLive, 0);
              session.before_fork();
              const pid_t child = fork();
              if (child == 0) {
                session.after_fork_in_child();
                EXPECT_EQ(session.pid_of(session.place().self()), getpid());
                EXPECT_EQ(used_slots(session), 2U);
                _exit(HasFailure() ? 1 : 0);
              }
              session.after_fork_in_parent();
              EXPECT_EQ(await_child(child), 0);
            })),
            0);
}

}  // namespace
}  // namespace freethreading::testing
