// AtomicInt64: a number that threads and processes change without a lock. Sums and differences wrap around (two's
// complement). All operations are sequentially consistent. A death leaves nothing to recover: each is one instruction.
#pragma once

#include <atomic>
#include <cstdint>

namespace freethreading {

using AtomicInt64 = std::atomic<std::int64_t>;
static_assert(AtomicInt64::is_always_lock_free, "a lock of the library's would be one process's own");
static_assert(sizeof(AtomicInt64) == sizeof(std::int64_t));

}  // namespace freethreading
