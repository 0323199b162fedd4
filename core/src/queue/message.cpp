#include "freethreading/queue/message.hpp"

#include "freethreading/crash_point.hpp"
#include "freethreading/memory/session.hpp"

namespace freethreading {

bool allocate_block(Place& place, Message& message, std::size_t size, std::size_t handles) noexcept {
  const std::size_t bytes = payload_offset(handles) + size;
  message.block = place.shared() ? place.session()->allocate_or_sweep(bytes) : place.allocate(bytes);
  if (message.is_inline()) {
    return false;
  }
  message.size = size;
  message.handles = static_cast<std::uint32_t>(handles);
  if (handles != 0) {
    place.at<Carried>(message.block)->count.store(0);
    FT_CRASH_POINT("message.carrier.zeroed");
    adopt(place, message);
    FT_CRASH_POINT("message.carrier.made");
  }
  return true;
}

std::byte* payload_of(const Place& place, const Message& message) noexcept {
  return place.at<std::byte>(message.block + payload_offset(message.handles));
}

bool carry(Place& place, Message& message, const Handle& handle) noexcept {
  auto& carried = *place.at<Carried>(message.block);
  const std::uint64_t next = carried.count.load();
  carried.handles()[next] = handle;
  Session& own = *place.session();
  if (handle.session == own.id()) {
    return own.carry(message.block, handle);
  }
  Session* other = Session::find(handle.session);
  if (other == nullptr || !other->retain_in_flight(handle)) {
    return false;
  }
  carried.count.store(next + 1);
  return true;
}

void adopt(Place& place, const Message& message) noexcept {
  if (!message.is_inline()) {
    place.adopt(message.block, message.handles != 0);
  }
}

void discard(Place& place, Message& message) noexcept {
  const Offset block = message.block;
  const std::uint32_t handles = message.handles;
  message.block = kNoOffset;
  message.handles = 0;
  if (block == kNoOffset) {
    return;
  }
  if (handles != 0) {
    place.session()->drop_carried(block);
    FT_CRASH_POINT("message.discard.dropped");
  }
  place.free(block);
}

}  // namespace freethreading
