#include "supervisor/zygote.hpp"

#include "os/children.hpp"
#include "os/memfd.hpp"
#include "os/packet.hpp"

namespace freethreading::supervisor {

bool Zygote::start(int death_pipe, const os::SignalMask& mask) {
  if (pid_ != 0) {
    return true;
  }
  int theirs = -1;
  if (!os::packet_pair(socket_, theirs)) {
    return false;
  }
  pid_ = os::spawn(argv_, {theirs, protocol::kRegion, protocol::kPreparation, death_pipe}, &mask);
  os::close_descriptor(theirs);
  if (pid_ == 0) {
    forget();
  }
  return pid_ != 0;
}

bool Zygote::order(const protocol::StartOrder& order, const std::vector<int>& descriptors) {
  return os::send_packet(socket_, &order, sizeof order, descriptors, true) == os::PacketResult::kDone;
}

std::optional<protocol::StartAnswer> Zygote::next_answer() {
  protocol::StartAnswer answer{};
  std::size_t size = sizeof answer;
  std::vector<int> none;
  if (os::receive_packet(socket_, &answer, size, none, false) != os::PacketResult::kDone || size != sizeof answer) {
    return std::nullopt;
  }
  return answer;
}

void Zygote::forget() noexcept {
  if (socket_ >= 0) {
    os::close_descriptor(socket_);
    socket_ = -1;
  }
  pid_ = 0;
}

}  // namespace freethreading::supervisor
