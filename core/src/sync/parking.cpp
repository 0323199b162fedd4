#include "sync/parking.hpp"

#include "os/futex.hpp"

namespace freethreading {

ParkResult park(std::atomic<std::uint32_t>& word, std::uint32_t expected, Place& place, WaitContext& context) noexcept {
  const Nanoseconds now = monotonic_now();
  if (context.since == 0) {
    context.since = now;
  }
  const bool first = !context.parked;
  const Nanoseconds whole = context.interruptible && now - context.since < kLongWait ? kInterruptibleSlice : kParkSlice;
  const Nanoseconds slice = first ? kFirstParkSlice : whole;
  const bool sliced = context.deadline.remaining() > slice;
  const os::FutexResult result =
      os::futex_wait(word, expected, sliced ? Deadline::after(slice) : context.deadline, place.shared());
  switch (result) {
    case os::FutexResult::kChanged:
      return ParkResult::kLook;
    case os::FutexResult::kWoken:
      context.parked = true;
      return ParkResult::kLook;
    case os::FutexResult::kInterrupted:
      context.parked = true;
      return context.interruptible ? ParkResult::kInterrupted : ParkResult::kLook;
    case os::FutexResult::kTimedOut:
      break;
  }
  context.parked = true;
  return context.interruptible && sliced && !first ? ParkResult::kInterrupted : ParkResult::kSliceOver;
}

}  // namespace freethreading
