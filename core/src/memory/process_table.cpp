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

// Fills in who is there; the state word is stored by the caller, last.
void ProcessTable::inhabit(ProcessSlot& slot, std::uint32_t index) noexcept {
  slot.pid.store(static_cast<std::uint32_t>(os::process_id()));
  slot.start_time.store(os::start_time_of(os::process_id()));
  slot.left.store(0);
  os::hold_byte(descriptor_, kLivenessBytes + index);
}

OwnerId ProcessTable::claim() noexcept {
  const OwnerId owner = claim_for_child(kNobody);
  if (owner != kNobody && !adopt(owner)) {
    return kNobody;
  }
  return owner;
}

OwnerId ProcessTable::claim_for_child(OwnerId creator) noexcept {
  for (std::uint32_t index = 0; index < kMaxProcesses; ++index) {
    ProcessSlot& slot = slots_[index];
    std::uint32_t word = slot.word.load();
    if (state_of(word) != SlotState::kFree) {
      continue;
    }
    // Generation 0 is that of a slot never used; owner 0 must stay nobody.
    const std::uint32_t generation = generation_of(word) == 0 ? 1 : generation_of(word);
    if (!slot.word.compare_exchange_strong(word, slot_word(SlotState::kEmbryo, generation))) {
      continue;
    }
    slot.pid.store(0);
    slot.creator.store(creator);
    slot.claimed_at.store(monotonic_now());
    FT_CRASH_POINT("processes.claimed");
    return owner_id(index, generation);
  }
  return kNobody;
}

bool ProcessTable::adopt(OwnerId owner) noexcept {
  ProcessSlot& mine = slot(owner);
  const std::uint32_t index = slot_of(owner);
  const std::uint32_t generation = owner >> kSlotBits;
  inhabit(mine, index);
  std::uint32_t expected = slot_word(SlotState::kEmbryo, generation);
  FT_CRASH_POINT("processes.adopt.held");
  if (mine.word.compare_exchange_strong(expected, slot_word(SlotState::kLive, generation))) {
    return true;
  }
  os::release_byte(descriptor_, kLivenessBytes + index);
  return false;
}

void ProcessTable::hold_again(OwnerId owner) noexcept { os::hold_byte(descriptor_, kLivenessBytes + slot_of(owner)); }

bool ProcessTable::is_dead(std::uint32_t index, std::uint32_t word) const noexcept {
  const ProcessSlot& slot = slots_[index];
  const int pid = static_cast<int>(slot.pid.load());
  if (pid == os::process_id() || os::is_byte_held(descriptor_, kLivenessBytes + index)) {
    return false;
  }
  if (state_of(word) == SlotState::kEmbryo) {
    return monotonic_now() - slot.claimed_at.load() > kEmbryoLife;
  }
  return !os::is_running(pid, slot.start_time.load());
}

Liveness ProcessTable::liveness(OwnerId owner) const noexcept {
  const std::uint32_t word = slot(owner).word.load();
  if (!is_current(owner, word) || state_of(word) == SlotState::kFree) {
    return Liveness::kLeftCleanly;  // swept since: what it held says so itself
  }
  if (state_of(word) == SlotState::kSweeping) {
    return left_cleanly(owner) ? Liveness::kLeftCleanly : Liveness::kDied;
  }
  return is_dead(slot_of(owner), word) ? Liveness::kDied : Liveness::kAlive;
}

bool ProcessTable::begin_sweep(OwnerId owner, OwnerId sweeper, bool leaving) noexcept {
  ProcessSlot& dead = slot(owner);
  std::uint32_t word = dead.word.load();
  if (!is_current(owner, word)) {
    return false;
  }
  const std::uint32_t sweeping = slot_word(SlotState::kSweeping, generation_of(word));
  if (state_of(word) == SlotState::kSweeping) {
    OwnerId before = dead.sweeper.load();
    return before != sweeper && liveness(before) != Liveness::kAlive && dead.sweeper.compare_exchange_strong(before, sweeper);
  }
  if (state_of(word) == SlotState::kFree || (!leaving && !is_dead(slot_of(owner), word))) {
    return false;
  }
  if (leaving) {
    dead.left.store(1);
  }
  dead.sweeper.store(sweeper);
  FT_CRASH_POINT("processes.sweep.elected");
  return dead.word.compare_exchange_strong(word, sweeping);
}

void ProcessTable::end_sweep(OwnerId owner) noexcept {
  ProcessSlot& dead = slot(owner);
  const std::uint32_t generation = owner >> kSlotBits;
  const std::uint32_t next = generation + 1 == kGenerations ? 1 : generation + 1;
  if (static_cast<int>(dead.pid.load()) == os::process_id()) {
    os::release_byte(descriptor_, kLivenessBytes + slot_of(owner));
  }
  dead.pid.store(0);
  FT_CRASH_POINT("processes.sweep.ending");
  dead.word.store(slot_word(SlotState::kFree, next));
}

OwnerId ProcessTable::suspect(std::uint32_t index) const noexcept {
  const std::uint32_t word = slots_[index].word.load();
  const SlotState state = state_of(word);
  if (state == SlotState::kFree || (state != SlotState::kSweeping && !is_dead(index, word))) {
    return kNobody;
  }
  return owner_id(index, generation_of(word));
}

int ProcessTable::pid_of(OwnerId owner) const noexcept {
  return is_current(owner, slot(owner).word.load()) ? static_cast<int>(slot(owner).pid.load()) : 0;
}

OwnerId ProcessTable::owner_of(int pid) const noexcept {
  for (std::uint32_t index = 0; index < kMaxProcesses; ++index) {
    const std::uint32_t word = slots_[index].word.load();
    if (state_of(word) == SlotState::kLive && static_cast<int>(slots_[index].pid.load()) == pid) {
      return owner_id(index, generation_of(word));
    }
  }
  return kNobody;
}

std::size_t ProcessTable::live() const noexcept {
  std::size_t count = 0;
  for (std::uint32_t index = 0; index < kMaxProcesses; ++index) {
    const std::uint32_t word = slots_[index].word.load();
    count += state_of(word) == SlotState::kLive && !is_dead(index, word) ? 1 : 0;
  }
  return count;
}

}  // namespace freethreading::memory
