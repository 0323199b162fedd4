// Message: what a queue carries. A few bytes in the cell itself, or a block.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "freethreading/place.hpp"

namespace freethreading {

struct Message {
  static constexpr std::size_t kInlineBytes = 40;

  std::uint64_t size = 0;     // bytes of payload
  Offset block = kNoOffset;   // where the payload lies; kNoOffset: in `bytes`
  std::uint32_t kind = 0;     // the caller's: how to decode it
  std::uint32_t handles = 0;  // the payload's block begins with this many Handles, each counted in flight
  std::array<std::byte, kInlineBytes> bytes{};

  [[nodiscard]] bool is_inline() const noexcept { return block == kNoOffset; }
};
static_assert(sizeof(Message) == 64);

// Frees a message that its holder owns: drops the handles that it carries, then its block.
void discard(Place& place, Message& message) noexcept;

}  // namespace freethreading
