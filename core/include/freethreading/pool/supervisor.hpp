// Supervisor: the program's side of the small program that starts, watches and ends its worker processes.
//
// The supervisor process (core/src/supervisor/) is started at the first worker: a subreaper without Python and without user
// code. It starts the zygote, which forks workers; it is the parent of every worker, reaps them, writes how they ended into
// their WorkerRecords, and sweeps what they held. When the program ends, it ends everything. Where it dies itself, the
// kernel kills zygote and workers (os/death_pipe.hpp), and whoever waits for a WorkerRecord finds out.
//
// Nothing comes back over the wire but Ready: the program learns what it must know from the WorkerRecords.
//
// Not thread-safe: the caller sees to it that one thread at a time uses it. In a forked child only abandon() may be called.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "freethreading/memory/session.hpp"
#include "freethreading/pool/worker_record.hpp"

namespace freethreading {

// Names a WorkerRecord to the worker that is to be it; handed on unread.
using WorkerToken = std::array<std::byte, 40>;

struct SupervisorConfig {
  std::string program;                   // path of the ft-supervisor executable
  std::vector<std::string> zygote_argv;  // interpreter, its flags, "-c" ...
  // An open file that every zygote finds as descriptor 5; stays the caller's.
  int preparation = -1;
};

class Supervisor {
 public:
  Supervisor() = default;
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;
  ~Supervisor() { abandon(); }

  // Starts the program, and waits until it is ready. Empty: done; else why not.
  [[nodiscard]] std::string start(Session& session, const SupervisorConfig& config);
  // Asks for a worker: `record` is the body behind `handle`; `descriptors` (253 at most) arrive in the worker. The record is
  // kStarting from then on. False: the supervisor is gone, or there was none, and the record is as it was.
  // `standby`: it is started only where a worker of its crew dies and no other one is asked for.
  [[nodiscard]] bool request(WorkerRecord& record, const Handle& handle, const WorkerToken& token,
                             const std::vector<int>& descriptors, bool standby);
  // A worker that was asked for, or a standby, is not needed any more: it ends as kFailed, or has a process already. Nothing where the
  // supervisor is gone.
  void withdraw(const Handle& handle) noexcept;
  // Has the worker killed if it is in the task of that tag, and in no other; its record's `ended` says so then. It may be too late, or
  // too early, or not be sent where the supervisor takes nothing (it is stopped): who wants to be sure asks again.
  void end_task(WorkerRecord& record, const Handle& handle, std::uint64_t tag) noexcept;
  // Workers that are asked for from now on are to have modules from their beginning: `description` is an open file that tells the zygote
  // which, and stays the caller's. Nothing where the supervisor is gone.
  void import_modules(int description) noexcept;
  // Workers that are asked for from now on come from a new zygote. Nothing where the supervisor is gone.
  void renew_zygote() noexcept;
  // The supervisor's process id; 0: there is none.
  [[nodiscard]] int pid() const noexcept { return pid_; }
  // Ends supervisor, zygote and all workers; waits for the supervisor's end until the deadline.
  void stop(Deadline deadline) noexcept;
  // Forgets it without touching it.
  void abandon() noexcept;

 private:
  int control_ = -1;
  int watch_ = -1;  // readable when the supervisor has ended
  int pid_ = 0;
  OwnerId owner_ = kNobody;
  Session* session_ = nullptr;  // set where control_ is
};

// --- for the zygote and the worker ----------------------------------------------------------------------------------------

// Forks a child that becomes the supervisor's: 0 in the child; its process id, or -1 with errno, in the caller.
[[nodiscard]] int fork_worker() noexcept;
// Has the kernel kill the calling process when the last holder of the pipe's other end is gone. False: it is gone.
[[nodiscard]] bool die_with_supervisor(int death_pipe) noexcept;
// What workers write to, later spares have copied beforehand (os/written_pages.hpp): in the zygote, before it forks; in a worker,
// at its end; in a new spare, first of all.
void expect_workers() noexcept;
void note_written_pages() noexcept;
void copy_written_pages() noexcept;
// Ends the calling process at once, and has its memory given back behind its end where that is safe (os/children.hpp). Closes
// its descriptors first. REQUIRES: sessions were left.
[[noreturn]] void end_worker(int code) noexcept;

}  // namespace freethreading
