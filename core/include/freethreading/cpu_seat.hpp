// CpuSeat: keeps a thread off the CPU of those who wake it for each piece of work.
//
// The scheduler may put a woken thread on its waker's CPU while others are idle (where all have looked busy a moment ago), and as the
// two never run at a time from then on, it leaves them there: each hand-over costs two context switches, and no spin ever
// succeeds. A thread that has found itself in that place a number of times in a row moves: it takes the CPU out of its affinity
// mask and puts the mask back at once. Where it comes back soon, the next move is further off.
//
// One thread's; not thread-safe.
#pragma once

#include <cstdint>

namespace freethreading {

class CpuSeat {
 public:
  // The CPU that the calling thread runs on, numbered from 1; 0: not known.
  [[nodiscard]] static std::uint32_t here() noexcept;

  // The calling thread has work again: it was woken from that CPU (as here() said there); 0: it was awake. Whether it has moved.
  bool woken_from(std::uint32_t cpu) noexcept;

 private:
  std::uint32_t beside_ = 0;  // waits in a row that ended on the waker's CPU
  std::uint32_t well_ = 0;    // that did not
  std::uint32_t limit_ = kFirstLimit;

  static constexpr std::uint32_t kFirstLimit = 8;
  static constexpr std::uint32_t kLastLimit = 256;
  static constexpr std::uint32_t kSettled = 64;  // waits in a row after which it sits well
};

}  // namespace freethreading
