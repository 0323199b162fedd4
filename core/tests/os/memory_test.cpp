// How much memory the system says it has.
#include "os/memory.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace freethreading::os {
namespace {

constexpr std::uint64_t kUnknown = std::numeric_limits<std::uint64_t>::max();

TEST(AvailableMemory, IsReadFromTheTable) {
  EXPECT_EQ(available_memory_of("MemTotal:  9 kB\nMemAvailable:   1000 kB\nSwapTotal: 7 kB\nSwapFree:  24 kB\n"), 1024U * 1024U);
  EXPECT_EQ(available_memory_of("MemAvailable: 1 kB"), 1024U);
}

TEST(AvailableMemory, IsWithoutALimitWhereTheTableDoesNotSay) {
  for (const char* text : {"", "MemTotal: 5 kB\n", "MemAvailable:", "MemAvailable:   ", "MemAvailable: x kB", "XMemAvailable: 5 kB",
                           "MemAvailable: 99999999999999999999 kB", "MemAvailable: 18446744073709551615 kB"}) {
    EXPECT_EQ(available_memory_of(text), kUnknown) << '"' << text << '"';
  }
}

TEST(AvailableMemory, OfAGroupIsWhatItsLimitLeaves) {
  EXPECT_EQ(available_memory_of_group("1000\n", "400\n", ""), 600U);
  EXPECT_EQ(available_memory_of_group("1000", "1000", ""), 0U);
  EXPECT_EQ(available_memory_of_group("1000", "1200", ""), 0U) << "a limit that was lowered";
  EXPECT_EQ(available_memory_of_group("max\n", "400\n", ""), kUnknown);
  EXPECT_EQ(available_memory_of_group("1000", "", ""), kUnknown);
}

TEST(AvailableMemory, OfAGroupHasItsCacheOfFilesToo) {
  EXPECT_EQ(available_memory_of_group("1000", "400", "anon 1\ninactive_file 100\nactive_file 20\nfile 390\n"), 720U);
  EXPECT_EQ(available_memory_of_group("1000", "400", "inactive_file 3\nactive_file 5\ntotal_inactive_file 100\ntotal_active_file 20\n"),
            720U)
      << "version 1: with the groups below";
  EXPECT_EQ(available_memory_of_group("1000", "400", "inactive_file 500\n"), 1000U);
  EXPECT_EQ(available_memory_of_group("1000", "400", "inactive_file x\nworking_inactive_file 7\n"), 600U);
}

TEST(AvailableMemory, IsSome) { EXPECT_GT(available_memory(), 1U << 20); }

}  // namespace
}  // namespace freethreading::os
