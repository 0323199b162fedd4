// Message: what a queue carries. A few bytes in the cell itself, or a block.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "freethreading/memory/object.hpp"
#include "freethreading/place.hpp"

namespace freethreading {

struct Message {
  static constexpr std::size_t kInlineBytes = 40;
  // The kind of one that was withdrawn: whoever takes it discards it.
  static constexpr std::uint32_t kWithdrawn = 0xFFFFFFFF;

  std::uint64_t size = 0;     // bytes of payload
  Offset block = kNoOffset;   // where the payload lies; kNoOffset: in `bytes`
  std::uint32_t kind = 0;     // the caller's: how to decode it
  std::uint32_t handles = 0;  // objects that the message keeps alive; not 0: the block begins with a Carried
  std::array<std::byte, kInlineBytes> bytes{};

  [[nodiscard]] bool is_inline() const noexcept { return block == kNoOffset; }
};
static_assert(sizeof(Message) == 64);

// In front of the payload of a message that keeps objects alive.
struct Carried {
  std::atomic<std::uint64_t> count;  // of handles, from the first on, that are counted in flight; under RegionHeader::objects
  std::uint64_t unused;

  // They follow.
  [[nodiscard]] Handle* handles() noexcept { return reinterpret_cast<Handle*>(this + 1); }  // NOLINT(*-reinterpret-cast)
};

// Bytes of a message's block in front of its payload.
constexpr std::size_t payload_offset(std::size_t handles) noexcept {
  return handles == 0 ? 0 : sizeof(Carried) + handles * sizeof(Handle);
}
static_assert(payload_offset(1) % 16 == 0);

// Allocates a message's block for `size` bytes of payload behind room for `handles` handles. False: no memory, also none of
// dead processes. REQUIRES: the caller holds no lock of the place.
[[nodiscard]] bool allocate_block(Place& place, Message& message, std::size_t size, std::size_t handles = 0) noexcept;
[[nodiscard]] std::byte* payload_of(const Place& place, const Message& message) noexcept;
// Fills in the next handle: from now on the message keeps the object alive. REQUIRES: the block has room, and belongs to this
// process. False: the object is gone.
[[nodiscard]] bool carry(Place& place, Message& message, const Handle& handle) noexcept;
// Makes the message's block this process's.
void adopt(Place& place, const Message& message) noexcept;
// Frees a message that its holder owns: drops the handles that it carries, then its block.
void discard(Place& place, Message& message) noexcept;

}  // namespace freethreading
