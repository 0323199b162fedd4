// SharedBuffer: zeroed bytes in private memory and in a region.
#include "freethreading/memory/shared_buffer.hpp"

#include <algorithm>
#include <limits>

#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

constexpr std::size_t kSizes[] = {0, 1, 63, 64, 1000, 65'536, 300'000, 5'000'001};
constexpr std::size_t kTooMuch[] = {std::size_t{1} << 46, std::numeric_limits<std::size_t>::max() / 2,
                                    std::numeric_limits<std::size_t>::max()};

bool is_aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % 64 == 0; }

class SharedBufferTest : public SessionTest {
 protected:
  static void expect_zeros(SharedBuffer& buffer, std::size_t size) {
    EXPECT_EQ(buffer.size(), size);
    EXPECT_TRUE(is_aligned(buffer.data()));
    EXPECT_EQ(std::count(buffer.data(), buffer.data() + size, std::byte{0}), static_cast<std::ptrdiff_t>(size));
    std::fill_n(buffer.data(), size, std::byte{0xA5});
  }
  ObjectHeader* make(std::size_t size) {
    ObjectHeader* object = SharedBuffer::make_shared(session(), size);
    if (object != nullptr) {
      session().publish_object(object);
    }
    return object;
  }
};

TEST_F(SharedBufferTest, OfPrivateMemoryIsZeroedAndAligned) {
  for (int round = 0; round < 2; ++round) {
    for (const std::size_t size : kSizes) {
      SharedBuffer* buffer = SharedBuffer::make_private(size);
      ASSERT_NE(buffer, nullptr);
      expect_zeros(*buffer, size);
      SharedBuffer::end_private(buffer);
    }
  }
}

TEST_F(SharedBufferTest, OfARegionIsZeroedAndAlignedAlsoWhereOthersLay) {
  for (int round = 0; round < 2; ++round) {
    for (const std::size_t size : kSizes) {
      ObjectHeader* object = make(size);
      ASSERT_NE(object, nullptr);
      EXPECT_EQ(object->type, ObjectType::kSharedBuffer);
      expect_zeros(*object->body<SharedBuffer>(), size);
      session().drop_reference(object);
    }
  }
}

TEST_F(SharedBufferTest, MoreThanThereIsIsRefused) {
  for (const std::size_t size : kTooMuch) {
    EXPECT_EQ(make(size), nullptr) << size;
    if (!kAddressSanitizer && !kThreadSanitizer) {  // they end the program instead
      EXPECT_EQ(SharedBuffer::make_private(size), nullptr) << size;
    }
  }
}

TEST_F(SharedBufferTest, WhatOneProcessWritesTheOthersSee) {
  ObjectHeader* object = make(100'000);
  ASSERT_NE(object, nullptr);
  std::byte* data = object->body<SharedBuffer>()->data();
  EXPECT_EQ(await_child(in_child([&] { data[99'999] = std::byte{7}; })), 0);
  EXPECT_EQ(data[99'999], std::byte{7});
  session().drop_reference(object);
}

TEST_F(SharedBufferTest, OneThatIsFreeIsUsedAgain) {
  constexpr std::size_t kSize = std::size_t{20} << 20;
  ObjectHeader* first = make(kSize);
  ASSERT_NE(first, nullptr);
  const std::size_t before = session().usage().file_bytes;
  session().drop_reference(first);
  ObjectHeader* second = make(kSize);
  ASSERT_NE(second, nullptr);
  EXPECT_LE(session().usage().file_bytes, before);
  session().drop_reference(second);
}

TEST_F(SharedBufferTest, ADeathGivesItBack) {
  ASSERT_EQ(await_child(in_child([&] {
              ASSERT_NE(make(1'000'000), nullptr);
              ASSERT_NE(SharedBuffer::make_shared(session(), 1'000'000), nullptr);
            })),
            0);
  session().sweep();
  EXPECT_EQ(session().usage().blocks, before_.blocks);
}

}  // namespace
}  // namespace freethreading::testing
