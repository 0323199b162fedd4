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

TEST(AvailableMemory, IsSome) { EXPECT_GT(available_memory(), 1U << 20); }

}  // namespace
}  // namespace freethreading::os
