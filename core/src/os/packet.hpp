// Packets between two processes that carry file descriptors (unix(7), SOCK_SEQPACKET).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace freethreading::os {

// Descriptors that one packet can carry: the kernel's SCM_MAX_FD.
inline constexpr std::size_t kMaxPacketDescriptors = 253;

enum class [[nodiscard]] PacketResult : std::uint8_t {
  kDone,
  kWouldBlock,  // a non-blocking call has nothing to receive, or no room to send
  kClosed,      // the other end is closed
  kFailed,      // errno
};

// Two connected ends, close-on-exec. False: errno.
[[nodiscard]] bool packet_pair(int& one, int& other) noexcept;

// Sends `size` bytes and duplicates of `descriptors`. Waits for room unless `wait` is false. Raises no SIGPIPE.
PacketResult send_packet(int socket, const void* bytes, std::size_t size, const std::vector<int>& descriptors, bool wait) noexcept;

// Receives one packet: `size` is the room before and the packet's size after; descriptors (close-on-exec) are the caller's.
PacketResult receive_packet(int socket, void* bytes, std::size_t& size, std::vector<int>& descriptors, bool wait) noexcept;

}  // namespace freethreading::os
