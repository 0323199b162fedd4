#include "freethreading/pool/supervisor.hpp"

#include <cerrno>
#include <cstring>

#include "os/children.hpp"
#include "os/death_pipe.hpp"
#include "os/memfd.hpp"
#include "os/packet.hpp"
#include "os/process.hpp"
#include "os/watch.hpp"
#include "os/written_pages.hpp"
#include "pool/supervisor_protocol.hpp"

namespace freethreading {

namespace {

constexpr Nanoseconds kStartTimeout = 30 * kSecond;

std::string system_error(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

// The supervisor's first word, or why there is none.
std::string receive_ready(int control, protocol::Ready& ready) {
  if (os::wait_readable({control}, Deadline::after(kStartTimeout)) == 0) {
    return "the supervisor process did not answer within 30 s";
  }
  std::size_t size = sizeof ready;
  std::vector<int> none;
  if (os::receive_packet(control, &ready, size, none, false) != os::PacketResult::kDone || size != sizeof ready) {
    return "the supervisor process ended before it was ready (is its file executable, and for this machine?)";
  }
  return ready.owner == kNobody ? "the supervisor process could not attach the session" : "";
}

// Of a record whose start was asked for before. `wait`: for room, where the supervisor is slow to take it.
void tell(int control, const Handle& handle, protocol::RequestKind kind, bool wait) noexcept {
  if (control < 0) {
    return;
  }
  const protocol::StartRequest request{.offset = handle.offset, .generation = handle.generation, .kind = kind, .token = {}};
  static_cast<void>(os::send_packet(control, &request, sizeof request, {}, wait));
}

}  // namespace

std::string Supervisor::start(Session& session, const SupervisorConfig& config) {
  abandon();
  const int region = session.descriptor();
  if (region < 0) {
    return "the session's descriptor was closed in this process";
  }
  int theirs = -1;
  if (!os::packet_pair(control_, theirs)) {
    return system_error("no socket for the supervisor process");
  }
  std::vector<std::string> argv{config.program, std::to_string(os::process_id())};
  argv.insert(argv.end(), config.zygote_argv.begin(), config.zygote_argv.end());
  const int launched = os::spawn(argv, {theirs, region, config.preparation}, nullptr);
  std::string error = launched == 0 ? system_error(("cannot run " + config.program).c_str()) : "";
  os::close_descriptor(theirs);
  protocol::Ready ready{};
  if (error.empty()) {
    // It goes on in a child that is nobody's: a program that waits for all of its children shall not wait for this one.
    static_cast<void>(os::wait_for_child(launched));
    error = receive_ready(control_, ready);
  }
  if (error.empty()) {
    watch_ = os::watch_process(ready.pid);
    pid_ = ready.pid;
    owner_ = ready.owner;
    session_ = &session;
  } else {
    abandon();
  }
  return error;
}

bool Supervisor::request(WorkerRecord& record, const Handle& handle, const WorkerToken& token,
                         const std::vector<int>& descriptors, bool standby) {
  // One that is killed takes requests until the last of its threads is gone: who waits for its workers knows before.
  if (control_ < 0 || session_->place().liveness(owner_) != Liveness::kAlive) {
    return false;
  }
  const protocol::StartRequest request{.offset = handle.offset,
                                       .generation = handle.generation,
                                       .kind = standby ? protocol::RequestKind::kStandby : protocol::RequestKind::kStart,
                                       .token = token};
  // Before it is sent: the worker may run before this returns.
  record.supervisor.store(owner_);
  record.state.store(static_cast<std::uint32_t>(WorkerState::kStarting));
  if (os::send_packet(control_, &request, sizeof request, descriptors, true) == os::PacketResult::kDone) {
    return true;
  }
  record.state.store(static_cast<std::uint32_t>(WorkerState::kNew));
  record.supervisor.store(kNobody);
  return false;
}

void Supervisor::withdraw(const Handle& handle) noexcept { tell(control_, handle, protocol::RequestKind::kWithdraw, true); }

void Supervisor::end_task(WorkerRecord& record, const Handle& handle, std::uint64_t tag) noexcept {
  record.to_end.store(tag);
  tell(control_, handle, protocol::RequestKind::kEnd, false);
}

void Supervisor::import_modules(int description) noexcept {
  if (control_ >= 0) {
    const protocol::StartRequest request{
        .offset = 0, .generation = 0, .kind = protocol::RequestKind::kImport, .token = {}};
    static_cast<void>(os::send_packet(control_, &request, sizeof request, {description}, true));
  }
}

void Supervisor::renew_zygote() noexcept { tell(control_, Handle{}, protocol::RequestKind::kRenew, true); }

void Supervisor::stop(Deadline deadline) noexcept {
  if (control_ >= 0) {
    os::close_descriptor(control_);
    control_ = -1;
  }
  while (watch_ >= 0 && !deadline.passed() && os::wait_readable({watch_}, deadline) == 0) {
  }
  abandon();
}

void Supervisor::abandon() noexcept {
  for (int* descriptor : {&control_, &watch_}) {
    if (*descriptor >= 0) {
      os::close_descriptor(*descriptor);
      *descriptor = -1;
    }
  }
  pid_ = 0;
  owner_ = kNobody;
}

int fork_worker() noexcept { return os::fork_orphan(); }

void expect_workers() noexcept { os::expect_forks(); }

void note_written_pages() noexcept { os::note_written_pages(); }

void copy_written_pages() noexcept { os::copy_written_pages(); }

void end_worker(int code) noexcept { os::exit_lightly(code); }

bool die_with_supervisor(int death_pipe) noexcept { return os::die_with(death_pipe); }

}  // namespace freethreading
