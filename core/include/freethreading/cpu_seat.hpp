// CpuSeat: keeps a thread off the CPU of those who wake it for each piece of work.
//
// The scheduler may put a woken thread on its waker's CPU while others are idle (where all have looked busy a moment ago), and as the
// two never run at a time from then on, it leaves them there: each hand-over costs two context switches, and no spin ever
// succeeds: the one who spins keeps the other from running. A thread that has found itself in that place a number of times in a
// row moves: it takes the CPU out of its affinity mask and puts the mask back at once. Where it comes back soon, the next move is
// further off.
//
// One thread's; not thread-safe.
#pragma once

#include <cstdint>

namespace freethreading {

// Behind a move both are used to parking, and whoever parks may be woken on the other's CPU: so both spin for long then
// (expect_partner()).
class CpuSeat {
 public:
  // The CPU that the calling thread runs on, numbered from 1; 0: not known.
  [[nodiscard]] static std::uint32_t here() noexcept;

  // The calling thread has waited and has work again, from that CPU (as here() said there; 0: not known). Whether it is to move(),
  // when it has answered: whoever it wakes may be put on its CPU, and shall have that for itself.
  [[nodiscard]] bool has_work_from(std::uint32_t cpu) noexcept;
  // Leaves the CPU that it was on then. False: it may run on no other.
  bool move() noexcept;

 private:
  std::uint32_t beside_ = 0;  // waits in a row that ended on the waker's CPU
  std::uint32_t well_ = 0;    // that did not
  std::uint32_t limit_ = kFirstLimit;
  int shared_ = 0;  // the CPU to be left

  static constexpr std::uint32_t kFirstLimit = 8;
  static constexpr std::uint32_t kLastLimit = 128;
  static constexpr std::uint32_t kSettled = 64;  // waits in a row after which it sits well
};

// The calling thread's next waits for others are worth a long spin (sync/spin.hpp).
void expect_partner() noexcept;

}  // namespace freethreading
