// Producers and consumers are killed at random instants, over and over. What the survivors see adds up: no item twice, none
// torn, none lost but what a killed consumer had in hand. FT_TEST_SEED repeats a run.
#include <array>
#include <random>
#include <thread>
#include <vector>

#include "freethreading/queue/message_queue.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

constexpr std::size_t kKills = 60;
constexpr std::size_t kIncarnations = kKills + 4;
constexpr std::uint64_t kItemsEach = 1 << 16;
constexpr std::uint64_t kItemsARound = 1000;  // of each producer
static_assert(kItemsARound * (kKills + 2) < kItemsEach);

struct KillBoard {
  std::atomic<bool> stop;
  std::atomic<std::uint64_t> round;
  std::atomic<std::size_t> started;
  std::atomic<std::uint64_t> progress;  // items taken, by all
  std::atomic<std::uint64_t> torn;
  std::array<std::atomic<std::uint64_t>, kIncarnations> acked;  // puts of a producer that returned
  std::array<std::array<std::atomic<std::uint8_t>, kItemsEach>, kIncarnations> seen;
};

struct KillCase {
  std::uint64_t capacity;
  std::uint64_t max_bytes;
  std::size_t batch;  // so many are put, and taken at most, at once
};

class QueueKillTest : public WatchedTest, public ::testing::WithParamInterface<KillCase> {
 protected:
  struct Child {
    pid_t pid;
    bool produces;
  };

  Child start(bool produces) {
    const std::size_t incarnation = next_++;
    const Child child{in_child([&] {
                        ++board_->started;
                        produces ? produce(incarnation) : consume();
                      }),
                      produces};
    // A child that dies before it has its slot in the session keeps its references for seconds (memory/process_table.cpp):
    // blocks that come back late are not what this test is about.
    while (board_->started < next_) {
      std::this_thread::yield();
    }
    return child;
  }

  void produce(std::size_t incarnation) {
    const std::uint64_t start = board_->round;
    const std::size_t batch = GetParam().batch;
    for (std::uint64_t i = 0; !board_->stop; i += batch) {
      while (i + batch > (board_->round - start + 1) * kItemsARound && !board_->stop) {
        std::this_thread::yield();
      }
      const std::uint64_t first = incarnation * kItemsEach + i + 1;
      if (batch == 1 ? put(*queue_, place(), first, 60 * kSecond) != QueueOutcome::kDone
                     : put_many(*queue_, place(), first, batch, 60 * kSecond) != batch) {
        return;
      }
      board_->acked[incarnation] = i + batch;
    }
  }

  void consume() {
    for (;;) {
      const std::vector<std::uint64_t> items = get_many(*queue_, place(), GetParam().batch, 60 * kSecond);
      if (items.empty()) {
        return;
      }
      for (const std::uint64_t item : items) {
        if (item == 0) {
          ++board_->torn;
        } else {
          ++board_->seen[item / kItemsEach][item % kItemsEach];
        }
        ++board_->progress;
      }
    }
  }

  // True when the survivors took some more items within a second.
  bool see_progress(std::uint64_t items) {
    const std::uint64_t from = board_->progress;
    ++board_->round;
    const Deadline deadline = Deadline::after(10 * kSecond);
    Deadline first = Deadline::after(kSecond);
    while (board_->progress < from + items && !deadline.passed()) {
      if (board_->progress == from && first.passed()) {
        return false;
      }
    }
    return true;
  }

  Place& place() { return subject_.place(); }

  SessionSubject subject_;
  MessageQueue* queue_ = nullptr;
  Scoreboard<KillBoard> board_;
  std::size_t next_ = 0;
};

TEST_P(QueueKillTest, TheSurvivorsAccountAddsUp) {
  const char* given = std::getenv("FT_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  SCOPED_TRACE("FT_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  test_session().sweep();
  const std::size_t before = test_session().usage().blocks;
  const auto [capacity, max_bytes, batch] = GetParam();
  queue_ = &subject_.make(capacity, true, max_bytes);
  std::vector<Child> children{start(true), start(false), start(true), start(false)};
  std::uint64_t killed_consumers = 0;
  for (std::size_t kill_number = 0; kill_number < kKills; ++kill_number) {
    ASSERT_TRUE(see_progress(1 + random() % 300)) << "stuck after kill " << kill_number;
    Child& victim = children[random() % children.size()];
    kill(victim.pid, SIGKILL);
    static_cast<void>(await_child(victim.pid));
    killed_consumers += victim.produces ? 0 : 1;
    if (random() % 2 == 0) {
      test_session().sweep();
    }
    victim = start(victim.produces);
  }
  board_->stop = true;
  for (const Child& child : children) {
    if (child.produces) {
      EXPECT_EQ(await_child(child.pid), 0);
    }
  }
  queue_->shut_down(place(), false);
  for (const Child& child : children) {
    if (!child.produces) {
      EXPECT_EQ(await_child(child.pid), 0);
    }
  }
  EXPECT_EQ(board_->torn, 0U);
  std::uint64_t lost = 0;
  for (std::size_t incarnation = 0; incarnation < next_; ++incarnation) {
    const std::uint64_t acked = board_->acked[incarnation];
    for (std::uint64_t i = 1; i < kItemsEach; ++i) {
      const unsigned seen = board_->seen[incarnation][i];
      ASSERT_LE(seen, i <= acked + batch ? 1U : 0U) << "item " << i << " of " << incarnation << ", acked " << acked;
      lost += i <= acked && seen == 0 ? 1 : 0;
    }
  }
  EXPECT_LE(lost, killed_consumers * batch);
  test_session().sweep();
  subject_.drop();
  EXPECT_EQ(test_session().usage().blocks, before);
}

INSTANTIATE_TEST_SUITE_P(Bounds, QueueKillTest,
                         ::testing::Values(KillCase{3, 0, 1}, KillCase{200, 0, 1}, KillCase{0, 2000, 1},
                                           KillCase{200, 0, 25}, KillCase{0, 4000, 100}),
                         [](const auto& info) {
                           const KillCase& one = info.param;
                           return "Capacity" + std::to_string(one.capacity) + "Bytes" + std::to_string(one.max_bytes) +
                                  "Batch" + std::to_string(one.batch);
                         });

}  // namespace
}  // namespace freethreading::testing
