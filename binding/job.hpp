// A map's job: its items, who runs which, and its small results, in one SharedBuffer that all workers of a pool work on
// (docs/design/jobs.md).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "compat.hpp"
#include "freethreading/memory/shared_buffer.hpp"

namespace freethreading::binding {

// What of one item is known. `head` is its state; the rest is written before a state that says so.
//
//   0                    free: nobody runs it
//   kRuns | number       the worker of that number has it
//   1 + size             done: the codec's bytes of its value, `size` of them, are in the slot
//   kSent                done: its outcome comes, or came, as a message
struct JobSlot {
  static constexpr std::size_t kBytes = 12;
  static constexpr std::uint32_t kSent = 0x40;
  static constexpr std::uint32_t kRuns = 0x80000000;

  std::atomic<std::uint32_t> head;
  std::array<std::byte, kBytes> bytes;

  [[nodiscard]] static bool is_done(std::uint32_t head) { return head != 0 && (head & kRuns) == 0; }
  // Whether this caller has it now.
  bool claim(std::uint32_t state) {
    std::uint32_t free = 0;
    return head.load(std::memory_order_relaxed) == 0 && head.compare_exchange_strong(free, state);
  }
};
static_assert(sizeof(JobSlot) == 16);

// In front of the slots; behind them the offsets of the items' encodings from their first one (one more than there may be items), and
// these. The items of a range are not there, but made by who runs them. An open job (a stream's) is one whose items still come: slots
// behind `available` are not there yet.
struct alignas(64) JobHeader {
  std::atomic<std::uint64_t> cursor;     // the first item that no worker has set out to run
  std::atomic<std::uint32_t> is_closed;  // no item is to begin any more
  std::atomic<std::uint32_t> asked;      // somebody waits: whoever has done an item wipes it and tells
  std::atomic<std::uint32_t> is_telling;  // workers tell each millisecond, and when they leave

  alignas(64) std::atomic<std::uint64_t> available;  // items that there are
  std::atomic<std::uint32_t> is_open;
  std::atomic<std::uint32_t> helpers;  // workers that were called to an open job and have not left it
  std::uint32_t star;                  // 1: an item is the arguments
  std::uint32_t workers;               // that may work on it at a time
  std::uint64_t count;                 // items that there may be
  std::uint64_t room;                  // bytes for their encodings
  std::int64_t start;                  // of a range, whose numbers the items are
  std::int64_t step;
  std::uint32_t is_range;  // 1: there is nothing behind the slots

  [[nodiscard]] JobSlot* slots() { return reinterpret_cast<JobSlot*>(this + 1); }
  [[nodiscard]] std::uint32_t* offsets() { return reinterpret_cast<std::uint32_t*>(slots() + count); }
  [[nodiscard]] std::byte* items() { return reinterpret_cast<std::byte*>(offsets() + count + 1); }
  // Bytes of a job; of one of a range.
  [[nodiscard]] static std::size_t size_for(std::size_t count, std::size_t bytes) {
    return size_for(count) + (count + 1) * sizeof(std::uint32_t) + bytes;
  }
  [[nodiscard]] static std::size_t size_for(std::size_t count) { return sizeof(JobHeader) + count * sizeof(JobSlot); }
};
static_assert(sizeof(JobHeader) == 128);

inline JobHeader* job_of(SharedBuffer& buffer) { return reinterpret_cast<JobHeader*>(buffer.data()); }

}  // namespace freethreading::binding
