// SharedBuffer: bytes, zero at first, that follow their own size.
//
//   made by          lies in             ends by
//   make_private()   the heap            end_private()
//   make_shared()    an object's body    the object's end
//
// Who reads and writes the bytes when is the callers' business: nothing here is guarded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "freethreading/memory/session.hpp"

namespace freethreading {

class SharedBuffer {
 public:
  static constexpr std::size_t kDataOffset = 64;

  // REQUIRES: `size` zeroed bytes lie kDataOffset behind its beginning, which is aligned to 64 bytes unless `size` is 0.
  explicit SharedBuffer(std::uint64_t size) noexcept : size_(size) {}

  // Null: no memory. Pages are made and zeroed when they are first touched.
  static SharedBuffer* make_private(std::size_t size) noexcept;
  static void end_private(SharedBuffer* buffer) noexcept;
  // An unborn object (Session::create_object) with a SharedBuffer as its body; null: no memory. Writes every byte: seconds
  // for a large one.
  static ObjectHeader* make_shared(Session& session, std::size_t size) noexcept;

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  // Aligned to 64 bytes.
  [[nodiscard]] std::byte* data() noexcept {
    return reinterpret_cast<std::byte*>(this) + kDataOffset;  // NOLINT(*-reinterpret-cast): they lie there
  }

 private:
  std::uint64_t size_;
};
static_assert(sizeof(SharedBuffer) <= SharedBuffer::kDataOffset);

}  // namespace freethreading
