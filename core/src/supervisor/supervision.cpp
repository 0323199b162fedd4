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

// Zygotes that die in a row with the same order: then the order, or the zygote, is to blame.
constexpr int kMaxAttempts = 3;
// How long the processes that were killed at the end may take to be reaped.
constexpr Nanoseconds kEndTimeout = kSecond;
constexpr std::int32_t kExitedWithOne = 1 << 8;  // as waitpid tells of exit code 1

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
    handle(os::wait_readable({program_, protocol::kControl, zygote_.socket(), signals_}, Deadline::never()));
    order_next();
  }
  end_everything();
  return 0;
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
    waiting.token = request.token;
    waiting.record = session_->open({.session = session_->id(),
                                     .offset = request.offset,
                                     .generation = request.generation,
                                     .type = ObjectType::kWorker});
    FT_CRASH_POINT("supervisor.requested");
    if (waiting.record == nullptr) {  // nobody waits for this worker any more
      std::for_each(waiting.descriptors.begin(), waiting.descriptors.end(), os::close_descriptor);
      continue;
    }
    waiting_.push_back(std::move(waiting));
  }
}

void Supervision::order_next() {
  while (!ordered_ && !waiting_.empty()) {
    Waiting& first = waiting_.front();
    if (first.attempts >= kMaxAttempts) {
      fail_first(kExitedWithOne);
      continue;
    }
    const protocol::StartOrder order{.ticket = ++ticket_, .token = first.token};
    if (!zygote_.start(death_pipe_, mask_before_)) {
      fail_first(kExitedWithOne);
    } else if (zygote_.order(order, first.descriptors)) {
      ++first.attempts;
      ordered_ = true;
      FT_CRASH_POINT("supervisor.ordered");
    } else {
      // It has closed its end: its death comes by SIGCHLD, and with it the next attempt. Until then this may be asked often,
      // and is one attempt.
      if (first.refused_by != zygote_.pid()) {
        first.refused_by = zygote_.pid();
        ++first.attempts;
      }
      return;
    }
  }
}

void Supervision::receive_answers() {
  while (const auto answer = zygote_.next_answer()) {
    if (!ordered_ || answer->ticket != ticket_) {
      continue;
    }
    ordered_ = false;
    const std::vector<os::Ended> strangers = std::exchange(strangers_, {});
    if (answer->pid == 0) {
      fail_first(kExitedWithOne);
      continue;
    }
    FT_CRASH_POINT("supervisor.answered");
    WorkerRecord& record = body(waiting_.front().record);
    const bool its_own = claim_worker(record, answer->pid);
    const auto ended = std::find_if(strangers.begin(), strangers.end(),
                                    [&](const os::Ended& stranger) { return stranger.pid == answer->pid; });
    if (ended != strangers.end()) {  // it has died and was reaped before the zygote told of it
      if (its_own) {
        record.wait_status.store(ended->status);
        static_cast<void>(advance_worker_state(session_->place(), record, WorkerState::kExited));
      }
    } else if (its_own) {
      watch_first();
    } else {
      os::kill_process(answer->pid, os::kKill);  // a second process for one record
    }
    forget_first();
  }
}

void Supervision::fail_first(std::int32_t status) {
  ObjectHeader* record = waiting_.front().record;
  constexpr std::int32_t kNobodys = -1;
  if (claim_worker(body(record), kNobodys)) {
    body(record).wait_status.store(status);
    static_cast<void>(advance_worker_state(session_->place(), body(record), WorkerState::kFailed));
  } else {  // a process took it that the zygote could not tell of any more
    watch_first();
  }
  forget_first();
}

// Its process is known. It may have died, and been buried, before the zygote told of it: then nothing comes of it any more.
void Supervision::watch_first() {
  ObjectHeader*& record = waiting_.front().record;
  if (static_cast<WorkerState>(body(record).state.load()) != WorkerState::kExited) {
    records_.push_back(record);
    record = nullptr;
  }
}

// Of the first in waiting_: its descriptors have been passed on, or nobody wants them.
void Supervision::forget_first() {
  Waiting& first = waiting_.front();
  std::for_each(first.descriptors.begin(), first.descriptors.end(), os::close_descriptor);
  if (first.record != nullptr) {
    session_->drop_reference(first.record);
  }
  waiting_.pop_front();
}

void Supervision::bury_the_dead() {
  for (os::Ended ended = os::next_ended_child(); ended.pid != 0; ended = os::next_ended_child()) {
    if (ended.pid == zygote_.pid()) {
      bury_zygote(ended.status);
    } else {
      bury_worker(ended.pid, ended.status);
    }
    os::reap(ended.pid);
  }
}

void Supervision::bury_zygote(std::int32_t status) {
  receive_answers();  // its last words
  zygote_.forget();
  if (!ordered_) {
    return;
  }
  ordered_ = false;
  strangers_.clear();
  // Whether it had forked is not known; where it had, the record is taken and the next attempt's process leaves.
  Waiting& first = waiting_.front();
  if (first.attempts >= kMaxAttempts) {
    fail_first(status);
  }
}

void Supervision::bury_worker(int pid, std::int32_t status) {
  Place& place = session_->place();
  const OwnerId owner = session_->owner_of(pid);  // asked while the process id is still its own
  if (owner != kNobody && !ending_) {
    sweeper_->sweep(owner);
  }
  const auto is_its = [&](ObjectHeader* record) { return body(record).pid.load() == pid; };
  const auto found = std::find_if(records_.begin(), records_.end(), is_its);
  if (found != records_.end()) {
    ObjectHeader* record = *found;
    records_.erase(found);
    body(record).wait_status.store(status);
    static_cast<void>(advance_worker_state(place, body(record), WorkerState::kExited));
    FT_CRASH_POINT("supervisor.exit_written");
    session_->drop_reference(record);
  } else if (!waiting_.empty() && is_its(waiting_.front().record)) {
    // It took the record and died before the zygote could tell of it.
    body(waiting_.front().record).wait_status.store(status);
    static_cast<void>(advance_worker_state(place, body(waiting_.front().record), WorkerState::kExited));
  } else if (ordered_) {
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
  while ((!records_.empty() || zygote_.pid() != 0) && !deadline.passed()) {
    if (os::wait_readable({signals_}, deadline) != 0) {
      while (os::next_signal(signals_) != 0) {
      }
    }
    bury_the_dead();
  }
  while (!waiting_.empty()) {
    fail_first(kExitedWithOne);
  }
}

}  // namespace freethreading::supervisor
