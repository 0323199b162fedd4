// Place: where a shared-state object lies, and who the caller is there.
//
// Every object of the core (lock, condition, queue, ...) is an address-free struct. Its methods take the Place it lies in:
// either this process's private memory, or a Session's region that several processes map at different addresses. The
// algorithms are the same; a Place answers the three questions whose answers differ: who am I, is that owner dead, and
// where does offset X lie.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace freethreading {

class Session;

// Position in a place: bytes from the region's start, or an address in private memory. 0 is none.
using Offset = std::uint64_t;
inline constexpr Offset kNoOffset = 0;

// A process, as lock words and block words record it. Fits in kOwnerBits bits; 0 is nobody.
//   region:         slot index (10 bits) | generation of the slot (12 bits, never 0) << 10
//   private memory: the process id (at most 2^22 on Linux)
using OwnerId = std::uint32_t;
inline constexpr OwnerId kNobody = 0;
inline constexpr unsigned kOwnerBits = 22;
inline constexpr OwnerId kOwnerMask = (OwnerId{1} << kOwnerBits) - 1;

enum class Liveness : std::uint8_t {
  kAlive,        // running, stopped, or not known to be dead
  kDied,         // killed, or left by _exit without saying good-bye
  kLeftCleanly,  // ended by a clean exit (Session::leave), or its slot was swept since
};

class Place {
 public:
  // The one place of private memory of this process.
  static Place& private_memory() noexcept;
  // The place of a session's region; use Session::place().
  Place(Session* session, std::byte* base, std::atomic<OwnerId>* cached_self) noexcept
      : session_(session), base_(base), cached_self_(cached_self) {}
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() = default;

  [[nodiscard]] bool shared() const noexcept { return session_ != nullptr; }
  // The session, null for private memory.
  [[nodiscard]] Session* session() const noexcept { return session_; }

  // This process here. Costs one load; after a fork the child finds the cached value wiped and registers itself.
  [[nodiscard]] OwnerId self() noexcept {
    // Relaxed: the value is written by this process before any thread can read it as non-zero, and publishes nothing.
    const OwnerId cached = cached_self_->load(std::memory_order_relaxed);
    return cached != kNobody ? cached : register_self();
  }

  // Whether `owner` is this process. Registers nobody: a child of a fork that was not told of it is not its parent.
  [[nodiscard]] bool is_self(OwnerId owner) const noexcept {
    return cached_self_->load(std::memory_order_relaxed) == owner;  // as in self()
  }

  // Whether `owner` still runs. May make system calls: ask after a park, never on a fast path. In private memory any
  // owner other than this process is dead: its word was copied by a fork.
  [[nodiscard]] Liveness liveness(OwnerId owner) noexcept;

  // The object at `offset`; REQUIRES: offset is in this place and not kNoOffset.
  template <class T>
  [[nodiscard]] T* at(Offset offset) const noexcept {
    return reinterpret_cast<T*>(base_ + offset);  // NOLINT(*-reinterpret-cast): this is what an offset means
  }
  [[nodiscard]] Offset offset_of(const void* address) const noexcept {
    return static_cast<Offset>(static_cast<const std::byte*>(address) - base_);
  }

  // A zeroed-nothing block of at least `size` bytes, 64-byte aligned, owned by this process (a death gives it back),
  // or kNoOffset where there is no memory. Blocks are not zeroed.
  [[nodiscard]] Offset allocate(std::size_t size) noexcept;
  // Gives a block back; REQUIRES: the caller's process owns it or it is linked and the caller has unlinked it.
  void free(Offset block) noexcept;
  // Usable bytes of a block (at least what was asked for).
  [[nodiscard]] std::size_t usable_size(Offset block) const noexcept;
  // Says who answers for a block from now on: the structure that it is linked into (a death of this process no longer
  // gives it back), or this process (again). `carrier`: the block begins with a Carried (queue/message.hpp), whose counts a
  // death gives back too. No-ops in private memory.
  void link(Offset block) noexcept;
  void adopt(Offset block, bool carrier = false) noexcept;

 private:
  OwnerId register_self() noexcept;

  Session* session_;
  std::byte* base_;  // null in private memory: there an offset is an address
  std::atomic<OwnerId>* cached_self_;
};

}  // namespace freethreading
