#include "supervisor/supervision.hpp"

#include <algorithm>
#include <utility>

#include "freethreading/crash_point.hpp"
#include "os/children.hpp"
#include "os/death_pipe.hpp"
#include "os/memfd.hpp"
#include "os/packet.hpp"
#include "os/process.hpp"
#include "os/watch.hpp"

namespace freethreading::supervisor {

namespace {

// Zygotes or spares that are lost in a row with the same worker waiting: then it is not chance.
constexpr int kMaxAttempts = 3;
// Orders that the zygote may have at a time: they, and the answers, have room in the socket.
constexpr std::size_t kMaxOrders = 16;
// How long the processes that were killed at the end may take to be reaped.
constexpr Nanoseconds kEndTimeout = kSecond;
constexpr std::int32_t kExitedWithOne = 1 << 8;  // as waitpid tells of exit code 1

// Whether it leaves, and nobody is to come in its place.
bool has_less_to_do(const WorkerRecord& record) noexcept {
  const auto leaving = static_cast<Leaving>(record.leaving.load());
  return leaving == Leaving::kSurplus || leaving == Leaving::kIdle;
}

enum Source : unsigned { kProgram = 1U << 0, kControl = 1U << 1, kZygote = 1U << 2, kSignals = 1U << 3 };

}  // namespace

int Supervision::run() {
  const bool begun = begin();
  const protocol::Ready ready{.owner = begun ? session_->place().self() : kNobody, .pid = os::process_id()};
  const bool told = os::send_packet(protocol::kControl, &ready, sizeof ready, {}, true) == os::PacketResult::kDone;
  if (!begun || !told) {
    return 1;
  }
  // At once, so that it boots while the program prepares its first worker. Where this fails, the first order tells.
  static_cast<void>(zygote_.start(death_pipe_, mask_before_));
  while (!ending_) {
    handle(os::wait_readable({program_, protocol::kControl, zygote_.socket(), signals_}, next()));
    memory_.look(records_);
    use_standbys();
    order_import();
    start_waiting();
    spares_.let_go();
    order_spares();
  }
  end_everything();
  return 0;
}

// When there is something to do, if nothing comes before.
Deadline Supervision::next() const noexcept {
  Deadline next = spares_.next();
  for (const Deadline& other : {standbys_.next(), memory_.next()}) {
    next = sooner(next, other) ? next : other;
  }
  return next;
}

bool Supervision::begin() {
  os::become_subreaper();
  signals_ = os::read_signals(mask_before_);
  program_ = os::watch_process(program_pid_);
  const SessionResult attached = Session::attach(protocol::kRegion);
  session_ = attached.session;
  if (session_ != nullptr) {
    sweeper_ = new Sweeper(*session_);  // NOLINT(cppcoreguidelines-owning-memory): its thread lives as long as the process
  }
  return signals_ >= 0 && program_ >= 0 && session_ != nullptr && os::make_death_pipe(death_pipe_, death_pipe_held_);
}

void Supervision::handle(unsigned ready) {
  if ((ready & kProgram) != 0) {
    ending_ = true;
    return;
  }
  // Answers before deaths: whose process it was that died shall be known.
  if ((ready & kZygote) != 0) {
    receive_answers();
  }
  if ((ready & kSignals) != 0) {
    while (const int number = os::next_signal(signals_)) {
      // An interrupt from the terminal is the program's business: it decides what becomes of its workers.
      ending_ = ending_ || number == os::kTerminate || number == os::kQuit;
    }
    bury_the_dead();
  }
  if ((ready & kControl) != 0) {
    receive_requests();
    end_tasks_of(to_end_);
    to_end_.clear();
  }
}

void Supervision::receive_requests() {
  for (;;) {
    protocol::StartRequest request{};
    std::size_t size = sizeof request;
    Waiting waiting{.record = nullptr, .token = {}, .descriptors = {}};
    const os::PacketResult result = os::receive_packet(protocol::kControl, &request, size, waiting.descriptors, false);
    if (result == os::PacketResult::kClosed) {
      ending_ = true;
    }
    if (result != os::PacketResult::kDone) {
      return;
    }
    if (request.kind == protocol::RequestKind::kImport) {
      if (!waiting.descriptors.empty()) {
        imports_.add(waiting.descriptors.front());
      }
      continue;
    }
    if (request.kind == protocol::RequestKind::kRenew) {
      renew_zygote();
      continue;
    }
    waiting.token = request.token;
    waiting.behind = imports_.asked();
    waiting.record = session_->open({.session = session_->id(),
                                     .offset = request.offset,
                                     .generation = request.generation,
                                     .type = ObjectType::kWorker});
    FT_CRASH_POINT("supervisor.requested");
    if (waiting.record == nullptr) {  // nobody waits for this worker any more
      forget(waiting);
    } else {
      take_request(request, std::move(waiting));
    }
  }
}

void Supervision::take_request(const protocol::StartRequest& request, Waiting waiting) {
  const std::uint64_t crew = body(waiting.record).crew;
  switch (request.kind) {
    case protocol::RequestKind::kStart:
      standbys_.asked(crew);
      waiting_.push_back(std::move(waiting));
      spares_.expect_more();
      break;
    case protocol::RequestKind::kStandby: {
      const std::uint64_t missing = missing_beside(body(waiting.record));
      standbys_.add(crew, std::move(waiting), missing);
      break;
    }
    case protocol::RequestKind::kWithdraw:
      if (std::optional<Waiting> standby = standbys_.take(waiting.record)) {
        fail(*standby, kExitedWithOne);
      } else if (const auto start = std::find_if(waiting_.begin(), waiting_.end(),
                                                 [&](const Waiting& other) { return other.record == waiting.record; });
                 start != waiting_.end()) {
        fail(*start, kExitedWithOne);
        waiting_.erase(start);
      }
      forget(waiting);
      break;
    case protocol::RequestKind::kImport:  // these have no record
    case protocol::RequestKind::kRenew:
      break;
    case protocol::RequestKind::kEnd:
      if (std::find(records_.begin(), records_.end(), waiting.record) != records_.end() &&  // else it has ended
          std::find(to_end_.begin(), to_end_.end(), waiting.record) == to_end_.end()) {
        to_end_.push_back(waiting.record);
      }
      forget(waiting);
      break;
  }
}

// Workers that the program counted when it asked for the standby, and that have died since: their deaths were met before it was.
std::uint64_t Supervision::missing_beside(const WorkerRecord& standby) const noexcept {
  const auto stays = [&](const WorkerRecord& record) {
    return record.crew == standby.crew && !has_less_to_do(record);
  };
  const auto others =
      std::count_if(waiting_.begin(), waiting_.end(), [&](const Waiting& start) { return stays(body(start.record)); }) +
      std::count_if(records_.begin(), records_.end(), [&](ObjectHeader* record) { return stays(body(record)); });
  return standby.beside - std::min(standby.beside, static_cast<std::uint64_t>(others));
}

void Supervision::use_standbys() {
  while (std::optional<Waiting> standby = standbys_.take_due()) {
    waiting_.push_back(std::move(*standby));
    waiting_.back().behind = imports_.asked();
    spares_.expect_more();
    FT_CRASH_POINT("supervisor.standby.used");
  }
}

void Supervision::receive_answers() {
  while (const auto forked = zygote_.next_answer()) {
    if (forked->kind == protocol::AnswerKind::kSuccessor) {
      FT_CRASH_POINT("supervisor.import.succeeded");
      spares_.let_all_go();
      continue;
    }
    if (forked->kind == protocol::AnswerKind::kImported) {
      imports_.done();
      continue;
    }
    ordered_ -= ordered_ != 0 ? 1 : 0;
    const auto ended = std::find_if(strangers_.begin(), strangers_.end(),
                                    [&](const os::Ended& stranger) { return stranger.pid == forked->pid; });
    if (forked->pid == 0) {
      spares_.expect_none();
      if (!waiting_.empty()) {
        fail_first(kExitedWithOne);
      }
    } else if (ended != strangers_.end()) {  // it has died and was reaped before the zygote told of it
      if (forked->socket >= 0) {
        os::close_descriptor(forked->socket);
      }
      lost_a_spare(ended->status);
    } else if (forked->socket < 0) {
      lost_a_spare(kExitedWithOne);
    } else {
      FT_CRASH_POINT("supervisor.answered");
      spares_.add({.pid = forked->pid, .socket = forked->socket});
    }
  }
  if (ordered_ == 0) {
    strangers_.clear();
  }
}

void Supervision::start_waiting() {
  while (!waiting_.empty() && imports_.has_done(waiting_.front().behind) && spares_.count() != 0) {
    hand_over(spares_.take());
  }
}

// Of those who wait, the ones that wait for a spare alone: they were asked for before the others.
std::size_t Supervision::ready_to_start() const noexcept {
  const auto behind = std::find_if(waiting_.begin(), waiting_.end(),
                                   [&](const Waiting& waiting) { return !imports_.has_done(waiting.behind); });
  return static_cast<std::size_t>(behind - waiting_.begin());
}

void Supervision::order_import() {
  const int description = imports_.next();
  if (description < 0) {
    return;
  }
  if (!zygote_.start(death_pipe_, mask_before_)) {
    imports_.done();  // the workers' starts tell
  } else if (zygote_.order_import(description)) {
    imports_.ordered();
    FT_CRASH_POINT("supervisor.import.ordered");
  } else {
    refused_ = true;
  }
}

void Supervision::hand_over(const Spare& spare) {
  const protocol::StartOrder order{.token = waiting_.front().token};
  const os::PacketResult sent =
      os::send_packet(spare.socket, &order, sizeof order, waiting_.front().descriptors, false);
  os::close_descriptor(spare.socket);
  if (sent != os::PacketResult::kDone) {
    // Mostly it has ended, as SIGCHLD will tell. Somebody who kills spares keeps no worker from being started; a spare that
    // never comes so far does.
    if (!spare.rested) {
      lost_a_spare(kExitedWithOne);
    }
    return;
  }
  FT_CRASH_POINT("supervisor.handed_over");
  ObjectHeader*& record = waiting_.front().record;
  // Nobody else has been given the record. What becomes of the process is its end from now on.
  static_cast<void>(claim_worker(body(record), spare.pid));
  records_.push_back(record);
  record = nullptr;
  forget(waiting_.front());
  waiting_.pop_front();
}

// What it has imported is not what the program has any more. Its end is a stranger's.
void Supervision::renew_zygote() {
  if (zygote_.pid() != 0) {
    receive_answers();
    os::kill_process(zygote_.pid(), os::kKill);
    zygote_.forget();
  }
  ordered_ = 0;
  refused_ = false;
  strangers_.clear();
  imports_.again();
  spares_.let_all_go();
}

void Supervision::order_spares() {
  // For those who wait, whom start_waiting() has left no spare. Else one at a time: who asks now waits for no other forks.
  // Those that were forked while modules are imported would be let go.
  while (ordered_ < std::min(ready_to_start(), kMaxOrders) ||
         (ordered_ == 0 && !imports_.is_out() && spares_.is_short())) {
    if (!zygote_.start(death_pipe_, mask_before_)) {
      spares_.expect_none();
      if (!waiting_.empty()) {
        fail_first(kExitedWithOne);
      }
    } else if (zygote_.order()) {
      ++ordered_;
      FT_CRASH_POINT("supervisor.ordered");
    } else {
      refused_ = true;  // it has closed its end: its death comes by SIGCHLD, and with it the next attempt
      return;
    }
  }
}

// With it went, perhaps, the worker that is the first to wait.
void Supervision::lost_a_spare(std::int32_t status) {
  spares_.expect_none();
  if (!waiting_.empty() && ++waiting_.front().attempts >= kMaxAttempts) {
    fail_first(status);
  }
}

void Supervision::fail_first(std::int32_t status) {
  fail(waiting_.front(), status);
  waiting_.pop_front();
}

void Supervision::fail(Waiting& start, std::int32_t status) {
  WorkerRecord& record = body(start.record);
  constexpr std::int32_t kNobodys = -1;
  static_cast<void>(claim_worker(record, kNobodys));
  record.wait_status.store(status);
  static_cast<void>(advance_worker_state(session_->place(), record, WorkerState::kFailed));
  forget(start);
}

// Its descriptors have been passed on, or nobody wants them.
void Supervision::forget(Waiting& start) {
  std::for_each(start.descriptors.begin(), start.descriptors.end(), os::close_descriptor);
  if (start.record != nullptr) {
    session_->drop_reference(start.record);
  }
}

void Supervision::bury_the_dead() {
  for (os::Ended ended = os::next_ended_child(); ended.pid != 0; ended = os::next_ended_child()) {
    if (ended.pid == zygote_.pid()) {
      receive_answers();  // its last words: it may have a successor
    }
    if (ended.pid == zygote_.pid()) {
      bury_zygote(ended.status);
    } else {
      bury_process(ended.pid, ended.status);
    }
    os::reap(ended.pid);
  }
}

void Supervision::bury_zygote(std::int32_t status) {
  zygote_.forget();
  if (imports_.is_out()) {
    imports_.done();  // workers import for themselves
  }
  const bool was_needed = ordered_ != 0 || refused_;
  ordered_ = 0;
  refused_ = false;
  strangers_.clear();
  if (was_needed) {  // a spare that it has forked and not told of finds its socket closed, and leaves
    lost_a_spare(status);
  }
}

void Supervision::bury_process(int pid, std::int32_t status) {
  Place& place = session_->place();
  const OwnerId owner = session_->owner_of(pid);  // asked while the process id is still its own
  if (owner != kNobody && !ending_) {
    sweeper_->sweep(owner);
  }
  const auto found = std::find_if(records_.begin(), records_.end(),
                                  [&](ObjectHeader* record) { return body(record).pid.load() == pid; });
  if (found != records_.end()) {
    ObjectHeader* record = *found;
    records_.erase(found);
    if (!has_less_to_do(body(record))) {
      standbys_.died(body(record).crew);
    }
    body(record).wait_status.store(status);
    static_cast<void>(advance_worker_state(place, body(record), WorkerState::kExited));
    FT_CRASH_POINT("supervisor.exit_written");
    session_->drop_reference(record);
  } else if (spares_.forget(pid)) {
    lost_a_spare(status);
  } else if (ordered_ != 0) {
    strangers_.push_back({.pid = pid, .status = status});
  }
}

void Supervision::end_everything() {
  // Whoever is asked for now gets no process.
  if (zygote_.pid() != 0) {
    os::kill_process(zygote_.pid(), os::kKill);
  }
  for (ObjectHeader* record : records_) {
    os::kill_process(body(record).pid.load(), os::kKill);
  }
  const Deadline deadline = Deadline::after(kEndTimeout);
  bury_the_dead();
  spares_.kill_all();  // behind that: one that had been ordered may have come with the zygote's last words
  while ((!records_.empty() || spares_.count() != 0 || zygote_.pid() != 0) && !deadline.passed()) {
    if (os::wait_readable({signals_}, deadline) != 0) {
      while (os::next_signal(signals_) != 0) {
      }
    }
    bury_the_dead();
    spares_.kill_all();
  }
  while (!waiting_.empty()) {
    fail_first(kExitedWithOne);
  }
  while (std::optional<Waiting> standby = standbys_.take_any()) {
    fail(*standby, kExitedWithOne);
  }
}

}  // namespace freethreading::supervisor
