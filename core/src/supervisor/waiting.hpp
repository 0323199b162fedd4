// A worker that was asked for and that no spare has yet.
#pragma once

#include <cstdint>
#include <vector>

#include "freethreading/memory/session.hpp"
#include "freethreading/pool/supervisor.hpp"

namespace freethreading::supervisor {

struct Waiting {
  ObjectHeader* record;  // a reference; null: it was passed on
  WorkerToken token;
  std::vector<int> descriptors;
  std::uint64_t behind = 0;  // so many imports (imports.hpp)
  int attempts = 0;          // spares that were lost while this was the first of all
};

}  // namespace freethreading::supervisor
