// Where there is no memory, no descriptor or no address space, calls say so: no signal ends the process.
#include <fcntl.h>

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

// Each in a process of its own, whose limit nobody else feels.
class LimitsTest : public WatchedTest {
 protected:
  static void limit(int what, rlim_t value) {
    rlimit both{};
    ASSERT_EQ(getrlimit(static_cast<__rlimit_resource_t>(what), &both), 0);
    both.rlim_cur = value;
    ASSERT_EQ(setrlimit(static_cast<__rlimit_resource_t>(what), &both), 0);
  }
  // What this process has mapped now, and `more`.
  static void limit_address_space(rlim_t more) {
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    ASSERT_NE(file, nullptr);
    unsigned long pages = 0;
    ASSERT_EQ(std::fscanf(file, "%lu", &pages), 1);
    std::fclose(file);
    limit(RLIMIT_AS, pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + more);
  }
  static int lowest_free_descriptor() {
    const int lowest = dup(STDERR_FILENO);
    close(lowest);
    return lowest;
  }
  static void expect_success(const std::function<void()>& body) {
    const int status = await_child(in_plain_child(body));
    EXPECT_FALSE(WIFSIGNALED(status)) << "signal " << WTERMSIG(status);
    EXPECT_EQ(status, 0);
  }
};

TEST_F(LimitsTest, ASessionNeedsADescriptor) {
  expect_success([] {
    limit(RLIMIT_NOFILE, 3);
    const SessionResult result = Session::create();
    EXPECT_EQ(result.session, nullptr);
    EXPECT_EQ(result.error, SessionError::kNoDescriptor);
    EXPECT_EQ(result.error_number, EMFILE);
  });
}

TEST_F(LimitsTest, AProcessWithoutFreeDescriptorsSeesTheLivingLive) {
  expect_success([] {
    Session& session = new_session();
    const OwnerId parent = session.place().self();
    EXPECT_EQ(await_child(in_plain_child([&] {
                limit(RLIMIT_NOFILE, 3);
                EXPECT_NE(session.place().self(), parent);
                EXPECT_EQ(session.liveness(parent), Liveness::kAlive);
                EXPECT_EQ(session.liveness(session.place().self()), Liveness::kAlive);
              })),
              0);
  });
}

TEST_F(LimitsTest, ASessionNeedsRoomForItsTables) {
  expect_success([] {
    const int lowest = lowest_free_descriptor();
    limit(RLIMIT_FSIZE, 4096);
    const SessionResult result = Session::create();
    EXPECT_EQ(result.session, nullptr);
    EXPECT_EQ(result.error, SessionError::kNoMemory);
    EXPECT_EQ(lowest_free_descriptor(), lowest) << "its descriptor leaked";
  });
}

TEST_F(LimitsTest, GrowthEndsAtTheLimitOfFileSizes) {
  expect_success([] {
    Session& session = new_session();
    limit(RLIMIT_FSIZE, memory::kFirstChunk + 8 * memory::kChunkSize);
    std::vector<Offset> blocks;
    for (Offset block = session.allocate(memory::kChunkSize); block != kNoOffset;
         block = session.allocate(memory::kChunkSize)) {
      std::memset(session.place().at<std::byte>(block), 1, memory::kChunkSize);
      blocks.push_back(block);
      ASSERT_LE(blocks.size(), 8U);
    }
    EXPECT_EQ(blocks.size(), 8U);
    EXPECT_EQ(session.allocate(64), kNoOffset);
    EXPECT_EQ(session.create_object(ObjectType::kLock, 64), nullptr);
    // What is freed can be had again, for small blocks too.
    session.free_block(blocks.back());
    const Offset small = session.allocate(64);
    ASSERT_NE(small, kNoOffset);
    std::memset(session.place().at<std::byte>(small), 1, session.usable_size(small));
  });
}

TEST_F(LimitsTest, AnotherProcessMayGrowWhatThisOneMayNot) {
  expect_success([] {
    Session& session = new_session();
    const pid_t child = in_plain_child([&] {
      const Offset block = session.allocate(memory::kChunkSize);
      ASSERT_NE(block, kNoOffset);
      session.link(block);
    });
    ASSERT_EQ(await_child(child), 0);
    limit(RLIMIT_FSIZE, 4096);
    EXPECT_EQ(session.allocate(memory::kChunkSize), kNoOffset);
    // The pages that the other one secured are here too.
    std::memset(session.place().at<std::byte>(memory::kFirstChunk), 1, memory::kChunkSize);
  });
}

TEST_F(LimitsTest, WhatWasGivenBackIsNotHadAgainBeyondTheLimit) {
  expect_success([] {
    Session& session = new_session();
    const Offset low = session.allocate(2 * memory::kChunkSize);
    const Offset high = session.allocate(8 * memory::kChunkSize);
    session.free_block(high);
    session.trim(true);
    const SessionUsage before = session.usage();
    const auto word = [&] {
      return session.place().at<std::atomic<std::uint64_t>>(memory::kDescriptors)[2].load();
    };
    const std::uint64_t unbacked = word();
    const rlim_t limit_now = memory::kFirstChunk + 4 * memory::kChunkSize;
    limit(RLIMIT_FSIZE, limit_now);
    for (int i = 0; i < 100; ++i) {
      EXPECT_EQ(session.allocate(8 * memory::kChunkSize), kNoOffset);
      EXPECT_EQ(session.allocate((100 + static_cast<std::size_t>(i)) * memory::kChunkSize), kNoOffset);
    }
    EXPECT_EQ(session.usage().file_bytes, before.file_bytes);
    EXPECT_EQ(session.usage().blocks, 1U);
    EXPECT_EQ(memory::kind_of(memory::run_block_word(word())), memory::kind_of(memory::run_block_word(unbacked)));
    EXPECT_LE(session.place().at<memory::RegionHeader>(0)->chunks.load(), 202U) << "refused ones use address space up";
    // What lies below the limit can be had, and the rest when the limit is gone.
    const Offset fits = session.allocate(2 * memory::kChunkSize);
    ASSERT_EQ(fits, high);
    std::memset(session.place().at<std::byte>(fits), 1, 2 * memory::kChunkSize);
    std::memset(session.place().at<std::byte>(low), 1, 2 * memory::kChunkSize);
    rlimit both{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &both), 0);
    both.rlim_cur = both.rlim_max;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &both), 0);
    const Offset rest = session.allocate(6 * memory::kChunkSize);
    ASSERT_EQ(rest, fits + 2 * memory::kChunkSize);
    std::memset(session.place().at<std::byte>(rest), 1, 6 * memory::kChunkSize);
    expect_sound_runs(session);
  });
}

TEST_F(LimitsTest, WithoutTheDescriptorOnlyWhatIsWarmIsHad) {
  expect_success([] {
    Session& session = new_session();
    const Offset given_back = session.allocate(8 * memory::kChunkSize);
    const Offset warm = session.allocate(4 * memory::kChunkSize);
    session.free_block(given_back);
    session.trim(true);
    session.free_block(warm);
    close(session.descriptor());
    EXPECT_EQ(session.allocate(8 * memory::kChunkSize), kNoOffset);
    EXPECT_EQ(session.allocate(4 * memory::kChunkSize), warm);
    std::memset(session.place().at<std::byte>(warm), 1, 4 * memory::kChunkSize);
    session.free_block(warm);
    session.trim(true);  // nothing can be given back: it stays warm
    EXPECT_EQ(session.allocate(4 * memory::kChunkSize), warm);
    std::memset(session.place().at<std::byte>(warm), 1, 4 * memory::kChunkSize);
  });
}

TEST_F(LimitsTest, ASmallAddressSpaceGetsASmallerRegion) {
  if (kThreadSanitizer || kAddressSanitizer) {
    GTEST_SKIP() << "a sanitizer's shadow takes more address space than any limit";
  }
  expect_success([] {
    limit_address_space(rlim_t{2} << 30);
    Session& session = new_session();
    const auto reserved = session.place().at<memory::RegionHeader>(0)->reserved;
    EXPECT_LT(reserved, std::uint64_t{2} << 30);
    EXPECT_GE(reserved, std::uint64_t{64} << 20);
    EXPECT_EQ(session.allocate(reserved), kNoOffset);
    EXPECT_EQ(session.allocate(std::size_t{1} << 62), kNoOffset);
    EXPECT_NE(session.allocate(1 << 20), kNoOffset);
  });
}

TEST_F(LimitsTest, NoAddressSpaceIsAnError) {
  if (kThreadSanitizer || kAddressSanitizer) {
    GTEST_SKIP() << "a sanitizer's shadow takes more address space than any limit";
  }
  expect_success([] {
    const int lowest = lowest_free_descriptor();
    limit_address_space(rlim_t{48} << 20);
    const SessionResult result = Session::create();
    EXPECT_EQ(result.session, nullptr);
    EXPECT_EQ(result.error, SessionError::kNoMemory);
    EXPECT_EQ(lowest_free_descriptor(), lowest) << "its descriptor leaked";
  });
}

TEST_F(LimitsTest, AProcessThatCannotMapTheRegionIsToldSo) {
  if (kThreadSanitizer || kAddressSanitizer) {
    GTEST_SKIP() << "a sanitizer's shadow takes more address space than any limit";
  }
  expect_success([] {
    DescriptorPost post;
    const pid_t child = in_plain_child([&] {
      limit_address_space(rlim_t{1} << 30);
      const SessionResult result = Session::attach(post.receive());
      EXPECT_EQ(result.error, SessionError::kNoMemory);
    });
    post.send(new_session().descriptor());
    EXPECT_EQ(await_child(child), 0);
  });
}

}  // namespace
}  // namespace freethreading::testing
