// Zygote: the supervisor's replaceable child that forks spares, one for each order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "os/signals.hpp"
#include "pool/supervisor_protocol.hpp"

namespace freethreading::supervisor {

// What came of an order.
struct Forked {
  int pid = 0;      // 0: it could not be forked
  int socket = -1;  // its orders go there; -1: there was no descriptor left for it, and it leaves
};

class Zygote {
 public:
  explicit Zygote(std::vector<std::string> argv) : argv_(std::move(argv)) {}
  Zygote(const Zygote&) = delete;
  Zygote& operator=(const Zygote&) = delete;
  ~Zygote() { forget(); }

  // Starts it where there is none. False: it cannot be started (errno).
  bool start(int death_pipe, const os::SignalMask& mask);
  // Orders a spare and waits for no answer. False: it is gone, or has too many orders before it.
  bool order();
  // An answer that has come; none: no more, or it is gone.
  std::optional<Forked> next_answer();
  void forget() noexcept;

  [[nodiscard]] int pid() const noexcept { return pid_; }
  [[nodiscard]] int socket() const noexcept { return socket_; }

 private:
  std::vector<std::string> argv_;
  int pid_ = 0;
  int socket_ = -1;
  std::uint64_t ordered_ = 0;
};

}  // namespace freethreading::supervisor
