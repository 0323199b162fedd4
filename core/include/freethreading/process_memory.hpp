// How much memory a process has for itself.
#pragma once

#include <cstdint>

namespace freethreading {

// Bytes of physical memory that the process (0: this one) has for itself: its anonymous pages, as RssAnon in
// /proc/<pid>/status, those among them that it inherited by a fork and has not written to. Neither files nor memory that is mapped to
// be shared, as a session's region. 0: it cannot be read, as that of a process that has ended. Takes some microseconds.
[[nodiscard]] std::uint64_t private_memory(std::int32_t pid) noexcept;

}  // namespace freethreading
