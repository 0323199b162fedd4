// ObjectsGuard: holds RegionHeader::objects, with what a dead holder had begun finished.
//
// Two counts that change together are noted first, as values: a death before the note is complete changes nothing, and after
// it the next holder stores the same values again.
#pragma once

#include "freethreading/crash_point.hpp"
#include "freethreading/queue/message.hpp"
#include "memory/layout.hpp"
#include "memory/region_guard.hpp"

namespace freethreading::memory {

class ObjectsGuard {
 public:
  ObjectsGuard(Place& place, RegionHeader& header) noexcept
      : guard_(place, header.objects), place_(place), change_(header.change) {
    if (change_.pending.load() != 0) {
      apply();
    }
  }

  // Both, or at a death neither.
  void set_counts(ObjectHeader& object, std::uint32_t in_flight, Carried& carried, std::uint64_t count) noexcept {
    change_.object.store(place_.offset_of(&object));
    change_.block.store(place_.offset_of(&carried));
    change_.in_flight.store(in_flight);
    change_.carried.store(count);
    FT_CRASH_POINT("objects.count.noted");
    change_.pending.store(1);
    FT_CRASH_POINT("objects.count.pending");
    apply();
  }

 private:
  void apply() noexcept {
    place_.at<ObjectHeader>(change_.object.load())->in_flight.store(change_.in_flight.load());
    FT_CRASH_POINT("objects.count.object");
    place_.at<Carried>(change_.block.load())->count.store(change_.carried.load());
    FT_CRASH_POINT("objects.count.block");
    change_.pending.store(0);
    FT_CRASH_POINT("objects.count.done");
  }

  RegionGuard guard_;
  Place& place_;
  CountChange& change_;
};

}  // namespace freethreading::memory
