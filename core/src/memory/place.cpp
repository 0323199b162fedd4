#include "freethreading/place.hpp"

#include <cstdlib>

#include "freethreading/memory/session.hpp"
#include "memory/session_state.hpp"
#include "os/process.hpp"

namespace freethreading {

namespace {

constexpr std::size_t kAlignment = 64;

// A block of private memory begins with its size.
struct PrivateBlock {
  std::size_t size;
};

PrivateBlock* private_block(Offset block) noexcept {
  return reinterpret_cast<PrivateBlock*>(block - kAlignment);  // NOLINT(*-reinterpret-cast,*-int-to-ptr): an address
}

}  // namespace

Place& Place::private_memory() noexcept {
  static Place place(nullptr, nullptr, memory::word_of_this_process());
  return place;
}

[[gnu::noinline]] OwnerId Place::register_self() noexcept {
  if (session_ != nullptr) {
    return session_->register_self();
  }
  const auto self = static_cast<OwnerId>(os::process_id());
  cached_self_->store(self, std::memory_order_relaxed);
  return self;
}

Liveness Place::liveness(OwnerId owner) noexcept {
  if (session_ != nullptr) {
    return session_->liveness(owner);
  }
  return owner == self() ? Liveness::kAlive : Liveness::kDied;
}

Offset Place::allocate(std::size_t size) noexcept {
  if (session_ != nullptr) {
    return session_->allocate(size);
  }
  const std::size_t rounded = (size + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
  void* memory = rounded < size ? nullptr : std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) {
    return kNoOffset;
  }
  static_cast<PrivateBlock*>(memory)->size = rounded - kAlignment;
  return reinterpret_cast<Offset>(memory) + kAlignment;  // NOLINT(*-reinterpret-cast): an offset is an address here
}

void Place::free(Offset block) noexcept {
  if (session_ != nullptr) {
    session_->free_block(block);
  } else {
    std::free(private_block(block));  // NOLINT(*-no-malloc): from aligned_alloc
  }
}

std::size_t Place::usable_size(Offset block) const noexcept {
  return session_ != nullptr ? session_->usable_size(block) : private_block(block)->size;
}

[[gnu::noinline]] void Place::link(Offset block) noexcept {
  if (session_ != nullptr) {
    session_->link(block);
  }
}

[[gnu::noinline]] void Place::adopt(Offset block, bool carrier) noexcept {
  if (session_ != nullptr) {
    session_->adopt(block, carrier);
  }
}

}  // namespace freethreading
