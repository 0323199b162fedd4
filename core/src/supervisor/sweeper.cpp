#include "supervisor/sweeper.hpp"

#include <thread>

namespace freethreading::supervisor {

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
    came_.wait(lock, [this] { return !owners_.empty(); });
    const OwnerId owner = owners_.front();
    owners_.pop_front();
    lock.unlock();
    static_cast<void>(session_.sweep_process(owner));
  }
}

}  // namespace freethreading::supervisor
