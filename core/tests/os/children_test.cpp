#include "os/children.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <string>
#include <thread>

#include "freethreading/pool/worker_record.hpp"
#include "os/death_pipe.hpp"
#include "os/memfd.hpp"
#include "os/signals.hpp"
#include "os/watch.hpp"

namespace freethreading::os {
namespace {

// Forks a child that runs `work` and ends with what it returns.
template <class Work>
int in_child(Work work) {
  const pid_t pid = fork();
  if (pid == 0) {
    _exit(work());
  }
  return pid;
}

Ended wait_until_ended(int pid) {
  const int watch = watch_process(pid);
  EXPECT_GE(watch, 0);
  EXPECT_NE(wait_readable({watch}, Deadline::after(20 * kSecond)), 0U);
  close(watch);
  return next_ended_child();
}

TEST(Children, AnEndedOneIsKnownBeforeItIsReaped) {
  const int pid = in_child([] { return 7; });
  const Ended ended = wait_until_ended(pid);
  EXPECT_EQ(ended.pid, pid);
  EXPECT_EQ(exit_code_of(ended.status), 7);
  EXPECT_EQ(kill(pid, 0), 0) << "its id is its own until it is reaped";
  reap(pid);
  EXPECT_EQ(next_ended_child().pid, 0);
}

TEST(Children, AKilledOneTellsItsSignal) {
  const int pid = in_child([] { return pause(); });
  kill_process(pid, kKill);
  const Ended ended = wait_until_ended(pid);
  EXPECT_EQ(exit_code_of(ended.status), -SIGKILL);
  reap(pid);
}

TEST(Children, WhatAProcessDoes) {
  EXPECT_EQ(activity_of(getpid()), Activity::kRuns);
  const int pid = in_child([] { return pause(); });
  EXPECT_EQ(activity_of(pid), Activity::kRuns);
  for (int round = 0; round < 3; ++round) {
    kill_process(pid, kStop);
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    EXPECT_EQ(activity_of(pid), Activity::kStopped);
    kill_process(pid, kContinue);
    EXPECT_EQ(waitpid(pid, &status, WCONTINUED), pid);
    EXPECT_EQ(activity_of(pid), Activity::kRuns);
  }
  kill_process(pid, kKill);
  static_cast<void>(wait_until_ended(pid));
  EXPECT_EQ(activity_of(pid), Activity::kEnded) << "nobody has waited for it";
  reap(pid);
  EXPECT_EQ(activity_of(pid), Activity::kEnded);
}

TEST(Children, SpawnPutsDescriptorsFromThreeOn) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  // Sources that are also targets of others: 3 and 4 may be what the pipe got.
  const int pid = spawn({"/bin/sh", "-c", "echo from-3 >&3; echo from-4 >&4"}, {ends[1], ends[1]}, nullptr);
  ASSERT_GT(pid, 0);
  close(ends[1]);
  EXPECT_TRUE(wait_for_child(pid));
  std::string text(64, '\0');
  std::size_t length = 0;
  for (ssize_t got = 0; (got = read(ends[0], &text[length], text.size() - length)) > 0; length += static_cast<std::size_t>(got)) {
  }
  EXPECT_EQ(text.substr(0, length), "from-3\nfrom-4\n");
  close(ends[0]);
}

TEST(Children, SpawnSaysThatAProgramIsNotThere) {
  errno = 0;
  EXPECT_EQ(spawn({"/nowhere/program"}, {}, nullptr), 0);
  EXPECT_EQ(errno, ENOENT);
}

TEST(Children, SpawnedOnesHaveTheMaskThatTheyAreGiven) {
  SignalMask mask;
  sigemptyset(&mask.set);
  sigaddset(&mask.set, SIGUSR1);
  // SigBlk is a hexadecimal mask; SIGUSR1 is bit 9.
  const int pid = spawn({"/bin/grep", "-q", "SigBlk:.*200$", "/proc/self/status"}, {}, &mask);
  ASSERT_GT(pid, 0);
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(Children, AnOrphanGoesToTheNearestSubreaper) {
  const int pid = in_child([] {
    become_subreaper();
    const int parent = getpid();
    int ends[2];
    if (pipe(ends) != 0) {
      return 1;
    }
    const int orphan = fork_orphan();
    if (orphan == 0) {
      char byte = 0;
      static_cast<void>(!read(ends[0], &byte, 1));  // until its parent has been told its id, and is another
      _exit(getppid() == parent ? 5 : 6);
    }
    static_cast<void>(!write(ends[1], "x", 1));
    int status = 0;
    return waitpid(orphan, &status, 0) == orphan ? exit_code_of(status) : 2;
  });
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(exit_code_of(status), 5);
}

TEST(Children, AnOrphanIsForkedInACopyOfTheMemory) {
  const int pid = in_child([] {
    become_subreaper();
    int word = 1;
    const int orphan = fork_orphan();
    if (orphan == 0) {
      word = 2;
      _exit(word);
    }
    int status = 0;
    const bool reaped = orphan > 0 && waitpid(orphan, &status, 0) == orphan;
    return reaped && exit_code_of(status) == 2 && word == 1 && waitpid(-1, nullptr, 0) < 0 ? 0 : 1;
  });
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

// Runs in a child: another child of its ends lightly, and this one tells whether all that it left is in order.
template <class Work>
int end_lightly_in_child(Work work) {
  return in_child([&] {
    become_subreaper();
    int ends[2];
    const int file = memfd_create("locked");
    if (pipe(ends) != 0 || file < 0) {
      return 1;
    }
    const int pid = in_child([&] {
      // A lock of this process's own description, which another holder of it would keep.
      const int own = open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDWR);
      if (flock(own, LOCK_EX) != 0) {
        return 1;
      }
      work();
      exit_lightly(7);
    });
    close(ends[1]);
    int status = 0;
    if (waitpid(pid, &status, 0) != pid || exit_code_of(status) != 7) {
      return 2;
    }
    char byte = 0;
    if (flock(file, LOCK_EX | LOCK_NB) != 0 || fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0 || read(ends[0], &byte, 1) != 0) {
      return 3;
    }
    // Who outlived it, if anybody did, ends by itself and leaves nothing.
    while (waitpid(-1, &status, 0) > 0) {
      if (status != 0) {
        return 4;
      }
    }
    return 0;
  });
}

TEST(Children, ALightExitLeavesNothingOpen) {
  int status = -1;
  const int pid = end_lightly_in_child([] {});
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(exit_code_of(status), 0);
}

TEST(Children, ALightExitWithOtherThreadsLeavesNothingOpen) {
  for (int round = 0; round < 10; ++round) {
    int status = -1;
    const int pid = end_lightly_in_child([] {
      std::thread([] { pause(); }).detach();
      std::thread([] {  // whatever it opens has a number of its own as long as it lives
        for (;;) {
          const int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
          if (file <= 2) {
            abort();
          }
          close(file);
        }
      }).detach();
    });
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(exit_code_of(status), 0);
  }
}

TEST(Children, ALightExitWithMuchMemoryIsAPlainOne) {
  int status = -1;
  const int pid = end_lightly_in_child([] {
    constexpr std::size_t kMuch = 80UL << 20;
    void* memory = mmap(nullptr, kMuch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    static_cast<void>(memory);
  });
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(exit_code_of(status), 0);
}

TEST(Children, CloseFromLeavesWhatIsBelow) {
  const int pid = in_child([] {
    const int low = dup(0);
    const int high = dup2(low, 200);
    close_from(low + 1);
    return fcntl(low, F_GETFD) >= 0 && fcntl(high, F_GETFD) < 0 ? 0 : 1;
  });
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

class DeathPipe : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(make_death_pipe(read_end_, write_end_)); }
  // Forks a child that is bound to the pipe and has told so.
  int bound_child() {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    const int pid = in_child([&] {
      close(write_end_);
      const bool bound = die_with(read_end_);
      static_cast<void>(!write(ends[1], bound ? "y" : "n", 1));
      return pause();
    });
    char answer = 0;
    EXPECT_EQ(read(ends[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    close(ends[0]);
    close(ends[1]);
    return pid;
  }
  int read_end_ = -1;
  int write_end_ = -1;
};

TEST_F(DeathPipe, KillsWhoIsBoundWhenItsLastWriteEndIsClosed) {
  const int first = bound_child();
  const int second = bound_child();
  close(write_end_);
  for (const int pid : {first, second}) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(exit_code_of(status), -SIGKILL);
  }
  close(read_end_);
}

TEST_F(DeathPipe, SaysThatTheHolderIsGoneAlready) {
  close(write_end_);
  const int pid = in_child([&] { return die_with(read_end_) ? 1 : 0; });
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(exit_code_of(status) == 0 || exit_code_of(status) == -SIGKILL);
  close(read_end_);
}

TEST_F(DeathPipe, LeavesTheChildrenOfTheBoundAlone) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const int pid = in_child([&] {
    close(write_end_);
    if (!die_with(read_end_)) {
      return 1;
    }
    const int child = in_child([] { return pause(); });
    static_cast<void>(!write(ends[1], &child, sizeof child));
    return pause();
  });
  int child = 0;
  ASSERT_EQ(read(ends[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
  close(write_end_);
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(exit_code_of(status), -SIGKILL);
  EXPECT_EQ(kill(child, 0), 0) << "it was not bound";
  kill(child, SIGKILL);
  for (const int end : {ends[0], ends[1], read_end_}) {
    close(end);
  }
}

TEST(Signals, AreReadFromADescriptor) {
  const int pid = in_child([] {
    SignalMask before;
    const int signals = read_signals(before);
    if (signals < 0 || next_signal(signals) != 0) {
      return 1;
    }
    raise(SIGTERM);
    const bool told = wait_readable({-1, signals}, Deadline::after(20 * kSecond)) == 2U;
    return told && next_signal(signals) == kTerminate && next_signal(signals) == 0 ? 0 : 2;
  });
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(Watch, TimesOut) { EXPECT_EQ(wait_readable({}, Deadline::after(kMillisecond)), 0U); }

}  // namespace
}  // namespace freethreading::os
