#include "freethreading/memory/session.hpp"

#include <cerrno>
#include <new>
#include <vector>

#include "freethreading/crash_point.hpp"
#include "memory/session_state.hpp"
#include "os/process.hpp"

namespace freethreading {

namespace {

using memory::RegionHeader;

constexpr std::uint64_t kLargestReserve = std::uint64_t{256} << 30;
constexpr std::uint64_t kSmallestReserve = std::uint64_t{64} << 20;
// Secured at once: the header and the process table.
constexpr std::uint64_t kFirstSecured = memory::kDescriptors;

// The sessions of this process; they are made under the mutex and never destroyed.
struct Registry {
  std::mutex mutex;
  std::vector<Session*> sessions;
};

Registry& registry() noexcept {
  static Registry& value = *new Registry;  // never destroyed: exit handlers may still come by
  return value;
}

SessionResult failure(SessionError error, int error_number) noexcept {
  return {.session = nullptr, .error = error, .error_number = error_number};
}

SessionResult failure_of(int error_number) noexcept {
  switch (error_number) {
    case ENOMEM:
    case ENOSPC:
    case EFBIG:
      return failure(SessionError::kNoMemory, error_number);
    case EMFILE:
    case ENFILE:
      return failure(SessionError::kNoDescriptor, error_number);
    case ENOSYS:
    case EPERM:
    case EACCES:
      return failure(SessionError::kNoMemfd, error_number);
    default:
      return failure(SessionError::kSystem, error_number);
  }
}

}  // namespace

namespace memory {

std::atomic<OwnerId>* word_of_this_process() noexcept {
  if (std::atomic<OwnerId>* word = os::make_word_wiped_on_fork()) {
    return word;
  }
  // A kernel without MADV_WIPEONFORK: forks by other means than fork() would go unnoticed.
  static std::vector<std::atomic<OwnerId>*>& words = *new std::vector<std::atomic<OwnerId>*>;
  static const bool registered = (os::at_fork_in_child([] {
                                    for (std::atomic<OwnerId>* word : words) {
                                      word->store(kNobody);
                                    }
                                  }),
                                  true);
  static_cast<void>(registered);
  words.push_back(new std::atomic<OwnerId>{kNobody});
  return words.back();
}

RegionGuard::RegionGuard(Place& place, Lock& lock) noexcept : place_(place), lock_(lock) {
  WaitContext context(Deadline::never());
  while (lock_.lock_until(place_, context) == WaitOutcome::kInterrupted) {
  }
}

RegionGuard::~RegionGuard() { static_cast<void>(lock_.unlock(place_)); }

}  // namespace memory

SessionResult Session::create() noexcept {
  const int descriptor = os::memfd_create("freethreading");
  if (descriptor < 0) {
    return failure_of(errno);
  }
  if (const int error = os::secure_pages(descriptor, 0, kFirstSecured)) {
    os::close_descriptor(descriptor);
    return failure_of(error);
  }
  std::byte* base = nullptr;
  std::uint64_t reserved = kLargestReserve;
  while ((base = os::map_shared(descriptor, reserved)) == nullptr && reserved > kSmallestReserve) {
    reserved /= 2;  // RLIMIT_AS
  }
  if (base == nullptr) {
    const int error = errno;
    os::close_descriptor(descriptor);
    return failure_of(error);
  }
  os::memfd_seal_against_shrinking(descriptor);
  auto* header = reinterpret_cast<RegionHeader*>(base);  // NOLINT(*-reinterpret-cast): it lies there
  header->version = memory::kLayoutVersion;
  header->id = os::random_bits();
  header->reserved = reserved;
  header->magic = memory::kMagic;
  os::unmap(base, reserved);
  return attach(descriptor);
}

SessionResult Session::attach(int descriptor) noexcept {
  alignas(RegionHeader) std::byte bytes[sizeof(RegionHeader)];
  const auto* header = reinterpret_cast<const RegionHeader*>(bytes);  // NOLINT(*-reinterpret-cast): what is read there
  os::FileIdentity identity;
  if (!os::identify(descriptor, identity)) {
    return failure(SessionError::kDescriptorGone, errno);
  }
  if (!os::read_at(descriptor, 0, bytes, sizeof bytes) || header->magic != memory::kMagic ||
      header->version != memory::kLayoutVersion) {
    return failure(SessionError::kNotASession, 0);
  }
  const std::lock_guard lock(registry().mutex);
  for (Session* known : registry().sessions) {
    if (known->id() == header->id) {
      if (known->state_->descriptor != descriptor) {
        os::close_descriptor(descriptor);
        const OwnerId self = known->state_->cached_self->load();
        if (self != kNobody) {
          known->state_->processes.hold_again(self);  // closing any descriptor of the file has dropped it
        }
      }
      return {.session = known};
    }
  }
  std::byte* base = os::map_shared(descriptor, header->reserved);
  if (base == nullptr) {
    return failure_of(errno);
  }
  auto* session = new (std::nothrow) Session;
  if (session != nullptr) {
    session->state_ = new (std::nothrow) State(session, descriptor, identity, base, memory::word_of_this_process());
  }
  if (session == nullptr || session->state_ == nullptr) {
    delete session;
    os::unmap(base, header->reserved);
    return failure(SessionError::kNoMemory, ENOMEM);
  }
  if (session->register_self() == kNobody) {
    session->sweep();
    if (session->register_self() == kNobody) {
      delete session->state_;
      delete session;
      os::unmap(base, header->reserved);
      return failure(SessionError::kTooManyProcesses, 0);
    }
  }
  registry().sessions.push_back(session);
  FT_CRASH_POINT("session.attached");
  return {.session = session};
}

Session* Session::find(std::uint64_t id) noexcept {
  const std::lock_guard lock(registry().mutex);
  for (Session* session : registry().sessions) {
    if (session->id() == id) {
      return session;
    }
  }
  return nullptr;
}

std::vector<Session*> Session::all() {
  const std::lock_guard lock(registry().mutex);
  return registry().sessions;
}

std::uint64_t Session::id() const noexcept { return state_->header->id; }

int Session::descriptor() const noexcept {
  os::FileIdentity now;
  return os::identify(state_->descriptor, now) && now == state_->file_identity ? state_->descriptor : -1;
}

Place& Session::place() noexcept { return state_->place; }

// --- processes -----------------------------------------------------------------------------------------------------------

OwnerId Session::register_self() noexcept {
  // Two threads may come here at once, in a child that was forked without the hooks.
  static std::mutex registering;
  const std::lock_guard lock(registering);
  if (const OwnerId known = state_->cached_self->load()) {
    return known;
  }
  const OwnerId owner = state_->processes.claim();
  if (owner != kNobody) {
    state_->cached_self->store(owner);
  }
  return owner;
}

Liveness Session::liveness(OwnerId owner) noexcept { return state_->processes.liveness(owner); }

void Session::before_fork() noexcept {
  const OwnerId self = state_->place.self();
  state_->mutex.lock();
  state_->blocks.lock_for_fork();
  state_->embryo = state_->left ? kNobody : state_->processes.claim_for_child(self);
  if (state_->embryo == kNobody) {
    return;
  }
  const std::uint32_t slot = memory::slot_of(state_->embryo);
  for (const auto& [offset, count] : state_->proxies) {
    state_->place.at<ObjectHeader>(offset)->refs[slot / 64].fetch_or(std::uint64_t{1} << (slot % 64));
  }
  FT_CRASH_POINT("session.fork.referenced");
}

void Session::after_fork_in_parent() noexcept {
  state_->embryo = kNobody;
  state_->blocks.unlock_after_fork();
  state_->mutex.unlock();
}

void Session::after_fork_in_child() noexcept {
  state_->blocks.unlock_after_fork();
  const OwnerId mine = state_->embryo;
  state_->embryo = kNobody;
  if (mine != kNobody && state_->processes.adopt(mine)) {
    state_->cached_self->store(mine);
  }
  state_->mutex.unlock();
}

void Session::leave() noexcept {
  const OwnerId self = state_->cached_self->load();
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->left || self == kNobody) {
      state_->left = true;
      return;
    }
    state_->left = true;
    state_->proxies.clear();
  }
  if (state_->processes.begin_sweep(self, self, true)) {
    recover(self, true);
    state_->processes.end_sweep(self);
  }
}

void Session::sweep() noexcept {
  for (std::uint32_t index = 0; index < kMaxProcesses; ++index) {
    const OwnerId owner = state_->processes.suspect(index);
    if (owner != kNobody) {
      static_cast<void>(sweep_process(owner));
    }
  }
}

bool Session::sweep_process(OwnerId owner) noexcept {
  const OwnerId self = state_->place.self();
  if (!state_->processes.begin_sweep(owner, self, false)) {
    return false;
  }
  recover(owner, state_->processes.left_cleanly(owner));
  state_->processes.end_sweep(owner);
  return true;
}

int Session::pid_of(OwnerId owner) const noexcept { return state_->processes.pid_of(owner); }

OwnerId Session::owner_of(int pid) const noexcept { return state_->processes.owner_of(pid); }

SessionUsage Session::usage() noexcept {
  SessionUsage usage{};
  usage.file_bytes = os::allocated_bytes(state_->descriptor);
  state_->blocks.for_each([&](Offset /*block*/, std::uint32_t word, std::size_t size) {
    ++usage.blocks;
    usage.block_bytes += size;
    usage.objects += memory::kind_of(word) == memory::BlockKind::kObject ? 1 : 0;
  });
  usage.processes = state_->processes.live();
  return usage;
}

// --- blocks, for Place -----------------------------------------------------------------------------------------------------

Offset Session::allocate(std::size_t size) noexcept { return state_->blocks.allocate(size, state_->place.self()); }

void Session::free_block(Offset block) noexcept { state_->blocks.free(block); }

std::size_t Session::usable_size(Offset block) const noexcept { return state_->blocks.usable_size(block); }

void Session::link(Offset block) noexcept {
  state_->blocks.set_word(block, memory::block_word(memory::BlockKind::kLinked));
}

void Session::adopt(Offset block) noexcept {
  state_->blocks.set_word(block, memory::block_word(memory::BlockKind::kProcess, state_->place.self()));
}

}  // namespace freethreading
