// A session's birth, who is attached to it, and what becomes of its descriptor.
#include <fcntl.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using SessionLifeTest = WatchedTest;

TEST_F(SessionLifeTest, IsFoundByItsId) {
  Session& session = new_session();
  EXPECT_EQ(Session::find(session.id()), &session);
  EXPECT_EQ(Session::find(session.id() + 1), nullptr);
  const std::vector<Session*> all = Session::all();
  EXPECT_NE(std::find(all.begin(), all.end(), &session), all.end());
}

TEST_F(SessionLifeTest, HasAnIdOfItsOwn) { EXPECT_NE(new_session().id(), new_session().id()); }

TEST_F(SessionLifeTest, StartsWithOneProcessAndNoBlocks) {
  Session& session = new_session();
  const SessionUsage usage = session.usage();
  EXPECT_EQ(usage.processes, 1U);
  EXPECT_EQ(usage.blocks, 0U);
  EXPECT_EQ(usage.objects, 0U);
  EXPECT_EQ(session.pid_of(session.place().self()), getpid());
  EXPECT_EQ(session.owner_of(getpid()), session.place().self());
}

TEST_F(SessionLifeTest, ItsDescriptorIsClosedOnExec) {
  EXPECT_EQ(fcntl(new_session().descriptor(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(SessionLifeTest, HasNoNameInTheFileSystem) {
  char link[256] = {};
  const std::string path = "/proc/self/fd/" + std::to_string(new_session().descriptor());
  ASSERT_GT(readlink(path.c_str(), link, sizeof link - 1), 0);
  EXPECT_NE(std::string(link).find("/memfd:freethreading"), std::string::npos) << link;
}

TEST_F(SessionLifeTest, ADescriptorOfAnAttachedSessionIsClosedAndTheSessionComesBack) {
  Session& session = new_session();
  const int copy = dup(session.descriptor());
  const SessionResult again = Session::attach(copy);
  EXPECT_EQ(again.session, &session);
  EXPECT_EQ(fcntl(copy, F_GETFD), -1);
  EXPECT_EQ(Session::attach(session.descriptor()).session, &session);
  EXPECT_NE(session.descriptor(), -1);
}

// POSIX drops all locks of a process on a file when it closes any descriptor of it.
TEST_F(SessionLifeTest, IsSeenToLiveAfterASecondDescriptorWasClosed) {
  Session& session = new_session();
  const OwnerId self = session.place().self();
  EXPECT_EQ(Session::attach(dup(session.descriptor())).session, &session);
  EXPECT_EQ(await_child(in_plain_child([&] { EXPECT_EQ(session.liveness(self), Liveness::kAlive); })), 0);
  close(dup(session.descriptor()));
  EXPECT_EQ(await_child(in_plain_child([&] {
              EXPECT_EQ(session.liveness(self), Liveness::kAlive);
              session.sweep();
              EXPECT_EQ(session.pid_of(self), getppid());
            })),
            0);
}

TEST_F(SessionLifeTest, AProcessThatIsHandedTheDescriptorAttaches) {
  DescriptorPost post;
  Scoreboard<Steps> steps;
  const pid_t child = in_plain_child([&] {
    const SessionResult result = Session::attach(post.receive());
    ASSERT_NE(result.session, nullptr);
    Session& session = *result.session;
    EXPECT_EQ(Session::find(steps->value), &session);
    EXPECT_EQ(session.owner_of(getpid()), session.place().self());
    EXPECT_EQ(session.liveness(session.owner_of(getppid())), Liveness::kAlive);
    const Offset block = session.allocate(100);
    *session.place().at<int>(block) = 42;
    session.link(block);
    steps->other = block;
    session.leave();
  });
  Session& session = new_session();
  steps->value = session.id();
  post.send(session.descriptor());
  ASSERT_EQ(await_child(child), 0);
  EXPECT_EQ(*session.place().at<int>(steps->other), 42);
  EXPECT_EQ(session.usage().processes, 1U);
}

TEST_F(SessionLifeTest, RefusesWhatIsNoSession) {
  const SessionResult closed = Session::attach(-1);
  EXPECT_EQ(closed.error, SessionError::kDescriptorGone);
  EXPECT_EQ(closed.error_number, EBADF);
  const int empty = memfd_create("empty", MFD_CLOEXEC);
  EXPECT_EQ(Session::attach(empty).error, SessionError::kNotASession);
  ASSERT_EQ(ftruncate(empty, 1 << 20), 0);
  EXPECT_EQ(Session::attach(empty).error, SessionError::kNotASession);
  EXPECT_NE(fcntl(empty, F_GETFD), -1) << "it is the caller's still";
  close(empty);
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
  EXPECT_EQ(Session::attach(pipe_ends[0]).error, SessionError::kNotASession);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST_F(SessionLifeTest, RefusesASessionOfAnotherVersion) {
  Session& session = new_session();
  memory::RegionHeader header{};
  ASSERT_EQ(pread(session.descriptor(), static_cast<void*>(&header), sizeof header, 0),
            static_cast<ssize_t>(sizeof header));
  header.version += 1;
  const int other = memfd_create("other", MFD_CLOEXEC);
  ASSERT_EQ(pwrite(other, static_cast<void*>(&header), sizeof header, 0), static_cast<ssize_t>(sizeof header));
  EXPECT_EQ(Session::attach(other).error, SessionError::kOtherVersion);
  close(other);
}

// A copy of the first `size` bytes of a session's region, in a file of its own.
int copy_of(const Session& session, std::size_t size, bool sealed, std::uint64_t id) {
  std::vector<char> bytes(size);
  EXPECT_EQ(pread(session.descriptor(), bytes.data(), size, 0), static_cast<ssize_t>(size));
  std::memcpy(&bytes[offsetof(memory::RegionHeader, id)], &id, sizeof id);
  const int copy = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(pwrite(copy, bytes.data(), size, 0), static_cast<ssize_t>(size));
  if (sealed) {
    EXPECT_EQ(fcntl(copy, F_ADD_SEALS, F_SEAL_SHRINK), 0);
  }
  return copy;
}

TEST_F(SessionLifeTest, RefusesACopy) {
  Session& session = new_session();
  const std::uint64_t other_id = session.id() + 1;
  constexpr std::size_t kHeader = sizeof(memory::RegionHeader);
  constexpr std::size_t kTables = memory::kDescriptors;
  for (const int copy : {copy_of(session, kHeader, true, other_id), copy_of(session, kTables, false, other_id),
                         copy_of(session, kTables, true, session.id())}) {
    EXPECT_EQ(Session::attach(copy).error, SessionError::kCopy);
    EXPECT_NE(fcntl(copy, F_GETFD), -1) << "it is the caller's still";
    close(copy);
  }
  EXPECT_EQ(Session::find(session.id()), &session);
  EXPECT_NE(session.descriptor(), -1);
}

TEST_F(SessionLifeTest, SaysThatADescriptorCannotBeWritten) {
  EXPECT_EQ(await_child(in_plain_child([] {
              const int made = copy_of(new_session(), memory::kDescriptors, true, 1);
              const int readable = open(("/proc/self/fd/" + std::to_string(made)).c_str(), O_RDONLY | O_CLOEXEC);
              const SessionResult result = Session::attach(readable);
              EXPECT_EQ(result.error, SessionError::kReadOnly);
              EXPECT_EQ(result.error_number, EACCES);
            })),
            0);
}

TEST_F(SessionLifeTest, NoticesThatItsDescriptorWasClosed) {
  EXPECT_EQ(await_child(in_plain_child([] {
              Session& session = new_session();
              close(session.descriptor());
              EXPECT_EQ(session.descriptor(), -1);
            })),
            0);
}

TEST_F(SessionLifeTest, TouchesNoFileThatWasPutInItsDescriptorsPlace) {
  EXPECT_EQ(await_child(in_plain_child([] {
              Session& session = new_session();
              const int number = session.descriptor();
              const int other = memfd_create("other", MFD_CLOEXEC);
              ASSERT_EQ(dup2(other, number), number);
              EXPECT_EQ(session.descriptor(), -1);
              EXPECT_EQ(session.allocate(1000), kNoOffset) << "it grew some file";
              session.sweep();
              struct stat status {};
              ASSERT_EQ(fstat(other, &status), 0);
              EXPECT_EQ(status.st_size, 0);
            })),
            0);
}

TEST_F(SessionLifeTest, KeepsANewDescriptorWhereItsOwnHasGone) {
  EXPECT_EQ(await_child(in_plain_child([] {
              Session& session = new_session();
              const int copy = dup(session.descriptor());
              close(session.descriptor());
              EXPECT_EQ(Session::attach(copy).session, &session);
              EXPECT_EQ(session.descriptor(), copy);
              EXPECT_NE(session.allocate(1000), kNoOffset);
            })),
            0);
}

TEST_F(SessionLifeTest, SeveralSessionsDoNotMix) {
  Session& first = new_session();
  Session& second = new_session();
  const Published published = publish(first);
  EXPECT_EQ(second.open(published.handle), nullptr);
  EXPECT_FALSE(second.retain_in_flight(published.handle));
  EXPECT_EQ(second.usage().objects, 0U);
  first.drop_reference(published.object);
  EXPECT_EQ(first.usage().objects, 0U);
}

TEST_F(SessionLifeTest, ItsFileCannotBeMadeSmaller) {
  Session& session = new_session();
  EXPECT_EQ(ftruncate(session.descriptor(), 0), -1);
  EXPECT_EQ(errno, EPERM);
}

}  // namespace
}  // namespace freethreading::testing
