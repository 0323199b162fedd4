// What the queue's tests share: places to put a queue in, items that check themselves, processes to lose.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <vector>

#include "freethreading/memory/session.hpp"
#include "freethreading/queue/message_queue.hpp"

namespace freethreading::testing {

inline constexpr unsigned kWatchdogSeconds = 120;

// Ends the test program when a test hangs.
class WatchedTest : public ::testing::Test {
 protected:
  void SetUp() override { alarm(kWatchdogSeconds); }
  void TearDown() override { alarm(0); }
};

class PrivateSubject {
 public:
  Place& place() { return Place::private_memory(); }
  MessageQueue& make(std::uint64_t capacity, bool joinable = true, std::uint64_t max_bytes = 0) {
    queue_ = new MessageQueue{};
    EXPECT_TRUE(queue_->initialise(place(), capacity, joinable, max_bytes));
    return *queue_;
  }
  ~PrivateSubject() {
    if (queue_ != nullptr) {
      queue_->destroy(place());
      delete queue_;
    }
  }

 private:
  MessageQueue* queue_ = nullptr;
};

// The one session of this test process.
inline Session& test_session() {
  static Session* const kSession = [] {
    const SessionResult result = Session::create();
    if (result.session == nullptr) {
      std::abort();
    }
    return result.session;
  }();
  return *kSession;
}

class SessionSubject {
 public:
  Place& place() { return test_session().place(); }
  MessageQueue& make(std::uint64_t capacity, bool joinable = true, std::uint64_t max_bytes = 0) {
    object_ = test_session().create_object(ObjectType::kQueue, sizeof(MessageQueue));
    auto* queue = object_->body<MessageQueue>();
    EXPECT_TRUE(queue->initialise(place(), capacity, joinable, max_bytes));
    handle_ = test_session().publish_object(object_);
    return *queue;
  }
  [[nodiscard]] const Handle& handle() const { return handle_; }
  [[nodiscard]] ObjectHeader* object() const { return object_; }
  // The queue ends now.
  void drop() {
    if (object_ != nullptr) {
      test_session().drop_reference(object_);
      object_ = nullptr;
    }
  }
  void forget() { object_ = nullptr; }
  ~SessionSubject() { drop(); }

 private:
  ObjectHeader* object_ = nullptr;
  Handle handle_;
};

// An item is a number. Every third one lies in a block filled with it.
inline constexpr std::size_t kBlockWords = 32;

inline Message make_item(Place& place, std::uint64_t number) {
  Message message;
  message.kind = static_cast<std::uint32_t>(number % 7);
  std::memcpy(message.bytes.data(), &number, sizeof(number));
  message.size = sizeof(number);
  if (number % 3 == 0) {
    message.block = place.allocate(kBlockWords * sizeof(number));
    EXPECT_NE(message.block, kNoOffset);
    message.size = kBlockWords * sizeof(number);
    for (std::size_t i = 0; i < kBlockWords; ++i) {
      place.at<std::uint64_t>(message.block)[i] = number + i;
    }
  } else if (number % 3 == 1) {
    message.size = Message::kInlineBytes;
    for (std::size_t i = 1; i < Message::kInlineBytes / sizeof(number); ++i) {
      const std::uint64_t word = number + i;
      std::memcpy(message.bytes.data() + i * sizeof(word), &word, sizeof(word));
    }
  }
  return message;
}

// The item's number, its block given back; 0: torn.
inline std::uint64_t open_item(Place& place, Message& message) {
  std::uint64_t number = 0;
  std::memcpy(&number, message.bytes.data(), sizeof(number));
  bool whole = message.kind == number % 7 && (number % 3 == 0) == !message.is_inline();
  if (!message.is_inline()) {
    for (std::size_t i = 0; i < kBlockWords; ++i) {
      whole = whole && place.at<std::uint64_t>(message.block)[i] == number + i;
    }
  } else if (number % 3 == 1) {
    for (std::size_t i = 1; i < Message::kInlineBytes / sizeof(number); ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, message.bytes.data() + i * sizeof(word), sizeof(word));
      whole = whole && word == number + i;
    }
  }
  discard(place, message);
  return whole ? number : 0;
}

inline QueueOutcome put(MessageQueue& queue, Place& place, std::uint64_t number, Nanoseconds timeout = 20 * kSecond) {
  Message message = make_item(place, number);
  WaitContext context(Deadline::after(timeout));
  const QueueOutcome outcome = queue.put_until(place, message, context);
  if (outcome != QueueOutcome::kDone) {
    discard(place, message);
  }
  return outcome;
}

// The next item's number; 0: none in time or torn.
inline std::uint64_t get(MessageQueue& queue, Place& place, Nanoseconds timeout = 20 * kSecond,
                         TakeNote* note = nullptr) {
  Message message;
  WaitContext context(Deadline::after(timeout));
  if (queue.get_until(place, message, context, note) != QueueOutcome::kDone) {
    return 0;
  }
  return open_item(place, message);
}

// Puts the numbers from `first` on as one batch; how many of them went in. The others are given back.
inline std::size_t put_many(MessageQueue& queue, Place& place, std::uint64_t first, std::size_t count,
                            Nanoseconds timeout = 20 * kSecond) {
  std::vector<Message> batch;
  for (std::size_t i = 0; i < count; ++i) {
    batch.push_back(make_item(place, first + i));
  }
  WaitContext context(Deadline::after(timeout));
  std::size_t put = 0;
  const QueueOutcome outcome = queue.put_many_until(place, batch, put, context);
  EXPECT_EQ(outcome == QueueOutcome::kDone, put == count);
  std::for_each(batch.begin() + static_cast<std::ptrdiff_t>(put), batch.end(), [&](Message& m) { discard(place, m); });
  return put;
}

// The numbers of the next items, at most `most`; empty: none in time. A torn one is 0.
inline std::vector<std::uint64_t> get_many(MessageQueue& queue, Place& place, std::size_t most,
                                           Nanoseconds timeout = 20 * kSecond) {
  std::vector<Message> batch(most);
  WaitContext context(Deadline::after(timeout));
  std::size_t got = 0;
  const QueueOutcome outcome = queue.get_many_until(place, batch, got, context);
  EXPECT_EQ(outcome == QueueOutcome::kDone, got != 0);
  std::vector<std::uint64_t> numbers;
  for (std::size_t i = 0; i < got; ++i) {
    numbers.push_back(open_item(place, batch[i]));
  }
  return numbers;
}

// Memory that a process and its forked children see alike, outside of every session.
template <class T>
class Scoreboard {
 public:
  Scoreboard() {
    void* memory = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      std::abort();
    }
    board_ = new (memory) T{};
  }
  Scoreboard(const Scoreboard&) = delete;
  Scoreboard& operator=(const Scoreboard&) = delete;
  ~Scoreboard() { munmap(board_, sizeof(T)); }
  T* operator->() { return board_; }
  T& operator*() { return *board_; }

 private:
  T* board_;
};

// Runs `body` in a forked process of the session; its exit status is 0 when `body` comes back.
inline pid_t in_child(const std::function<void()>& body) {
  test_session().before_fork();
  const pid_t pid = fork();
  if (pid == 0) {
    test_session().after_fork_in_child();
    alarm(kWatchdogSeconds);
    body();
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  test_session().after_fork_in_parent();
  return pid;
}

// Waits for a child's end: its status as waitpid gives it.
inline int await_child(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

}  // namespace freethreading::testing
