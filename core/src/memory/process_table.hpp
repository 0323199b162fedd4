// ProcessTable: which processes take part in a session, and whether they still live.
//
// A process owns a slot and holds the file lock on the slot's byte; the kernel drops that lock when the process dies. POSIX
// drops it too when the process closes any descriptor of the file, so a free byte is believed only where /proc has no
// running process with the slot's id and start time.
//
// The last slot is for a process that finds all others taken: it has a name there while it sweeps (claim_last).
#pragma once

#include "freethreading/place.hpp"
#include "memory/layout.hpp"
#include "memory/session_file.hpp"

namespace freethreading::memory {

class ProcessTable {
 public:
  // `self`: the owner that this process is, kNobody while it is none; a fork wipes it.
  ProcessTable(ProcessSlot* slots, const SessionFile& file, const std::atomic<OwnerId>& self) noexcept
      : slots_(slots), file_(file), self_(self) {}

  // Claims a free slot for a process that adopts it soon: this one, or a child that it is about to fork. kNobody: the table
  // is full.
  OwnerId claim() noexcept { return claim_in(0, kMaxProcesses - 1); }
  // Claims the last slot for this process.
  OwnerId claim_last() noexcept;
  // Whether claim() finds none just now.
  [[nodiscard]] bool is_full() const noexcept;
  // Makes a claimed slot this process's. False: it was given up meanwhile.
  bool adopt(OwnerId owner) noexcept;
  // Gives a slot of this process back that nothing was done under.
  void give_back(OwnerId owner) noexcept { end_sweep(owner); }
  // Takes the file lock again, which closing a descriptor of the file has dropped.
  void hold_again(OwnerId owner) noexcept;

  [[nodiscard]] Liveness liveness(OwnerId owner) const noexcept;
  // Whether this process is the one to recover what `owner` held: true once for each dead slot, and again where the
  // sweeper died. `leaving`: the process sweeps itself on a clean exit.
  bool begin_sweep(OwnerId owner, OwnerId sweeper, bool leaving) noexcept;
  // The slot may be used again, under the next generation. REQUIRES: begin_sweep() elected this process.
  void end_sweep(OwnerId owner) noexcept;
  [[nodiscard]] bool left_cleanly(OwnerId owner) const noexcept { return slot(owner).left.load() != 0; }

  // The owner in slot `index` if there is one that may be dead or half swept; kNobody: free, or certainly alive.
  [[nodiscard]] OwnerId suspect(std::uint32_t index) const noexcept;
  [[nodiscard]] int pid_of(OwnerId owner) const noexcept;
  // The owner with this process id, dead or alive; the one that began last where the id was given again.
  [[nodiscard]] OwnerId owner_of(int pid) const noexcept;
  [[nodiscard]] std::size_t live() const noexcept;

 private:
  [[nodiscard]] ProcessSlot& slot(OwnerId owner) const noexcept { return slots_[slot_of(owner)]; }
  [[nodiscard]] static bool is_current(OwnerId owner, std::uint32_t word) noexcept {
    return owner == owner_id(slot_of(owner), generation_of(word));
  }
  OwnerId claim_in(std::uint32_t first, std::uint32_t end) noexcept;
  [[nodiscard]] bool is_gone(std::uint32_t index, std::uint32_t word) const noexcept;
  [[nodiscard]] bool is_at_work(OwnerId sweeper) const noexcept;

  ProcessSlot* slots_;
  const SessionFile& file_;
  const std::atomic<OwnerId>& self_;
};

}  // namespace freethreading::memory
