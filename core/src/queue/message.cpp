#include "freethreading/queue/message.hpp"

#include "freethreading/memory/object.hpp"
#include "freethreading/memory/session.hpp"

namespace freethreading {

void discard(Place& place, Message& message) noexcept {
  const Offset block = message.block;
  const std::uint32_t handles = message.handles;
  message.block = kNoOffset;
  message.handles = 0;
  if (block == kNoOffset) {
    return;
  }
  if (place.shared()) {
    const Handle* carried = place.at<Handle>(block);
    for (std::uint32_t i = 0; i < handles; ++i) {
      place.session()->drop_in_flight(carried[i]);
    }
  }
  place.free(block);
}

}  // namespace freethreading
