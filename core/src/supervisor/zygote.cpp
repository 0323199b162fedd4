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

bool Zygote::order() { return send(protocol::OrderKind::kFork, {}); }

bool Zygote::order_import(int description) { return send(protocol::OrderKind::kImport, {description}); }

bool Zygote::send(protocol::OrderKind kind, const std::vector<int>& descriptors) const {
  const protocol::ZygoteOrder order{.kind = kind};
  return os::send_packet(socket_, &order, sizeof order, descriptors, false) == os::PacketResult::kDone;
}

std::optional<Answer> Zygote::next_answer() {
  protocol::ZygoteAnswer answer{};
  std::size_t size = sizeof answer;
  std::vector<int> descriptors;
  if (os::receive_packet(socket_, &answer, size, descriptors, false) != os::PacketResult::kDone || size != sizeof answer) {
    return std::nullopt;
  }
  if (answer.kind == protocol::AnswerKind::kSuccessor) {
    pid_ = answer.pid;
  }
  return Answer{.kind = answer.kind, .pid = answer.pid, .socket = descriptors.empty() ? -1 : descriptors.front()};
}

void Zygote::forget() noexcept {
  if (socket_ >= 0) {
    os::close_descriptor(socket_);
    socket_ = -1;
  }
  pid_ = 0;
}

}  // namespace freethreading::supervisor
