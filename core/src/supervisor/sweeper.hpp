// Sweeper: recovers what dead workers held, and gives idle memory back to the system, in a thread of its own.
//
// A sweep waits for locks, and a lock's holder may be stopped (SIGSTOP) for as long as somebody likes. The supervisor's loop
// shall not wait with it: it must see the program's end.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>

#include "freethreading/memory/session.hpp"

namespace freethreading::supervisor {

class Sweeper {
 public:
  // Starts the thread, which is never joined: it ends with the process.
  explicit Sweeper(Session& session);
  Sweeper(const Sweeper&) = delete;
  Sweeper& operator=(const Sweeper&) = delete;
  ~Sweeper() = delete;

  // REQUIRES: the owner's process has ended.
  void sweep(OwnerId owner);

 private:
  void work();

  Session& session_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<OwnerId> owners_;  // guarded by mutex_
};

}  // namespace freethreading::supervisor
