// Which back end an object made now gets.
#pragma once

#include "state.hpp"

namespace freethreading::binding {

enum class Backend : std::uint8_t { kThreading = 0, kMultiprocessing = 1 };

// False: an error is set (a bad FREETHREADING_BACKEND, or a replaced sys._is_gil_enabled that raised).
bool backend_now(State* state, Backend* backend);

}  // namespace freethreading::binding
