// The table of processes by itself: slots, generations, who is dead, who sweeps.
#include "memory/process_table.hpp"

#include <sys/mman.h>

#include <optional>

#include "memory/memory_test_support.hpp"
#include "os/liveness.hpp"

namespace freethreading::testing {
namespace {

using memory::ProcessSlot;
using memory::ProcessTable;
using memory::SessionFile;
using memory::SlotState;

// A table in shared memory, and this process's view of it.
class ProcessTableTest : public WatchedTest {
 protected:
  ProcessTableTest() {
    const int descriptor = memfd_create("table", MFD_CLOEXEC);
    if (descriptor < 0 || ftruncate(descriptor, kBytes) != 0) {
      std::abort();
    }
    void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) {
      std::abort();
    }
    slots_ = static_cast<ProcessSlot*>(memory);
    os::FileIdentity identity;
    EXPECT_TRUE(os::identify(descriptor, identity));
    file_.emplace(descriptor, identity);
    table_.emplace(slots_, *file_, self_);
    self_ = take();
  }
  ~ProcessTableTest() override {
    munmap(static_cast<void*>(slots_), kBytes);
    close(file_->number());
  }
  OwnerId take() {
    const OwnerId owner = table_->claim();
    return owner != kNobody && table_->adopt(owner) ? owner : kNobody;
  }
  ProcessSlot& slot(OwnerId owner) { return slots_[memory::slot_of(owner)]; }
  SlotState state(OwnerId owner) { return memory::state_of(slot(owner).word.load()); }
  // A process that has its slot, and waits to be killed.
  pid_t live_child(OwnerId& owner) {
    Scoreboard<Steps> steps;
    const pid_t child = in_plain_child([&] {
      self_ = take();
      steps->value = self_.load();
      steps->reach(1);
      pause();
    });
    EXPECT_TRUE(steps->await(1));
    owner = static_cast<OwnerId>(steps->value);
    return child;
  }
  static void lose(pid_t child) {
    kill(child, SIGKILL);
    EXPECT_TRUE(was_killed(await_child(child)));
  }
  OwnerId dead_child() {
    OwnerId owner = kNobody;
    lose(live_child(owner));
    return owner;
  }

  static constexpr std::size_t kBytes = kMaxProcesses * sizeof(ProcessSlot);
  ProcessSlot* slots_ = nullptr;
  std::atomic<OwnerId> self_{kNobody};
  std::optional<SessionFile> file_;
  std::optional<ProcessTable> table_;
};

TEST_F(ProcessTableTest, AnOwnerFitsIntoItsBits) {
  EXPECT_LE(memory::owner_id(kMaxProcesses - 1, memory::kGenerations - 1), kOwnerMask);
  const OwnerId owner = memory::owner_id(1000, 4000);
  EXPECT_EQ(memory::slot_of(owner), 1000U);
  EXPECT_EQ(memory::generation_of_owner(owner), 4000U);
}

TEST_F(ProcessTableTest, AProcessIsAliveAndFoundByItsId) {
  EXPECT_EQ(table_->liveness(self_), Liveness::kAlive);
  EXPECT_EQ(table_->pid_of(self_), getpid());
  EXPECT_EQ(table_->owner_of(getpid()), self_);
  EXPECT_EQ(table_->owner_of(1), kNobody);
  EXPECT_EQ(table_->live(), 1U);
}

TEST_F(ProcessTableTest, NobodyIsNotAlive) { EXPECT_NE(table_->liveness(kNobody), Liveness::kAlive); }

TEST_F(ProcessTableTest, ADeathIsSeenAtOnce) {
  OwnerId owner = kNobody;
  const pid_t child = live_child(owner);
  EXPECT_EQ(table_->liveness(owner), Liveness::kAlive);
  EXPECT_EQ(table_->live(), 2U);
  lose(child);
  EXPECT_EQ(table_->liveness(owner), Liveness::kDied);
  EXPECT_EQ(table_->suspect(memory::slot_of(owner)), owner);
  EXPECT_EQ(table_->owner_of(child), owner) << "until it is swept";
}

TEST_F(ProcessTableTest, AZombieIsDead) {
  OwnerId owner = kNobody;
  const pid_t child = live_child(owner);
  kill(child, SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(table_->liveness(owner), Liveness::kDied);
  await_child(child);
}

TEST_F(ProcessTableTest, AStoppedProcessIsAlive) {
  OwnerId owner = kNobody;
  const pid_t child = live_child(owner);
  kill(child, SIGSTOP);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_EQ(table_->liveness(owner), Liveness::kAlive);
  EXPECT_FALSE(table_->begin_sweep(owner, self_, false));
  kill(child, SIGCONT);
  lose(child);
}

TEST_F(ProcessTableTest, AProcessThatLostItsLockIsKnownByItsStartTime) {
  OwnerId owner = kNobody;
  Scoreboard<Steps> steps;
  const pid_t child = in_plain_child([&] {
    self_ = take();
    steps->value = self_.load();
    close(dup(file_->number()));  // drops all its locks
    steps->reach(1);
    pause();
  });
  ASSERT_TRUE(steps->await(1));
  owner = static_cast<OwnerId>(steps->value);
  EXPECT_FALSE(os::is_byte_held(file_->number(), memory::kLivenessBytes + memory::slot_of(owner)));
  EXPECT_EQ(table_->liveness(owner), Liveness::kAlive);
  lose(child);
  EXPECT_EQ(table_->liveness(owner), Liveness::kDied);
}

TEST_F(ProcessTableTest, AnIdThatWasGivenAgainIsToldApart) {
  OwnerId owner = kNobody;
  const pid_t other = live_child(owner);
  const OwnerId dead = dead_child();
  // As if the dead one's id had been given to a process that began later.
  slot(dead).pid = static_cast<std::uint32_t>(other);
  slot(dead).start_time = slot(owner).start_time.load() - 1;
  EXPECT_EQ(table_->liveness(dead), Liveness::kDied);
  EXPECT_EQ(table_->owner_of(other), owner);
  lose(other);
}

TEST_F(ProcessTableTest, AnIdThatWasGivenToThisProcessIsToldApart) {
  const OwnerId dead = dead_child();
  slot(dead).pid = static_cast<std::uint32_t>(getpid());
  slot(dead).start_time = slot(self_).start_time.load() - 1;
  EXPECT_EQ(table_->liveness(dead), Liveness::kDied);
  EXPECT_EQ(table_->liveness(self_), Liveness::kAlive);
  EXPECT_EQ(table_->owner_of(getpid()), self_);
  EXPECT_TRUE(table_->begin_sweep(dead, self_, false));
}

TEST_F(ProcessTableTest, ASlotIsUsedAgainUnderTheNextGeneration) {
  const OwnerId dead = dead_child();
  ASSERT_TRUE(table_->begin_sweep(dead, self_, false));
  EXPECT_EQ(state(dead), SlotState::kSweeping);
  EXPECT_EQ(table_->liveness(dead), Liveness::kDied);
  table_->end_sweep(dead);
  EXPECT_EQ(state(dead), SlotState::kFree);
  OwnerId next = kNobody;
  const pid_t child = live_child(next);
  EXPECT_EQ(memory::slot_of(next), memory::slot_of(dead));
  EXPECT_NE(next, dead);
  EXPECT_EQ(table_->liveness(next), Liveness::kAlive);
  EXPECT_NE(table_->liveness(dead), Liveness::kAlive);
  EXPECT_EQ(table_->pid_of(dead), 0);
  EXPECT_FALSE(table_->begin_sweep(dead, self_, false));
  lose(child);
}

TEST_F(ProcessTableTest, GenerationsWrapPastZero) {
  const OwnerId last = memory::owner_id(1, memory::kGenerations - 1);
  slot(last).word = memory::slot_word(SlotState::kFree, memory::kGenerations - 1);
  const OwnerId owner = table_->claim();
  ASSERT_EQ(owner, last);
  table_->give_back(owner);
  EXPECT_EQ(table_->claim(), memory::owner_id(1, 1));
}

TEST_F(ProcessTableTest, OneOnlyIsElectedToSweep) {
  const OwnerId dead = dead_child();
  OwnerId owner = kNobody;
  const pid_t child = live_child(owner);
  ASSERT_TRUE(table_->begin_sweep(dead, owner, false));
  EXPECT_FALSE(table_->begin_sweep(dead, self_, false));
  EXPECT_FALSE(table_->begin_sweep(dead, owner, false)) << "nor another thread of its process";
  lose(child);
  EXPECT_TRUE(table_->begin_sweep(dead, self_, false)) << "its sweeper has died";
  EXPECT_FALSE(table_->begin_sweep(dead, self_, false));
  table_->end_sweep(dead);
}

TEST_F(ProcessTableTest, ASweeperIsNotTakenForTheOneOfAnEarlierGeneration) {
  const OwnerId first = dead_child();
  ASSERT_TRUE(table_->begin_sweep(first, self_, false));
  table_->end_sweep(first);
  const OwnerId second = dead_child();
  ASSERT_EQ(memory::slot_of(first), memory::slot_of(second));
  ASSERT_TRUE(table_->begin_sweep(second, self_, false));
}

// Many see the same death at once.
TEST_F(ProcessTableTest, ARaceToSweepHasOneWinner) {
  for (int round = 0; round < 50; ++round) {
    const OwnerId dead = dead_child();
    Scoreboard<Steps> steps;
    std::array<pid_t, 3> children{};
    for (pid_t& child : children) {
      child = in_plain_child([&] {
        self_ = take();
        steps->now.fetch_add(1);
        ASSERT_TRUE(steps->await(4));
        steps->value += table_->begin_sweep(dead, self_, false) ? 1 : 0;
        steps->now.fetch_add(1);
        ASSERT_TRUE(steps->await(8));
        EXPECT_TRUE(table_->begin_sweep(self_, self_, true));
        table_->end_sweep(self_);
      });
    }
    ASSERT_TRUE(steps->await(3));
    steps->now.fetch_add(1);
    steps->value += table_->begin_sweep(dead, self_, false) ? 1 : 0;
    ASSERT_TRUE(steps->await(7));
    EXPECT_EQ(steps->value, 1U);
    steps->now.fetch_add(1);
    for (const pid_t child : children) {
      EXPECT_EQ(await_child(child), 0);
    }
    table_->end_sweep(dead);
    ASSERT_EQ(table_->live(), 1U);
  }
}

TEST_F(ProcessTableTest, ALeaverSweepsItselfAndNobodyElseDoes) {
  Scoreboard<Steps> steps;
  const pid_t child = in_plain_child([&] {
    self_ = take();
    steps->value = self_.load();
    EXPECT_TRUE(table_->begin_sweep(self_, self_, true));
    steps->reach(1);
    ASSERT_TRUE(steps->await(2));
    table_->end_sweep(self_);
    steps->reach(3);
    ASSERT_TRUE(steps->await(4));
  });
  ASSERT_TRUE(steps->await(1));
  const auto owner = static_cast<OwnerId>(steps->value);
  EXPECT_EQ(table_->liveness(owner), Liveness::kLeftCleanly);
  EXPECT_FALSE(table_->begin_sweep(owner, self_, false)) << "while it is at it";
  steps->reach(2);
  ASSERT_TRUE(steps->await(3));
  EXPECT_EQ(state(owner), SlotState::kFree);
  EXPECT_FALSE(table_->begin_sweep(owner, self_, false));
  steps->reach(4);
  EXPECT_EQ(await_child(child), 0);
}

TEST_F(ProcessTableTest, ALeaverThatDiesOnTheWayHasLeftCleanly) {
  Scoreboard<Steps> steps;
  const pid_t child = in_plain_child([&] {
    self_ = take();
    steps->value = self_.load();
    EXPECT_TRUE(table_->begin_sweep(self_, self_, true));
    steps->reach(1);
    pause();
  });
  ASSERT_TRUE(steps->await(1));
  lose(child);
  const auto owner = static_cast<OwnerId>(steps->value);
  EXPECT_TRUE(table_->begin_sweep(owner, self_, false));
  EXPECT_TRUE(table_->left_cleanly(owner));
  EXPECT_EQ(table_->liveness(owner), Liveness::kLeftCleanly);
}

TEST_F(ProcessTableTest, AnEmbryoIsKeptForAWhile) {
  const OwnerId embryo = table_->claim();
  EXPECT_EQ(table_->liveness(embryo), Liveness::kAlive);
  EXPECT_EQ(table_->suspect(memory::slot_of(embryo)), kNobody);
  slot(embryo).claimed_at.fetch_sub(60 * kSecond);
  EXPECT_EQ(table_->suspect(memory::slot_of(embryo)), embryo);
  ASSERT_TRUE(table_->begin_sweep(embryo, self_, false));
  table_->end_sweep(embryo);
  EXPECT_FALSE(table_->adopt(embryo)) << "it came too late";
  EXPECT_EQ(state(embryo), SlotState::kFree);
}

// The age of a slot's last embryo says nothing about the next.
TEST_F(ProcessTableTest, AnEmbryoInAnOldSlotIsYoung) {
  const OwnerId first = table_->claim();
  slot(first).claimed_at = 0;
  table_->give_back(first);
  const OwnerId second = table_->claim();
  ASSERT_EQ(memory::slot_of(first), memory::slot_of(second));
  EXPECT_EQ(table_->suspect(memory::slot_of(second)), kNobody);
}

TEST_F(ProcessTableTest, HoldsAllButOneSlotForItsProcesses) {
  unsigned taken = 1;
  while (table_->claim() != kNobody) {
    ++taken;
  }
  EXPECT_EQ(taken, kMaxProcesses - 1);
  EXPECT_TRUE(table_->is_full());
  const OwnerId last = table_->claim_last();
  EXPECT_EQ(memory::slot_of(last), kMaxProcesses - 1);
  EXPECT_EQ(table_->claim_last(), kNobody);
}

}  // namespace
}  // namespace freethreading::testing
