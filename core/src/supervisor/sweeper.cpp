#include "supervisor/sweeper.hpp"

#include <chrono>
#include <thread>

namespace freethreading::supervisor {

namespace {

// How often it looks for the dead that nobody tells it of: processes that the user forked, and the workers of a supervisor
// that was killed. It looks at the slots in use only: some microseconds.
constexpr std::chrono::seconds kInterval{1};

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
  for (;;) {
    std::unique_lock lock(mutex_);
    if (!came_.wait_for(lock, kInterval, [this] { return !owners_.empty(); })) {
      lock.unlock();
      session_.sweep();
      session_.trim();
      continue;
    }
    const OwnerId owner = owners_.front();
    owners_.pop_front();
    lock.unlock();
    static_cast<void>(session_.sweep_process(owner));
    session_.trim();
  }
}

}  // namespace freethreading::supervisor
