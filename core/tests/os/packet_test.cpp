#include "os/packet.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "os/memfd.hpp"

namespace freethreading::os {
namespace {

class Packet : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(packet_pair(one_, other_)); }
  void TearDown() override {
    close_descriptor(one_);
    if (other_ >= 0) {
      close_descriptor(other_);
    }
  }
  int one_ = -1;
  int other_ = -1;
};

TEST_F(Packet, KeepsItsBoundsAndItsOrder) {
  ASSERT_EQ(send_packet(one_, "first", 5, {}, false), PacketResult::kDone);
  ASSERT_EQ(send_packet(one_, "2", 1, {}, false), PacketResult::kDone);
  char bytes[16];
  std::vector<int> descriptors;
  for (const std::string expected : {"first", "2"}) {
    std::size_t size = sizeof bytes;
    ASSERT_EQ(receive_packet(other_, bytes, size, descriptors, false), PacketResult::kDone);
    EXPECT_EQ(std::string(bytes, size), expected);
    EXPECT_TRUE(descriptors.empty());
  }
}

TEST_F(Packet, CarriesDescriptorsWhichAreClosedOnExec) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(send_packet(one_, "x", 1, {ends[1], ends[1]}, false), PacketResult::kDone);
  close(ends[1]);
  char byte = 0;
  std::size_t size = 1;
  std::vector<int> received;
  ASSERT_EQ(receive_packet(other_, &byte, size, received, false), PacketResult::kDone);
  ASSERT_EQ(received.size(), 2U);
  for (const int descriptor : received) {
    EXPECT_NE(fcntl(descriptor, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(write(descriptor, "y", 1), 1);
    close(descriptor);
  }
  char both[2];
  EXPECT_EQ(read(ends[0], both, 2), 2);
  EXPECT_EQ(read(ends[0], both, 1), 0) << "a descriptor is still open somewhere";
  close(ends[0]);
}

TEST_F(Packet, CarriesAsManyDescriptorsAsTheKernelAllows) {
  const std::vector<int> many(kMaxPacketDescriptors, one_);
  ASSERT_EQ(send_packet(one_, "x", 1, many, false), PacketResult::kDone);
  EXPECT_EQ(send_packet(one_, "x", 1, std::vector<int>(kMaxPacketDescriptors, -1), false), PacketResult::kFailed);
  char byte = 0;
  std::size_t size = 1;
  std::vector<int> received;
  ASSERT_EQ(receive_packet(other_, &byte, size, received, false), PacketResult::kDone);
  EXPECT_EQ(received.size(), kMaxPacketDescriptors);
  for (const int descriptor : received) {
    close(descriptor);
  }
}

TEST_F(Packet, SaysThatNothingIsThereOrThatTheOtherEndIsClosed) {
  char byte = 0;
  std::size_t size = 1;
  std::vector<int> received;
  EXPECT_EQ(receive_packet(one_, &byte, size, received, false), PacketResult::kWouldBlock);
  close_descriptor(other_);
  other_ = -1;
  size = 1;
  EXPECT_EQ(receive_packet(one_, &byte, size, received, false), PacketResult::kClosed);
  EXPECT_EQ(send_packet(one_, "x", 1, {}, false), PacketResult::kClosed);
}

TEST_F(Packet, ReturnsFromAFullSocketWhereItMayNotWait) {
  const std::string bytes(1024, 'x');
  PacketResult result = PacketResult::kDone;
  for (int count = 0; count < 1'000'000 && result == PacketResult::kDone; ++count) {
    result = send_packet(one_, bytes.data(), bytes.size(), {}, false);
  }
  EXPECT_EQ(result, PacketResult::kWouldBlock);
}

}  // namespace
}  // namespace freethreading::os
