// Session: the nameless region that processes share, its processes, and the objects in it.
//
// The region is a memfd, reserved large in address space and grown by secured steps (fallocate before use: a full memory
// is an error value at the growing call, never a SIGBUS); what is idle goes back to the system. It has no name in the file
// system. A process takes part once it has attached (by the descriptor, inherited or handed over) and owns a slot in the
// process table; the kernel releases the slot's lock when the process dies, and whoever meets the dead slot sweeps it:
// recovers what it held, frees its blocks, drops its references, and only then lets the slot be used again.
//
// Thread-safe. A process has one Session object per region. Never destroyed while a Place of it is in use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "freethreading/memory/object.hpp"
#include "freethreading/place.hpp"
#include "freethreading/queue/message.hpp"

namespace freethreading {

enum class SessionError : std::uint8_t {
  kNone,
  kNoMemfd,         // the kernel or a sandbox refuses memfd_create
  kNoMemory,        // address space, memory or file size limit
  kNoDescriptor,    // RLIMIT_NOFILE
  kNotASession,     // the descriptor is not a session of this library
  kOtherVersion,    // it is one of another version of this library
  kCopy,            // it is a copy of a session, perhaps a part of one, or somebody could cut it short
  kReadOnly,        // the descriptor cannot be written
  kTooManyProcesses,  // kMaxProcesses - 1 take part, and none of them is dead
  kDescriptorGone,  // somebody closed the session's descriptor in this process, or put another file in its place
  kSystem,          // anything else: errno
};

struct SessionResult {
  Session* session = nullptr;
  SessionError error = SessionError::kNone;
  int error_number = 0;  // errno where the error came from the system
};

struct SessionUsage {
  std::size_t file_bytes;    // secured
  std::size_t blocks;        // blocks in use (objects included)
  std::size_t block_bytes;
  std::size_t objects;
  std::size_t processes;     // slots of live processes
};

class Session {
 public:
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  // Makes a session and attaches this process.
  static SessionResult create() noexcept;
  // Attaches to the session behind `descriptor`, which the Session keeps (or closes, when the process is attached
  // already: then the Session that is there comes back).
  static SessionResult attach(int descriptor) noexcept;
  // The session with this id, if this process is attached to it; else null.
  static Session* find(std::uint64_t id) noexcept;
  // All sessions this process is attached to.
  static std::vector<Session*> all();

  [[nodiscard]] std::uint64_t id() const noexcept;
  // The region's descriptor (close-on-exec), checked to be the session's still; -1 when it is gone.
  [[nodiscard]] int descriptor() const noexcept;
  [[nodiscard]] Place& place() noexcept;

  // --- objects -----------------------------------------------------------------------------------------------------
  // A block for an object with a body of `size` bytes, zeroed, kUnborn and owned by this process; null: no memory.
  ObjectHeader* create_object(ObjectType type, std::size_t size) noexcept;
  // Makes it live, with this process's reference. REQUIRES: create_object gave it and its body is complete.
  Handle publish_object(ObjectHeader* object) noexcept;
  // Takes a reference for a proxy of this process. Null: the object is gone (or never was).
  ObjectHeader* open(const Handle& handle) noexcept;
  // One more proxy for an object that the caller has a proxy of.
  void add_reference(ObjectHeader* object) noexcept;
  // Drops a proxy's reference; the last one in the session destroys the object.
  void drop_reference(ObjectHeader* object) noexcept;
  // A reference of a message in flight, counted in the object and in the message's block by one step, so that whoever ends
  // up with the block, the sweeper of a dead process too, can give it back. REQUIRES: `block` is this process's, and a
  // carrier. False: the object is gone. Use carry() and discard() (queue/message.hpp).
  bool carry(Offset block, const Handle& handle) noexcept;
  // Gives back all references that the block has counted.
  void drop_carried(Offset block) noexcept;
  // The same for a message of another session, whose block cannot count it: lost with a process that dies meanwhile.
  bool retain_in_flight(const Handle& handle) noexcept;
  void drop_in_flight(const Handle& handle) noexcept;

  // --- messages that are read where they lie ---------------------------------------------------------------------------
  // How many children this process has forked that take part.
  [[nodiscard]] std::uint64_t forks() const noexcept;
  // discard(), once no child lives that was forked since forks() gave `since`: what this process sees of the message's block,
  // they see too. Looks also whether that has become true of earlier ones.
  void discard_unseen(Message message, std::uint64_t since) noexcept;

  // --- processes -----------------------------------------------------------------------------------------------------
  // Around a fork() whose child goes on to use the session, in the thread that forks and in its child: the child gets a slot
  // and this process's references, so that nothing that it inherits can go away first.
  void before_fork() noexcept;
  void after_fork_in_parent() noexcept;
  void after_fork_in_child() noexcept;
  // Clean exit: locks that this process holds stay held by nobody (anyone may release them), everything else is swept.
  void leave() noexcept;
  // Sweeps every dead slot. Called after parks by whoever met a dead owner, by the supervisor at each death.
  void sweep() noexcept;
  [[nodiscard]] bool sweep_process(OwnerId owner) noexcept;
  // A block as Place::allocate() gives it, for a caller that holds no lock. Sweeps when this process has not for a second, since
  // nobody else may come by where there is no supervisor, and before it says that there is no memory: it may be the dead's.
  [[nodiscard]] Offset allocate_or_sweep(std::size_t size) noexcept;
  // Process id of an owner, 0 when it is not known (any more).
  [[nodiscard]] int pid_of(OwnerId owner) const noexcept;
  // The owner with this process id, kNobody when none is attached.
  [[nodiscard]] OwnerId owner_of(int pid) const noexcept;

  // Gives free memory back to the system that nobody has used for some seconds; `at_once`: all that is free. The supervisor
  // calls it once a second; a look at the clock where there is nothing to do.
  void trim(bool at_once = false) noexcept;

  [[nodiscard]] SessionUsage usage() noexcept;

  // Internal to the core: block allocation for Place. After leave() nothing is freed: the blocks are others' by then.
  Offset allocate(std::size_t size) noexcept;
  void free_block(Offset block) noexcept;
  std::size_t usable_size(Offset block) const noexcept;
  void link(Offset block) noexcept;
  void adopt(Offset block, bool carrier) noexcept;
  Liveness liveness(OwnerId owner) noexcept;
  OwnerId register_self() noexcept;

 private:
  Session() = default;
  ~Session() = default;
  void attach_again(int descriptor) noexcept;
  bool take_slot(OwnerId owner) noexcept;
  bool register_after_sweep() noexcept;
  void refer_to(ObjectHeader& object) noexcept;
  ObjectHeader* find_live(const Handle& handle) noexcept;
  void discard_no_longer_seen() noexcept;
  ObjectHeader* drop_last_carried(Offset block, Handle& foreign) noexcept;
  bool begin_destroying(ObjectHeader& object) noexcept;
  void finish_destroying(ObjectHeader& object) noexcept;
  [[nodiscard]] bool is_self(OwnerId owner) const noexcept;
  static void prepare_fork() noexcept;
  static void fork_done(bool in_child) noexcept;
  void reserve_for_child() noexcept;
  void recover(OwnerId gone, bool left_cleanly) noexcept;
  void recover_object(Offset block, OwnerId gone, bool left_cleanly) noexcept;
  struct State;
  friend class Ending;
  State* state_ = nullptr;
};

}  // namespace freethreading
