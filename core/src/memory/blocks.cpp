#include "memory/blocks.hpp"

#include <thread>

#include "freethreading/crash_point.hpp"
#include "os/cpu.hpp"

namespace freethreading::memory {

namespace {

// A process that takes small blocks only sees a period end too, after so many.
constexpr std::uint32_t kAllocationsPerClock = 1024;
// One chunk is added without a look for so many that the last look found in use.
constexpr std::uint64_t kSeenPerAddition = 8;

}  // namespace

void BlockAllocator::acquire(std::atomic_flag& flag) noexcept {
  constexpr int kPatient = 64;
  for (int turn = 0; flag.test_and_set(std::memory_order_acquire); ++turn) {  // sync: HINTS (acquire): pairs with clear()
    if (turn < kPatient) {
      os::cpu_relax();
    } else {
      std::this_thread::yield();  // its holder was preempted, or looks through many chunks
    }
  }
}

Offset BlockAllocator::allocate(std::size_t size, OwnerId owner) noexcept {
  if (size <= kLargestSmall) {
    return allocate_small(class_for(size), owner);
  }
  if (size > header_->reserved) {
    return kNoOffset;
  }
  return runs_.allocate((size + kChunkSize - 1) / kChunkSize, owner, true);
}

Offset BlockAllocator::allocate_small(unsigned size_class, OwnerId owner) noexcept {
  for (;;) {
    const Offset block = take_hint(size_class, owner);
    if (block != kNoOffset) {
      FT_CRASH_POINT("blocks.allocate.taken");
      return block;
    }
    if (!find_hints(size_class) && !back_again(size_class) && !split_new_chunk(size_class, owner) &&
        !may_look_again(size_class)) {
      return kNoOffset;
    }
  }
}

Offset BlockAllocator::take_hint(unsigned size_class, OwnerId owner) noexcept {
  Hints& hints = hints_[size_class];
  for (;;) {
    acquire(hints_busy_);
    const Offset block = hints.count == 0 ? kNoOffset : hints.free[--hints.count];
    const bool look_at_clock = ++small_allocations_ % kAllocationsPerClock == 0;
    hints_busy_.clear(std::memory_order_release);  // sync: HINTS (release): publishes `free`; pairs with acquire()
    if (look_at_clock && runs_.end_period_late()) {
      trim_surplus();
    }
    if (block == kNoOffset) {
      return kNoOffset;
    }
    std::uint32_t expected = block_word(BlockKind::kFree);
    unsigned found_class = 0;
    std::atomic<std::uint32_t>* word = small_word_of(block, &found_class);
    // Another process may have taken it meanwhile: the word is the truth.
    if (word->compare_exchange_strong(expected, block_word(BlockKind::kProcess, owner))) {
      return block;
    }
  }
}

// Collects some free blocks of a size, from where the last look ended. False: there are none, or they are not looked for yet.
bool BlockAllocator::find_hints(unsigned size_class) noexcept {
  Hints& hints = hints_[size_class];
  acquire(hints_busy_);
  const bool found = hints.count > 0 ||  // freed meanwhile
                     look_into(hints, size_class, hints.scan_chunk, hints.scan_words) ||
                     (hints.bare_count == 0 && hints.additions == 0 && look_at_all(hints, size_class));
  hints_busy_.clear();
  return found;
}

// From the chunk behind that of the last look round to its own.
bool BlockAllocator::look_at_all(Hints& hints, unsigned size_class) noexcept {
  const std::uint64_t chunks = header_->chunks.load();
  const std::uint64_t start = hints.scan_chunk;
  std::uint64_t seen = 0;
  for (std::uint64_t step = 1; step <= chunks; ++step) {
    const std::uint64_t chunk = (start + step) % chunks;
    const std::uint64_t descriptor = runs_.descriptor(chunk).load();
    if (!is_split(descriptor) || class_of(descriptor) != size_class) {
      continue;
    }
    ++seen;
    if (look_into(hints, size_class, chunk, blocks_in_chunk(size_class))) {
      hints.bare_count = 0;
      return true;
    }
  }
  hints.additions = seen / kSeenPerAddition;
  return false;
}

// The free ones among the first `unseen` blocks of this chunk. REQUIRES: it is split into this size, unless `unseen` is 0.
bool BlockAllocator::look_into(Hints& hints, unsigned size_class, std::uint64_t chunk, std::size_t unseen) noexcept {
  if (unseen == 0) {
    return false;
  }
  bool bare = false;
  const std::size_t before = hints.count;
  const std::atomic<std::uint32_t>* words = small_words(chunk);
  while (unseen > 0 && hints.count < kHintsOfALook) {
    const std::uint32_t word = words[--unseen].load(std::memory_order_relaxed);  // a hint publishes nothing
    if (word == block_word(BlockKind::kFree)) {
      hints.free[hints.count++] = small_offset(chunk, size_class, unseen);
    }
    bare = bare || word == block_word(BlockKind::kUnbacked);
  }
  hints.scan_chunk = chunk;
  hints.scan_words = unseen;
  if (bare && hints.bare_count < kMaxBare) {
    hints.bare[hints.bare_count++] = chunk;
  }
  return hints.count > before;
}

// This chunk is new, or has its pages again.
void BlockAllocator::look_here_next(unsigned size_class, std::uint64_t chunk) noexcept {
  Hints& hints = hints_[size_class];
  acquire(hints_busy_);
  hints.scan_chunk = chunk;
  hints.scan_words = blocks_in_chunk(size_class);
  hints.additions -= hints.additions > 0 ? 1 : 0;
  hints_busy_.clear();
}

// Where there is no memory for a new chunk: whether a look at all chunks was put off until now.
bool BlockAllocator::may_look_again(unsigned size_class) noexcept {
  Hints& hints = hints_[size_class];
  acquire(hints_busy_);
  const bool put_off = hints.bare_count > 0 || hints.additions > 0;
  hints.bare_count = 0;
  hints.additions = 0;
  hints_busy_.clear();
  return put_off;
}

bool BlockAllocator::split_new_chunk(unsigned size_class, OwnerId owner) noexcept {
  const Offset run = runs_.allocate(1, owner, false);
  if (run == kNoOffset) {
    return false;
  }
  const std::uint64_t chunk = (run - kFirstChunk) / kChunkSize;
  std::atomic<std::uint32_t>* words = small_words(chunk);
  for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
    words[index].store(block_word(BlockKind::kFree));
  }
  FT_CRASH_POINT("blocks.split.zeroed");
  runs_.descriptor(chunk).store(split_descriptor(size_class));
  look_here_next(size_class, chunk);
  return true;
}

std::atomic<std::uint32_t>* BlockAllocator::small_word_of(Offset block, unsigned* size_class) const noexcept {
  const std::uint64_t chunk = (block - kFirstChunk) / kChunkSize;
  if (block < kFirstChunk || chunk >= header_->chunks.load()) {
    return nullptr;
  }
  const std::uint64_t descriptor = runs_.descriptor(chunk).load();
  if (!is_split(descriptor)) {
    return nullptr;
  }
  *size_class = class_of(descriptor);
  const std::uint64_t within = block - Runs::offset_of(chunk);
  if (within < first_block(*size_class) || (within - first_block(*size_class)) % class_size(*size_class) != 0) {
    return nullptr;
  }
  const std::uint64_t index = (within - first_block(*size_class)) / class_size(*size_class);
  return index < blocks_in_chunk(*size_class) ? &small_words(chunk)[index] : nullptr;
}

std::uint32_t BlockAllocator::word_of(Offset block) const noexcept {
  unsigned size_class = 0;
  if (const std::atomic<std::uint32_t>* word = small_word_of(block, &size_class)) {
    return word->load();
  }
  const std::uint64_t chunk = (block - kFirstChunk) / kChunkSize;
  if (block < kFirstChunk || chunk >= header_->chunks.load() || block != Runs::offset_of(chunk)) {
    return 0;
  }
  const std::uint64_t descriptor = runs_.descriptor(chunk).load();
  return is_split(descriptor) ? 0 : run_block_word(descriptor);
}

void BlockAllocator::set_word(Offset block, std::uint32_t word) noexcept {
  unsigned size_class = 0;
  if (std::atomic<std::uint32_t>* small = small_word_of(block, &size_class)) {
    small->store(word);
    return;
  }
  std::atomic<std::uint64_t>& descriptor = runs_.descriptor((block - kFirstChunk) / kChunkSize);
  descriptor.store(run_descriptor(word, run_length(descriptor.load())));
}

void BlockAllocator::free(Offset block) noexcept {
  FT_CRASH_POINT("blocks.free.begun");
  unsigned size_class = 0;
  std::atomic<std::uint32_t>* word = small_word_of(block, &size_class);
  if (word == nullptr) {
    runs_.free((block - kFirstChunk) / kChunkSize);
    return;
  }
  if (kind_of(word->load()) == BlockKind::kBacking) {  // a dead process's: whether it has its pages nobody knows
    word->store(block_word(BlockKind::kUnbacked));
    return;
  }
  word->store(block_word(BlockKind::kFree));
  acquire(hints_busy_);
  Hints& hints = hints_[size_class];
  if (hints.count < kMaxHints) {
    hints.free[hints.count++] = block;
  } else {
    hints.additions = 0;  // a look would find it
  }
  hints_busy_.clear();
}

std::size_t BlockAllocator::usable_size(Offset block) const noexcept {
  unsigned size_class = 0;
  if (small_word_of(block, &size_class) != nullptr) {
    return class_size(size_class);
  }
  return run_length(runs_.descriptor((block - kFirstChunk) / kChunkSize).load()) * kChunkSize;
}

}  // namespace freethreading::memory
