// Zygote: the supervisor's replaceable child that forks spares, one for each order, and imports modules for them, in a fork that
// takes its place.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "os/signals.hpp"
#include "pool/supervisor_protocol.hpp"

namespace freethreading::supervisor {

struct Answer {
  protocol::AnswerKind kind = protocol::AnswerKind::kSpare;
  int pid = 0;      // of the spare; 0: it could not be forked
  int socket = -1;  // the spare's orders go there; -1: there was no descriptor left for it, and it leaves
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
  // Orders an import, of what the file says. False as above.
  bool order_import(int description);
  // An answer that has come; none: no more, or it is gone. Behind kSuccessor pid() is the successor's.
  std::optional<Answer> next_answer();
  void forget() noexcept;

  [[nodiscard]] int pid() const noexcept { return pid_; }
  [[nodiscard]] int socket() const noexcept { return socket_; }

 private:
  [[nodiscard]] bool send(protocol::OrderKind kind, const std::vector<int>& descriptors) const;

  std::vector<std::string> argv_;
  int pid_ = 0;
  int socket_ = -1;
};

}  // namespace freethreading::supervisor
