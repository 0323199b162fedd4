#include "supervisor/sweeper.hpp"

#include <chrono>
#include <thread>

namespace freethreading::supervisor {

namespace {

constexpr std::chrono::seconds kDyingTime{1};  // ample for processes that the kernel has killed

}  // namespace

Sweeper::Sweeper(Session& session) : session_(session) { std::thread(&Sweeper::work, this).detach(); }

void Sweeper::sweep(OwnerId owner) {
  {
    const std::lock_guard lock(mutex_);
    owners_.push_back(owner);
  }
  came_.notify_one();
}

void Sweeper::work() {
  // A supervisor before this one may have been killed and its workers with it: nobody else sweeps those. Twice, because at
  // first some may be dying still.
  session_.sweep();
  bool swept_again = false;
  const auto has_work = [this] { return !owners_.empty(); };
  for (;;) {
    std::unique_lock lock(mutex_);
    if (!swept_again && !came_.wait_for(lock, kDyingTime, has_work)) {
      lock.unlock();
      session_.sweep();
      swept_again = true;
      continue;
    }
    came_.wait(lock, has_work);
    const OwnerId owner = owners_.front();
    owners_.pop_front();
    lock.unlock();
    static_cast<void>(session_.sweep_process(owner));
  }
}

}  // namespace freethreading::supervisor
