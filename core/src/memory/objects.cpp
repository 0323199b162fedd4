// The objects of a session: birth, references, end, and what a process's end does to them.
#include <algorithm>
#include <cstring>

#include "freethreading/crash_point.hpp"
#include "memory/destroy.hpp"
#include "memory/objects_guard.hpp"
#include "memory/session_state.hpp"

namespace freethreading {

namespace {

using memory::BlockKind;
using memory::ObjectsGuard;
using memory::block_word;

constexpr std::uint64_t slot_bit(std::uint32_t slot) noexcept { return std::uint64_t{1} << (slot % 64); }

bool has_reference(const ObjectHeader& object) noexcept {
  return std::ranges::any_of(object.refs, [](const auto& word) { return word.load() != 0; });
}

}  // namespace

ObjectHeader* Session::create_object(ObjectType type, std::size_t size) noexcept {
  const Offset block = allocate_or_sweep(ObjectHeader::kBodyOffset + size);
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
  refer_to(*object);
  object->state.store(ObjectState::kLive);
  FT_CRASH_POINT("objects.publish.live");
  state_->blocks.set_word(offset, block_word(BlockKind::kObject));
  return {.session = id(), .offset = offset, .generation = object->generation, .type = object->type};
}

// One more proxy. REQUIRES: the object cannot end meanwhile.
void Session::refer_to(ObjectHeader& object) noexcept {
  const OwnerId self = state_->place.self();
  const std::uint32_t slot = memory::slot_of(self);
  const std::lock_guard lock(state_->mutex);
  if (state_->left) {
    return;  // the slot may be another process's
  }
  Proxies& proxies = state_->proxies[state_->place.offset_of(&object)];
  ++proxies.count;
  if (proxies.holder != self) {
    proxies.holder = self;
    object.refs[slot / 64].fetch_or(slot_bit(slot));
  }
}

void Session::add_reference(ObjectHeader* object) noexcept {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->proxies.find(state_->place.offset_of(object));
  if (found != state_->proxies.end()) {  // else this process has left
    ++found->second.count;
  }
}

// The live object that `handle` names; else null. REQUIRES: RegionHeader::objects is held, so that it stays one.
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
  const ObjectsGuard guard(state_->place, *state_->header);
  ObjectHeader* object = state_->left ? nullptr : find_live(handle);
  if (object != nullptr) {
    refer_to(*object);
  }
  return object;
}

bool Session::carry(Offset block, const Handle& handle) noexcept {
  ObjectsGuard guard(state_->place, *state_->header);
  ObjectHeader* object = state_->left ? nullptr : find_live(handle);
  if (object == nullptr) {
    return false;
  }
  auto& carried = *state_->place.at<Carried>(block);
  guard.set_counts(*object, object->in_flight.load() + 1, carried, carried.count.load() + 1);
  return true;
}

void Session::drop_carried(Offset block) noexcept {
  const Ending ending(*state_);
  for (;;) {
    Handle foreign;
    ObjectHeader* ended = drop_last_carried(block, foreign);
    if (ended != nullptr) {
      finish_destroying(*ended);
    } else if (foreign.session == 0) {
      return;
    } else if (Session* session = find(foreign.session); session != nullptr && session != this) {
      session->drop_in_flight(foreign);
    }
  }
}

// Gives back references until none is left (`foreign` is empty), one is another session's, or an object ends by it, which is
// then the caller's to destroy.
ObjectHeader* Session::drop_last_carried(Offset block, Handle& foreign) noexcept {
  auto& carried = *state_->place.at<Carried>(block);
  ObjectsGuard guard(state_->place, *state_->header);  // the count counts under it only
  for (std::uint64_t left = carried.count.load(); left != 0; --left) {
    const Handle& handle = carried.handles()[left - 1];
    ObjectHeader* object = handle.session == id() ? find_live(handle) : nullptr;
    if (object == nullptr) {
      carried.count.store(left - 1);
      foreign = handle;
      return nullptr;
    }
    guard.set_counts(*object, object->in_flight.load() - 1, carried, left - 1);
    if (begin_destroying(*object)) {
      return object;
    }
  }
  return nullptr;
}

bool Session::retain_in_flight(const Handle& handle) noexcept {
  const ObjectsGuard guard(state_->place, *state_->header);
  ObjectHeader* object = state_->left ? nullptr : find_live(handle);
  if (object != nullptr) {
    object->in_flight.fetch_add(1);
  }
  return object != nullptr;
}

void Session::drop_in_flight(const Handle& handle) noexcept {
  const Ending ending(*state_);
  {
    const ObjectsGuard guard(state_->place, *state_->header);
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
  const Ending ending(*state_);
  const OwnerId self = state_->place.self();
  Handle handle{.session = id(), .offset = offset};
  {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->proxies.find(offset);
    if (found == state_->proxies.end() || --found->second.count != 0) {
      return;  // this process has left, or has more of them
    }
    const bool held = found->second.holder == self;
    state_->proxies.erase(found);
    if (!held) {
      return;
    }
    handle.generation = object->generation;  // it lives: its reference is not cleared yet
    handle.type = object->type;
  }
  const std::uint32_t slot = memory::slot_of(self);
  {
    const ObjectsGuard guard(state_->place, *state_->header);
    {
      const std::lock_guard lock(state_->mutex);
      // Another thread has opened it again meanwhile, or has also dropped it again, and then it is gone.
      if (state_->proxies.contains(offset) || find_live(handle) == nullptr) {
        return;
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
  const Offset block = state_->place.offset_of(&object);
  {
    // Under the lock it ceases to be an object's: who looks a handle up, under the lock too, never reads a block that is
    // somebody's next.
    const ObjectsGuard guard(state_->place, *state_->header);
    adopt(block, false);
  }
  FT_CRASH_POINT("objects.destroy.adopted");
  free_block(block);
}

// What `gone` held: objects first, since they know which of its blocks are changing hands, then its blocks.
void Session::recover(OwnerId gone, bool left_cleanly) noexcept {
  memory::BlockAllocator& blocks = state_->blocks;
  if (!left_cleanly) {
    state_->header->growth.mark_owner_died(gone);
    state_->header->objects.mark_owner_died(gone);
  }
  blocks.for_each([&](Offset block, std::uint32_t word, std::size_t /*size*/) {
    if (memory::kind_of(word) == BlockKind::kObject) {
      recover_object(block, gone, left_cleanly);
    }
  });
  if (is_self(gone)) {
    state_->swept = true;
  }
  blocks.for_each([&](Offset block, std::uint32_t word, std::size_t /*size*/) {
    if (word == block_word(BlockKind::kCarrier, gone)) {
      adopt(block, true);  // whoever sweeps this process, should it die now, goes on
      FT_CRASH_POINT("session.sweep.carrier");
      drop_carried(block);
      blocks.free(block);
    } else if (word == block_word(BlockKind::kProcess, gone) ||
               (word == block_word(BlockKind::kBacking, gone) && !is_self(gone))) {  // a thread of ours is at it, or was
      blocks.free(block);
    }
  });
  FT_CRASH_POINT("session.sweep.blocks");
}

// The object in `block`, if there is one still. The sweeper refers to it meanwhile, so that it does not end under its
// hands; a leaving process does so by the reference that it is about to lose.
void Session::recover_object(Offset block, OwnerId gone, bool left_cleanly) noexcept {
  auto& object = *state_->place.at<ObjectHeader>(block);
  std::atomic<std::uint64_t>& refs = object.refs[memory::slot_of(gone) / 64];
  const std::uint64_t bit = slot_bit(memory::slot_of(gone));
  const bool leaving = is_self(gone);
  bool destroy = false;
  {
    const ObjectsGuard guard(state_->place, *state_->header);
    if (memory::kind_of(state_->blocks.word_of(block)) != BlockKind::kObject) {
      return;
    }
    if (object.state.load() == ObjectState::kLive) {
      if (leaving) {
        refs.fetch_or(bit);
      } else {
        refer_to(object);
      }
    } else if (object.destroyer.load() != gone || (leaving && state_->ending.load() != 0)) {
      return;  // its destroyer is at it
    } else {
      object.destroyer.store(state_->place.self());
      destroy = true;
    }
  }
  if (destroy) {
    FT_CRASH_POINT("session.sweep.destroyer");
    finish_destroying(object);
    return;
  }
  memory::sweep_body(state_->place, object, gone, left_cleanly);
  FT_CRASH_POINT("session.sweep.body");
  {
    const ObjectsGuard guard(state_->place, *state_->header);
    refs.fetch_and(~bit);
    destroy = leaving && begin_destroying(object);
  }
  FT_CRASH_POINT("session.sweep.object");
  if (destroy) {
    finish_destroying(object);
  } else if (!leaving) {
    drop_reference(&object);
  }
}

}  // namespace freethreading
