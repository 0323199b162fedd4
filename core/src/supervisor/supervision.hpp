// Supervision: the supervisor process's one loop. Blocks nowhere but in its poll.
//
// What it does with each event is in docs/design/workers.md, with what a death at each step leaves behind.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "freethreading/memory/session.hpp"
#include "freethreading/pool/worker_record.hpp"
#include "os/children.hpp"
#include "os/signals.hpp"
#include "pool/supervisor_protocol.hpp"
#include "supervisor/sweeper.hpp"
#include "supervisor/zygote.hpp"

namespace freethreading::supervisor {

class Supervision {
 public:
  Supervision(int program_pid, std::vector<std::string> zygote_argv)
      : program_pid_(program_pid), zygote_(std::move(zygote_argv)) {}
  Supervision(const Supervision&) = delete;
  Supervision& operator=(const Supervision&) = delete;
  ~Supervision() = default;

  // Until the program ends, closes its end, or this process is asked to end. The process's exit code.
  int run();

 private:
  // A worker that was asked for and whose process is not known yet.
  struct Waiting {
    ObjectHeader* record;
    WorkerToken token;
    std::vector<int> descriptors;
    int attempts = 0;    // zygotes that were given it, or would not take it
    int refused_by = 0;  // the zygote that would not, last
  };

  bool begin();
  void handle(unsigned ready);
  void receive_requests();
  void order_next();
  void receive_answers();
  void bury_the_dead();
  void bury_zygote(std::int32_t status);
  void fail_first(std::int32_t status);
  void watch_first();
  void forget_first();
  void bury_worker(int pid, std::int32_t status);
  void end_everything();
  [[nodiscard]] WorkerRecord& body(ObjectHeader* record) const noexcept { return *record->body<WorkerRecord>(); }

  int program_pid_;
  Zygote zygote_;
  Session* session_ = nullptr;
  Sweeper* sweeper_ = nullptr;
  os::SignalMask mask_before_{};
  int signals_ = -1;
  int program_ = -1;  // readable when the program has ended
  int death_pipe_ = -1;
  int death_pipe_held_ = -1;
  std::deque<Waiting> waiting_;
  bool ordered_ = false;  // the zygote has the order of waiting_.front()
  std::uint64_t ticket_ = 0;
  std::vector<ObjectHeader*> records_;  // of workers that have, or may have, a process
  // Processes that ended while an order was out, and that no record names: one may be what the answer will name.
  std::vector<os::Ended> strangers_;
  bool ending_ = false;
};

}  // namespace freethreading::supervisor
