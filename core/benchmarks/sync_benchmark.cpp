// The synchronisation types, uncontended and as a ping-pong between two threads and between two processes.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <new>
#include <thread>

#include "freethreading/memory/session.hpp"
#include "freethreading/sync/barrier.hpp"
#include "freethreading/sync/condition.hpp"
#include "freethreading/sync/event.hpp"
#include "freethreading/sync/rlock.hpp"
#include "freethreading/sync/semaphore.hpp"

namespace freethreading {
namespace {

Place& private_place() { return Place::private_memory(); }
Place& shared_place() {
  static Session* const kSession = Session::create().session;
  if (kSession == nullptr) {
    std::abort();
  }
  return kSession->place();
}

WaitContext forever() { return WaitContext(Deadline::never()); }

template <class LockType>
void lock_unlock(benchmark::State& state, Place& (*place_of)()) {
  Place& place = place_of();
  LockType lock;
  for (auto _ : state) {
    benchmark::DoNotOptimize(lock.try_lock(place));
    benchmark::DoNotOptimize(lock.unlock(place));
  }
}
BENCHMARK_CAPTURE(lock_unlock<Lock>, private_lock, private_place);
BENCHMARK_CAPTURE(lock_unlock<Lock>, shared_lock, shared_place);
BENCHMARK_CAPTURE(lock_unlock<RLock>, private_rlock, private_place);
BENCHMARK_CAPTURE(lock_unlock<RLock>, shared_rlock, shared_place);

void semaphore_acquire_release(benchmark::State& state) {
  Semaphore semaphore(1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(semaphore.try_acquire(private_place()));
    benchmark::DoNotOptimize(semaphore.release(private_place()));
  }
}
BENCHMARK(semaphore_acquire_release);

void event_set_clear(benchmark::State& state) {
  Event event;
  for (auto _ : state) {
    event.set(private_place());
    event.clear();
  }
}
BENCHMARK(event_set_clear);

void condition_notify_nobody(benchmark::State& state) {
  Condition condition;
  for (auto _ : state) {
    condition.notify(private_place(), 1);
  }
}
BENCHMARK(condition_notify_nobody);

// Two parties over two of each: a body for each side of one exchange.
struct Court {
  Semaphore ping{0};
  Semaphore pong{0};
  Event ping_event;
  Event pong_event;
  Barrier barrier{2};
  Lock lock;
  std::atomic<bool> stop{false};
};

struct SemaphorePlay {
  static void serve(Court& court, Place& place) {
    static_cast<void>(court.ping.release(place));
    WaitContext context = forever();
    static_cast<void>(court.pong.acquire_until(place, context));
  }
  static void answer(Court& court, Place& place) {
    WaitContext context = forever();
    static_cast<void>(court.ping.acquire_until(place, context));
    static_cast<void>(court.pong.release(place));
  }
  static void let_go(Court& court, Place& place) { static_cast<void>(court.ping.release(place)); }
};

struct EventPlay {
  static void serve(Court& court, Place& place) {
    court.ping_event.set(place);
    take(court.pong_event, place);
  }
  static void answer(Court& court, Place& place) {
    take(court.ping_event, place);
    court.pong_event.set(place);
  }
  static void let_go(Court& court, Place& place) { court.ping_event.set(place); }
  static void take(Event& event, Place& place) {
    WaitContext context = forever();
    static_cast<void>(event.wait_until(place, event.begin_wait(), context));
    event.clear();
  }
};

struct BarrierPlay {
  static void serve(Court& court, Place& place) {
    WaitContext coming = forever();
    const Arrival arrival = court.barrier.arrive(place, coming);
    if (arrival.last) {
      court.barrier.finish(place);
      return;
    }
    WaitContext context = forever();
    static_cast<void>(court.barrier.wait_until(place, arrival.cell, context));
    static_cast<void>(court.barrier.leave(place, arrival.cell));
  }
  static void answer(Court& court, Place& place) { serve(court, place); }
  static void let_go(Court& court, Place& place) { court.barrier.abort(place); }
};

struct ContendedLock {
  static void serve(Court& court, Place& place) {
    WaitContext context = forever();
    static_cast<void>(court.lock.lock_until(place, context));
    static_cast<void>(court.lock.unlock(place));
  }
  static void answer(Court& court, Place& place) { serve(court, place); }
  static void let_go(Court& /*court*/, Place& /*place*/) {}
};

template <class Play>
void play(benchmark::State& state, bool processes) {
  Place& place = processes ? shared_place() : private_place();
  const Offset at = place.allocate(sizeof(Court));
  auto& court = *new (place.at<Court>(at)) Court;
  const auto partner = [&] {
    while (!court.stop.load()) {
      Play::answer(court, place);
    }
  };
  pid_t child = -1;
  std::thread thread;
  if (processes) {
    child = fork();
    if (child == 0) {
      partner();
      _exit(0);
    }
  } else {
    thread = std::thread(partner);
  }
  for (auto _ : state) {
    Play::serve(court, place);
  }
  court.stop.store(true);
  Play::let_go(court, place);
  if (processes) {
    waitpid(child, nullptr, 0);
  } else {
    thread.join();
  }
  place.free(at);
}
BENCHMARK_CAPTURE(play<SemaphorePlay>, threads, false)->UseRealTime();
BENCHMARK_CAPTURE(play<SemaphorePlay>, processes, true)->UseRealTime();
BENCHMARK_CAPTURE(play<EventPlay>, threads, false)->UseRealTime();
BENCHMARK_CAPTURE(play<EventPlay>, processes, true)->UseRealTime();
BENCHMARK_CAPTURE(play<BarrierPlay>, threads, false)->UseRealTime();
BENCHMARK_CAPTURE(play<BarrierPlay>, processes, true)->UseRealTime();
BENCHMARK_CAPTURE(play<ContendedLock>, threads, false)->UseRealTime();
BENCHMARK_CAPTURE(play<ContendedLock>, processes, true)->UseRealTime();

}  // namespace
}  // namespace freethreading
