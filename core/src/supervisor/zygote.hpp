// Zygote: the supervisor's replaceable child that forks workers, one order at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "os/signals.hpp"
#include "pool/supervisor_protocol.hpp"

namespace freethreading::supervisor {

class Zygote {
 public:
  explicit Zygote(std::vector<std::string> argv) : argv_(std::move(argv)) {}
  Zygote(const Zygote&) = delete;
  Zygote& operator=(const Zygote&) = delete;
  ~Zygote() { forget(); }

  // Starts it where there is none. False: it cannot be started (errno).
  bool start(int death_pipe, const os::SignalMask& mask);
  // Sends an order and waits for no answer. False: it is gone.
  bool order(const protocol::StartOrder& order, const std::vector<int>& descriptors);
  // An answer that has come; none: no more, or it is gone.
  std::optional<protocol::StartAnswer> next_answer();
  void forget() noexcept;

  [[nodiscard]] int pid() const noexcept { return pid_; }
  [[nodiscard]] int socket() const noexcept { return socket_; }

 private:
  std::vector<std::string> argv_;
  int pid_ = 0;
  int socket_ = -1;
};

}  // namespace freethreading::supervisor
