#include "freethreading/sync/atomic_int64.hpp"

#include <limits>

#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

constexpr int kRounds = 50'000;

template <class Subject>
class AtomicInt64Test : public WatchedTest {
 protected:
  AtomicInt64& number_ = make<AtomicInt64>(Subject::place(), 0);
};
TYPED_TEST_SUITE(AtomicInt64Test, Subjects);

TYPED_TEST(AtomicInt64Test, WrapsAround) {
  constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  this->number_.store(kMost);
  EXPECT_EQ(this->number_.fetch_add(1), kMost);
  EXPECT_EQ(this->number_.fetch_sub(1), kLeast);
  EXPECT_EQ(this->number_.load(), kMost);
  this->number_.store(-1);
  EXPECT_EQ(this->number_.fetch_sub(kLeast), -1);
  EXPECT_EQ(this->number_.load(), kMost);
}

TYPED_TEST(AtomicInt64Test, ThreadsLoseNothing) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([this] {
      for (int round = 0; round < kRounds; ++round) {
        this->number_.fetch_add(2);
        std::int64_t seen = this->number_.load();
        while (!this->number_.compare_exchange_strong(seen, seen - 1)) {
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(this->number_.load(), 4 * kRounds);
}

using AtomicInt64OfProcesses = WatchedTest;

TEST_F(AtomicInt64OfProcesses, LosesNothing) {
  AtomicInt64& number = make<AtomicInt64>(SharedSubject::place(), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(fork());
    if (children.back() == 0) {
      for (int round = 0; round < kRounds; ++round) {
        number.fetch_add(1);
      }
      _exit(0);
    }
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(number.load(), 3 * kRounds);
}

}  // namespace
}  // namespace freethreading::testing
