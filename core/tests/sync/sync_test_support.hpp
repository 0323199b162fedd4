// What the tests of the synchronisation types share: places to put a type in, processes to lose, waits on state.
#pragma once

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "freethreading/crash_point.hpp"
#include "freethreading/memory/session.hpp"
#include "freethreading/place.hpp"
#include "freethreading/wait.hpp"

namespace freethreading::testing {

inline constexpr unsigned kWatchdogSeconds = 100;
inline constexpr Nanoseconds kPatience = 20 * kSecond;
// How long a death may hold others up (DESIGN: within a second), and some for a loaded machine.
inline constexpr Nanoseconds kNoticed = 3 * kSecond;

// Ends the test program when a test hangs. Takes back what the test has made.
class WatchedTest : public ::testing::Test {
 public:
  static void at_end(std::function<void()> work) { ends().push_back(std::move(work)); }

 protected:
  ~WatchedTest() override {
    for (const auto& work : ends()) {
      work();
    }
    ends().clear();
  }
  void SetUp() override { alarm(kWatchdogSeconds); }
  void TearDown() override { alarm(0); }

 private:
  static std::vector<std::function<void()>>& ends() {
    static std::vector<std::function<void()>> works;
    return works;
  }
};

struct PrivateSubject {
  static Place& place() { return Place::private_memory(); }
};

struct SharedSubject {
  static Place& place() {
    static Session* const kSession = [] {
      const SessionResult result = Session::create();
      if (result.session == nullptr) {
        std::abort();
      }
      return result.session;
    }();
    return kSession->place();
  }
};

using Subjects = ::testing::Types<PrivateSubject, SharedSubject>;

// A T in a block of the place, until the test ends.
template <class T, class... Arguments>
T& make(Place& place, Arguments&&... arguments) {
  const Offset at = place.allocate(sizeof(T));
  if (at == kNoOffset) {
    std::abort();
  }
  T* made = new (place.at<T>(at)) T(std::forward<Arguments>(arguments)...);
  place.link(at);
  WatchedTest::at_end([made, at, &place] {
    if constexpr (requires { made->destroy(place); }) {
      made->destroy(place);
    }
    place.free(at);
  });
  return *made;
}

inline WaitContext within(Nanoseconds timeout, bool interruptible = false) {
  return WaitContext(Deadline::after(timeout), interruptible);
}

// Polls until condition() is true; false: it did not become so.
template <class Condition>
[[nodiscard]] bool eventually(Condition condition, Nanoseconds timeout = kPatience) {
  const Deadline deadline = Deadline::after(timeout);
  while (!condition()) {
    if (deadline.passed()) {
      return false;
    }
    std::this_thread::yield();
  }
  return true;
}

inline int current_tid() { return static_cast<int>(syscall(SYS_gettid)); }

// Whether that thread of that process sleeps in the kernel.
inline bool is_asleep(int pid, int tid) {
  char name[64];
  std::snprintf(name, sizeof name, "/proc/%d/task/%d/stat", pid, tid);
  std::FILE* file = std::fopen(name, "r");
  if (file == nullptr) {
    return false;
  }
  char text[512] = {};
  const std::size_t size = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  const char* end = size == 0 ? nullptr : std::strrchr(text, ')');
  return end != nullptr && end[2] == 'S';
}

// A thread that says when it sleeps.
class Sleeper {
 public:
  template <class Body>
  explicit Sleeper(Body body)
      : thread_([this, body] {
          tid_.store(current_tid());
          body();
          done_.store(true);
        }) {}
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  ~Sleeper() { join(); }
  [[nodiscard]] bool falls_asleep() {
    return eventually([this] { return tid_.load() != 0 && is_asleep(getpid(), tid_.load()); });
  }
  [[nodiscard]] bool done() const { return done_.load(); }
  void interrupt() { pthread_kill(thread_.native_handle(), SIGUSR1); }
  void join() {
    if (thread_.joinable()) {
      thread_.join();
    }
  }

 private:
  std::atomic<int> tid_{0};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

inline void ignore_signal(int /*number*/) {}

// SIGUSR1 interrupts system calls and does nothing else.
inline void let_signals_interrupt() {
  struct sigaction action = {};
  action.sa_handler = ignore_signal;
  sigaction(SIGUSR1, &action, nullptr);
}

// A forked process that runs body() and then exits with 0 (1 when it returned false).
class Child {
 public:
  template <class Body>
  explicit Child(Body body) : pid_(fork()) {
    if (pid_ == 0) {
      alarm(kWatchdogSeconds);
      _exit(body() ? 0 : 1);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) {
      kill();
    }
  }
  [[nodiscard]] int pid() const { return pid_; }
  [[nodiscard]] bool falls_asleep() const {
    return eventually([this] { return is_asleep(pid_, pid_); });
  }
  // Kills it; it stays a zombie until join().
  void kill() {
    ::kill(pid_, SIGKILL);
    join();
  }
  // Its wait status.
  int join() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }
  [[nodiscard]] bool succeeds() {
    const int status = join();
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  [[nodiscard]] bool was_killed() {
    const int status = join();
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }

 private:
  int pid_;
};

}  // namespace freethreading::testing
