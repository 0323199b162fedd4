// What an item costs in the core's queue: put and get by one thread, and passed from one to another.
#include <benchmark/benchmark.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "freethreading/memory/session.hpp"
#include "freethreading/queue/message_queue.hpp"

namespace freethreading {
namespace {

Session& session() {
  static Session* const kSession = Session::create().session;
  return *kSession;
}

Place& place(bool shared) { return shared ? session().place() : Place::private_memory(); }

MessageQueue& make_queue(bool shared, std::uint64_t capacity, bool joinable) {
  MessageQueue* queue = nullptr;
  if (shared) {
    queue = session().create_object(ObjectType::kQueue, sizeof(MessageQueue))->body<MessageQueue>();
  } else {
    queue = new MessageQueue{};
  }
  if (!queue->initialise(place(shared), capacity, joinable)) {
    std::abort();
  }
  return *queue;
}

Message small_message(std::uint64_t number) {
  Message message;
  message.size = sizeof(number);
  std::memcpy(message.bytes.data(), &number, sizeof(number));
  return message;
}

// arguments: shared, capacity, joinable
void PutGet(benchmark::State& state) {
  const bool shared = state.range(0) != 0;
  MessageQueue& queue = make_queue(shared, static_cast<std::uint64_t>(state.range(1)), state.range(2) != 0);
  Place& where = place(shared);
  const Message message = small_message(1);
  Message out;
  for (auto _ : state) {
    if (queue.try_put(where, message) != QueueOutcome::kDone || queue.try_get(where, out) != QueueOutcome::kDone) {
      state.SkipWithError("put or get refused");
      break;
    }
  }
}
BENCHMARK(PutGet)->ArgNames({"shared", "capacity", "joinable"})->Args({0, 0, 1})->Args({0, 16, 1})->Args({1, 0, 0})->Args({1, 0, 1})->Args({1, 16, 1});

constexpr std::uint64_t kBatch = 200'000;

void produce(MessageQueue& queue, Place& where) {
  for (std::uint64_t i = 1; i <= kBatch; ++i) {
    WaitContext context(Deadline::never());
    static_cast<void>(queue.put_until(where, small_message(i), context));
  }
}

void consume(MessageQueue& queue, Place& where) {
  Message out;
  for (std::uint64_t i = 1; i <= kBatch; ++i) {
    WaitContext context(Deadline::never());
    static_cast<void>(queue.get_until(where, out, context));
  }
}

void ThroughputOfTwoThreads(benchmark::State& state) {
  const bool shared = state.range(0) != 0;
  MessageQueue& queue = make_queue(shared, static_cast<std::uint64_t>(state.range(1)), false);
  for (auto _ : state) {
    std::thread producer([&] { produce(queue, place(shared)); });
    consume(queue, place(shared));
    producer.join();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(kBatch) * static_cast<std::int64_t>(state.iterations()));
}
BENCHMARK(ThroughputOfTwoThreads)->ArgNames({"shared", "capacity"})->Args({0, 0})->Args({0, 100})->Args({1, 0})->UseRealTime()->Unit(benchmark::kMillisecond);

void ThroughputOfTwoProcesses(benchmark::State& state) {
  MessageQueue& queue = make_queue(true, static_cast<std::uint64_t>(state.range(0)), false);
  for (auto _ : state) {
    session().before_fork();
    const pid_t pid = fork();
    if (pid == 0) {
      session().after_fork_in_child();
      produce(queue, session().place());
      _exit(0);
    }
    session().after_fork_in_parent();
    consume(queue, session().place());
    waitpid(pid, nullptr, 0);
    session().sweep();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(kBatch) * static_cast<std::int64_t>(state.iterations()));
}
BENCHMARK(ThroughputOfTwoProcesses)->ArgName("capacity")->Arg(0)->Arg(100)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace freethreading
