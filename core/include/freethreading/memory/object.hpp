// Objects of a session: what a Handle names, who keeps it alive, how it ends.
//
// An object is a block of the region with an ObjectHeader in front of its struct. It lives while any process has a proxy
// for it (one bit per process slot, cleared when the slot's process dies) or a message in flight carries it (a count).
//
//   state        meaning                                   ends when
//   kUnborn      being built by its creator                publish() / the creator dies: the block is swept
//   kLive        reachable through handles                 the last reference goes: the dropper wins kDestroying
//   kDestroying  its destroyer frees what it owns          destroyed / the destroyer dies: the sweeper does it again
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "freethreading/place.hpp"

namespace freethreading {

inline constexpr unsigned kMaxProcesses = 1024;  // slots; one of them is kept for the case that all others are taken

enum class ObjectType : std::uint32_t {
  kNone = 0,
  kLock,
  kRLock,
  kSemaphore,
  kBoundedSemaphore,
  kCondition,
  kEvent,
  kBarrier,
  kQueue,
  kSimpleQueue,
  kChannel,  // the engines' queue
  kWorker,  // a worker process's record (pool/worker_record.hpp)
  kPool,
  kBlobLog,
  kAtomicInt64,
  kSharedBuffer,
};

// Names an object for every process of its session, and tells a new object in the same place apart from it.
struct Handle {
  std::uint64_t session = 0;  // Session::id()
  Offset offset = kNoOffset;  // of the ObjectHeader
  std::uint64_t generation = 0;
  ObjectType type = ObjectType::kNone;

  friend bool operator==(const Handle&, const Handle&) = default;
};

enum class ObjectState : std::uint32_t { kUnborn = 0, kLive = 1, kDestroying = 2 };

struct ObjectHeader {
  std::uint64_t generation;  // unique in the session; written before publish
  ObjectType type;           // written before publish
  std::atomic<ObjectState> state;
  std::atomic<OwnerId> destroyer;
  std::atomic<std::uint32_t> in_flight;                             // messages and start-ups that carry a handle
  std::array<std::atomic<std::uint64_t>, kMaxProcesses / 64> refs;  // bit i: the process in slot i has a proxy

  // The struct behind the header.
  template <class T>
  [[nodiscard]] T* body() noexcept {
    static_assert(alignof(T) <= 64);
    return reinterpret_cast<T*>(reinterpret_cast<std::byte*>(this) + kBodyOffset);  // NOLINT(*-reinterpret-cast)
  }
  static constexpr std::size_t kBodyOffset = 192;
};
static_assert(sizeof(ObjectHeader) <= ObjectHeader::kBodyOffset);

// Frees what an object owns besides its own block (segments, messages, cells). One function per ObjectType, registered
// in core/src/memory/destroy.cpp. Must be safe to run again after a death in the middle.
using DestroyFunction = void (*)(Place&, void* body) noexcept;

}  // namespace freethreading
