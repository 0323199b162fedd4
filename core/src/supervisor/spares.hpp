// Spares: processes that are workers but for their order. Each waits at its socket; a start is a packet to one of them.
//
//   wanted   as many as workers were asked for in this period of kPeriod or in the one before, `limit` at most. 0 when a spare,
//            or the zygote that makes them, was lost, until a worker is asked for again: whatever that was shall not go on
//
// Missing ones are made when nobody has asked for a while, so that no fork takes the CPU and the memory's locks from workers that
// begin: a burst of starts is served from what is there.
//
// A spare whose socket is closed here ends by itself.
#pragma once

#include <cstddef>
#include <deque>

#include "freethreading/deadline.hpp"

namespace freethreading::supervisor {

struct Spare {
  int pid = 0;  // 0: none
  int socket = -1;
  bool rested = false;  // it was forked before anybody waited for it
};

class Spares {
 public:
  // For as many as this process has descriptors for.
  Spares();
  Spares(const Spares&) = delete;
  Spares& operator=(const Spares&) = delete;
  ~Spares() = default;

  // A worker was asked for: more may be.
  void expect_more() noexcept;
  // None is kept until a worker is asked for again.
  void expect_none() noexcept;

  void add(Spare spare) { parked_.push_back(spare); }
  // The one that has waited longest; its socket is the caller's.
  Spare take() noexcept;
  // Of a process that has ended: whether it was one of these, which it is no longer.
  bool forget(int pid) noexcept;
  // Lets go of those that nobody has needed for long. The others rest. REQUIRES: no worker waits for one of them.
  void let_go() noexcept;
  // Lets go of all: there will be better ones.
  void let_all_go() noexcept;
  // Sends each SIGKILL.
  void kill_all() const noexcept;

  [[nodiscard]] std::size_t count() const noexcept { return parked_.size(); }
  // Whether another one is to be made now.
  [[nodiscard]] bool is_short() const noexcept;
  // When is_short() may change or let_go() have something to do, if nothing comes before.
  [[nodiscard]] Deadline next() const noexcept;

 private:
  [[nodiscard]] std::size_t wanted() const noexcept;
  void begin_period() noexcept;

  std::size_t limit_;
  std::size_t asked_ = 0;   // workers, in this period
  std::size_t before_ = 0;  // in the period before
  Deadline period_end_ = Deadline::never();
  Deadline pause_ = Deadline::never();  // nobody has asked for a while, then
  std::deque<Spare> parked_;
};

}  // namespace freethreading::supervisor
