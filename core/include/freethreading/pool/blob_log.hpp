// BlobLog: an append-only list of byte strings that every process of a session can read from any point on.
//
// One writer process at a time (its threads hold the guard), any number of readers. Entries are numbered from 1. An entry
// is linked by one store; a writer's death before it leaves the log as it was.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "freethreading/place.hpp"
#include "freethreading/sync/lock.hpp"

namespace freethreading {

class BlobLog {
 public:
  struct Entry {
    std::atomic<Offset> next;
    std::uint64_t number;
    std::uint64_t size;
    [[nodiscard]] const std::byte* bytes() const noexcept {
      return reinterpret_cast<const std::byte*>(this + 1);  // NOLINT(*-reinterpret-cast): they follow the entry
    }
  };
  // The new entry's number; 0: no memory.
  std::uint64_t append(Place& place, const std::byte* bytes, std::size_t size) noexcept;
  // The first entry with a number above `after`; null: none.
  [[nodiscard]] const Entry* after(Place& place, std::uint64_t number) const noexcept;
  [[nodiscard]] std::uint64_t last() const noexcept;
  // For the sweeper, before the blocks of `dead` are freed: finishes its append or makes sure that it never was.
  void sweep(Place& place, OwnerId dead) noexcept;
  // REQUIRES: nobody uses it. May run again after a death in the middle, before the blocks of the dead are freed.
  void destroy(Place& place) noexcept;

 private:
  void lock_guard(Place& place) noexcept;
  void repair(Place& place) noexcept;

  Lock guard_;                              // guards all below but reads
  std::atomic<OwnerId> writer_{kNobody};    // whose append is not over
  std::atomic<Offset> first_{kNoOffset};
  std::atomic<Offset> last_entry_{kNoOffset};
  std::atomic<std::uint64_t> last_{0};
};

}  // namespace freethreading
