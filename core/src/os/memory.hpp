// How much memory the system has to give.
#pragma once

#include <cstdint>
#include <string_view>

namespace freethreading::os {

// Bytes that the system can give without killing a process for them, with its swap; the largest number where it does not say.
// An estimate: others take some at the same time, and a control group may allow less.
[[nodiscard]] std::uint64_t available_memory() noexcept;

// The same from the text of /proc/meminfo.
[[nodiscard]] std::uint64_t available_memory_of(std::string_view meminfo) noexcept;

}  // namespace freethreading::os
