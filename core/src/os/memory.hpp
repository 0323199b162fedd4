// How much memory this process may still take.
#pragma once

#include <cstdint>
#include <string_view>

namespace freethreading::os {

// Bytes that can be had without the kernel's killing a process for them: what the system has, with its swap, and no more than
// each of the process's control groups allows. The largest number where nothing says. An estimate: others take some too. Reads
// several files.
[[nodiscard]] std::uint64_t available_memory() noexcept;

// The system's part, from the text of /proc/meminfo.
[[nodiscard]] std::uint64_t available_memory_of(std::string_view meminfo) noexcept;
// A control group's part, from the texts of its limit (memory.max, or v1's memory.limit_in_bytes), of its usage
// (memory.current, memory.usage_in_bytes) and of memory.stat, which says what of the usage is cache of files.
[[nodiscard]] std::uint64_t available_memory_of_group(std::string_view limit, std::string_view usage,
                                                      std::string_view stat) noexcept;

}  // namespace freethreading::os
