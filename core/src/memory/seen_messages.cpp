// Messages that are read where they lie, in a process that forks.
#include <algorithm>
#include <new>

#include "memory/session_state.hpp"

namespace freethreading {

std::uint64_t Session::forks() const noexcept { return state_->forks.load(); }

void Session::discard_unseen(Message message, std::uint64_t since) noexcept {
  if (forks() == since) {
    discard(state_->place, message);
  } else {
    const std::lock_guard lock(state_->mutex);
    try {
      state_->seen.push_back({.message = message, .since = since});
      state_->holds_seen.store(true);
    } catch (const std::bad_alloc&) {
      return;  // kept until this process ends
    }
  }
  discard_no_longer_seen();
}

void Session::discard_no_longer_seen() noexcept {
  if (!state_->holds_seen.load()) {
    return;
  }
  std::vector<SeenMessage> done;
  {
    const std::lock_guard lock(state_->mutex);
    std::erase_if(state_->children, [&](const ForkedChild& child) { return liveness(child.owner) != Liveness::kAlive; });
    const auto is_seen = [&](const SeenMessage& held) {
      return std::ranges::any_of(state_->children, [&](const ForkedChild& child) { return child.number > held.since; });
    };
    try {
      const auto rest = std::partition(state_->seen.begin(), state_->seen.end(), is_seen);
      done.assign(rest, state_->seen.end());
      state_->seen.erase(rest, state_->seen.end());
      state_->holds_seen.store(!state_->seen.empty());
    } catch (const std::bad_alloc&) {
      return;  // another time
    }
  }
  for (SeenMessage& held : done) {
    discard(state_->place, held.message);
  }
}

}  // namespace freethreading
