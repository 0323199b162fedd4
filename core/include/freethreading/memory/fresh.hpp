// Memory that was just allocated and is about to be written from end to end.
#pragma once

#include <cstddef>

namespace freethreading {

// Has the system back the whole of it with large pages, where it does that: a fault for each small page would take longer than
// the copy. Worth its call from some megabytes on; changes nothing else.
void expect_to_write(void* memory, std::size_t size) noexcept;

}  // namespace freethreading
