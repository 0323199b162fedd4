// What a process has for itself, and what it does not.
#include "freethreading/process_memory.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace freethreading {
namespace {

constexpr std::size_t kSize = std::size_t{64} << 20;
constexpr std::uint64_t kSlack = std::uint64_t{16} << 20;  // the counts of pages lag a little; sanitizers take some

// One store for each page. Not instrumented: ThreadSanitizer takes memory of its own for each byte that it sees written.
__attribute__((no_sanitize("thread"), noinline)) void write_to_pages(void* memory) {
  constexpr std::size_t kPage = 4096;
  for (std::size_t at = 0; at < kSize; at += kPage) {
    static_cast<volatile char*>(memory)[at] = 1;
  }
}

// What mapping and writing so much adds.
std::int64_t added_by(int flags) {
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(memory, MAP_FAILED);
  const auto before = static_cast<std::int64_t>(private_memory(0));
  write_to_pages(memory);
  const auto after = static_cast<std::int64_t>(private_memory(0));
  munmap(memory, kSize);
  return after - before;
}

TEST(PrivateMemory, CountsWhatWasWritten) { EXPECT_GT(added_by(MAP_PRIVATE), kSize - kSlack); }

TEST(PrivateMemory, DoesNotCountWhatIsShared) { EXPECT_LT(added_by(MAP_SHARED), kSlack); }

TEST(PrivateMemory, OfAnotherProcess) {
  EXPECT_GT(private_memory(0), 0U);
  EXPECT_GT(private_memory(getpid()), private_memory(0) / 2);
  EXPECT_EQ(private_memory(-1), 0U);
  const pid_t child = fork();
  if (child == 0) {
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  EXPECT_EQ(private_memory(child), 0U);
}

}  // namespace
}  // namespace freethreading
