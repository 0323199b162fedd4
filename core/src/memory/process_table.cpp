#include "memory/process_table.hpp"

#include "freethreading/crash_point.hpp"
#include "freethreading/deadline.hpp"
#include "os/liveness.hpp"
#include "os/process.hpp"

namespace freethreading::memory {

namespace {

// A child that has not adopted its slot after this long never will: the fork failed, or the child died at once.
constexpr Nanoseconds kEmbryoLife = 10 * kSecond;

}  // namespace

OwnerId ProcessTable::claim_in(std::uint32_t first, std::uint32_t end) noexcept {
  for (std::uint32_t index = first; index < end; ++index) {
    ProcessSlot& slot = slots_[index];
    std::uint32_t word = slot.word.load();
    if (state_of(word) != SlotState::kFree) {
      continue;
    }
    // Before the slot is an embryo, whose age this is. Where another process is faster, its embryo gets a little younger.
    slot.claimed_at.store(monotonic_now());
    // Generation 0 is that of a slot never used; owner 0 must stay nobody.
    const std::uint32_t generation = generation_of(word) == 0 ? 1 : generation_of(word);
    if (!slot.word.compare_exchange_strong(word, slot_word(SlotState::kEmbryo, generation))) {
      continue;
    }
    slot.pid.store(0);
    slot.left.store(0);
    FT_CRASH_POINT("processes.claimed");
    return owner_id(index, generation);
  }
  return kNobody;
}

bool ProcessTable::is_full() const noexcept {
  for (std::uint32_t index = 0; index < kMaxProcesses - 1; ++index) {
    if (state_of(slots_[index].word.load()) == SlotState::kFree) {
      return false;
    }
  }
  return true;
}

OwnerId ProcessTable::claim_last() noexcept {
  const OwnerId owner = claim_in(kMaxProcesses - 1, kMaxProcesses);
  return owner != kNobody && adopt(owner) ? owner : kNobody;
}

// The byte first: from there on the slot's process is seen to live. Nothing is written to the slot before it is known to be
// this process's: a late child finds another's there. Where there is no byte to be had, the identity must do instead.
bool ProcessTable::adopt(OwnerId owner) noexcept {
  ProcessSlot& mine = slot(owner);
  const bool has_file = file_.descriptor() != -1;
  const auto identify = [&mine] {
    mine.start_time.store(os::start_time_of(os::process_id()));
    mine.pid.store(static_cast<std::uint32_t>(os::process_id()));
  };
  hold_again(owner);
  if (!has_file) {
    identify();
  }
  FT_CRASH_POINT("processes.adopt.held");
  std::uint32_t expected = slot_word(SlotState::kEmbryo, generation_of_owner(owner));
  if (!mine.word.compare_exchange_strong(expected, slot_word(SlotState::kLive, generation_of_owner(owner)))) {
    os::release_byte(file_.descriptor(), kLivenessBytes + slot_of(owner));
    return false;
  }
  FT_CRASH_POINT("processes.adopt.live");
  if (has_file) {
    identify();
  }
  return true;
}

void ProcessTable::hold_again(OwnerId owner) noexcept {
  os::hold_byte(file_.descriptor(), kLivenessBytes + slot_of(owner));
}

// Whether the slot's process has ended, whatever the slot's state.
bool ProcessTable::is_gone(std::uint32_t index, std::uint32_t word) const noexcept {
  // A process does not see its own file locks.
  if (owner_id(index, generation_of(word)) == self_.load()) {
    return false;
  }
  const ProcessSlot& slot = slots_[index];
  if (os::is_byte_held(file_.descriptor(), kLivenessBytes + index)) {
    return false;
  }
  if (state_of(word) == SlotState::kEmbryo) {
    return monotonic_now() - slot.claimed_at.load() > kEmbryoLife;
  }
  return !os::is_running(static_cast<int>(slot.pid.load()), slot.start_time.load());
}

Liveness ProcessTable::liveness(OwnerId owner) const noexcept {
  const std::uint32_t word = slot(owner).word.load();
  if (!is_current(owner, word) || state_of(word) == SlotState::kFree) {
    return Liveness::kLeftCleanly;  // swept since: what it held says so itself
  }
  if (state_of(word) == SlotState::kSweeping) {
    return left_cleanly(owner) ? Liveness::kLeftCleanly : Liveness::kDied;
  }
  return is_gone(slot_of(owner), word) ? Liveness::kDied : Liveness::kAlive;
}

// Whether a sweep by `sweeper` may be going on. A leaving process sweeps itself: its slot's state says nothing.
bool ProcessTable::is_at_work(OwnerId sweeper) const noexcept {
  const std::uint32_t word = slot(sweeper).word.load();
  return is_current(sweeper, word) && state_of(word) != SlotState::kFree && !is_gone(slot_of(sweeper), word);
}

bool ProcessTable::begin_sweep(OwnerId owner, OwnerId sweeper, bool leaving) noexcept {
  ProcessSlot& dead = slot(owner);
  const std::uint32_t sweeping = slot_word(SlotState::kSweeping, generation_of_owner(owner));
  std::uint32_t word = dead.word.load();
  if (!is_current(owner, word) || state_of(word) == SlotState::kFree) {
    return false;
  }
  if (word != sweeping) {
    if (!leaving && !is_gone(slot_of(owner), word)) {
      return false;
    }
    if (leaving) {
      dead.left.store(1);
    }
    FT_CRASH_POINT("processes.sweep.found");
    if (!dead.word.compare_exchange_strong(word, sweeping) && word != sweeping) {
      return false;
    }
  }
  FT_CRASH_POINT("processes.sweep.condemned");
  std::uint64_t election = dead.election.load();
  if (is_election_of(election, owner) && is_at_work(elected(election))) {
    return false;
  }
  if (!dead.election.compare_exchange_strong(election, election_of(owner, sweeper))) {
    return false;
  }
  FT_CRASH_POINT("processes.sweep.elected");
  // The one before may have ended the sweep, and its process afterwards: then this election is of no generation any more.
  return dead.word.load() == sweeping;
}

void ProcessTable::end_sweep(OwnerId owner) noexcept {
  ProcessSlot& ended = slot(owner);
  const std::uint32_t next = generation_of_owner(owner) + 1;
  // Before the slot is free: the next process there wants the lock. /proc says until then that this one lives.
  if (static_cast<int>(ended.pid.load()) == os::process_id()) {
    os::release_byte(file_.descriptor(), kLivenessBytes + slot_of(owner));
  }
  FT_CRASH_POINT("processes.sweep.ending");
  ended.word.store(slot_word(SlotState::kFree, next == kGenerations ? 1 : next));
}

OwnerId ProcessTable::suspect(std::uint32_t index) const noexcept {
  const std::uint32_t word = slots_[index].word.load();
  const SlotState state = state_of(word);
  if (state == SlotState::kFree || (state != SlotState::kSweeping && !is_gone(index, word))) {
    return kNobody;
  }
  return owner_id(index, generation_of(word));
}

int ProcessTable::pid_of(OwnerId owner) const noexcept {
  return is_current(owner, slot(owner).word.load()) ? static_cast<int>(slot(owner).pid.load()) : 0;
}

OwnerId ProcessTable::owner_of(int pid) const noexcept {
  OwnerId found = kNobody;
  std::uint64_t began = 0;
  for (std::uint32_t index = 0; index < kMaxProcesses; ++index) {
    const std::uint32_t word = slots_[index].word.load();
    if (state_of(word) != SlotState::kLive || static_cast<int>(slots_[index].pid.load()) != pid) {
      continue;
    }
    const std::uint64_t start_time = slots_[index].start_time.load();
    if (found == kNobody || start_time > began) {
      found = owner_id(index, generation_of(word));
      began = start_time;
    }
  }
  return found;
}

std::size_t ProcessTable::live() const noexcept {
  std::size_t count = 0;
  for (std::uint32_t index = 0; index < kMaxProcesses; ++index) {
    const std::uint32_t word = slots_[index].word.load();
    count += state_of(word) == SlotState::kLive && !is_gone(index, word) ? 1 : 0;
  }
  return count;
}

}  // namespace freethreading::memory
