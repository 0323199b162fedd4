// What a block of a session's region costs: taken, filled and freed, when its pages are warm and when they are new.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "freethreading/memory/session.hpp"
#include "os/memfd.hpp"

namespace freethreading {
namespace {

constexpr std::size_t kChunk = std::size_t{256} << 10;

Session& session() {
  static Session* const kSession = Session::create().session;
  return *kSession;
}

Offset allocate(std::size_t size) {
  const Offset block = session().allocate(size);
  if (block == kNoOffset) {
    std::abort();
  }
  return block;
}

void take_fill_free(std::size_t size) {
  const Offset block = allocate(size);
  std::memset(session().place().at<std::byte>(block), 1, size);
  session().free_block(block);
}

void Warm(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    take_fill_free(size);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0));
}

// Its pages were given back to the system before.
void Fresh(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    take_fill_free(size);
    state.PauseTiming();
    session().trim(true);
    state.ResumeTiming();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0));
}

BENCHMARK(Warm)->ArgName("bytes")->Arg(64 << 10)->Arg(1 << 20)->Arg(64 << 20);
BENCHMARK(Fresh)->ArgName("bytes")->Arg(1 << 20)->Arg(64 << 20);

// Taking and freeing alone, while as many other chunks are in use.
void TakeAndFree(benchmark::State& state) {
  std::vector<Offset> live;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    live.push_back(allocate(kChunk));
  }
  const auto size = static_cast<std::size_t>(state.range(1));
  for (auto _ : state) {
    session().free_block(allocate(size));
  }
  for (const Offset block : live) {
    session().free_block(block);
  }
  session().trim(true);
}
BENCHMARK(TakeAndFree)
    ->ArgNames({"live", "bytes"})
    ->Args({0, 1 << 20})
    ->Args({10'000, 1 << 20})
    ->Args({0, 64 << 20})
    ->Args({10'000, 64 << 20});

// How new pages are best brought in: faulted one by one, or all at once.
void FirstTouch(benchmark::State& state) {
  const auto size = static_cast<std::uint64_t>(state.range(0));
  const int file = os::memfd_create("benchmark");
  std::byte* base = os::map_shared(file, size);
  for (auto _ : state) {
    if (os::secure_pages(file, 0, size) != 0) {
      std::abort();
    }
    if (state.range(1) != 0) {
      os::fault_in(base, size);
    }
    std::memset(base, 1, size);
    state.PauseTiming();
    os::give_pages_back(file, 0, size);
    state.ResumeTiming();
  }
  os::unmap(base, size);
  os::close_descriptor(file);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0));
}
BENCHMARK(FirstTouch)
    ->ArgNames({"bytes", "at_once"})
    ->Args({256 << 10, 0})
    ->Args({256 << 10, 1})
    ->Args({1 << 20, 0})
    ->Args({1 << 20, 1})
    ->Args({64 << 20, 0})
    ->Args({64 << 20, 1});

}  // namespace
}  // namespace freethreading
