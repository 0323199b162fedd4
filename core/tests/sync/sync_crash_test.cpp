// A process is killed at every named point of the synchronisation types while others use the same object; they finish.
#ifdef FT_CRASH_POINTS

#include <functional>
#include <string>

#include "freethreading/sync/barrier.hpp"
#include "freethreading/sync/condition.hpp"
#include "freethreading/sync/event.hpp"
#include "freethreading/sync/rlock.hpp"
#include "freethreading/sync/semaphore.hpp"
#include "sync/gate.hpp"
#include "sync/sync_test_support.hpp"

namespace freethreading::testing {
namespace {

constexpr int kRounds = 200;

// What several processes do at once. Each body runs until `stop`, by the deadline at the latest.
struct Arena {
  Lock lock;
  RLock rlock;
  Semaphore semaphore{1};
  Event event;
  Condition condition;
  Barrier barrier{2};
  std::atomic<std::uint32_t> gate{0};
  std::atomic<std::uint32_t> changes{0};
};

bool holds(WaitOutcome outcome) { return outcome == WaitOutcome::kReady || outcome == WaitOutcome::kOwnerDied; }

void linger() {
  const Nanoseconds start = monotonic_now();
  while (monotonic_now() - start < 200 * kMicrosecond) {
  }
}

bool use_lock(Arena& arena, Place& place) {
  WaitContext context = within(kPatience);
  if (!holds(arena.lock.lock_until(place, context))) {
    return false;
  }
  linger();
  return arena.lock.unlock(place);
}

bool use_rlock(Arena& arena, Place& place) {
  WaitContext context = within(kPatience);
  if (!holds(arena.rlock.lock_until(place, context))) {
    return false;
  }
  linger();
  return arena.rlock.unlock(place);
}

// A dead process's permit is lost, so every wait has an end and gives one back after it.
bool use_semaphore(Arena& arena, Place& place) {
  WaitContext context = within(5 * kMillisecond);
  static_cast<void>(arena.semaphore.acquire_until(place, context));
  linger();
  return arena.semaphore.release(place);
}

bool use_event(Arena& arena, Place& place) {
  WaitContext context = within(5 * kMillisecond);
  static_cast<void>(arena.event.wait_until(place, arena.event.begin_wait(), context));
  arena.event.set(place);
  arena.event.clear();
  return true;
}

bool use_condition(Arena& arena, Place& place) {
  WaitContext context = within(kPatience);
  if (!holds(arena.lock.lock_until(place, context))) {
    return false;
  }
  arena.condition.notify(place, 1);
  const WaiterTable::Cell cell = arena.condition.enter(place);
  bool fine = cell != kNoOffset && arena.lock.unlock(place);
  WaitContext waiting = within(5 * kMillisecond);
  static_cast<void>(arena.condition.wait_until(place, cell, waiting));
  static_cast<void>(arena.condition.leave(place, cell));
  return fine;
}

bool use_barrier(Arena& arena, Place& place) {
  WaitContext coming = within(kPatience);
  const Arrival arrival = arena.barrier.arrive(place, coming);
  if (arrival.outcome == WaitOutcome::kBroken) {
    arena.barrier.reset(place);
  } else if (arrival.outcome != WaitOutcome::kReady) {
    return false;
  } else if (arrival.last) {
    arena.barrier.finish(place);
  } else {
    WaitContext waiting = within(5 * kMillisecond);
    static_cast<void>(arena.barrier.wait_until(place, arrival.cell, waiting));
    static_cast<void>(arena.barrier.leave(place, arrival.cell));
  }
  return true;
}

bool use_gate(Arena& arena, Place& place) {
  Gate gate(arena.gate);
  const std::uint32_t token = gate.prepare();
  const std::uint32_t seen = arena.changes.load();
  WaitContext waiting = within(5 * kMillisecond);
  if (arena.changes.load() == seen) {
    static_cast<void>(gate.wait(place, token, waiting));
  }
  arena.changes.fetch_add(1);
  gate.notify_one(place);
  return true;
}

using Use = bool (*)(Arena&, Place&);

struct Walk {
  const char* prefix;
  std::vector<Use> uses;
};

class SyncCrashTest : public WatchedTest, public ::testing::WithParamInterface<int> {};

const std::vector<Walk>& walks() {
  static const std::vector<Walk> kWalks = {
      {"lock.", {use_lock}},   {"rlock.", {use_rlock}},     {"semaphore.", {use_semaphore}}, {"event.", {use_event}},
      {"gate.", {use_gate}},   {"waiters.", {use_condition}}, {"barrier.", {use_barrier}},
  };
  return kWalks;
}

TEST_P(SyncCrashTest, TheOthersFinish) {
  const Walk& walk = walks()[static_cast<std::size_t>(GetParam())];
  Place& place = SharedSubject::place();
  int points = 0;
  for (const std::string_view point : list_crash_points()) {
    if (!point.starts_with(walk.prefix)) {
      continue;
    }
    ++points;
    for (const Use use : walk.uses) {
      Arena& arena = make<Arena>(place);
      const auto run = [&] {
        for (int round = 0; round < kRounds; ++round) {
          if (!use(arena, place)) {
            return false;
          }
        }
        return true;
      };
      const Nanoseconds start = monotonic_now();
      Child victim([&] {
        set_crash_point(point);
        return run();
      });
      Child survivor(run);
      EXPECT_TRUE(run()) << point;
      static_cast<void>(victim.join());  // whether it came by the point or not
      EXPECT_TRUE(survivor.succeeds()) << point;
      EXPECT_LT(monotonic_now() - start, 10 * kSecond) << point;
    }
  }
  EXPECT_GT(points, 0);
}
INSTANTIATE_TEST_SUITE_P(Walks, SyncCrashTest, ::testing::Range(0, 7));

}  // namespace
}  // namespace freethreading::testing

#endif
