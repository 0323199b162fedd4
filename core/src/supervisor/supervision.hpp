// Supervision: the supervisor process's one loop. Blocks nowhere but in its poll; and, while a worker is stopped for a look at it,
// for some 50 ms (where it is one of many, up to 300) at most.
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
#include "supervisor/imports.hpp"
#include "supervisor/spares.hpp"
#include "supervisor/standbys.hpp"
#include "supervisor/sweeper.hpp"
#include "supervisor/waiting.hpp"
#include "supervisor/warden.hpp"
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
  bool begin();
  [[nodiscard]] Deadline next() const noexcept;
  void handle(unsigned ready);
  void receive_requests();
  void take_request(const protocol::StartRequest& request, Waiting waiting);
  [[nodiscard]] std::uint64_t missing_beside(const WorkerRecord& standby) const noexcept;
  void use_standbys();
  void receive_answers();
  void start_waiting();
  void hand_over(const Spare& spare);
  void order_import();
  void renew_zygote();
  void order_spares();
  [[nodiscard]] std::size_t ready_to_start() const noexcept;
  void bury_the_dead();
  void bury_zygote(std::int32_t status);
  void bury_process(int pid, std::int32_t status);
  void lost_a_spare(std::int32_t status);
  void fail_first(std::int32_t status);
  void fail(Waiting& start, std::int32_t status);
  void forget(Waiting& start);
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
  Spares spares_;
  Standbys standbys_;
  Imports imports_;
  MemoryWatch memory_;
  std::size_t ordered_ = 0;  // spares that the zygote has not answered for
  bool refused_ = false;     // the zygote would take no order: it ends
  std::vector<ObjectHeader*> records_;  // of workers that have a process
  std::vector<ObjectHeader*> to_end_;   // of those, whose tasks are to be ended; empty but for a moment
  // Processes that ended while orders were out, and that nobody knew: one may be what an answer will name.
  std::vector<os::Ended> strangers_;
  bool ending_ = false;
};

}  // namespace freethreading::supervisor
