// What lies where in a session's region.
//
//   0          RegionHeader
//   4 KiB      process table: kMaxProcesses slots
//   128 KiB    chunk descriptors, one word a chunk (secured as chunks are)
//   16 MiB     chunks of 256 KiB
//
// A chunk is the head of a run, lies inside a run (then its descriptor is 0), or is split into small blocks of one size.
// No page is touched that is not secured.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "freethreading/memory/object.hpp"
#include "freethreading/sync/lock.hpp"

namespace freethreading::memory {

inline constexpr std::uint64_t kMagic = 0x66726565'74687264ULL;
inline constexpr std::uint64_t kLayoutVersion = 3;
inline constexpr std::uint64_t kChunkSize = std::uint64_t{256} << 10;
inline constexpr Offset kProcessTable = 4096;
inline constexpr Offset kDescriptors = Offset{128} << 10;
inline constexpr Offset kFirstChunk = Offset{16} << 20;
inline constexpr std::uint64_t kMaxChunks = (kFirstChunk - kDescriptors) / sizeof(std::uint64_t);
// The process in slot i holds the lock on this byte + i of the file.
inline constexpr std::uint64_t kLivenessBytes = std::uint64_t{1} << 40;

// A change of two counts that must not be seen half done: an object's in_flight and a block's Carried::count. Whoever takes
// `objects` finishes what a dead holder began: both stores are of values, so that they may be made again.
struct CountChange {
  std::atomic<std::uint32_t> pending;
  std::atomic<std::uint32_t> in_flight;
  std::atomic<std::uint64_t> carried;
  std::atomic<Offset> object;
  std::atomic<Offset> block;
};

// What is known of the runs beside their descriptors: where free ones may be found, and how many chunks stay warm. All of it
// is hints, which a death between two stores may leave wrong; Runs::survey() counts again.
struct RunHints {
  static constexpr std::size_t kRecent = 512;

  std::atomic<std::uint64_t> freed;         // how often a run became free; counted after its descriptor was stored
  std::atomic<std::uint64_t> searched_at;   // `freed`, before a survey that did not find
  std::atomic<std::uint64_t> searched_for;  // as many free chunks in a row; both under `growth`
  std::atomic<std::uint64_t> taken;         // how often a run was taken
  std::atomic<std::int64_t> used;           // chunks of runs that are taken
  std::atomic<std::int64_t> warm;           // chunks of free runs whose pages are secured
  std::atomic<std::int64_t> peak;           // the most that was used in this period; under `growth`
  std::atomic<std::int64_t> earlier_peak;   // and in the one before
  std::atomic<std::int64_t> period_start;   // monotonic time
  std::atomic<std::uint64_t> period_events;  // runs taken and freed until then
  std::atomic<std::uint64_t> recent_end;    // how many were ever written to `recent`
  std::array<std::atomic<std::uint32_t>, kRecent> recent;  // a ring: 1 + the heads of the runs freed last; 0: none
};

struct RegionHeader {
  std::uint64_t magic;
  std::uint64_t version;
  std::uint64_t id;
  std::uint64_t reserved;                         // bytes of address space that every process maps
  std::atomic<std::uint64_t> chunks;              // descriptors that are in use; grows under `growth`
  std::atomic<std::uint64_t> secured_descriptors;  // bytes of the descriptor table that are secured; under `growth`
  std::atomic<std::uint64_t> generation;          // of the object made last
  Lock growth;                                    // runs, new chunks
  Lock objects;                                   // which objects are live, and their in_flight
  CountChange change;                             // under `objects`
  RunHints runs;
};
static_assert(sizeof(RegionHeader) <= kProcessTable);

// A process's place in the table. `word` is the slot's state (2 bits) and generation (12 bits) in one.
//
//   state      meaning                              next
//   kFree      nobody's                             kEmbryo (claimed)
//   kEmbryo    claimed for a process about to be    kLive (adopted), kSweeping (given up)
//   kLive      a process's                          kSweeping (it died, or left)
//   kSweeping  what it held is being recovered      kFree, with the next generation
enum class SlotState : std::uint32_t { kFree = 0, kEmbryo = 1, kLive = 2, kSweeping = 3 };

struct alignas(64) ProcessSlot {
  std::atomic<std::uint32_t> word;
  std::atomic<std::uint32_t> pid;         // 0: not known yet
  std::atomic<std::uint64_t> start_time;  // written before pid
  std::atomic<std::uint64_t> election;    // kSweeping: who recovers it; see election_of()
  std::atomic<std::int64_t> claimed_at;   // kEmbryo: monotonic time
  std::atomic<std::uint32_t> left;        // 1: it left cleanly
};
static_assert(sizeof(ProcessSlot) == 64);
static_assert(kProcessTable + kMaxProcesses * sizeof(ProcessSlot) <= kDescriptors);

inline constexpr std::uint32_t kSlotBits = 10;
inline constexpr std::uint32_t kGenerations = 1 << 12;
static_assert(kMaxProcesses == 1U << kSlotBits);

constexpr std::uint32_t slot_word(SlotState state, std::uint32_t generation) noexcept {
  return static_cast<std::uint32_t>(state) | generation << 2;
}
constexpr SlotState state_of(std::uint32_t word) noexcept { return static_cast<SlotState>(word & 3); }
constexpr std::uint32_t generation_of(std::uint32_t word) noexcept { return word >> 2; }
constexpr OwnerId owner_id(std::uint32_t slot, std::uint32_t generation) noexcept { return slot | generation << kSlotBits; }
constexpr std::uint32_t slot_of(OwnerId owner) noexcept { return owner & (kMaxProcesses - 1); }
constexpr std::uint32_t generation_of_owner(OwnerId owner) noexcept { return owner >> kSlotBits; }

// Who sweeps the slot in which generation: one compare-and-swap elects, and what is left of an earlier generation elects
// nobody. Bits 0-21: the sweeper; from bit 32: the generation of the slot that is swept.
constexpr std::uint64_t election_of(OwnerId swept, OwnerId sweeper) noexcept {
  return sweeper | std::uint64_t{generation_of_owner(swept)} << 32;
}
constexpr bool is_election_of(std::uint64_t election, OwnerId swept) noexcept {
  return election >> 32 == generation_of_owner(swept);
}
constexpr OwnerId elected(std::uint64_t election) noexcept { return static_cast<OwnerId>(election & kOwnerMask); }

// Whose a block is. Bits 0-21: the OwnerId of kProcess, kCarrier and kBacking; bits 22-24: the kind.
enum class BlockKind : std::uint32_t {
  kFree = 0,      // nobody's, secured
  kProcess = 1,   // a process's
  kObject = 2,    // an object's
  kLinked = 3,    // part of a structure
  kCarrier = 4,   // a process's, and begins with a Carried
  kUnbacked = 5,  // nobody's; its pages may not exist
  kBacking = 6,   // taken by a process that is securing its pages, or giving them back: nobody touches it
};
inline constexpr unsigned kKindBits = 3;

constexpr std::uint32_t block_word(BlockKind kind, OwnerId owner = kNobody) noexcept {
  return owner | static_cast<std::uint32_t>(kind) << kOwnerBits;
}
constexpr BlockKind kind_of(std::uint32_t word) noexcept {
  return static_cast<BlockKind>(word >> kOwnerBits & ((1U << kKindBits) - 1));
}
constexpr bool is_free(std::uint32_t word) noexcept {
  return kind_of(word) == BlockKind::kFree || kind_of(word) == BlockKind::kUnbacked;
}

// A chunk's descriptor. Bits 0-24: the block word of a run; bits 25-28: 0, or 1 + the size class of a split chunk; bits
// 32-63: the run's length in chunks (1 for a split chunk). One store of it is one step of every protocol.
//
// Invariant INSIDE: behind the head of a run, and from RegionHeader::chunks on, descriptors are 0. So whoever finds another
// descriptor has found a head. A 0 that no run covers is a free chunk whose pages may or may not exist: a death in the middle
// of a cut, or of a growth, leaves such.
inline constexpr unsigned kClassShift = kOwnerBits + kKindBits;
constexpr std::uint64_t run_descriptor(std::uint32_t block, std::uint64_t length) noexcept { return block | length << 32; }
constexpr std::uint64_t split_descriptor(unsigned size_class) noexcept {
  return std::uint64_t{size_class + 1} << kClassShift | std::uint64_t{1} << 32;
}
constexpr bool is_split(std::uint64_t descriptor) noexcept { return (descriptor >> kClassShift & 15) != 0; }
constexpr unsigned class_of(std::uint64_t descriptor) noexcept { return static_cast<unsigned>(descriptor >> kClassShift & 15) - 1; }
constexpr std::uint32_t run_block_word(std::uint64_t descriptor) noexcept {
  return static_cast<std::uint32_t>(descriptor & ((std::uint64_t{1} << kClassShift) - 1));
}
constexpr std::uint64_t run_length(std::uint64_t descriptor) noexcept { return descriptor == 0 ? 1 : descriptor >> 32; }
constexpr bool is_free_run(std::uint64_t descriptor) noexcept {
  return !is_split(descriptor) && is_free(run_block_word(descriptor));
}
constexpr bool is_warm_run(std::uint64_t descriptor) noexcept {
  return descriptor != 0 && !is_split(descriptor) && kind_of(run_block_word(descriptor)) == BlockKind::kFree;
}

// Small blocks: 64 bytes to 64 KiB in powers of two. A split chunk begins with a block word for each of its blocks.
inline constexpr unsigned kSizeClasses = 11;
inline constexpr std::size_t kLargestSmall = std::size_t{64} << (kSizeClasses - 1);

constexpr std::size_t class_size(unsigned size_class) noexcept { return std::size_t{64} << size_class; }
constexpr unsigned class_for(std::size_t size) noexcept {
  unsigned size_class = 0;
  while (class_size(size_class) < size) {
    ++size_class;
  }
  return size_class;
}
constexpr std::size_t blocks_in_chunk(unsigned size_class) noexcept {
  return (kChunkSize - 64) / (class_size(size_class) + sizeof(std::uint32_t));
}
constexpr std::size_t first_block(unsigned size_class) noexcept {
  return (blocks_in_chunk(size_class) * sizeof(std::uint32_t) + 63) & ~std::size_t{63};
}
// Where the pages begin that a split chunk can do without when all its blocks are free: behind that of the last word.
constexpr std::size_t first_bare_page(unsigned size_class) noexcept {
  return (blocks_in_chunk(size_class) * sizeof(std::uint32_t) + 4095) & ~std::size_t{4095};
}
static_assert(first_block(0) + blocks_in_chunk(0) * class_size(0) <= kChunkSize);
static_assert(first_block(kSizeClasses - 1) + blocks_in_chunk(kSizeClasses - 1) * kLargestSmall <= kChunkSize);

}  // namespace freethreading::memory
