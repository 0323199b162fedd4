// A child of fork(): its slot, what it inherits, and what keeps that alive.
#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using ForkTest = SessionTest;

TEST_F(ForkTest, TheChildIsAProcessOfItsOwn) {
  const OwnerId parent = place().self();
  EXPECT_EQ(await_child(in_child([&] {
              EXPECT_NE(place().self(), parent);
              EXPECT_EQ(session().pid_of(place().self()), getpid());
              EXPECT_EQ(session().liveness(parent), Liveness::kAlive);
            })),
            0);
  EXPECT_EQ(place().self(), parent);
}

TEST_F(ForkTest, AChildWithoutHooksRegistersWhenItIsAsked) {
  const OwnerId parent = place().self();
  EXPECT_EQ(await_child(in_plain_child([&] {
              EXPECT_NE(place().self(), kNobody);
              EXPECT_NE(place().self(), parent);
              EXPECT_EQ(session().pid_of(place().self()), getpid());
              EXPECT_EQ(used_slots(session()), 2U);
            })),
            0);
}

TEST_F(ForkTest, WhatAChildWithoutHooksInheritsTouchesNothingWhenItEnds) {
  Scoreboard<Steps> steps;
  const Published first = publish(session());
  const Published second = publish(session());
  const pid_t child = in_plain_child([&] {
    ASSERT_TRUE(steps->await(1));
    session().add_reference(first.object);
    session().drop_reference(first.object);
    session().drop_reference(first.object);
    // What it opens itself it keeps alive, though it has inherited a proxy for it.
    ASSERT_EQ(session().open(second.handle), second.object);
    session().drop_reference(second.object);
    steps->reach(2);
    ASSERT_TRUE(steps->await(3));
    EXPECT_EQ(session().open(second.handle), second.object);
    session().drop_reference(second.object);
    session().drop_reference(second.object);
    EXPECT_EQ(session().open(second.handle), nullptr);
  });
  session().drop_reference(first.object);
  const Offset reused = place().allocate(ObjectHeader::kBodyOffset + 64);
  ASSERT_EQ(reused, first.handle.offset);
  std::memset(place().at<std::byte>(reused), 0, 256);
  steps->reach(1);
  ASSERT_TRUE(steps->await(2));
  const auto* bytes = place().at<unsigned char>(reused);
  EXPECT_EQ(std::count(bytes, bytes + 256, 0), 256) << "a reference was set in somebody else's block";
  place().free(reused);
  session().drop_reference(second.object);
  steps->reach(3);
  EXPECT_EQ(await_child(child), 0);
}

TEST_F(ForkTest, ThreadsOfAChildWithoutHooksAgreeWhoTheyAre) {
  EXPECT_EQ(await_child(in_plain_child([&] {
              std::array<OwnerId, 4> seen{};
              std::array<std::thread, 4> threads;
              for (std::size_t i = 0; i < threads.size(); ++i) {
                threads[i] = std::thread([&, i] { seen[i] = place().self(); });
              }
              for (std::thread& thread : threads) {
                thread.join();
              }
              EXPECT_EQ(std::count(seen.begin(), seen.end(), place().self()), 4);
              EXPECT_EQ(used_slots(session()), 2U) << "the slots of the slower threads were not given back";
            })),
            0);
}

TEST_F(ForkTest, PrivateMemoryKnowsTheChildFromItsParent) {
  Place& mine = Place::private_memory();
  const OwnerId parent = mine.self();
  EXPECT_EQ(parent, static_cast<OwnerId>(getpid()));
  EXPECT_EQ(await_child(in_plain_child([&] {
              EXPECT_EQ(mine.self(), static_cast<OwnerId>(getpid()));
              EXPECT_EQ(mine.liveness(parent), Liveness::kDied) << "what the parent held was copied";
            })),
            0);
}

TEST_F(ForkTest, TheChildKeepsAliveWhatItInherits) {
  Scoreboard<Steps> steps;
  const Published published = publish(session());
  const pid_t child = in_child([&] {
    ASSERT_TRUE(steps->await(1));
    EXPECT_EQ(published.object->state.load(), ObjectState::kLive);
    EXPECT_EQ(session().open(published.handle), published.object);
    session().drop_reference(published.object);
    session().drop_reference(published.object);
    EXPECT_EQ(session().open(published.handle), nullptr) << "it was the last";
  });
  EXPECT_EQ(references(*published.object), 2U);
  session().drop_reference(published.object);
  steps->reach(1);
  EXPECT_EQ(await_child(child), 0);
}

TEST_F(ForkTest, AChildsDeathUnpinsWhatItInherited) {
  const Published published = publish(session());
  const pid_t child = in_child([] { pause(); });
  session().drop_reference(published.object);
  kill(child, SIGKILL);
  EXPECT_TRUE(was_killed(await_child(child)));
  // Dead before it took its slot: the slot is kept for a while.
  age_embryos(session());
  session().sweep();
  EXPECT_EQ(session().usage().objects, before_.objects);
  EXPECT_EQ(used_slots(session()), 1U);
}

TEST_F(ForkTest, AChildThatNeverCameLeavesNothing) {
  const Published published = publish(session());
  session().before_fork();
  const pid_t child = fork();
  if (child == 0) {
    _exit(0);
  }
  session().after_fork_in_parent();
  EXPECT_EQ(await_child(child), 0);
  EXPECT_EQ(references(*published.object), 2U);
  session().sweep();
  EXPECT_EQ(references(*published.object), 2U) << "a child may come still";
  age_embryos(session());
  session().sweep();
  EXPECT_EQ(references(*published.object), 1U);
  session().drop_reference(published.object);
  EXPECT_EQ(used_slots(session()), 1U);
}

TEST_F(ForkTest, AChildThatComesTooLateIsNobodyElse) {
  Scoreboard<Steps> steps;
  session().before_fork();
  const pid_t child = fork();
  if (child == 0) {
    alarm(kWatchdogSeconds);
    EXPECT_TRUE(steps->await(1));
    session().after_fork_in_child();
    EXPECT_NE(place().self(), static_cast<OwnerId>(steps->value));
    EXPECT_EQ(session().pid_of(place().self()), getpid());
    EXPECT_EQ(session().pid_of(static_cast<OwnerId>(steps->value)), static_cast<int>(steps->other));
    _exit(HasFailure() ? 1 : 0);
  }
  session().after_fork_in_parent();
  age_embryos(session());
  session().sweep();
  // Another process gets the slot meanwhile.
  const pid_t other = in_plain_child([&] {
    steps->value = place().self();
    steps->other = static_cast<std::uint64_t>(getpid());
    steps->reach(1);
    pause();
  });
  EXPECT_EQ(await_child(child), 0);
  EXPECT_EQ(session().liveness(static_cast<OwnerId>(steps->value)), Liveness::kAlive);
  kill(other, SIGKILL);
  await_child(other);
}

TEST_F(ForkTest, GoesWithThreadsThatUseTheSession) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        session().drop_reference(publish(session()).object);
        place().free(place().allocate(100));
      }
    });
  }
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(await_child(in_child([&] {
                for (int j = 0; j < 100; ++j) {
                  session().drop_reference(publish(session()).object);
                }
              })),
              0);
  }
  stop = true;
  for (std::thread& thread : threads) {
    thread.join();
  }
}

TEST_F(ForkTest, AChildWithoutTheDescriptorIsSeenToLive) {
  EXPECT_EQ(await_child(in_child([&] {
              Session& own = new_session();
              close(own.descriptor());
              Scoreboard<Steps> steps;
              const pid_t child = in_plain_child([&] {
                steps->value = own.place().self();
                steps->reach(1);
                pause();
              });
              ASSERT_TRUE(steps->await(1));
              const auto owner = static_cast<OwnerId>(steps->value);
              EXPECT_EQ(own.liveness(owner), Liveness::kAlive);
              kill(child, SIGKILL);
              await_child(child);
              EXPECT_EQ(own.liveness(owner), Liveness::kDied);
            })),
            0);
}

TEST_F(ForkTest, GrandchildrenAreProcessesToo) {
  const Published published = publish(session());
  EXPECT_EQ(await_child(in_child([&] {
              EXPECT_EQ(references(*published.object), 2U);
              EXPECT_EQ(await_child(in_child([&] { EXPECT_EQ(references(*published.object), 3U); })), 0);
              session().sweep();
              EXPECT_EQ(references(*published.object), 2U);
            })),
            0);
  session().sweep();
  EXPECT_EQ(references(*published.object), 1U);
  session().drop_reference(published.object);
}

TEST_F(ForkTest, AChildOfAProcessThatHasLeftStartsAfresh) {
  EXPECT_EQ(await_child(in_child([&] {
              session().leave();
              EXPECT_EQ(await_child(in_child([&] { EXPECT_EQ(session().pid_of(place().self()), getpid()); })), 0);
            })),
            0);
}

}  // namespace
}  // namespace freethreading::testing
