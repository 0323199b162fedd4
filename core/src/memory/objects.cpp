// The objects of a session: birth, references, end, and what a process's end does to them.
#include <cstring>

#include "freethreading/crash_point.hpp"
#include "memory/destroy.hpp"
#include "memory/session_state.hpp"

namespace freethreading {

namespace {

using memory::BlockKind;
using memory::RegionGuard;
using memory::block_word;

constexpr std::uint64_t slot_bit(std::uint32_t slot) noexcept { return std::uint64_t{1} << (slot % 64); }

bool has_reference(const ObjectHeader& object) noexcept {
  for (const auto& word : object.refs) {
    if (word.load() != 0) {
      return true;
    }
  }
  return false;
}

}  // namespace

ObjectHeader* Session::create_object(ObjectType type, std::size_t size) noexcept {
  const Offset block = allocate(ObjectHeader::kBodyOffset + size);
  if (block == kNoOffset) {
    return nullptr;
  }
  auto* object = state_->place.at<ObjectHeader>(block);
  std::memset(static_cast<void*>(object), 0, ObjectHeader::kBodyOffset + size);
  object->type = type;
  FT_CRASH_POINT("objects.created");
  return object;
}

Handle Session::publish_object(ObjectHeader* object) noexcept {
  const Offset offset = state_->place.offset_of(object);
  object->generation = state_->header->generation.fetch_add(1) + 1;
  add_reference(object);
  object->state.store(ObjectState::kLive);
  FT_CRASH_POINT("objects.publish.live");
  state_->blocks.set_word(offset, block_word(BlockKind::kObject));
  return {.session = id(), .offset = offset, .generation = object->generation, .type = object->type};
}

void Session::add_reference(ObjectHeader* object) noexcept {
  const std::uint32_t slot = memory::slot_of(state_->place.self());
  const std::lock_guard lock(state_->mutex);
  if (++state_->proxies[state_->place.offset_of(object)] == 1) {
    object->refs[slot / 64].fetch_or(slot_bit(slot));
  }
}

// Whether `handle` names a live object. REQUIRES: RegionHeader::objects is held, so that it stays one.
ObjectHeader* Session::find_live(const Handle& handle) noexcept {
  if (handle.session != id() || memory::kind_of(state_->blocks.word_of(handle.offset)) != BlockKind::kObject) {
    return nullptr;
  }
  auto* object = state_->place.at<ObjectHeader>(handle.offset);
  const bool live = object->generation == handle.generation && object->type == handle.type &&
                    object->state.load() == ObjectState::kLive;
  return live ? object : nullptr;
}

ObjectHeader* Session::open(const Handle& handle) noexcept {
  const RegionGuard guard(state_->place, state_->header->objects);
  ObjectHeader* object = find_live(handle);
  if (object != nullptr) {
    add_reference(object);
  }
  return object;
}

bool Session::retain_in_flight(const Handle& handle) noexcept {
  const RegionGuard guard(state_->place, state_->header->objects);
  ObjectHeader* object = find_live(handle);
  if (object != nullptr) {
    object->in_flight.fetch_add(1);
  }
  return object != nullptr;
}

void Session::drop_in_flight(const Handle& handle) noexcept {
  {
    const RegionGuard guard(state_->place, state_->header->objects);
    ObjectHeader* object = find_live(handle);
    if (object == nullptr || object->in_flight.load() == 0) {
      return;
    }
    object->in_flight.fetch_sub(1);
    if (!begin_destroying(*object)) {
      return;
    }
  }
  finish_destroying(*state_->place.at<ObjectHeader>(handle.offset));
}

void Session::drop_reference(ObjectHeader* object) noexcept {
  const Offset offset = state_->place.offset_of(object);
  {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->proxies.find(offset);
    if (found == state_->proxies.end()) {
      return;  // this process has left
    }
    if (--found->second != 0) {
      return;
    }
    state_->proxies.erase(found);
  }
  const std::uint32_t slot = memory::slot_of(state_->place.self());
  {
    const RegionGuard guard(state_->place, state_->header->objects);
    {
      const std::lock_guard lock(state_->mutex);
      if (state_->proxies.contains(offset)) {
        return;  // opened again by another thread meanwhile
      }
    }
    object->refs[slot / 64].fetch_and(~slot_bit(slot));
    FT_CRASH_POINT("objects.drop.cleared");
    if (!begin_destroying(*object)) {
      return;
    }
  }
  finish_destroying(*object);
}

// Elects the caller to destroy an object that nobody refers to. REQUIRES: RegionHeader::objects is held. In flight is read
// first: whoever takes an object out of a message sets its reference before it lowers the count, so that one of the two is
// seen.
bool Session::begin_destroying(ObjectHeader& object) noexcept {
  if (object.in_flight.load() != 0 || has_reference(object)) {
    return false;
  }
  object.destroyer.store(state_->place.self());
  object.state.store(ObjectState::kDestroying);
  return true;
}

void Session::finish_destroying(ObjectHeader& object) noexcept {
  FT_CRASH_POINT("objects.destroy.elected");
  memory::destroy_body(state_->place, object);
  FT_CRASH_POINT("objects.destroy.body");
  free_block(state_->place.offset_of(&object));
}

// What `gone` held: objects first, since they know which of its blocks are changing hands, then its blocks.
void Session::recover(OwnerId gone, bool left_cleanly) noexcept {
  const std::uint32_t slot = memory::slot_of(gone);
  memory::BlockAllocator& blocks = state_->blocks;
  for (Lock* guard : {&state_->header->growth, &state_->header->objects}) {
    guard->mark_owner_died(gone);
  }
  blocks.for_each([&](Offset block, std::uint32_t word, std::size_t /*size*/) {
    if (memory::kind_of(word) != BlockKind::kObject) {
      return;
    }
    auto& object = *state_->place.at<ObjectHeader>(block);
    if (object.state.load() == ObjectState::kLive) {
      memory::sweep_body(state_->place, object, gone, left_cleanly);
    }
    bool destroy = false;
    {
      const RegionGuard guard(state_->place, state_->header->objects);
      if (memory::kind_of(blocks.word_of(block)) != BlockKind::kObject) {
        return;  // destroyed meanwhile
      }
      if (object.state.load() == ObjectState::kDestroying) {
        destroy = object.destroyer.load() == gone;
        object.destroyer.store(destroy ? state_->place.self() : object.destroyer.load());
      } else {
        object.refs[slot / 64].fetch_and(~slot_bit(slot));
        destroy = begin_destroying(object);
      }
    }
    FT_CRASH_POINT("session.sweep.object");
    if (destroy) {
      finish_destroying(object);
    }
  });
  blocks.for_each([&](Offset block, std::uint32_t word, std::size_t /*size*/) {
    if (word == block_word(BlockKind::kProcess, gone)) {
      blocks.free(block);
    }
  });
  FT_CRASH_POINT("session.sweep.blocks");
}

}  // namespace freethreading
