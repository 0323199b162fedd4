// What a MessageQueue's blocks look like inside. See docs/design/queue.md.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "freethreading/queue/message.hpp"

namespace freethreading {

// A run of cells. `next` is set once, by a producer that found the segment full, under the tail lock.
struct Segment {
  static constexpr std::uint64_t kCells = 63;

  std::atomic<Offset> next;
  std::uint64_t first;  // number of items put before cells[0]; written before the segment is chained
  std::uint64_t bytes;  // of their payload, likewise; where the queue has a bound in bytes
  alignas(64) std::array<Message, kCells> cells;

  [[nodiscard]] bool holds(std::uint64_t index) const noexcept { return index - first < kCells; }
  [[nodiscard]] Message& cell(std::uint64_t index) noexcept { return cells[index - first]; }
  // How many cells there are from that of the item on. REQUIRES: holds(index).
  [[nodiscard]] std::size_t cells_from(std::uint64_t index) const noexcept { return first + kCells - index; }
  // Bytes of payload put before the item. REQUIRES: first <= index <= first + kCells, and those before it were put.
  [[nodiscard]] std::uint64_t bytes_before(std::uint64_t index) const noexcept {
    std::uint64_t sum = bytes;
    for (std::uint64_t at = 0; at < index - first; ++at) {
      sum += cells[at].size;
    }
    return sum;
  }
};
static_assert(sizeof(Segment) == 4096);

inline void copy_word(std::byte* to, const std::byte* from) noexcept { std::memcpy(to, from, sizeof(std::uint64_t)); }

// Copies what a message uses of its cell: most small items fit into the first half of it.
inline void copy_message(Message& to, const Message& from) noexcept {
  constexpr std::size_t kShort = 16;
  // Word by word, as they were written just now: a wider load would have to wait until these stores have left the processor.
  to.size = from.size;
  to.block = from.block;
  to.kind = from.kind;
  to.handles = from.handles;
  copy_word(to.bytes.data(), from.bytes.data());
  copy_word(to.bytes.data() + 8, from.bytes.data() + 8);
  if (from.size > kShort || !from.is_inline()) {
    std::memcpy(to.bytes.data() + kShort, from.bytes.data() + kShort, Message::kInlineBytes - kShort);
  }
}

// An intent word: its owner and the low bits of the count that commits it.
inline constexpr std::uint64_t pack_intent(OwnerId owner, std::uint64_t commit_count) noexcept {
  return (commit_count << kOwnerBits) | owner;
}
inline constexpr OwnerId intent_owner(std::uint64_t intent) noexcept {
  return static_cast<OwnerId>(intent & kOwnerMask);
}
// How many items it is about that the count does not have yet; 0: it was committed, or is not about items.
inline constexpr std::uint64_t uncommitted(std::uint64_t intent, std::uint64_t count) noexcept {
  return ((intent & ~std::uint64_t{kOwnerMask}) - (count << kOwnerBits)) >> kOwnerBits;
}

}  // namespace freethreading
