#include "os/packet.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace freethreading::os {

namespace {

using ControlBuffer = std::array<char, CMSG_SPACE(kMaxPacketDescriptors * sizeof(int))>;

PacketResult failure() noexcept {
  switch (errno) {
    case EAGAIN:
      return PacketResult::kWouldBlock;
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
      return PacketResult::kClosed;
    default:
      return PacketResult::kFailed;
  }
}

}  // namespace

bool packet_pair(int& one, int& other) noexcept {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return false;
  }
  one = ends[0];
  other = ends[1];
  return true;
}

PacketResult send_packet(int socket, const void* bytes, std::size_t size, const std::vector<int>& descriptors,
                         bool wait) noexcept {
  iovec content{.iov_base = const_cast<void*>(bytes), .iov_len = size};  // NOLINT(*-const-cast): sendmsg reads only
  alignas(cmsghdr) ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    const std::size_t length = descriptors.size() * sizeof(int);
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(length);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(length);
    std::memcpy(CMSG_DATA(header), descriptors.data(), length);
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? failure() : PacketResult::kDone;
}

PacketResult receive_packet(int socket, void* bytes, std::size_t& size, std::vector<int>& descriptors, bool wait) noexcept {
  iovec content{.iov_base = bytes, .iov_len = size};
  alignas(cmsghdr) ControlBuffer control{};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t received = 0;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    return failure();
  }
  descriptors.clear();
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const std::size_t before = descriptors.size();
    descriptors.resize(before + count);
    std::memcpy(&descriptors[before], CMSG_DATA(header), count * sizeof(int));
  }
  size = static_cast<std::size_t>(received);
  return received == 0 ? PacketResult::kClosed : PacketResult::kDone;
}

}  // namespace freethreading::os
