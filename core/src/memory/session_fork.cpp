// A session around a fork(): what the child gets of it (docs/design/session.md).
#include <mutex>
#include <new>

#include "freethreading/crash_point.hpp"
#include "memory/session_state.hpp"

namespace freethreading {

namespace {

// Between before_fork() and the fork: the child will call after_fork_in_child(). A fork by other code, which most often goes
// on to execute another program, leaves no slot behind.
thread_local bool child_takes_part = false;

}  // namespace

void Session::before_fork() noexcept {
  static_cast<void>(state_->place.self());
  if (state_->processes.is_full()) {
    sweep();
  }
  child_takes_part = true;
}

void Session::after_fork_in_parent() noexcept { child_takes_part = false; }

void Session::after_fork_in_child() noexcept {
  const std::lock_guard lock(state_->mutex);
  const OwnerId mine = state_->embryo;
  state_->embryo = kNobody;
  if (mine == kNobody || !take_slot(mine)) {
    return;
  }
  for (auto& [offset, proxies] : state_->proxies) {
    if (proxies.holder == state_->forker) {
      proxies.holder = mine;
    }
  }
}

// The fork itself, by whoever it is made: nothing that the child gets is half written, and what of ours another thread holds
// is free in it. The section is no longer than that: in it, the thread that forks must not come by here again.
void Session::prepare_fork() noexcept {
  memory::registry().mutex.lock();
  for (Session* session : memory::registry().sessions) {
    State& state = *session->state_;
    state.mutex.lock();
    state.blocks.lock_for_fork();
    if (child_takes_part) {
      session->reserve_for_child();
    }
  }
}

void Session::reserve_for_child() noexcept {
  state_->forker = state_->cached_self->load();
  const bool takes_part = !state_->left && state_->forker != kNobody;
  state_->embryo = takes_part ? state_->processes.claim() : kNobody;
  if (state_->embryo == kNobody) {
    return;
  }
  const std::uint64_t number = state_->forks.load() + 1;
  try {
    state_->children.push_back({.number = number, .owner = state_->embryo});
  } catch (const std::bad_alloc&) {
    // What the child sees of messages may be overwritten.
  }
  state_->forks.store(number);
  const std::uint32_t slot = memory::slot_of(state_->embryo);
  for (const auto& [offset, proxies] : state_->proxies) {
    if (proxies.holder == state_->forker) {
      state_->place.at<ObjectHeader>(offset)->refs[slot / 64].fetch_or(std::uint64_t{1} << (slot % 64));
    }
  }
  FT_CRASH_POINT("session.fork.referenced");
}

void Session::fork_done(bool in_child) noexcept {
  child_takes_part = false;
  for (Session* session : memory::registry().sessions) {
    State& state = *session->state_;
    if (in_child) {
      state.ending.store(0);  // the threads that were at it are the parent's
      state.children.clear();  // and so are these
      state.seen.clear();
      state.holds_seen.store(false);
    } else {
      state.embryo = kNobody;
    }
    state.blocks.unlock_after_fork(in_child);
    state.mutex.unlock();
  }
  memory::registry().mutex.unlock();
}

}  // namespace freethreading
