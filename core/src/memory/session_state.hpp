// What a process keeps of a session it is attached to, in its own memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "freethreading/memory/session.hpp"
#include "memory/blocks.hpp"
#include "memory/layout.hpp"
#include "memory/process_table.hpp"
#include "memory/region_guard.hpp"
#include "memory/session_file.hpp"
#include "os/memfd.hpp"

namespace freethreading::memory {

// The sessions of this process; they are made under the mutex and never destroyed.
struct Registry {
  std::mutex mutex;
  std::vector<Session*> sessions;
};
Registry& registry() noexcept;

// A word that a fork sets back to kNobody: on a page that the kernel wipes, or, where it refuses that, by a fork handler.
std::atomic<OwnerId>* word_of_this_process() noexcept;

}  // namespace freethreading::memory

namespace freethreading {

// Proxies of one object in this process. `holder` is the owner whose reference keeps the object alive for them; where that is
// not this process, they were copied by a fork that gave the child nothing, and their end touches nothing.
struct Proxies {
  std::uint32_t count = 0;
  OwnerId holder = kNobody;
};

// A child that this process forked, the how many-th it was; a message that it may see.
struct ForkedChild {
  std::uint64_t number;
  OwnerId owner;
};
struct SeenMessage {
  Message message;
  std::uint64_t since;
};

struct Session::State {
  State(Session* session, int descriptor, const os::FileIdentity& identity, std::byte* region,
        std::atomic<OwnerId>* cached) noexcept
      : file(descriptor, identity),
        header(reinterpret_cast<memory::RegionHeader*>(region)),  // NOLINT(*-reinterpret-cast): it lies there
        cached_self(cached),
        place(session, region, cached),
        processes(place.at<memory::ProcessSlot>(memory::kProcessTable), file, *cached),
        blocks(place, header, file) {}

  memory::SessionFile file;
  memory::RegionHeader* header;
  std::atomic<OwnerId>* cached_self;
  Place place;
  memory::ProcessTable processes;
  memory::BlockAllocator blocks;

  std::mutex mutex;                                       // held across a fork
  std::unordered_map<Offset, Proxies> proxies;            // guarded by mutex: this process's, by object
  OwnerId embryo = kNobody;                               // guarded by mutex: the slot of the child being forked
  OwnerId forker = kNobody;                               // guarded by mutex: whose references the embryo was given
  std::vector<ForkedChild> children;                      // guarded by mutex: not all of them dead
  std::vector<SeenMessage> seen;                          // guarded by mutex: to be discarded when they are
  std::atomic<std::uint64_t> forks{0};                    // written under mutex
  std::atomic<bool> holds_seen{false};                    // whether `seen` has any; written under mutex
  std::atomic<bool> left{false};        // leave() was called: nothing is taken or given up any more; set under mutex
  std::atomic<bool> swept{false};       // and this process's blocks are free
  std::atomic<std::uint32_t> ending{0};  // threads in an Ending
  std::atomic<Nanoseconds> swept_at{0};  // of the others, by allocate_or_sweep()
  std::atomic<std::uint32_t> small_ones{0};  // relaxed: a number of calls
};

// While a thread of this process ends an object or another process; leave() waits for it, since nobody else would take its
// work over afterwards. Nests.
class Ending {
 public:
  explicit Ending(Session::State& state) noexcept : state_(state) { state_.ending.fetch_add(1); }
  Ending(const Ending&) = delete;
  Ending& operator=(const Ending&) = delete;
  ~Ending() { state_.ending.fetch_sub(1); }
  // False: this process has left, do nothing.
  [[nodiscard]] bool may_begin() const noexcept { return !state_.left.load(); }

 private:
  Session::State& state_;
};

}  // namespace freethreading
