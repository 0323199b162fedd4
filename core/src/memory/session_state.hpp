// What a process keeps of a session it is attached to, in its own memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "freethreading/memory/session.hpp"
#include "memory/blocks.hpp"
#include "memory/layout.hpp"
#include "memory/process_table.hpp"
#include "os/memfd.hpp"

namespace freethreading::memory {

// A word that a fork sets back to kNobody: on a page that the kernel wipes, or, where it refuses that, by a fork handler.
std::atomic<OwnerId>* word_of_this_process() noexcept;

// Holds a lock of the region for a short section. What its owner leaves behind at a death is valid: each step is one store.
class RegionGuard {
 public:
  RegionGuard(Place& place, Lock& lock) noexcept;
  RegionGuard(const RegionGuard&) = delete;
  RegionGuard& operator=(const RegionGuard&) = delete;
  ~RegionGuard();

 private:
  Place& place_;
  Lock& lock_;
};

}  // namespace freethreading::memory

namespace freethreading {

struct Session::State {
  State(Session* session, int file, const os::FileIdentity& identity, std::byte* region, std::atomic<OwnerId>* cached) noexcept
      : descriptor(file),
        file_identity(identity),
        base(region),
        header(reinterpret_cast<memory::RegionHeader*>(region)),  // NOLINT(*-reinterpret-cast): it lies there
        cached_self(cached),
        place(session, region, cached),
        processes(place.at<memory::ProcessSlot>(memory::kProcessTable), file),
        blocks(place, header, file) {}

  int descriptor;
  os::FileIdentity file_identity;
  std::byte* base;
  memory::RegionHeader* header;
  std::atomic<OwnerId>* cached_self;
  Place place;
  memory::ProcessTable processes;
  memory::BlockAllocator blocks;

  std::mutex mutex;                                       // held across a fork
  std::unordered_map<Offset, std::uint32_t> proxies;      // guarded by mutex: proxies of this process for each object
  OwnerId embryo = kNobody;                               // guarded by mutex: the slot of the child being forked
  bool left = false;                                      // guarded by mutex
};

}  // namespace freethreading
