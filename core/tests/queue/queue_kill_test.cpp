// Producers and consumers are killed at random instants, over and over. What the survivors see adds up: no item twice, none
// torn, none lost but the one that a killed consumer had in hand. FT_TEST_SEED repeats a run.
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

class QueueKillTest : public WatchedTest, public ::testing::WithParamInterface<std::uint64_t> {
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
    for (std::uint64_t i = 1; !board_->stop; ++i) {
      while (i > (board_->round - start + 1) * kItemsARound && !board_->stop) {
        std::this_thread::yield();
      }
      if (put(*queue_, place(), incarnation * kItemsEach + i, 60 * kSecond) != QueueOutcome::kDone) {
        return;
      }
      board_->acked[incarnation] = i;
    }
  }

  void consume() {
    for (;;) {
      Message message;
      WaitContext context(Deadline::after(60 * kSecond));
      if (queue_->get_until(place(), message, context) != QueueOutcome::kDone) {
        return;
      }
      const std::uint64_t item = open_item(place(), message);
      if (item == 0) {
        ++board_->torn;
      } else {
        ++board_->seen[item / kItemsEach][item % kItemsEach];
      }
      ++board_->progress;
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
  queue_ = &subject_.make(GetParam());
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
      ASSERT_LE(seen, i <= acked + 1 ? 1U : 0U) << "item " << i << " of " << incarnation << ", acked " << acked;
      lost += i <= acked && seen == 0 ? 1 : 0;
    }
  }
  EXPECT_LE(lost, killed_consumers);
  test_session().sweep();
  subject_.drop();
  EXPECT_EQ(test_session().usage().blocks, before);
}

INSTANTIATE_TEST_SUITE_P(Capacity, QueueKillTest, ::testing::Values(3, 200));

}  // namespace
}  // namespace freethreading::testing
