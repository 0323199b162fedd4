// What a process writes to a PrivateView nobody else sees, and what it has not written is the region's.
#include "freethreading/memory/private_view.hpp"

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using PrivateViewTest = SessionTest;

TEST_F(PrivateViewTest, WritesStayInIt) {
  constexpr std::size_t kSize = 20'000;  // several pages, beginning in the middle of one
  const Offset block = place().allocate(kSize + 100);
  ASSERT_NE(block, kNoOffset);
  std::byte* shared = place().at<std::byte>(block) + 100;
  std::memset(shared, 1, kSize);
  {
    PrivateView first;
    PrivateView second;
    ASSERT_TRUE(first.map(session(), shared, kSize));
    ASSERT_TRUE(second.map(session(), shared, kSize));
    ASSERT_EQ(first.size(), kSize);
    EXPECT_EQ(std::memcmp(first.data(), shared, kSize), 0);
    first.data()[0] = std::byte{2};
    first.data()[kSize - 1] = std::byte{3};
    EXPECT_EQ(shared[0], std::byte{1});
    EXPECT_EQ(second.data()[0], std::byte{1});
    EXPECT_EQ(second.data()[kSize - 1], std::byte{1});
    EXPECT_EQ(first.data()[1], std::byte{1});
  }
  EXPECT_EQ(shared[0], std::byte{1});
  place().free(block);
}

TEST_F(PrivateViewTest, OfNothingIsEmpty) {
  PrivateView view;
  ASSERT_TRUE(view.map(session(), place().at<std::byte>(kNoOffset), 0));
  EXPECT_EQ(view.size(), 0U);
}

}  // namespace
}  // namespace freethreading::testing
