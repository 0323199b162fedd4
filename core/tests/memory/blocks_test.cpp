// Blocks of a region: taken, given back, used again, and whose they are.
#include <algorithm>
#include <random>
#include <set>
#include <thread>

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

class BlocksTest : public SessionTest {
 protected:
  static std::size_t secured() { return session().usage().file_bytes; }
};

TEST_F(BlocksTest, AreAlignedAndLargeEnough) {
  for (const std::size_t size : {0, 1, 63, 64, 65, 4000, 65'536, 65'537, 262'144, 262'145, 3'000'000}) {
    const Offset block = place().allocate(size);
    ASSERT_NE(block, kNoOffset) << size;
    EXPECT_EQ(block % 64, 0U) << size;
    EXPECT_GE(place().usable_size(block), size);
    std::memset(place().at<std::byte>(block), 0x5A, place().usable_size(block));
    place().free(block);
  }
}

TEST_F(BlocksTest, AreUsedAgainAtOnce) {
  for (const std::size_t size : {64, 1000, 60'000, 1'000'000}) {
    const Offset first = place().allocate(size);
    place().free(first);
    const Offset second = place().allocate(size);
    EXPECT_EQ(first, second) << size;
    place().free(second);
  }
}

// Small blocks for some megabytes; all of them given back.
void come_and_go(Place& place, std::size_t size, std::size_t bytes) {
  std::vector<Offset> blocks;
  for (std::size_t taken = 0; taken < bytes; taken += size) {
    blocks.push_back(place.allocate(size));
    ASSERT_NE(blocks.back(), kNoOffset);
    std::memset(place.at<std::byte>(blocks.back()), 0x5A, size);
  }
  for (const Offset block : blocks) {
    place.free(block);
  }
}

TEST_F(BlocksTest, SmallOnesThatAreFreeGiveTheirPagesBack) {
  for (const std::size_t size : {64, 1024, 65'536}) {
    session().trim(true);
    const std::size_t before = secured();
    come_and_go(place(), size, 8 << 20);
    EXPECT_GE(secured(), before + (8 << 20));
    session().trim(true);
    EXPECT_LT(secured(), before + (2 << 20)) << size;
    come_and_go(place(), size, 8 << 20);
    session().trim(true);
  }
  expect_sound_runs(session());
}

TEST_F(BlocksTest, AChunkWithABlockInUseKeepsItsPages) {
  const Offset held = place().allocate(1024);
  std::memset(place().at<std::byte>(held), 0x77, 1024);
  come_and_go(place(), 1024, 4 << 20);
  session().trim(true);
  EXPECT_EQ(std::count(place().at<std::byte>(held), place().at<std::byte>(held) + 1024, std::byte{0x77}), 1024);
  expect_sound_runs(session());
  place().free(held);
}

TEST_F(BlocksTest, APeriodsEndGivesHalfOfTheSurplusBack) {
  come_and_go(place(), 4096, 68 << 20);
  session().trim(true);
  come_and_go(place(), 4096, 68 << 20);
  const std::size_t full = secured();
  std::size_t last = full;
  for (int period = 0; period < 12; ++period) {
    place().at<memory::RegionHeader>(0)->runs.period_start.fetch_sub(2 * memory::Runs::kPeriod);
    session().trim();
    EXPECT_LE(secured(), last);
    EXPECT_GE(secured(), last / 3) << "all at once";
    last = secured();
  }
  EXPECT_LT(last, full / 6);
}

TEST_F(BlocksTest, SmallOnesAreTakenWhileTheirChunksAreTrimmed) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      while (!stop) {
        std::array<Offset, 10> blocks{};
        for (Offset& block : blocks) {
          block = place().allocate(32'768);
          ASSERT_NE(block, kNoOffset);
          std::memset(place().at<std::byte>(block), thread, 32'768);
        }
        for (const Offset block : blocks) {
          const auto* bytes = place().at<std::byte>(block);
          EXPECT_EQ(bytes[0], static_cast<std::byte>(thread));
          EXPECT_EQ(bytes[32'767], static_cast<std::byte>(thread));
          place().free(block);
        }
      }
    });
  }
  for (int times = 0; times < 50; ++times) {
    session().trim(true);
  }
  stop = true;
  for (std::thread& thread : threads) {
    thread.join();
  }
  session().trim(true);
  expect_sound_runs(session());
}

TEST_F(BlocksTest, DoNotOverlap) {
  constexpr std::size_t kSizes[] = {10, 64, 200, 3000, 40'000, 70'000, 300'000};
  std::vector<std::pair<Offset, Offset>> ranges;
  for (int round = 0; round < 40; ++round) {
    for (const std::size_t size : kSizes) {
      const Offset block = place().allocate(size);
      ASSERT_NE(block, kNoOffset);
      ranges.emplace_back(block, block + place().usable_size(block));
    }
  }
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    EXPECT_LE(ranges[i - 1].second, ranges[i].first);
  }
  for (const auto& [begin, end] : ranges) {
    place().free(begin);
  }
}

TEST_F(BlocksTest, TooLargeOnesAreRefused) {
  EXPECT_EQ(place().allocate(~std::size_t{0}), kNoOffset);
  EXPECT_EQ(place().allocate(std::size_t{1} << 50), kNoOffset);
}

TEST_F(BlocksTest, SmallOnesFillAChunkBeforeTheNextIsMade) {
  std::vector<Offset> blocks;
  for (std::size_t i = 0; i < 2 * memory::blocks_in_chunk(0); ++i) {
    blocks.push_back(place().allocate(64));
  }
  std::set<std::uint64_t> chunks;
  for (const Offset block : blocks) {
    chunks.insert((block - memory::kFirstChunk) / memory::kChunkSize);
  }
  EXPECT_LE(chunks.size(), 3U);
  EXPECT_EQ(std::set<Offset>(blocks.begin(), blocks.end()).size(), blocks.size());
  for (const Offset block : blocks) {
    place().free(block);
  }
}

// Many chunks' worth in use: no more chunks than it takes, but for those that are added without a look.
TEST_F(BlocksTest, ManyOfThemTakeNoMoreChunksThanTheyFill) {
  constexpr std::size_t kFilled = 100;
  const auto* header = place().at<memory::RegionHeader>(0);
  for (int round = 0; round < 3; ++round) {
    std::vector<Offset> blocks;
    const std::uint64_t before = header->chunks.load();
    for (std::size_t i = 0; i < kFilled * memory::blocks_in_chunk(4); ++i) {
      blocks.push_back(place().allocate(1024));
      ASSERT_NE(blocks.back(), kNoOffset);
    }
    EXPECT_LE(header->chunks.load(), before + (round == 0 ? kFilled + kFilled / 8 + 1 : 0));
    for (const Offset block : blocks) {
      place().free(block);
    }
    if (round == 1) {
      session().trim(true);
    }
  }
}

TEST_F(BlocksTest, AMillionOfThemLeaveMemoryFlat) {
  const auto turn = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const Offset block = place().allocate(static_cast<std::size_t>(i % 5) * 700);
      ASSERT_NE(block, kNoOffset);
      place().free(block);
    }
  };
  const auto* header = place().at<memory::RegionHeader>(0);
  turn(1000);
  session().trim(true);  // what else is warm goes at the end of a period, which may come in between
  const std::size_t before = secured();
  const std::uint64_t chunks = header->chunks.load();
  turn(1'000'000);
  session().trim(true);
  EXPECT_EQ(secured(), before);
  EXPECT_EQ(header->chunks.load(), chunks);
}

TEST_F(BlocksTest, LargeOnesOfAllSizesLeaveMemoryFlat) {
  const char* given = std::getenv("FT_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  SCOPED_TRACE("FT_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto turn = [&](int rounds) {
    std::array<Offset, 8> held{};
    for (int i = 0; i < rounds; ++i) {
      Offset& one = held[random() % held.size()];
      if (one != kNoOffset) {
        place().free(one);
      }
      one = place().allocate(70'000 + random() % 2'000'000);
      ASSERT_NE(one, kNoOffset);
    }
    for (const Offset one : held) {
      if (one != kNoOffset) {
        place().free(one);
      }
    }
  };
  turn(500);
  // No more than fragments of eight blocks of two megabytes, however long it goes on.
  const std::size_t before = secured();
  turn(20'000);
  EXPECT_LE(secured(), before + 32'000'000);
}

TEST_F(BlocksTest, ThreadsTakeAndGiveBack) {
  std::atomic<int> torn{0};
  std::vector<std::thread> threads;
  for (unsigned number = 1; number <= 4; ++number) {
    threads.emplace_back([&, number] {
      std::vector<Offset> held;
      for (unsigned i = 0; i < 5000; ++i) {
        const Offset block = place().allocate(64 << (i % 8));
        *place().at<unsigned>(block) = number * 100'000 + i;
        held.push_back(block);
        if (held.size() > 20) {
          torn += *place().at<unsigned>(held.front()) / 100'000 == number ? 0 : 1;
          place().free(held.front());
          held.erase(held.begin());
        }
      }
      for (const Offset block : held) {
        place().free(block);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(torn, 0);
}

TEST_F(BlocksTest, ProcessesTakeAndGiveBack) {
  const auto work = [&] {
    std::vector<Offset> held;
    const auto mark = static_cast<unsigned>(getpid());
    for (unsigned i = 0; i < 5000; ++i) {
      const Offset block = place().allocate(i % 50 == 0 ? 300'000 : 64 << (i % 8));
      ASSERT_NE(block, kNoOffset);
      *place().at<unsigned>(block) = mark;
      held.push_back(block);
      if (held.size() > 20) {
        ASSERT_EQ(*place().at<unsigned>(held.front()), mark);
        place().free(held.front());
        held.erase(held.begin());
      }
    }
    for (const Offset block : held) {
      place().free(block);
    }
  };
  const std::array<pid_t, 3> children{in_child(work), in_child(work), in_child(work)};
  work();
  for (const pid_t child : children) {
    EXPECT_EQ(await_child(child), 0);
  }
}

TEST_F(BlocksTest, ADeathGivesItsOwnBackAndLeavesLinkedOnes) {
  Scoreboard<Steps> steps;
  ASSERT_EQ(await_child(in_child([&] {
              ASSERT_NE(place().allocate(64), kNoOffset);
              ASSERT_NE(place().allocate(1'000'000), kNoOffset);
              steps->value = place().allocate(100);
              place().link(steps->value);
              steps->other = place().allocate(1'000'000);
              place().link(steps->other);
            })),
            0);
  session().sweep();
  EXPECT_EQ(session().usage().blocks, before_.blocks + 2);
  place().free(steps->value);
  place().free(steps->other);
}

TEST_F(BlocksTest, AdoptedOnesGoWithTheirAdopter) {
  const Offset block = place().allocate(100);
  place().link(block);
  place().link(block);  // may be said twice
  ASSERT_EQ(await_child(in_child([&] {
              place().adopt(block);
              place().adopt(block);
            })),
            0);
  session().sweep();
  EXPECT_EQ(session().usage().blocks, before_.blocks);
}

TEST_F(BlocksTest, UsageCountsThem) {
  const Offset small = place().allocate(100);
  const Offset large = place().allocate(600'000);
  const SessionUsage usage = session().usage();
  EXPECT_EQ(usage.blocks, before_.blocks + 2);
  EXPECT_EQ(usage.block_bytes, before_.block_bytes + place().usable_size(small) + place().usable_size(large));
  EXPECT_GE(usage.file_bytes, usage.block_bytes);
  place().free(small);
  place().free(large);
}

TEST(PrivateBlocks, AreOfTheProcessesOwnMemory) {
  Place& place = Place::private_memory();
  const Offset block = place.allocate(100);
  ASSERT_NE(block, kNoOffset);
  EXPECT_EQ(block % 64, 0U);
  EXPECT_GE(place.usable_size(block), 100U);
  std::memset(place.at<std::byte>(block), 1, place.usable_size(block));
  place.link(block);
  place.adopt(block);
  place.free(block);
  EXPECT_EQ(place.allocate(~std::size_t{0}), kNoOffset);
}

}  // namespace
}  // namespace freethreading::testing
