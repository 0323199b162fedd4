// Sentry: the one of a queue's waiting consumers that looks after lazy puts (docs/design/waiting.md, "The sentry").
#pragma once

#include "freethreading/queue/message_queue.hpp"
#include "sync/gate.hpp"

namespace freethreading {

// A consumer's part in it during one wait. Leaves the post at its end, and what was left to it to somebody else.
class Sentry {
 public:
  Sentry(MessageQueue& queue, Place& place) noexcept : queue_(queue), place_(place) {}
  Sentry(const Sentry&) = delete;
  Sentry& operator=(const Sentry&) = delete;
  ~Sentry();

  // There are messages: whether the caller is to take one, which ends its wait. False: others do, it goes on to wait.
  [[nodiscard]] bool takes() noexcept;
  // As Gate::wait(). Takes the post where it is free.
  WaitOutcome wait(Gate gate, std::uint32_t token, WaitContext& context) noexcept;

 private:
  // Why it looks.
  enum class Cause : std::uint8_t { kPostTaken, kNapOver, kWoken, kChanged };

  WaitOutcome sleep(Gate gate, std::uint32_t token, WaitContext& context) noexcept;
  WaitOutcome nap(Gate gate, std::uint32_t token, WaitContext& context) noexcept;
  [[nodiscard]] bool leaves_it_to_others(Nanoseconds now) noexcept;
  [[nodiscard]] bool wake(std::uint64_t count) noexcept;
  void leave(std::uint64_t takes) noexcept;

  MessageQueue& queue_;
  Place& place_;
  bool on_post_ = false;
  bool is_first_ = true;   // this call has not waited yet
  bool is_tired_ = false;  // there was nothing to look after: it sleeps until it is woken
  Cause cause_ = Cause::kPostTaken;
  int naps_ = 0;
  int empty_naps_ = 0;             // in a row
  int added_ = 0;                  // consumers that it woke though calls are short
  std::uint64_t batch_ = 1;        // how many it wakes next where calls are long
  Nanoseconds began_ = 0;          // its nap
  Nanoseconds woke_at_ = 0;        // when it woke somebody for long calls
  std::uint64_t woke_behind_ = 0;  // and how many had been taken then, plus 1; 0: it has not
};

}  // namespace freethreading
