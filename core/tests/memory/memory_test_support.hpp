// What the tests of the session share: sessions, processes to lose and to hand a descriptor to, looks into the region.
#pragma once

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <string>
#include <thread>

#include "memory/layout.hpp"
#include "memory/runs.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {

inline constexpr Nanoseconds kPatience = 20 * kSecond;

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

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

inline bool was_killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }

// A step that processes take one after the other.
struct Steps {
  std::atomic<int> now{0};
  std::atomic<std::uint64_t> value{0};
  std::atomic<std::uint64_t> other{0};
  void reach(int step) { now.store(step); }
  [[nodiscard]] bool await(int step) {
    return eventually([&] { return now.load() >= step; });
  }
};

// Runs `body` in a forked process that knows of no hooks; exit status 0: no assertion failed in it.
inline pid_t in_plain_child(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(kWatchdogSeconds);
    body();
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  return pid;
}

// A pair of sockets over which a descriptor goes from one process to another.
class DescriptorPost {
 public:
  DescriptorPost() {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_) != 0) {
      std::abort();
    }
  }
  DescriptorPost(const DescriptorPost&) = delete;
  DescriptorPost& operator=(const DescriptorPost&) = delete;
  ~DescriptorPost() {
    close(ends_[0]);
    close(ends_[1]);
  }
  void send(int descriptor) {
    Parcel parcel;
    msghdr message = parcel.header();
    cmsghdr* control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(control), &descriptor, sizeof descriptor);
    EXPECT_EQ(sendmsg(ends_[0], &message, 0), 1);
  }
  [[nodiscard]] int receive() {
    Parcel parcel;
    msghdr message = parcel.header();
    int descriptor = -1;
    if (recvmsg(ends_[1], &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message) != nullptr) {
      std::memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
    }
    return descriptor;
  }

 private:
  struct Parcel {
    char byte = 'd';
    iovec data{};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header() {
      data = {.iov_base = &byte, .iov_len = 1};
      msghdr message{};
      message.msg_iov = &data;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      return message;
    }
  };
  int ends_[2] = {-1, -1};
};

inline Session& new_session() {
  const SessionResult result = Session::create();
  if (result.session == nullptr) {
    std::abort();
  }
  return *result.session;
}

inline memory::ProcessSlot* slots_of(Session& session) {
  return session.place().at<memory::ProcessSlot>(memory::kProcessTable);
}

inline memory::ProcessSlot& slot_of(Session& session, OwnerId owner) {
  return slots_of(session)[memory::slot_of(owner)];
}

inline unsigned used_slots(Session& session) {
  unsigned count = 0;
  for (unsigned index = 0; index < kMaxProcesses; ++index) {
    count += memory::state_of(slots_of(session)[index].word.load()) != memory::SlotState::kFree ? 1 : 0;
  }
  return count;
}

// Slots whose child never came are given up after some seconds: makes these pass.
inline void age_embryos(Session& session) {
  for (unsigned index = 0; index < kMaxProcesses; ++index) {
    memory::ProcessSlot& slot = slots_of(session)[index];
    if (memory::state_of(slot.word.load()) == memory::SlotState::kEmbryo) {
      slot.claimed_at.fetch_sub(60 * kSecond);
    }
  }
}

inline unsigned references(const ObjectHeader& object) {
  unsigned count = 0;
  for (const auto& word : object.refs) {
    count += static_cast<unsigned>(__builtin_popcountll(word.load()));
  }
  return count;
}

// Only the pages of the words where no block is backed, or taken.
inline std::uint64_t secured_in_split_chunk(Place& place, std::uint64_t chunk, unsigned size_class) {
  const auto* words = place.at<std::atomic<std::uint32_t>>(memory::Runs::offset_of(chunk));
  for (std::size_t index = 0; index < memory::blocks_in_chunk(size_class); ++index) {
    EXPECT_NE(memory::kind_of(words[index].load()), memory::BlockKind::kBacking) << chunk << ", block " << index;
    if (memory::kind_of(words[index].load()) != memory::BlockKind::kUnbacked) {
      return memory::kChunkSize;
    }
  }
  return memory::first_bare_page(size_class);
}

// Behind heads there are no descriptors, and the file has the pages of all runs that are secured and no others. Nobody else is
// at it.
inline void expect_sound_runs(Session& session) {
  const auto* header = session.place().at<memory::RegionHeader>(0);
  const auto* descriptors = session.place().at<std::atomic<std::uint64_t>>(memory::kDescriptors);
  std::uint64_t secured = 0;
  std::uint64_t chunk = 0;
  while (chunk < header->chunks.load()) {
    const std::uint64_t word = descriptors[chunk].load();
    const std::uint64_t length = memory::run_length(word);
    const memory::BlockKind kind = memory::kind_of(memory::run_block_word(word));
    EXPECT_NE(kind, memory::BlockKind::kBacking) << chunk;
    if (memory::is_split(word)) {
      secured += secured_in_split_chunk(session.place(), chunk, memory::class_of(word));
    } else if (word != 0 && kind != memory::BlockKind::kUnbacked) {
      secured += length * memory::kChunkSize;
    }
    for (std::uint64_t inside = 1; inside < length; ++inside) {
      EXPECT_EQ(descriptors[chunk + inside].load(), 0U) << chunk << " + " << inside;
    }
    chunk += length;
  }
  EXPECT_EQ(chunk, header->chunks.load());
  for (; chunk < header->secured_descriptors.load() / sizeof(std::uint64_t); ++chunk) {
    EXPECT_EQ(descriptors[chunk].load(), 0U) << chunk;
  }
  EXPECT_EQ(session.usage().file_bytes,
            memory::kDescriptors + header->secured_descriptors.load() + secured);
}

// A published object without a body to speak of.
struct Published {
  ObjectHeader* object = nullptr;
  Handle handle;
};

inline Published publish(Session& session, ObjectType type = ObjectType::kEvent, std::size_t size = 64) {
  Published published;
  published.object = session.create_object(type, size);
  EXPECT_NE(published.object, nullptr);
  published.handle = session.publish_object(published.object);
  return published;
}

// Nothing that a test took of the test session is left when it ends.
class SessionTest : public WatchedTest {
 protected:
  void SetUp() override {
    WatchedTest::SetUp();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    session().sweep();
    before_ = session().usage();
  }
  void TearDown() override {
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child was not reaped";
    session().sweep();
    const SessionUsage now = session().usage();
    EXPECT_EQ(now.blocks, before_.blocks) << "blocks did not come back";
    EXPECT_EQ(now.objects, before_.objects);
    EXPECT_EQ(now.processes, 1U);
    WatchedTest::TearDown();
  }
  static Session& session() { return test_session(); }
  static Place& place() { return test_session().place(); }

  SessionUsage before_{};
};

}  // namespace freethreading::testing
