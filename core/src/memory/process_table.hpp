// ProcessTable: which processes take part in a session, and whether they still live.
//
// A process owns a slot and holds the file lock on the slot's byte; the kernel drops that lock when the process dies. POSIX
// drops it too when the process closes any descriptor of the file, so a free byte is believed only where /proc has no
// running process with the slot's id and start time.
#pragma once

#include "freethreading/place.hpp"
#include "memory/layout.hpp"

namespace freethreading::memory {

class ProcessTable {
 public:
  ProcessTable(ProcessSlot* slots, int descriptor) noexcept : slots_(slots), descriptor_(descriptor) {}

  // Claims a free slot for this process, or for a child that it is about to fork. kNobody: the table is full.
  OwnerId claim() noexcept;
  OwnerId claim_for_child(OwnerId creator) noexcept;
  // In the child: makes the slot that its parent claimed this process's. False: it was given up meanwhile.
  bool adopt(OwnerId owner) noexcept;
  // Takes the file lock again, which closing a descriptor of the file has dropped.
  void hold_again(OwnerId owner) noexcept;

  [[nodiscard]] Liveness liveness(OwnerId owner) const noexcept;
  // Whether this process is the one to recover what `owner` held: true once for each dead slot, and again where the
  // sweeper died. `leaving`: the process sweeps itself on a clean exit.
  bool begin_sweep(OwnerId owner, OwnerId sweeper, bool leaving) noexcept;
  // The slot may be used again, under the next generation.
  void end_sweep(OwnerId owner) noexcept;
  [[nodiscard]] bool left_cleanly(OwnerId owner) const noexcept { return slot(owner).left.load() != 0; }

  // The owner in slot `index` if there is one that may be dead or half swept; kNobody: free, or certainly alive.
  [[nodiscard]] OwnerId suspect(std::uint32_t index) const noexcept;
  [[nodiscard]] int pid_of(OwnerId owner) const noexcept;
  [[nodiscard]] OwnerId owner_of(int pid) const noexcept;
  [[nodiscard]] std::size_t live() const noexcept;

 private:
  [[nodiscard]] ProcessSlot& slot(OwnerId owner) const noexcept { return slots_[slot_of(owner)]; }
  [[nodiscard]] bool is_current(OwnerId owner, std::uint32_t word) const noexcept {
    return owner == owner_id(slot_of(owner), generation_of(word));
  }
  [[nodiscard]] bool is_dead(std::uint32_t index, std::uint32_t word) const noexcept;
  void inhabit(ProcessSlot& slot, std::uint32_t index) noexcept;

  ProcessSlot* slots_;
  int descriptor_;
};

}  // namespace freethreading::memory
