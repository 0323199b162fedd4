#include "freethreading/memory/shared_buffer.hpp"

#include <cstdlib>
#include <limits>
#include <new>

namespace freethreading {

namespace {

constexpr std::size_t kLargest = std::numeric_limits<std::ptrdiff_t>::max() / 2;
constexpr std::size_t kAlignment = 64;

// Where a private one's memory begins, as calloc gave it: in front of the struct.
void*& memory_of(SharedBuffer* buffer) noexcept {
  return *(reinterpret_cast<void**>(buffer) - 1);  // NOLINT(*-reinterpret-cast): it lies there
}

}  // namespace

SharedBuffer* SharedBuffer::make_private(std::size_t size) noexcept {
  if (size > kLargest) {
    return nullptr;
  }
  // calloc's large pieces are fresh pages, which nobody has to zero. It aligns to 16 bytes at least: there is room for a
  // pointer in front of the next boundary.
  void* memory = std::calloc(1, kAlignment + kDataOffset + size);
  if (memory == nullptr) {
    return nullptr;
  }
  const auto address = reinterpret_cast<std::uintptr_t>(memory);  // NOLINT(*-reinterpret-cast)
  const std::uintptr_t aligned = (address / kAlignment + 1) * kAlignment;
  // NOLINTNEXTLINE(*-reinterpret-cast,*-int-to-ptr): within the piece
  auto* buffer = new (reinterpret_cast<void*>(aligned)) SharedBuffer(size);
  memory_of(buffer) = memory;
  return buffer;
}

void SharedBuffer::end_private(SharedBuffer* buffer) noexcept { std::free(memory_of(buffer)); }  // NOLINT(*-no-malloc)

ObjectHeader* SharedBuffer::make_shared(Session& session, std::size_t size) noexcept {
  if (size > kLargest) {
    return nullptr;
  }
  ObjectHeader* object = session.create_object(ObjectType::kSharedBuffer, kDataOffset + size);
  if (object != nullptr) {
    new (object->body<std::byte>()) SharedBuffer(size);
  }
  return object;
}

}  // namespace freethreading
