// Copying much memory.
#pragma once

#include <cstddef>
#include <cstring>

#include "compat.hpp"
#include "freethreading/memory/fresh.hpp"

namespace freethreading::binding {

inline constexpr std::size_t kCopyDetached = 1 << 20;  // a longer copy lets other threads run meanwhile

// REQUIRES: nobody gives the memory back meanwhile; no Ref is alive.
inline void copy_bytes(std::byte* target, const void* source, std::size_t size) {
  if (size < kCopyDetached) {
    std::memcpy(target, source, size);
    return;
  }
  Py_BEGIN_ALLOW_THREADS;
  std::memcpy(target, source, size);
  Py_END_ALLOW_THREADS;
}

// The same to memory that was allocated just now.
inline void copy_to_fresh(std::byte* target, const void* source, std::size_t size) {
  constexpr std::size_t kLargePages = std::size_t{4} << 20;
  if (size >= kLargePages) expect_to_write(target, size);
  copy_bytes(target, source, size);
}

}  // namespace freethreading::binding
