#include "freethreading/pool/blob_log.hpp"

#include <cstring>

#include "freethreading/crash_point.hpp"

namespace freethreading {

namespace {

BlobLog::Entry* entry_at(const Place& place, const std::atomic<Offset>& link) noexcept {
  // sync: ENTRY (acquire): its number, size and bytes; pairs with append
  const Offset entry = link.load(std::memory_order_acquire);
  return entry == kNoOffset ? nullptr : place.at<BlobLog::Entry>(entry);
}

}  // namespace

void BlobLog::lock_guard(Place& place) noexcept {
  WaitContext forever{Deadline::never()};
  if (guard_.lock_robustly_until(place, forever) == WaitOutcome::kOwnerDied) {
    repair(place);
  }
}

void BlobLog::repair(Place& place) noexcept {
  // All loads relaxed: the guard was taken over, its holder is dead.
  const Offset last = last_entry_.load(std::memory_order_relaxed);
  const Offset entry = last == kNoOffset ? first_.load(std::memory_order_relaxed)
                                         : place.at<Entry>(last)->next.load(std::memory_order_relaxed);
  if (entry != kNoOffset) {
    place.link(entry);
    FT_CRASH_POINT("blob_log.repair.linked");
    last_entry_.store(entry);
  }
  if (const Offset end = last_entry_.load(std::memory_order_relaxed); end != kNoOffset) {
    last_.store(place.at<Entry>(end)->number);
  }
  // sync: WRITER (release): after the repair; pairs with sweep
  writer_.store(kNobody, std::memory_order_release);
}

std::uint64_t BlobLog::append(Place& place, const std::byte* bytes, std::size_t size) noexcept {
  const Offset block = place.allocate(sizeof(Entry) + size);
  if (block == kNoOffset) {
    return 0;
  }
  auto* entry = place.at<Entry>(block);
  entry->size = size;
  if (size != 0) {
    std::memcpy(static_cast<void*>(entry + 1), bytes, size);
  }
  lock_guard(place);
  FT_CRASH_POINT("blob_log.append.locked");
  // Relaxed where the guard protects.
  const std::uint64_t number = last_.load(std::memory_order_relaxed) + 1;
  entry->number = number;
  entry->next.store(kNoOffset, std::memory_order_relaxed);
  // sync: WRITER (release): before the change; pairs with sweep
  writer_.store(place.self(), std::memory_order_release);
  FT_CRASH_POINT("blob_log.append.announced");
  const Offset last = last_entry_.load(std::memory_order_relaxed);
  std::atomic<Offset>& link = last == kNoOffset ? first_ : place.at<Entry>(last)->next;
  // sync: ENTRY (release): its number, size and bytes; pairs with entry_at
  link.store(block, std::memory_order_release);
  FT_CRASH_POINT("blob_log.append.chained");
  place.link(block);
  FT_CRASH_POINT("blob_log.append.linked");
  last_entry_.store(block);
  FT_CRASH_POINT("blob_log.append.moved");
  last_.store(number);
  // sync: WRITER (release): after the change; pairs with sweep
  writer_.store(kNobody, std::memory_order_release);
  static_cast<void>(guard_.unlock(place));
  return number;
}

const BlobLog::Entry* BlobLog::after(Place& place, std::uint64_t number) const noexcept {
  const Entry* entry = entry_at(place, first_);
  while (entry != nullptr && entry->number <= number) {
    entry = entry_at(place, entry->next);
  }
  return entry;
}

std::uint64_t BlobLog::last() const noexcept { return last_.load(); }

void BlobLog::sweep(Place& place, OwnerId dead) noexcept {
  const bool holds = guard_.owner() == dead;
  // sync: WRITER (acquire): a repair that has cleared it is complete; pairs with repair
  if (!holds && writer_.load(std::memory_order_acquire) != dead) {
    return;
  }
  if (dead != place.self()) {
    guard_.mark_owner_died(dead);
  }
  lock_guard(place);
  static_cast<void>(guard_.unlock(place));
}

void BlobLog::destroy(Place& place) noexcept {
  for (;;) {
    const Offset block = first_.load();
    if (block == kNoOffset) {
      return;
    }
    place.adopt(block);
    FT_CRASH_POINT("blob_log.destroy.adopted");
    first_.store(place.at<Entry>(block)->next.load());
    place.free(block);
  }
}

}  // namespace freethreading
