// This process and this thread, as the kernel numbers them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace freethreading::os {

[[nodiscard]] int process_id() noexcept;
[[nodiscard]] int thread_id() noexcept;

// How many descriptors this process may have open (RLIMIT_NOFILE).
[[nodiscard]] std::size_t descriptor_limit() noexcept;

// A word that is zero in every process until it writes it, also in the children of a process that has written it: it lies
// on a page that a fork wipes (MADV_WIPEONFORK). Never freed. Null: no memory.
[[nodiscard]] std::atomic<std::uint32_t>* make_word_wiped_on_fork() noexcept;

// Calls these around every fork() from now on (pthread_atfork).
void at_fork(void (*prepare)(), void (*parent)(), void (*child)()) noexcept;

}  // namespace freethreading::os
