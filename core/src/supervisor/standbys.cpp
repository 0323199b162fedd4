#include "supervisor/standbys.hpp"

#include <algorithm>
#include <utility>

namespace freethreading::supervisor {

namespace {

// How long the program is given to ask for a worker itself.
constexpr Nanoseconds kPatience = kSecond / 2;

}  // namespace

void Standbys::add(std::uint64_t crew, Waiting start, std::uint64_t missing) {
  standbys_.push_back({.crew = crew,
                       .start = std::move(start),
                       .missing = missing,
                       .due = missing != 0 ? Deadline::after(kPatience) : Deadline::never()});
}

Standbys::Standby* Standbys::find(std::uint64_t crew) noexcept {
  const auto found = std::find_if(standbys_.begin(), standbys_.end(),
                                  [&](const Standby& standby) { return standby.crew == crew; });
  return found == standbys_.end() ? nullptr : &*found;
}

void Standbys::died(std::uint64_t crew) noexcept {
  Standby* standby = find(crew);
  if (standby != nullptr && standby->missing++ == 0) {
    standby->due = Deadline::after(kPatience);
  }
}

void Standbys::asked(std::uint64_t crew) noexcept {
  Standby* standby = find(crew);
  if (standby != nullptr && standby->missing != 0 && --standby->missing == 0) {
    standby->due = Deadline::never();
  }
}

std::optional<Waiting> Standbys::take_at(std::vector<Standby>::iterator found) {
  if (found == standbys_.end()) {
    return std::nullopt;
  }
  Waiting start = std::move(found->start);
  standbys_.erase(found);
  return start;
}

std::optional<Waiting> Standbys::take(const ObjectHeader* record) {
  return take_at(std::find_if(standbys_.begin(), standbys_.end(),
                              [&](const Standby& standby) { return standby.start.record == record; }));
}

std::optional<Waiting> Standbys::take_due() {
  return take_at(std::find_if(standbys_.begin(), standbys_.end(), [](const Standby& standby) { return standby.due.passed(); }));
}

std::optional<Waiting> Standbys::take_any() { return take_at(standbys_.begin()); }

Deadline Standbys::next() const noexcept {
  Deadline next = Deadline::never();
  for (const Standby& standby : standbys_) {
    next = sooner(next, standby.due) ? next : standby.due;
  }
  return next;
}

}  // namespace freethreading::supervisor
