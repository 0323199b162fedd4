#include "freethreading/sync/waiter_table.hpp"

#include <new>

#include "freethreading/crash_point.hpp"
#include "os/futex.hpp"
#include "sync/parking.hpp"
#include "sync/spin.hpp"

namespace freethreading {

namespace {

// The word of a cell.
//
//   bits   name    meaning
//   0-21   OWNER   the process whose thread waits; kPassing: the one that passes the notification on
//   22-24  STATE   see the header
//   25     PARKED  with kWaiting: its thread may sleep on the word
//   26-31  USE     counts the claims, so that a look from before a claim does not fit the word after it
constexpr std::uint32_t kStateStep = 1U << 22;
constexpr std::uint32_t kState = 7U << 22;
constexpr std::uint32_t kFree = 0 * kStateStep;
constexpr std::uint32_t kClaimed = 1 * kStateStep;
constexpr std::uint32_t kWaiting = 2 * kStateStep;
constexpr std::uint32_t kNotified = 3 * kStateStep;
constexpr std::uint32_t kBroken = 4 * kStateStep;
constexpr std::uint32_t kPassing = 5 * kStateStep;
constexpr std::uint32_t kParked = 1U << 25;
constexpr std::uint32_t kUseStep = 1U << 26;
constexpr std::uint32_t kUse = ~(kUseStep - 1);
static_assert(kStateStep == 1U << kOwnerBits && kParked == kState + kStateStep);

constexpr std::uint32_t state_of(std::uint32_t word) { return word & kState; }
constexpr OwnerId owner_of(std::uint32_t word) { return word & kOwnerMask; }
constexpr std::uint32_t freed(std::uint32_t word) { return word & kUse; }
constexpr std::uint32_t with_state(std::uint32_t word, std::uint32_t state) { return (word & ~(kState | kParked)) | state; }

// Whether the process has ended; asks about each run of equal owners once.
class EndedProcesses {
 public:
  explicit EndedProcesses(Place& place) noexcept : place_(place), alive_(place.self()) {}
  [[nodiscard]] bool has_ended(OwnerId owner) noexcept {
    if (owner == alive_) {
      return false;
    }
    if (place_.liveness(owner) != Liveness::kAlive) {
      return true;
    }
    alive_ = owner;
    return false;
  }

 private:
  Place& place_;
  OwnerId alive_;
};

}  // namespace

// Padded to a cache line: one thread spins on it.
struct alignas(64) WaiterTable::CellBody {
  std::atomic<std::uint32_t> word{0};
  std::atomic<std::uint64_t> ticket{0};  // written by the claimer before kWaiting
};

struct WaiterTable::Block {
  static constexpr std::size_t kCells = 15;
  std::atomic<Offset> next{kNoOffset};
  CellBody cells[kCells];
};

// Default (seq_cst) order throughout this file, but where a comment says otherwise.

template <class Visit>
void WaiterTable::for_each(Place& place, Visit visit) const noexcept {
  for (Offset at = first_.load(); at != kNoOffset;) {
    auto* block = place.at<Block>(at);
    for (CellBody& cell : block->cells) {
      visit(cell);
    }
    at = block->next.load();
  }
}

WaiterTable::Cell WaiterTable::claim_in(Place& place, Block& block) noexcept {
  for (CellBody& cell : block.cells) {
    std::uint32_t word = cell.word.load();
    if (state_of(word) == kFree && cell.word.compare_exchange_strong(word, (word & kUse) + kUseStep + kClaimed + place.self())) {
      return place.offset_of(&cell);
    }
  }
  return kNoOffset;
}

WaiterTable::Cell WaiterTable::enter(Place& place) noexcept {
  Cell cell = kNoOffset;
  std::atomic<Offset>* link = &first_;
  while (cell == kNoOffset) {
    Offset at = link->load();
    if (at == kNoOffset) {
      const Offset made = place.allocate(sizeof(Block));
      if (made == kNoOffset) {
        return kNoOffset;
      }
      new (place.at<Block>(made)) Block;
      // Ours no more before others can reach it. A death right here loses the block to the session, not its safety.
      place.link(made);
      if (link->compare_exchange_strong(at, made)) {
        at = made;
      } else {
        place.adopt(made);
        place.free(made);
      }
    }
    auto* block = place.at<Block>(at);
    cell = claim_in(place, *block);
    link = &block->next;
  }
  FT_CRASH_POINT("waiters.enter.claimed");
  auto* body = place.at<CellBody>(cell);
  const std::uint64_t ticket = next_ticket_.fetch_add(1);
  body->ticket.store(ticket);
  body->word.store(with_state(body->word.load(), kWaiting));
  FT_CRASH_POINT("waiters.enter.waiting");
  // After kWaiting: a notify() that clears the hint has seen every cell whose hint it clears.
  const auto hint = static_cast<std::uint32_t>(ticket);
  maybe_waiting_.store(hint != 0 ? hint : 1);
  return cell;
}

WaitOutcome WaiterTable::wait_slice(Place& place, Cell cell, WaitContext& context) noexcept {
  std::atomic<std::uint32_t>& shared_word = place.at<CellBody>(cell)->word;
  std::uint32_t word = shared_word.load();
  if (state_of(word) == kWaiting && !context.parked && !context.deadline.is_immediate()) {
    // Relaxed: the load behind it acquires.
    static_cast<void>(spin_until(SpinKind::kSignal, [&shared_word] {
      return state_of(shared_word.load(std::memory_order_relaxed)) != kWaiting;
    }));
    word = shared_word.load();
  }
  bool slice_over = false;
  for (;;) {
    if (state_of(word) != kWaiting) {
      return state_of(word) == kBroken ? WaitOutcome::kBroken : WaitOutcome::kReady;
    }
    if (context.deadline.passed()) {
      return WaitOutcome::kTimedOut;
    }
    if (slice_over) {
      return WaitOutcome::kInterrupted;
    }
    const std::uint32_t announced = word | kParked;
    if (word != announced && !shared_word.compare_exchange_weak(word, announced)) {
      continue;
    }
    FT_CRASH_POINT("waiters.wait.announced");
    slice_over = park(shared_word, announced, place, context) != ParkResult::kLook;
    FT_CRASH_POINT("waiters.wait.woken");
    word = shared_word.load();
  }
}

WaitOutcome WaiterTable::wait_until(Place& place, Cell cell, WaitContext& context) noexcept {
  for (;;) {
    const WaitOutcome outcome = wait_slice(place, cell, context);
    if (outcome != WaitOutcome::kInterrupted) {
      return outcome;
    }
    pass_on_from_dead(place);
    if (context.interruptible) {
      return outcome;
    }
  }
}

bool WaiterTable::leave(Place& place, Cell cell) noexcept {
  std::atomic<std::uint32_t>& shared_word = place.at<CellBody>(cell)->word;
  std::uint32_t word = shared_word.load();
  FT_CRASH_POINT("waiters.leave.begun");
  while (!shared_word.compare_exchange_weak(word, freed(word))) {
  }
  return state_of(word) == kNotified;
}

WaiterTable::CellBody* WaiterTable::oldest_waiting(Place& place, std::uint64_t before) const noexcept {
  CellBody* oldest = nullptr;
  std::uint64_t lowest = before;
  for_each(place, [&](CellBody& cell) {
    std::uint32_t word = cell.word.load();
    if (state_of(word) != kWaiting) {
      return;
    }
    if (!place.shared() && owner_of(word) != place.self()) {
      cell.word.compare_exchange_strong(word, freed(word));  // a copy made by a fork: nobody waits here
      return;
    }
    const std::uint64_t ticket = cell.ticket.load();
    if (ticket < lowest) {
      lowest = ticket;
      oldest = &cell;
    }
  });
  return oldest;
}

std::uint32_t WaiterTable::notify(Place& place, std::uint32_t count, bool broken) noexcept {
  std::uint32_t hint = maybe_waiting_.load();
  if (hint == 0) {
    return 0;
  }
  const std::uint64_t before = next_ticket_.load();  // who comes from now on is not meant
  std::uint32_t notified = 0;
  while (notified < count) {
    CellBody* cell = oldest_waiting(place, before);
    if (cell == nullptr) {
      maybe_waiting_.compare_exchange_strong(hint, 0);
      break;
    }
    std::uint32_t word = cell->word.load();
    if (state_of(word) != kWaiting || !cell->word.compare_exchange_strong(word, with_state(word, broken ? kBroken : kNotified))) {
      continue;  // it left, or has just parked
    }
    ++notified;
    FT_CRASH_POINT("waiters.notify.stored");
    if ((word & kParked) != 0) {
      os::futex_wake(cell->word, 1, place.shared());
    }
  }
  return notified;
}

std::uint32_t WaiterTable::waiting(Place& place) const noexcept {
  std::uint32_t count = 0;
  for_each(place, [&](CellBody& cell) {
    const std::uint32_t word = cell.word.load();
    count += state_of(word) == kWaiting && (place.shared() || owner_of(word) == place.self()) ? 1U : 0U;
  });
  return count;
}

// Notifies another waiter instead of the dead one. The cell says kPassing until that is done, so that a death in the
// middle has somebody else do it again: a spurious wake-up is allowed, a lost one is not.
void WaiterTable::pass_on(Place& place, CellBody& cell, std::uint32_t word) noexcept {
  const std::uint32_t passing = (word & kUse) | kPassing | place.self();
  if (!cell.word.compare_exchange_strong(word, passing)) {
    return;
  }
  FT_CRASH_POINT("waiters.pass_on.begun");
  notify(place, 1);
  FT_CRASH_POINT("waiters.pass_on.notified");
  word = passing;
  cell.word.compare_exchange_strong(word, freed(word));
}

void WaiterTable::pass_on_from_dead(Place& place) noexcept {
  EndedProcesses ended(place);
  for_each(place, [&](CellBody& cell) {
    std::uint32_t word = cell.word.load();
    if (state_of(word) == kFree || !ended.has_ended(owner_of(word))) {
      return;
    }
    if (state_of(word) == kNotified || state_of(word) == kPassing) {
      pass_on(place, cell, word);
    } else {
      cell.word.compare_exchange_strong(word, freed(word));
    }
  });
}

std::uint32_t WaiterTable::sweep(Place& place, OwnerId dead, bool pass_notifications_on) noexcept {
  std::uint32_t were_waiting = 0;
  // Its waiting cells first, so that none of them is picked for what another one of them had got.
  for (const bool first_round : {true, false}) {
    for_each(place, [&](CellBody& cell) {
      std::uint32_t word = cell.word.load();
      if (state_of(word) == kFree || owner_of(word) != dead) {
        return;
      }
      const bool had_got = state_of(word) == kNotified || state_of(word) == kPassing;
      if (had_got && pass_notifications_on) {
        if (!first_round) {
          pass_on(place, cell, word);
        }
        return;
      }
      if (cell.word.compare_exchange_strong(word, freed(word)) && state_of(word) == kWaiting) {
        ++were_waiting;
      }
    });
  }
  return were_waiting;
}

bool WaiterTable::has_dead_waiter(Place& place) noexcept {
  EndedProcesses ended(place);
  bool found = false;
  for_each(place, [&](CellBody& cell) {
    const std::uint32_t word = cell.word.load();
    found = found || ((state_of(word) == kWaiting || state_of(word) == kClaimed) && ended.has_ended(owner_of(word)));
  });
  return found;
}

void WaiterTable::destroy(Place& place) noexcept {
  for (Offset at = first_.load(); at != kNoOffset; at = first_.load()) {
    // Unlinked before it is freed: a destroyer that dies in between loses the block, and never frees it twice.
    first_.store(place.at<Block>(at)->next.load());
    place.adopt(at);
    place.free(at);
  }
}

}  // namespace freethreading
