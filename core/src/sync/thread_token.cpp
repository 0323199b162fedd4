#include "sync/thread_token.hpp"

#include <atomic>

#include "freethreading/sync/rlock.hpp"
#include "os/process.hpp"

namespace freethreading {

namespace {

std::atomic<std::uint32_t> last_thread{0};
std::atomic<std::uint32_t> survivor{0};

struct Identity {
  std::uint32_t local = 0;
  std::uint64_t token = 0;  // 0: ask again, the thread lives in another process now
};
thread_local constinit Identity identity;

void forget_after_fork() noexcept {
  identity.token = 0;
  survivor.store(identity.local);
}

}  // namespace

std::uint32_t local_thread() noexcept {
  if (identity.local == 0) {
    static const bool hooked = (os::at_fork(nullptr, nullptr, forget_after_fork), true);
    static_cast<void>(hooked);
    identity.local = last_thread.fetch_add(1) + 1;
  }
  return identity.local;
}

std::uint32_t thread_that_forked() noexcept { return survivor.load(); }

// The kernel's thread id is unique among live threads; the local number tells a thread that has got the id of an ended
// one apart from it.
std::uint64_t thread_token() noexcept {
  if (identity.token == 0) {
    const std::uint64_t local = local_thread();
    identity.token = local << 32U | static_cast<std::uint32_t>(os::thread_id());
  }
  return identity.token;
}

}  // namespace freethreading
