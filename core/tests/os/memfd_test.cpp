// A file in memory: its pages, its identity, its limits.
#include "os/memfd.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <string>

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

constexpr std::uint64_t kPage = 4096;

class MemfdTest : public WatchedTest {
 protected:
  MemfdTest() : file_(os::memfd_create("test")) { EXPECT_GE(file_, 0); }
  ~MemfdTest() override { os::close_descriptor(file_); }
  [[nodiscard]] off_t size() const {
    struct stat status {};
    EXPECT_EQ(fstat(file_, &status), 0);
    return status.st_size;
  }
  int file_;
};

TEST_F(MemfdTest, IsClosedOnExec) { EXPECT_EQ(fcntl(file_, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC); }

TEST_F(MemfdTest, SecuredPagesAreWritable) {
  std::byte* base = os::map_shared(file_, 64 * kPage);
  ASSERT_NE(base, nullptr);
  ASSERT_EQ(os::secure_pages(file_, 8 * kPage, 4 * kPage), 0);
  std::memset(base + 8 * kPage, 7, 4 * kPage);
  EXPECT_EQ(os::allocated_bytes(file_), 4 * kPage);
  EXPECT_EQ(size(), static_cast<off_t>(12 * kPage));
  ASSERT_EQ(os::secure_pages(file_, 8 * kPage, 4 * kPage), 0) << "again is fine";
  EXPECT_EQ(base[8 * kPage], std::byte{7});
  os::unmap(base, 64 * kPage);
}

TEST_F(MemfdTest, PagesGivenBackReadAsZero) {
  std::byte* base = os::map_shared(file_, 8 * kPage);
  ASSERT_EQ(os::secure_pages(file_, 0, 8 * kPage), 0);
  std::memset(base, 7, 8 * kPage);
  os::give_pages_back(file_, 0, 4 * kPage);
  EXPECT_EQ(os::allocated_bytes(file_), 4 * kPage);
  EXPECT_EQ(base[0], std::byte{0});
  EXPECT_EQ(base[5 * kPage], std::byte{7});
  os::unmap(base, 8 * kPage);
}

TEST_F(MemfdTest, GrowthBeyondAFileSizeLimitIsAnErrorAndNoSignal) {
  EXPECT_EQ(await_child(in_plain_child([&] {
              const rlimit limit{.rlim_cur = 4 * kPage, .rlim_max = RLIM_INFINITY};
              ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
              EXPECT_EQ(os::secure_pages(file_, 0, 5 * kPage), EFBIG);
              EXPECT_EQ(os::secure_pages(file_, 0, 4 * kPage), 0);
            })),
            0);
}

TEST_F(MemfdTest, GrowthOfAClosedFileIsAnError) { EXPECT_EQ(os::secure_pages(-1, 0, kPage), EBADF); }

TEST_F(MemfdTest, ASealedOneDoesNotShrink) {
  ASSERT_EQ(os::secure_pages(file_, 0, 4 * kPage), 0);
  EXPECT_FALSE(os::is_sealed_against_shrinking(file_));
  ASSERT_TRUE(os::memfd_seal_against_shrinking(file_));
  EXPECT_TRUE(os::is_sealed_against_shrinking(file_));
  EXPECT_EQ(os::size_of(file_), 4 * kPage);
  EXPECT_EQ(ftruncate(file_, 0), -1);
  EXPECT_EQ(os::secure_pages(file_, 0, 8 * kPage), 0);
}

TEST_F(MemfdTest, CoreDumpsLeaveASharedMappingOut) {
  std::byte* base = os::map_shared(file_, 8 * kPage);
  ASSERT_NE(base, nullptr);
  std::ifstream maps("/proc/self/smaps");
  std::ostringstream begin;
  begin << std::hex << reinterpret_cast<std::uintptr_t>(base) << '-';
  std::string line;
  while (std::getline(maps, line) && !line.starts_with(begin.str())) {
  }
  while (std::getline(maps, line) && !line.starts_with("VmFlags:")) {
  }
  EXPECT_NE(line.find(" dd"), std::string::npos) << line;
  os::unmap(base, 8 * kPage);
}

TEST_F(MemfdTest, IsToldApartFromAnotherUnderItsNumber) {
  os::FileIdentity first;
  os::FileIdentity copy;
  os::FileIdentity other;
  ASSERT_TRUE(os::identify(file_, first));
  const int second = dup(file_);
  ASSERT_TRUE(os::identify(second, copy));
  EXPECT_EQ(first, copy);
  const int another = os::memfd_create("test");
  ASSERT_EQ(dup2(another, second), second);
  ASSERT_TRUE(os::identify(second, other));
  EXPECT_NE(first, other);
  close(second);
  close(another);
  EXPECT_FALSE(os::identify(second, other));
}

TEST_F(MemfdTest, IsReadWhereItIsLongEnough) {
  ASSERT_EQ(pwrite(file_, "abcd", 4, 0), 4);
  char text[4];
  ASSERT_TRUE(os::read_at(file_, 0, text, 4));
  EXPECT_EQ(std::string(text, 4), "abcd");
  EXPECT_FALSE(os::read_at(file_, 1, text, 4));
  EXPECT_FALSE(os::read_at(-1, 0, text, 4));
}

TEST(RandomBits, Differ) {
  EXPECT_NE(os::random_bits(), os::random_bits());
  EXPECT_NE(os::random_bits(), 0U);
}

}  // namespace
}  // namespace freethreading::testing
