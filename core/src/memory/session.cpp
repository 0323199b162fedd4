#include "freethreading/memory/session.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <thread>
#include <vector>

#include "freethreading/crash_point.hpp"
#include "memory/session_state.hpp"
#include "os/process.hpp"

namespace freethreading {

namespace {

using memory::RegionHeader;

constexpr std::uint64_t kLargestReserve = std::uint64_t{256} << 30;
constexpr std::uint64_t kSmallestReserve = std::uint64_t{64} << 20;
// How long leave() waits for threads that are ending something: they may be waiting for a stopped process.
constexpr Nanoseconds kLeavePatience = kSecond;
// Secured at once: the header and the process table.
constexpr std::uint64_t kFirstSecured = memory::kDescriptors;

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

// Whether what attach() touches is there, and stays. What create() has made is, a copy of it need not be.
bool is_whole(int descriptor, const RegionHeader& header) noexcept {
  return os::is_sealed_against_shrinking(descriptor) && os::size_of(descriptor) >= kFirstSecured &&
         header.reserved >= kSmallestReserve && header.reserved <= kLargestReserve;
}

}  // namespace

namespace memory {

Registry& registry() noexcept {
  static Registry& value = *new Registry;  // never destroyed: exit handlers may still come by
  return value;
}

std::atomic<OwnerId>* word_of_this_process() noexcept {
  if (std::atomic<OwnerId>* word = os::make_word_wiped_on_fork()) {
    return word;
  }
  // A kernel without MADV_WIPEONFORK: forks by other means than fork() would go unnoticed.
  static std::vector<std::atomic<OwnerId>*>& words = *new std::vector<std::atomic<OwnerId>*>;
  static const bool registered = (os::at_fork(nullptr, nullptr, [] {
                                    for (std::atomic<OwnerId>* word : words) {
                                      word->store(kNobody);
                                    }
                                  }),
                                  true);
  static_cast<void>(registered);
  words.push_back(new std::atomic<OwnerId>{kNobody});
  return words.back();
}

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
  if (!os::memfd_seal_against_shrinking(descriptor)) {
    const int error = errno;
    os::unmap(base, reserved);
    os::close_descriptor(descriptor);
    return failure(SessionError::kNoMemfd, error);
  }
  auto* header = reinterpret_cast<RegionHeader*>(base);  // NOLINT(*-reinterpret-cast): it lies there
  header->version = memory::kLayoutVersion;
  header->id = os::random_bits();
  // Half of what a limit leaves: this process needs some for itself.
  header->reserved = reserved == kLargestReserve ? reserved : std::max(reserved / 2, kSmallestReserve);
  header->magic = memory::kMagic;
  os::unmap(base, reserved);
  const SessionResult result = attach(descriptor);
  if (result.session == nullptr) {
    os::close_descriptor(descriptor);
  }
  return result;
}

SessionResult Session::attach(int descriptor) noexcept {
  alignas(RegionHeader) std::byte bytes[sizeof(RegionHeader)];
  const auto* header = reinterpret_cast<const RegionHeader*>(bytes);  // NOLINT(*-reinterpret-cast): what is read there
  os::FileIdentity identity;
  if (!os::identify(descriptor, identity)) {
    return failure(SessionError::kDescriptorGone, errno);
  }
  if (!os::read_at(descriptor, 0, bytes, sizeof bytes) || header->magic != memory::kMagic) {
    return failure(SessionError::kNotASession, 0);
  }
  if (header->version != memory::kLayoutVersion) {
    return failure(SessionError::kOtherVersion, 0);
  }
  if (!is_whole(descriptor, *header)) {
    return failure(SessionError::kCopy, 0);
  }
  const std::lock_guard lock(memory::registry().mutex);
  for (Session* known : memory::registry().sessions) {
    if (known->id() == header->id) {
      if (!known->state_->file.is(identity)) {
        return failure(SessionError::kCopy, 0);
      }
      known->attach_again(descriptor);
      return {.session = known};
    }
  }
  try {
    memory::registry().sessions.reserve(memory::registry().sessions.size() + 1);
  } catch (const std::bad_alloc&) {
    return failure(SessionError::kNoMemory, ENOMEM);
  }
  std::byte* base = os::map_shared(descriptor, header->reserved);
  if (base == nullptr) {
    return errno == EACCES ? failure(SessionError::kReadOnly, EACCES) : failure_of(errno);
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
  if (session->register_self() == kNobody && !session->register_after_sweep()) {
    delete session->state_;
    delete session;
    os::unmap(base, header->reserved);
    return failure(SessionError::kTooManyProcesses, 0);
  }
  static const bool handled = (os::at_fork(prepare_fork, [] { fork_done(false); }, [] { fork_done(true); }), true);
  static_cast<void>(handled);
  memory::registry().sessions.push_back(session);
  FT_CRASH_POINT("session.attached");
  return {.session = session};
}

// A second descriptor of the same session has come: it is kept where the first one has gone, else closed.
void Session::attach_again(int descriptor) noexcept {
  if (state_->file.descriptor() == -1) {
    state_->file.replace(descriptor);
  } else if (state_->file.number() != descriptor) {
    os::close_descriptor(descriptor);
  }
  const OwnerId self = state_->cached_self->load();
  if (self != kNobody && !state_->left) {
    state_->processes.hold_again(self);  // closing any descriptor of the file has dropped it
  }
}

Session* Session::find(std::uint64_t id) noexcept {
  const std::lock_guard lock(memory::registry().mutex);
  for (Session* session : memory::registry().sessions) {
    if (session->id() == id) {
      return session;
    }
  }
  return nullptr;
}

std::vector<Session*> Session::all() {
  const std::lock_guard lock(memory::registry().mutex);
  return memory::registry().sessions;
}

std::uint64_t Session::id() const noexcept { return state_->header->id; }

int Session::descriptor() const noexcept { return state_->file.descriptor(); }

Place& Session::place() noexcept { return state_->place; }

// --- processes -----------------------------------------------------------------------------------------------------------

// Two threads may come here at once, in a child that was forked without the hooks: the first to store its slot has it. No
// mutex, which such a child might have copied held.
OwnerId Session::register_self() noexcept {
  const OwnerId owner = state_->processes.claim();
  OwnerId known = kNobody;
  if (owner == kNobody) {
    return state_->cached_self->load();
  }
  if (!state_->cached_self->compare_exchange_strong(known, owner)) {
    state_->processes.give_back(owner);
    return known;
  }
  return take_slot(owner) ? owner : kNobody;
}

// Makes a claimed slot this process's.
bool Session::take_slot(OwnerId owner) noexcept {
  state_->cached_self->store(owner);  // first: a process is never gone in its own eyes
  if (!state_->processes.adopt(owner)) {
    state_->cached_self->store(kNobody);
    return false;
  }
  return true;
}

// For a process that nobody knows yet and that finds the table full: in the last slot it sweeps, and then looks for another.
bool Session::register_after_sweep() noexcept {
  const OwnerId last = state_->processes.claim_last();
  if (last == kNobody) {
    return false;
  }
  state_->cached_self->store(last);
  sweep();
  state_->cached_self->store(kNobody);
  const bool found = register_self() != kNobody;
  state_->processes.give_back(last);
  return found;
}

bool Session::is_self(OwnerId owner) const noexcept { return owner == state_->cached_self->load(); }

Liveness Session::liveness(OwnerId owner) noexcept { return state_->processes.liveness(owner); }

void Session::leave() noexcept {
  const OwnerId self = state_->cached_self->load();
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->left.exchange(true) || self == kNobody) {
      return;
    }
    state_->proxies.clear();
  }
  const Deadline patience = Deadline::after(kLeavePatience);
  while ((state_->ending.load() != 0 || state_->blocks.runs().is_backing()) && !patience.passed()) {
    std::this_thread::yield();
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

Offset Session::allocate_or_sweep(std::size_t size) noexcept {
  constexpr std::uint32_t kSmallOnes = 256;  // between looks at the clock
  if (size >= memory::kChunkSize || state_->small_ones.fetch_add(1, std::memory_order_relaxed) % kSmallOnes == 0) {
    const Nanoseconds now = monotonic_now();
    Nanoseconds last = state_->swept_at.load();
    if (now - last >= kSecond && state_->swept_at.compare_exchange_strong(last, now)) {
      sweep();
    }
  }
  const Offset block = allocate(size);
  if (block != kNoOffset) {
    return block;
  }
  sweep();
  return allocate(size);
}

bool Session::sweep_process(OwnerId owner) noexcept {
  const OwnerId self = state_->place.self();
  const Ending sweeping(*state_);
  if (self == kNobody || !sweeping.may_begin() || !state_->processes.begin_sweep(owner, self, false)) {
    return false;
  }
  recover(owner, state_->processes.left_cleanly(owner));
  state_->processes.end_sweep(owner);
  discard_no_longer_seen();
  return true;
}

int Session::pid_of(OwnerId owner) const noexcept { return state_->processes.pid_of(owner); }

OwnerId Session::owner_of(int pid) const noexcept { return state_->processes.owner_of(pid); }

void Session::trim(bool at_once) noexcept {
  if (at_once) {
    state_->blocks.give_back();
  } else {
    state_->blocks.end_period();
  }
}

SessionUsage Session::usage() noexcept {
  SessionUsage usage{};
  usage.file_bytes = os::allocated_bytes(state_->file.descriptor());
  state_->blocks.for_each([&](Offset /*block*/, std::uint32_t word, std::size_t size) {
    if (memory::kind_of(word) == memory::BlockKind::kBacking) {
      return;  // on its way to or from somebody
    }
    ++usage.blocks;
    usage.block_bytes += size;
    usage.objects += memory::kind_of(word) == memory::BlockKind::kObject ? 1 : 0;
  });
  usage.processes = state_->processes.live();
  return usage;
}

// --- blocks, for Place -----------------------------------------------------------------------------------------------------

Offset Session::allocate(std::size_t size) noexcept { return state_->blocks.allocate(size, state_->place.self()); }

void Session::free_block(Offset block) noexcept {
  if (!state_->swept) {  // else it was freed with all others of this process, and may be somebody else's now
    state_->blocks.free(block);
  }
}

std::size_t Session::usable_size(Offset block) const noexcept { return state_->blocks.usable_size(block); }

void Session::link(Offset block) noexcept {
  state_->blocks.set_word(block, memory::block_word(memory::BlockKind::kLinked));
}

void Session::adopt(Offset block, bool carrier) noexcept {
  const memory::BlockKind kind = carrier ? memory::BlockKind::kCarrier : memory::BlockKind::kProcess;
  state_->blocks.set_word(block, memory::block_word(kind, state_->place.self()));
}

}  // namespace freethreading
