// A process is killed at every named point of the session's protocols, while another one works beside it: the survivors go
// on at once, and every block, reference and slot comes back.
#include "freethreading/crash_point.hpp"

#ifdef FT_CRASH_POINTS

#include <algorithm>
#include <random>

#include "memory/memory_test_support.hpp"
#include "memory/runs.hpp"

namespace freethreading::testing {
namespace {

constexpr int kGrandchildIsLost = 7;

struct Board {
  std::atomic<bool> hit{false};   // somebody was killed at the point
  std::atomic<bool> sweep{false};  // the survivor sweeps too: not before the victim had its turn
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> rounds{0};
};

std::vector<std::string> memory_points() {
  std::vector<std::string> found;
  for (const std::string_view name : list_crash_points()) {
    for (const std::string_view prefix : {"session.", "processes.", "objects.", "blocks.", "message."}) {
      if (name.starts_with(prefix) && name != "session.attached") {
        found.emplace_back(name);
      }
    }
  }
  return found;
}

class MemoryCrashTest : public SessionTest, public ::testing::WithParamInterface<std::tuple<std::string, int>> {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    age_embryos(session());
    session().sweep();
    shared_ = publish(session());
  }
  void TearDown() override {
    session().drop_reference(shared_.object);
    SessionTest::TearDown();
  }

  // Takes and gives back everything that there is. False: something was lost or torn.
  bool use() {
    std::array<Offset, 5> blocks{};
    constexpr std::array<std::size_t, 5> kSizes{64, 900, 40'000, 60'000, 300'000};
    const auto mark = static_cast<unsigned>(getpid());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      blocks[i] = place().allocate(kSizes[i]);
      if (blocks[i] == kNoOffset) {
        return false;
      }
      *place().at<unsigned>(blocks[i]) = mark;
      *place().at<unsigned>(blocks[i] + kSizes[i] - 4) = mark;
    }
    if (session().open(shared_.handle) == nullptr) {
      return false;
    }
    SessionSubject subject;
    MessageQueue& queue = subject.make(0);
    bool fine = put(queue, place(), 3) == QueueOutcome::kDone;
    const Published other = publish(session());
    Message letter = write_letter(other.handle);
    session().drop_reference(other.object);  // the letter keeps it
    fine = fine && queue.try_put(place(), letter) == QueueOutcome::kDone && get(queue, place()) == 3U;
    fine = fine && queue.try_get(place(), letter) == QueueOutcome::kDone && letter.handles == 2;
    subject.drop();
    discard(place(), letter);
    session().drop_reference(shared_.object);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      fine = fine && *place().at<unsigned>(blocks[i]) == mark && *place().at<unsigned>(blocks[i] + kSizes[i] - 4) == mark;
      place().free(blocks[i]);
    }
    return fine;
  }

  // A message that keeps two objects alive.
  Message write_letter(const Handle& other) {
    Message letter;
    if (allocate_block(place(), letter, 8, 2)) {
      EXPECT_TRUE(carry(place(), letter, shared_.handle));
      EXPECT_TRUE(carry(place(), letter, other));
    }
    return letter;
  }

  static std::size_t split_chunks() {
    std::size_t count = 0;
    const auto* descriptors = place().at<std::atomic<std::uint64_t>>(memory::kDescriptors);
    for (std::uint64_t chunk = 0; chunk < place().at<memory::RegionHeader>(0)->chunks.load(); ++chunk) {
      count += memory::is_split(descriptors[chunk].load()) ? 1 : 0;
    }
    return count;
  }

  // Comes by every point: the region grows, runs are cut, a child is forked, lost and swept, this process leaves.
  void come_by_all(Board& board, const std::string& point) {
    const auto chunks = [] { return place().at<memory::RegionHeader>(0)->chunks.load(); };
    const std::uint64_t before = chunks();
    memory::RunHints& hints = place().at<memory::RegionHeader>(0)->runs;
    while (chunks() == before) {
      // As if nothing were free: hints may be wrong.
      hints.warm.store(0);
      hints.searched_for.store(0);
      hints.searched_at.store(hints.freed.load());
      ASSERT_NE(place().allocate(2 * memory::kChunkSize), kNoOffset);
    }
    const Offset run = place().allocate(4 * memory::kChunkSize);
    place().free(run);
    ASSERT_NE(place().allocate(memory::kChunkSize), kNoOffset);
    const std::size_t splits = split_chunks();
    while (split_chunks() == splits) {
      ASSERT_NE(place().allocate(memory::kLargestSmall), kNoOffset);
    }
    ASSERT_TRUE(use());
    // Whether a surplus ends in the middle of a run depends on what the survivor frees meanwhile: until it does.
    for (int tries = point == "blocks.trim.cut" ? 200 : 1; tries > 0; --tries) {
      come_by_trimming();
    }
    lose_a_child(board, "blocks.run.secured");
    lose_a_child(board, "objects.destroy.elected");
    lose_a_child(board, "");
    session().leave();
  }

  // Gives a part of a run back, joins neighbours, gives all back and takes it again.
  static void come_by_trimming() {
    session().trim(true);
    std::array<Offset, 3> pieces{};
    for (Offset& piece : pieces) {
      piece = place().allocate(2 * memory::kChunkSize);
      ASSERT_NE(piece, kNoOffset);
    }
    const Offset run = place().allocate(8 * memory::kChunkSize);
    place().free(run);
    // More than stays warm, and none of it freed lately: hints may be wrong.
    memory::RunHints& hints = place().at<memory::RegionHeader>(0)->runs;
    hints.warm.store(2 * memory::Runs::kNeverWarmer);
    for (std::atomic<std::uint32_t>& noted : hints.recent) {
      noted.store(0);
    }
    for (const Offset piece : pieces) {
      place().free(piece);
    }
    session().trim(true);
    place().free(place().allocate(8 * memory::kChunkSize));
    for (int times = 0; times < 3; ++times) {  // of a size that nobody else uses
      place().free(place().allocate(memory::kLargestSmall / 2));
      session().trim(true);
      place().free(place().allocate(memory::kLargestSmall / 2));
    }
  }

  // A child of the victim dies, at the point named; the victim sweeps it.
  void lose_a_child(Board& board, const char* point) {
    session().before_fork();
    const pid_t child = fork();
    if (child == 0) {
      session().after_fork_in_child();
      write_letter(publish(session()).handle);  // dies with it in hand
      if (*point != '\0') {
        set_crash_point(point, 1, CrashKind::kExit);
        session().trim(true);
        static_cast<void>(place().allocate(3 * memory::kChunkSize));
        session().drop_reference(publish(session()).object);
      }
      _exit(kGrandchildIsLost);
    }
    session().after_fork_in_parent();
    if (was_killed(await_child(child))) {
      board.hit = true;
    }
    session().sweep();
  }

  Published shared_;
};

TEST_P(MemoryCrashTest, TheSurvivorsGoOnAndEverythingComesBack) {
  const auto& [point, nth] = GetParam();
  Scoreboard<Board> board;
  const pid_t survivor = in_child([&] {
    while (!board->stop) {
      ASSERT_TRUE(use());
      if (board->sweep) {
        session().sweep();
      }
      ++board->rounds;
    }
  });
  const pid_t victim = in_child([&, at = point, count = nth] {
    set_crash_point(at, count);
    come_by_all(*board, at);
  });
  const int status = await_child(victim);
  if (was_killed(status)) {
    board->hit = true;
  } else {
    EXPECT_EQ(status, 0);
  }
  EXPECT_TRUE(board->hit || nth > 1) << "did not come by " << point;
  // Both who were there and who comes now go on.
  board->sweep = true;
  const Nanoseconds start = monotonic_now();
  const std::uint64_t rounds = board->rounds;
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(use()) << point;
  }
  EXPECT_TRUE(eventually([&] { return board->rounds > rounds + 2; }));
  EXPECT_LT(monotonic_now() - start, 5 * kSecond) << point;
  board->stop = true;
  EXPECT_EQ(await_child(survivor), 0);
  while (waitpid(-1, nullptr, 0) > 0) {
  }
  session().sweep();
  age_embryos(session());
  session().sweep();
  EXPECT_EQ(session().usage().blocks, before_.blocks + 1) << "blocks did not come back";
  EXPECT_EQ(session().usage().objects, before_.objects + 1);
  EXPECT_EQ(references(*shared_.object), 1U);
  EXPECT_EQ(shared_.object->in_flight.load(), 0U);
  EXPECT_EQ(used_slots(session()), 1U) << "slots did not come back";
  session().trim(true);
  expect_sound_runs(session());
}

INSTANTIATE_TEST_SUITE_P(Points, MemoryCrashTest,
                         ::testing::Combine(::testing::ValuesIn(memory_points()), ::testing::Values(1, 2, 3)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param) + "_" + std::to_string(std::get<1>(info.param));
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(MemoryCrashPoints, AreThere) { EXPECT_GE(memory_points().size(), 20U); }

using AttachCrashTest = WatchedTest;

TEST_F(AttachCrashTest, AProcessThatDiesWhileItAttachesIsSwept) {
  for (const char* point : {"session.attached", "processes.claimed", "processes.adopt.held", "processes.adopt.live"}) {
    DescriptorPost post;
    const pid_t victim = in_plain_child([&] {
      const int descriptor = post.receive();
      set_crash_point(point);
      static_cast<void>(Session::attach(descriptor));
    });
    Session& session = new_session();
    post.send(session.descriptor());
    ASSERT_TRUE(was_killed(await_child(victim))) << point;
    age_embryos(session);
    session.sweep();
    EXPECT_EQ(used_slots(session), 1U) << point;
    EXPECT_EQ(session.usage().blocks, 0U) << point;
  }
}

// The sweeper dies in the sweep, and so does the one who sweeps what it was sweeping, and so on.
TEST_F(AttachCrashTest, ALineOfSweepersDies) {
  Session& session = test_session();
  session.sweep();
  const std::size_t before = session.usage().blocks;
  const Published published = publish(session);
  ASSERT_EQ(await_child(in_child([&] {
              SessionSubject subject;
              MessageQueue& queue = subject.make(0);
              static_cast<void>(put(queue, session.place(), 3));
              set_crash_point("objects.destroy.elected", 1, CrashKind::kExit);
              subject.drop();
            })),
            3 << 8);
  int deaths = 0;
  for (const std::string_view point : list_crash_points()) {
    if (point.starts_with("session.sweep.") || point.starts_with("processes.sweep.")) {
      const pid_t sweeper = in_plain_child([&] {
        static_cast<void>(session.open(published.handle));
        set_crash_point(point);
        session.sweep();
      });
      deaths += was_killed(await_child(sweeper)) ? 1 : 0;
    }
  }
  EXPECT_GE(deaths, 6);
  session.sweep();
  EXPECT_EQ(references(*published.object), 1U);
  EXPECT_EQ(used_slots(session), 1U);
  session.drop_reference(published.object);
  EXPECT_EQ(session.usage().blocks, before);
}

}  // namespace
}  // namespace freethreading::testing

#endif
