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

bool Zygote::order() {
  const protocol::ForkOrder order{.number = ++ordered_};
  return os::send_packet(socket_, &order, sizeof order, {}, false) == os::PacketResult::kDone;
}

std::optional<Forked> Zygote::next_answer() {
  protocol::ForkAnswer answer{};
  std::size_t size = sizeof answer;
  std::vector<int> descriptors;
  if (os::receive_packet(socket_, &answer, size, descriptors, false) != os::PacketResult::kDone || size != sizeof answer) {
    return std::nullopt;
  }
  return Forked{.pid = answer.pid, .socket = descriptors.empty() ? -1 : descriptors.front()};
}

void Zygote::forget() noexcept {
  if (socket_ >= 0) {
    os::close_descriptor(socket_);
    socket_ = -1;
  }
  pid_ = 0;
}

}  // namespace freethreading::supervisor
