// Supervisor: the client's side of the small program that starts, watches and ends worker processes.
//
// The program has one supervisor process (core/src/supervisor/), started at the first worker. It is a child subreaper
// without Python: it starts the zygote, passes starts on to it, holds a pidfd of every worker, reaps them, writes their
// WorkerRecords, sweeps what they held, and ends everything when the program ends or when it is told to.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "freethreading/memory/object.hpp"
#include "freethreading/wait.hpp"

namespace freethreading {

struct SupervisorConfig {
  std::string program;                   // path of the ft-supervisor executable
  std::vector<std::string> zygote_argv;  // interpreter, its flags, "-c" / "-m" ...; the supervisor appends " <fd> <memfd>"
};

struct StartedWorker {
  WaitOutcome outcome;  // kReady; kTimedOut; kInterrupted (call again with the same ticket); kBroken: see error
  int pid = 0;
  int pidfd = -1;       // owned by the caller, close-on-exec
  std::string error;    // why it could not be started
};

class Supervisor {
 public:
  explicit Supervisor(SupervisorConfig config) : config_(std::move(config)) {}
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;
  ~Supervisor() = default;

  // Asks for a worker; `record` names its WorkerRecord in the session behind `session_descriptor`; `descriptors` arrive in
  // the worker as it finds them with worker_descriptors(). Starts the supervisor, or a new one where it is gone.
  // 0: failed, why in `error`.
  std::uint64_t request_start(const Handle& record, int session_descriptor, const std::vector<int>& descriptors,
                              std::string& error);
  // Waits for the answer to a request.
  StartedWorker await_start(std::uint64_t ticket, WaitContext& context);
  // Sends `signal` to a worker by its record (never to a reused pid).
  bool signal_worker(const Handle& record, int signal);
  // Process ids of the supervisor and the zygote, 0 where there is none.
  [[nodiscard]] int pid() const noexcept;
  [[nodiscard]] int zygote_pid() const noexcept;
  // Ends supervisor, zygote and all workers, and waits for the supervisor's end.
  void stop(Deadline deadline);
  // In a forked child: forgets the parent's supervisor without touching it.
  void forget_after_fork() noexcept;

 private:
  struct State;
  SupervisorConfig config_;
  State* state_ = nullptr;
};

}  // namespace freethreading
