// MessageQueue: a first-in-first-out queue of Messages for any number of producers and consumers in any number of
// processes, that survives the death of any of them at any instruction.
//
// Linked segments of cells; producers take the tail lock, consumers the head lock, so that one producer and one consumer
// never meet. A put becomes visible by one store of the tail count, a get is done by one store of the head count: before
// it the item is still at the head, after it the item is its taker's. Whoever takes a lock over from a dead owner finishes
// or undoes what the owner's intent says (docs/design/queue.md).
//
// The same queue in private memory carries object references (8 inline bytes); there a caller on a Python interpreter
// calls try_put and try_get while attached, and only wait_* detached, so that a garbage collection never meets an item
// that is neither in the queue nor with its taker.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "freethreading/queue/message.hpp"
#include "freethreading/sync/lock.hpp"
#include "freethreading/wait.hpp"

namespace freethreading {

// Where a taker that works for others notes what it is taking before the take is done, so that after its death the
// others know what it had: see pool/worker_record.hpp and MessageQueue::was_taken(). Lies in the queue's place.
struct TakeNote {
  std::atomic<std::uint64_t> sequence{0};  // the item's number in its queue, counted from 1; 0: none noted
  std::atomic<std::uint64_t> tag{0};       // the first 8 inline bytes of the message (a task's number)
};

enum class [[nodiscard]] QueueOutcome : std::uint8_t {
  kDone,
  kFull,        // try_put*
  kEmpty,       // try_get*
  kBusy,        // try_*: another holds the end's lock just now; try again or wait
  kTimedOut,    // wait_*
  kInterrupted,  // wait_*
  kShutDown,
  kNoMemory,
};

// Whether a put wakes a consumer that sleeps. kLazily: not where others are at work that will soon be free, as far as can be known;
// the queue's sentry sees to it that nothing waits for long. Only in a queue that has one.
enum class Waking : std::uint8_t { kAtOnce, kLazily };

struct Segment;

class MessageQueue {
 public:
  // `capacity` 0: no bound. `joinable`: task_done() and join_until() are used; a queue without them saves the book-keeping
  // of who owes. `max_bytes` 0: no bound; else a message goes in when the payload that waits and its own are not more, or
  // when the queue is empty. REQUIRES: nobody uses it yet. Zeroed memory is a joinable queue without a bound already.
  // False: no memory.
  [[nodiscard]] bool initialise(Place& place, std::uint64_t capacity, bool joinable = true,
                                std::uint64_t max_bytes = 0) noexcept;

  // Puts without waiting. kDone (the message's block belongs to the queue from now on), kFull, kBusy, kShutDown,
  // kNoMemory; in all but kDone the message is still the caller's. A message in a block keeps its inline bytes too. `sequence`:
  // the message's number in the queue, counted from 1 (see TakeNote).
  QueueOutcome try_put(Place& place, const Message& message, std::uint64_t* sequence = nullptr,
                       Waking waking = Waking::kAtOnce) noexcept;
  // Takes the oldest item without waiting: kDone (`out` and its block are the caller's), kEmpty, kBusy, kShutDown (shut
  // down and empty), kNoMemory. Counts as unfinished for task_done(), owed by the calling process.
  QueueOutcome try_get(Place& place, Message& out, TakeNote* note = nullptr) noexcept;
  // The same for what has no payload but one word, its first inline bytes, and for a taker that wants no more of a message; in
  // private memory only. For references, which threads pass as fast as they can.
  QueueOutcome try_put_word(Place& place, std::uint32_t kind, std::uint64_t word, Waking waking = Waking::kAtOnce) noexcept;
  QueueOutcome try_get_word(Place& place, std::uint64_t& word) noexcept;
  // The same for several, with one taking of the lock. `put` / `got` says how many of them, from the first on, were put or
  // taken. try_put_many: kDone (all of them); else the outcome of the first that was not. try_get_many: kDone (one at
  // least, and as many as there are and `out` has room for); else `got` is 0. A death in the middle leaves what the counts say.
  QueueOutcome try_put_many(Place& place, std::span<const Message> messages, std::size_t& put) noexcept;
  QueueOutcome try_get_many(Place& place, std::span<Message> out, std::size_t& got) noexcept;
  // Waits until there may be room (for `size` bytes of payload) / an item: kDone (try again), kTimedOut, kInterrupted,
  // kShutDown. Touches no message. After kBusy they wait for the end's lock and repair what a dead holder left.
  QueueOutcome wait_not_full(Place& place, WaitContext& context, std::uint64_t size = 1) noexcept;
  QueueOutcome wait_not_empty(Place& place, WaitContext& context) noexcept;
  // As above, and kDone when wake_consumers() was called since wake_epoch() gave `epoch`: read the epoch, look at what
  // else is watched, then wait; no wake is missed between.
  QueueOutcome wait_not_empty(Place& place, WaitContext& context, std::uint32_t epoch) noexcept;
  // try + wait until it is done or the context's deadline passes. A wake_consumers() does not end get_until().
  QueueOutcome put_until(Place& place, const Message& message, WaitContext& context,
                         std::uint64_t* sequence = nullptr) noexcept;
  QueueOutcome get_until(Place& place, Message& out, WaitContext& context, TakeNote* note = nullptr) noexcept;
  // After an outcome other than kDone `put` may be more than 0: those stay put.
  QueueOutcome put_many_until(Place& place, std::span<const Message> messages, std::size_t& put,
                              WaitContext& context) noexcept;
  QueueOutcome get_many_until(Place& place, std::span<Message> out, std::size_t& got, WaitContext& context) noexcept;
  // Takes a message back that was put: kDone (its kind is Message::kWithdrawn, so whoever takes it discards it), kEmpty (it was
  // taken before). kTimedOut, kInterrupted as the waits. REQUIRES: it was put.
  QueueOutcome withdraw_until(Place& place, std::uint64_t sequence, WaitContext& context) noexcept;
  // From now on one of its waiting consumers is its sentry (docs/design/waiting.md). REQUIRES: there is no consumer yet.
  void keep_sentry() noexcept { has_sentry_.store(true); }
  // Makes every wait_not_empty() that runs now return kDone. For a consumer that also watches something else.
  void wake_consumers(Place& place) noexcept;
  [[nodiscard]] std::uint32_t wake_epoch() const noexcept;

  [[nodiscard]] std::uint64_t size() const noexcept;
  // Relaxed: a bound that was true a moment ago.
  [[nodiscard]] std::uint64_t capacity() const noexcept { return capacity_.load(std::memory_order_relaxed); }
  // Another bound from now on, 0: none. What is in the queue stays, also where it is more.
  void set_capacity(Place& place, std::uint64_t capacity) noexcept;
  [[nodiscard]] std::uint64_t max_bytes() const noexcept { return max_bytes_; }
  // Bytes of payload that wait, never too few; 0 where no bound in bytes is set.
  [[nodiscard]] std::uint64_t waiting_bytes() const noexcept;
  // Whether there is room for nothing at all.
  [[nodiscard]] bool full() const noexcept { return !has_room(1); }

  // One taken item is finished. False: more calls than items.
  [[nodiscard]] bool task_done(Place& place) noexcept;
  // Waits until every item put so far was finished. kReady, kTimedOut, kInterrupted; kOwnerDied: a process died that
  // owed task_done (its id in `dead`), so it would never end.
  WaitOutcome join_until(Place& place, WaitContext& context, OwnerId& dead) noexcept;
  [[nodiscard]] std::uint64_t unfinished() const noexcept;
  // The process id of a process that has taken items, also of a dead one that join_until() tells of; 0: not known.
  [[nodiscard]] int pid_of_taker(Place& place, OwnerId taker) noexcept;

  // No more puts; gets go on until it is empty, or, `immediate`, what is in it is discarded (and counts as finished).
  // In private memory an immediate shutdown discards nothing: the caller takes the items out itself.
  void shut_down(Place& place, bool immediate) noexcept;
  [[nodiscard]] bool is_shut_down() const noexcept;
  // How many items have been taken so far: item n (counted from 1, as TakeNote) is gone when taken() >= n.
  [[nodiscard]] std::uint64_t taken() const noexcept;
  // Whether the take that `note` tells of was done, so that the item went with its taker. REQUIRES: the taker is dead.
  [[nodiscard]] bool was_taken(const TakeNote& note) const noexcept;

  // Calls visit(context, message) for every item in it; REQUIRES: no put or get runs meanwhile (a garbage collection).
  using Visitor = int (*)(void* context, const Message& message);
  int visit(Place& place, Visitor visitor, void* context) const noexcept;

  // For the sweeper, before the blocks of `dead` are freed: finishes or undoes what it was doing.
  void sweep(Place& place, OwnerId dead) noexcept;
  // REQUIRES: nobody uses it. May run again after a death in the middle, before the blocks of the dead are freed.
  void destroy(Place& place) noexcept;

 private:
  friend struct QueueRecovery;
  friend struct OwedLedger;
  friend class Sentry;

  // One end. Its lock guards all of it; the others' reads of `count` and `intent` are atomic.
  //
  //   intent   owner of a change in progress (low kOwnerBits) | low bits of the count that its commit stores; 0: none
  //   bytes    payload put / taken since the beginning; kept where max_bytes_ is set, made anew from the cells by a repair
  struct alignas(64) End {
    Lock lock;
    std::atomic<std::uint64_t> count;        // items put / taken since the beginning
    std::atomic<Offset> segment;             // where the next item goes to / comes from
    std::atomic<std::uint64_t> intent;       // who changes what belongs to whom, see above
    std::atomic<std::uint64_t> intent_owed;  // head: the taker's `takes` after the commit; 0: not kept
    std::atomic<Offset> intent_note;         // head: the TakeNote of the take in progress
    std::uint64_t seen;                      // the other end's count as last read: spares reading its cache line
    std::atomic<std::uint64_t> bytes;
  };
  static_assert(sizeof(End) == 64);

  enum Shutdown : std::uint32_t { kOpen = 0, kDrains = 1, kImmediate = 2 };

  bool lock_briefly(End& end, Place& place) noexcept;
  bool spin_for_lock(End& end, Place& place) noexcept;
  WaitOutcome lock_and_repair(End& end, Place& place, const WaitContext& context) noexcept;
  QueueOutcome lock_end(End& end, Place& place, const WaitContext& context) noexcept;
  QueueOutcome settle(End& end, Place& place, const WaitContext& context) noexcept;
  bool mend_if_dead(End& end, Place& place, const WaitContext& context) noexcept;
  [[nodiscard]] bool has_room(std::uint64_t size) const noexcept;
  [[nodiscard]] bool has_bound() const noexcept { return (capacity() | max_bytes_) != 0; }

  QueueOutcome put_locked(Place& place, const Message& message) noexcept;
  template <class Fill>
  QueueOutcome fill_cell(Place& place, Fill fill) noexcept;
  QueueOutcome put_many_locked(Place& place, std::span<const Message> messages, std::size_t& put) noexcept;
  void put_run(Place& place, Segment& segment, std::uint64_t index, std::span<const Message> run) noexcept;
  [[nodiscard]] bool refresh_capacity(std::uint64_t index, std::uint64_t bound) noexcept;
  [[nodiscard]] bool bytes_fit(std::uint64_t index, std::uint64_t pending, std::uint64_t size) noexcept;
  [[nodiscard]] std::size_t count_fitting(std::uint64_t index, std::span<const Message> messages) noexcept;
  QueueOutcome finish_put(Place& place, QueueOutcome outcome, std::size_t put, Waking waking = Waking::kAtOnce) noexcept;

  struct Taken {
    QueueOutcome outcome;
    std::size_t count = 0;
  };
  struct Oldest {
    QueueOutcome outcome;
    std::uint64_t index = 0;
    Segment* segment = nullptr;
  };
  Oldest find_oldest(Place& place, std::size_t wanted, bool draining) noexcept;
  template <std::size_t kExtent>  // 1 or any
  Taken get_locked(Place& place, std::span<Message, kExtent> out, TakeNote* note, bool draining) noexcept;
  Taken get_many_locked(Place& place, std::span<Message> out) noexcept;
  void count_taken_bytes(std::span<const Message> run) noexcept;
  QueueOutcome finish_get(Place& place, Taken taken) noexcept;
  void drain(Place& place) noexcept;

  End tail_;
  End head_;
  // Read by every call, written rarely.
  alignas(64) std::atomic<std::uint64_t> capacity_;
  std::uint64_t max_bytes_;
  std::uint64_t taken_bytes_seen_;  // head_.bytes as last read; guarded by tail_.lock
  std::uint32_t not_joinable_;
  std::atomic<std::uint32_t> shut_down_;  // Shutdown; written under tail_.lock
  std::atomic<std::uint32_t> not_empty_;  // gates: what parked consumers, producers and joiners sleep on
  std::atomic<std::uint32_t> not_full_;
  std::atomic<std::uint32_t> wakes_;      // calls of wake_consumers
  std::atomic<bool> has_sentry_;          // written before there are consumers
  std::atomic<Offset> owed_;              // first OwedBlock; made at the first get
  std::atomic<Offset> spare_;             // a used-up segment for the next extension; guarded by tail_.lock
  // Written by task_done.
  alignas(64) std::atomic<std::uint64_t> finished_;
  std::atomic<std::uint64_t> strangers_;  // of these, by processes that took nothing
  std::atomic<std::uint32_t> join_gate_;
  std::atomic<std::uint64_t> watched_;  // head_.count when the sentry's nap began
};

}  // namespace freethreading
