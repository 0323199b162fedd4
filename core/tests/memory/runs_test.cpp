// Runs of chunks: which are used again, how many stay warm, and what goes back to the system.
#include <random>

#include "memory/runs.hpp"

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using memory::kChunkSize;

constexpr std::size_t kMebibyte = std::size_t{1} << 20;

// Each test has a session of its own, so that it knows what is free.
class RunsTest : public WatchedTest {
 protected:
  void TearDown() override {
    expect_sound_runs(session_);
    session_.trim(true);
    expect_sound_runs(session_);
    WatchedTest::TearDown();
  }
  Offset take(std::uint64_t chunks) {
    const Offset block = session_.allocate(chunks * kChunkSize);
    EXPECT_NE(block, kNoOffset);
    return block;
  }
  // Under ThreadSanitizer only the ends: its shadow, four times as large, would be copied by every fork from then on.
  void fill(Offset block, int byte) {
    const std::size_t size = session_.usable_size(block);
    const std::size_t part = kThreadSanitizer ? std::size_t{4096} : size;
    std::memset(session_.place().at<std::byte>(block), byte, part);
    std::memset(session_.place().at<std::byte>(block + size - part), byte, part);
  }
  std::size_t file_bytes() { return session_.usage().file_bytes; }
  memory::RunHints& hints() { return session_.place().at<memory::RegionHeader>(0)->runs; }
  // Makes a period pass, and has it ended.
  void end_period() {
    hints().period_start.fetch_sub(2 * memory::Runs::kPeriod);
    session_.trim();
  }

  Session& session_ = new_session();
};

TEST_F(RunsTest, TheOneFreedLastIsUsedFirst) {
  std::vector<Offset> blocks;
  for (int i = 0; i < 6; ++i) {
    blocks.push_back(take(3));
    take(1);  // between them, so that they stay apart
  }
  for (const int number : {4, 0, 5, 2}) {
    session_.free_block(blocks[number]);
  }
  for (const int number : {2, 5, 0, 4}) {
    EXPECT_EQ(take(3), blocks[number]);
  }
}

TEST_F(RunsTest, TheOneThatFitsBestIsUsed) {
  const Offset large = take(20);
  take(1);
  const Offset middle = take(5);
  take(1);
  const Offset small = take(2);
  take(1);
  session_.free_block(small);
  session_.free_block(middle);
  session_.free_block(large);
  EXPECT_EQ(take(4), middle);
  EXPECT_EQ(take(1), middle + 4 * kChunkSize);
  EXPECT_EQ(take(2), small);
  EXPECT_EQ(take(6), large);
  EXPECT_EQ(take(14), large + 6 * kChunkSize);
}

TEST_F(RunsTest, WhatAnotherProcessFreedIsUsedToo) {
  const Offset block = take(4);
  session_.link(block);
  EXPECT_EQ(await_child(in_plain_child([&] { session_.free_block(block); })), 0);
  EXPECT_EQ(take(4), block);
}

TEST_F(RunsTest, OldOnesAreFoundAmongMany) {
  std::vector<Offset> blocks;
  for (std::size_t i = 0; i < 2 * memory::RunHints::kRecent; ++i) {
    blocks.push_back(session_.allocate(kChunkSize));
  }
  hints().peak.store(static_cast<std::int64_t>(blocks.size()) * 2);  // all may stay warm
  for (std::size_t i = 0; i < blocks.size(); i += 2) {
    session_.free_block(blocks[i]);
  }
  const std::uint64_t chunks = session_.place().at<memory::RegionHeader>(0)->chunks.load();
  const std::size_t bytes = file_bytes();
  for (std::size_t i = 0; i < blocks.size(); i += 2) {
    take(1);
  }
  EXPECT_EQ(session_.place().at<memory::RegionHeader>(0)->chunks.load(), chunks);
  EXPECT_EQ(file_bytes(), bytes);
}

TEST_F(RunsTest, AThousandBigOnesKeepTheFileBounded) {
  std::size_t most = 0;
  for (int i = 0; i < 1000; ++i) {
    const Offset block = take(64 * kMebibyte / kChunkSize);
    if (i % 100 == 0) {
      fill(block, i);
    }
    most = std::max(most, file_bytes());
    session_.free_block(block);
  }
  EXPECT_LE(most, 64 * kMebibyte + kMebibyte);
  session_.trim(true);
  EXPECT_LT(file_bytes(), kMebibyte);
}

TEST_F(RunsTest, OnesOfManySizesKeepTheFileBounded) {
  std::mt19937_64 random(1);
  std::size_t used = 0;
  std::size_t most_used = 0;
  std::vector<Offset> held;
  for (int i = 0; i < 3000; ++i) {
    held.push_back(take(1 + random() % 40));
    used += session_.usable_size(held.back());
    most_used = std::max(most_used, used);
    if (held.size() > 12) {
      const std::size_t at = random() % held.size();
      used -= session_.usable_size(held[at]);
      session_.free_block(held[at]);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
    }
    ASSERT_LE(file_bytes(), most_used + 65 * kMebibyte);
  }
}

TEST_F(RunsTest, WhoFreesGivesTheSurplusBack) {
  std::array<Offset, 3> blocks{};
  for (Offset& block : blocks) {
    block = take(40 * kMebibyte / kChunkSize);
    fill(block, 1);
  }
  hints().peak.store(0);  // as if it were long ago that so much was in use
  for (const Offset block : blocks) {
    session_.free_block(block);
  }
  EXPECT_LE(file_bytes(), 65 * kMebibyte);
  EXPECT_GE(file_bytes(), 64 * kMebibyte);
  // The last ones are the warm ones.
  EXPECT_EQ(take(40 * kMebibyte / kChunkSize), blocks[2]);
  EXPECT_LE(file_bytes(), 65 * kMebibyte);
}

// The heads of others have fallen out of the ring of recent ones: still they are older.
TEST_F(RunsTest, TheSurplusIsNotOfTheOneFreedLast) {
  const Offset old = take(200);
  const Offset block = take(200);
  hints().peak.store(0);
  session_.free_block(old);
  for (auto& noted : hints().recent) {
    noted.store(0);
  }
  session_.free_block(block);
  const std::size_t bytes = file_bytes();
  EXPECT_LE(bytes, 65 * kMebibyte);
  EXPECT_EQ(take(200), block);
  EXPECT_EQ(file_bytes(), bytes);
}

TEST_F(RunsTest, AsMuchAsWasInUseLatelyStaysWarm) {
  std::array<Offset, 3> blocks{};
  for (Offset& block : blocks) {
    block = take(40 * kMebibyte / kChunkSize);
  }
  for (const Offset block : blocks) {
    session_.free_block(block);
  }
  const std::size_t bytes = file_bytes();
  EXPECT_GE(bytes, 120 * kMebibyte);
  // Two periods later nothing is left of it but what always stays, as long as somebody takes runs.
  for (int period = 0; period < 2; ++period) {
    session_.free_block(take(1));
    end_period();
  }
  session_.free_block(take(1));
  end_period();
  EXPECT_LE(file_bytes(), 65 * kMebibyte);
  EXPECT_GE(file_bytes(), 64 * kMebibyte);
}

TEST_F(RunsTest, WhatIsIdleGoesAfterAPeriod) {
  const Offset kept = take(3);
  fill(kept, 7);
  const Offset block = take(40);
  fill(block, 1);
  session_.free_block(block);
  end_period();  // it was used in this one
  EXPECT_GE(file_bytes(), 40 * kChunkSize);
  end_period();
  EXPECT_LT(file_bytes(), 8 * kChunkSize);
  EXPECT_EQ(*session_.place().at<unsigned char>(kept), 7);
  EXPECT_EQ(*session_.place().at<unsigned char>(kept + 3 * kChunkSize - 1), 7);
}

TEST_F(RunsTest, NothingGoesBeforeThePeriodIsOver) {
  session_.trim();
  session_.free_block(take(40));
  for (int i = 0; i < 5; ++i) {
    session_.trim();
  }
  EXPECT_GE(file_bytes(), 40 * kChunkSize);
}

TEST_F(RunsTest, SmallBlocksAloneEndAPeriodToo) {
  session_.trim();
  session_.free_block(take(40));
  session_.free_block(session_.allocate(64));
  end_period();
  hints().period_start.fetch_sub(3 * memory::Runs::kPeriod);
  for (int i = 0; i < 3000; ++i) {
    session_.free_block(session_.allocate(64));
  }
  EXPECT_LT(file_bytes(), 8 * kChunkSize);
}

TEST_F(RunsTest, WhatWasGivenBackCanBeHadAgain) {
  const Offset block = take(30);
  fill(block, 9);
  session_.free_block(block);
  session_.trim(true);
  EXPECT_LT(file_bytes(), 8 * kChunkSize);
  EXPECT_EQ(take(30), block);
  EXPECT_EQ(*session_.place().at<unsigned char>(block + 5 * kChunkSize), 0);
  fill(block, 3);
  EXPECT_GE(file_bytes(), 30 * kChunkSize);
  session_.free_block(block);
}

TEST_F(RunsTest, FreeNeighboursBecomeOne) {
  session_.free_block(take(8));
  const std::size_t before = file_bytes();
  std::vector<Offset> pieces;
  for (int i = 0; i < 8; ++i) {
    pieces.push_back(take(1));
  }
  for (const Offset piece : pieces) {
    session_.free_block(piece);
  }
  EXPECT_EQ(take(8), pieces.front());
  EXPECT_EQ(file_bytes(), before);
}

TEST_F(RunsTest, WarmAndUnbackedNeighboursMakeOneBlock) {
  const Offset first = take(10);
  const Offset second = take(10);
  session_.free_block(first);
  session_.trim(true);
  session_.free_block(second);
  const Offset both = take(20);
  EXPECT_EQ(both, first);
  fill(both, 1);
  session_.free_block(both);
  session_.trim(true);
  EXPECT_EQ(take(15), first);
  EXPECT_EQ(take(5), first + 15 * kChunkSize);
}

TEST_F(RunsTest, TheFreeEndGrows) {
  const Offset block = take(10);
  session_.free_block(block);
  EXPECT_EQ(take(25), block);
  EXPECT_EQ(session_.place().at<memory::RegionHeader>(0)->chunks.load(), 25U);
}

// The chunks that a death in the middle of a cut leaves without a head, with their pages.
TEST_F(RunsTest, ChunksWithoutAHeadAreFree) {
  const Offset block = take(30);
  fill(block, 1);
  take(1);
  auto* descriptors = session_.place().at<std::atomic<std::uint64_t>>(memory::kDescriptors);
  descriptors[10].store(0);
  descriptors[0].store(memory::run_descriptor(memory::run_block_word(descriptors[0].load()), 10));
  const SessionUsage usage = session_.usage();
  EXPECT_EQ(usage.blocks, 2U);
  session_.trim(true);
  EXPECT_LT(file_bytes(), 14 * kChunkSize);
  EXPECT_EQ(take(20), block + 10 * kChunkSize);
}

TEST_F(RunsTest, ABlockOfADeadProcessThatWasNotSecuredComesBack) {
  const Offset block = take(30);
  fill(block, 1);
  Scoreboard<Steps> steps;
  const pid_t child = in_plain_child([&] { steps->value = session_.place().self(); });
  ASSERT_EQ(await_child(child), 0);
  auto* descriptor = session_.place().at<std::atomic<std::uint64_t>>(memory::kDescriptors);
  const auto dead = static_cast<OwnerId>(steps->value.load());
  descriptor->store(memory::run_descriptor(memory::block_word(memory::BlockKind::kBacking, dead), 30));
  EXPECT_EQ(session_.usage().blocks, 0U);
  session_.sweep();
  EXPECT_LT(file_bytes(), kChunkSize);
  EXPECT_EQ(take(30), block);
}

// Blocks change hands among processes through places on a board; each carries what is in it.
struct Exchange {
  std::array<std::atomic<Offset>, 16> places{};
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> exchanged{0};
};

class RunsStressTest : public RunsTest {
 protected:
  struct Head {
    std::uint64_t seed;
    std::uint64_t words;
  };
  void write(Offset block, std::uint64_t seed) {
    auto* head = session_.place().at<Head>(block);
    *head = {.seed = seed, .words = session_.usable_size(block) / 8};
    auto* words = session_.place().at<std::uint64_t>(block);
    for (std::uint64_t i = 2; i < head->words; i += 61) {
      words[i] = seed * i;
    }
  }
  [[nodiscard]] bool check(Offset block) {
    const auto* head = session_.place().at<Head>(block);
    const auto* words = session_.place().at<std::uint64_t>(block);
    bool fine = head->words == session_.usable_size(block) / 8;
    for (std::uint64_t i = 2; fine && i < head->words; i += 61) {
      fine = words[i] == head->seed * i;
    }
    return fine;
  }
  void exchange(Exchange& board, std::uint64_t rounds) {
    std::mt19937_64 random(static_cast<std::uint64_t>(getpid()));
    for (std::uint64_t round = 0; round < rounds && !board.stop; ++round) {
      const std::uint64_t size = random() % 4 == 0 ? 1 + random() % 60'000 : 70'000 + random() % 4'000'000;
      Offset block = session_.allocate(size);
      ASSERT_NE(block, kNoOffset);
      write(block, random());
      session_.link(block);
      block = board.places[random() % board.places.size()].exchange(block);
      if (block != kNoOffset) {
        session_.adopt(block, false);
        ASSERT_TRUE(check(block));
        session_.free_block(block);
      }
      if (random() % 16 == 0) {
        session_.trim(random() % 2 == 0);
      }
      if (random() % 64 == 0) {
        hints().peak.store(0);
        hints().warm.store(static_cast<std::int64_t>(random() % 2000));  // a hint may be wrong
      }
      board.exchanged.fetch_add(1);
    }
  }
  void drain(Exchange& board) {
    for (std::atomic<Offset>& place : board.places) {
      if (const Offset block = place.exchange(kNoOffset); block != kNoOffset) {
        EXPECT_TRUE(check(block));
        session_.free_block(block);
      }
    }
  }
};

TEST_F(RunsStressTest, ProcessesTakeFreeAndGiveBack) {
  Scoreboard<Exchange> board;
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(in_plain_child([&] { exchange(*board, kThreadSanitizer ? 150 : 400); }));
  }
  for (const pid_t child : children) {
    EXPECT_EQ(await_child(child), 0);
  }
  drain(*board);
  session_.sweep();
  EXPECT_EQ(session_.usage().blocks, 0U);
}

TEST_F(RunsStressTest, ProcessesAreKilledAtIt) {
  Scoreboard<Exchange> board;
  std::mt19937_64 random(2);
  const pid_t survivor = in_plain_child([&] { exchange(*board, ~std::uint64_t{0}); });
  for (int i = 0; i < (kThreadSanitizer ? 12 : 40); ++i) {
    const pid_t victim = in_plain_child([&] { exchange(*board, ~std::uint64_t{0}); });
    const std::uint64_t before = board->exchanged;
    const std::uint64_t more = 1 + random() % 40;
    EXPECT_TRUE(eventually([&] { return board->exchanged > before + more; }));
    kill(victim, SIGKILL);
    EXPECT_TRUE(was_killed(await_child(victim)));
    session_.sweep();
  }
  board->stop = true;
  EXPECT_EQ(await_child(survivor), 0);
  drain(*board);
  session_.sweep();
  EXPECT_LE(session_.usage().blocks, 40U) << "more than the ones that were linked and on their way";
  session_.trim(true);
}

}  // namespace
}  // namespace freethreading::testing
