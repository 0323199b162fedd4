// Split chunks all of whose blocks are free: their pages go back to the system, and come again (docs/design/session.md).
#include "freethreading/crash_point.hpp"
#include "memory/blocks.hpp"
#include "memory/region_guard.hpp"

namespace freethreading::memory {

namespace {

constexpr std::uint32_t kFreeWord = block_word(BlockKind::kFree);
constexpr std::uint32_t kUnbackedWord = block_word(BlockKind::kUnbacked);

}  // namespace

void BlockAllocator::end_period() noexcept {
  if (runs_.end_period()) {
    trim_surplus();
  }
}

// At the end of a period: a program whose small blocks come and go finds half of them warm.
void BlockAllocator::trim_surplus() noexcept {
  constexpr std::uint64_t kWarm = (std::uint64_t{4} << 20) / kChunkSize;
  if (const std::uint64_t unused = count_unused(); unused > kWarm) {
    trim(kWarm + (unused - kWarm) / 2, false);
  }
}

void BlockAllocator::give_back() noexcept {
  runs_.give_back();
  trim(0, true);
}

// Whether all of its blocks are free and one at least is backed; `bare_too`: or none is.
bool BlockAllocator::is_unused(std::uint64_t chunk, unsigned size_class, bool bare_too) const noexcept {
  const std::atomic<std::uint32_t>* words = small_words(chunk);
  bool backed = bare_too;
  for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
    const std::uint32_t word = words[index].load(std::memory_order_relaxed);  // a look: condemn() finds out
    if (!is_free(word)) {
      return false;
    }
    backed = backed || word == kFreeWord;
  }
  return backed;
}

std::uint64_t BlockAllocator::count_unused() const noexcept {
  const std::uint64_t chunks = header_->chunks.load();
  std::uint64_t unused = 0;
  for (std::uint64_t chunk = 0; chunk < chunks;) {
    const std::uint64_t descriptor = runs_.descriptor(chunk).load();
    unused += is_split(descriptor) && is_unused(chunk, class_of(descriptor), false) ? 1 : 0;
    chunk += run_length(descriptor);
  }
  return unused;
}

void BlockAllocator::trim(std::uint64_t kept, bool bare_too) noexcept {
  const OwnerId owner = place_.self();
  if (owner == kNobody || trimming_.test_and_set(std::memory_order_acquire)) {  // sync: TRIMMING (acquire): pairs with clear()
    return;
  }
  const Runs::Backing backing(runs_);
  const std::uint64_t chunks = header_->chunks.load();
  std::uint64_t unused = 0;
  for (std::uint64_t chunk = 0; chunk < chunks;) {
    const std::uint64_t descriptor = runs_.descriptor(chunk).load();
    if (is_split(descriptor) && is_unused(chunk, class_of(descriptor), bare_too) && ++unused > kept &&
        condemn(chunk, class_of(descriptor), owner)) {
      empty(chunk, class_of(descriptor), owner);
    }
    chunk += run_length(descriptor);
  }
  trimming_.clear(std::memory_order_release);  // sync: TRIMMING (release); pairs with test_and_set()
}

// Makes all of its blocks kBacking, but for those that are kUnbacked already. False: somebody has one; it is as it was.
bool BlockAllocator::condemn(std::uint64_t chunk, unsigned size_class, OwnerId owner) noexcept {
  const std::uint32_t condemned = block_word(BlockKind::kBacking, owner);
  std::atomic<std::uint32_t>* words = small_words(chunk);
  for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
    std::uint32_t word = kFreeWord;
    if (words[index].compare_exchange_strong(word, condemned) || word == kUnbackedWord) {
      continue;
    }
    while (index-- > 0) {
      word = condemned;
      static_cast<void>(words[index].compare_exchange_strong(word, kFreeWord));
    }
    return false;
  }
  FT_CRASH_POINT("blocks.small.condemned");
  return true;
}

// Under `growth`, as back_again(): a block is never free before its pages are there for good.
void BlockAllocator::empty(std::uint64_t chunk, unsigned size_class, OwnerId owner) noexcept {
  const RegionGuard guard(place_, header_->growth);
  std::atomic<std::uint32_t>* words = small_words(chunk);
  const std::uint32_t condemned = block_word(BlockKind::kBacking, owner);
  bool mine = true;
  for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
    const std::uint32_t word = words[index].load();
    mine = mine && (word == condemned || word == kUnbackedWord);
  }
  if (mine) {  // else one that was kUnbacked was backed again meanwhile
    runs_.empty_chunk(chunk, first_bare_page(size_class));
    FT_CRASH_POINT("blocks.small.emptied");
  }
  for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
    std::uint32_t word = condemned;
    static_cast<void>(words[index].compare_exchange_strong(word, mine ? kUnbackedWord : kFreeWord));
  }
}

// Backs a chunk that the last look found without pages. False: there was none, or there is no memory.
bool BlockAllocator::back_again(unsigned size_class) noexcept {
  Hints& hints = hints_[size_class];
  acquire(hints_busy_);
  const bool known = hints.bare_count > 0;
  const std::uint64_t chunk = known ? hints.bare[--hints.bare_count] : 0;
  hints_busy_.clear(std::memory_order_release);  // sync: HINTS (release); pairs with acquire()
  if (!known) {
    return false;
  }
  if (!runs_.is_allowed(kChunkSize)) {
    return false;
  }
  const RegionGuard guard(place_, header_->growth);
  if (!runs_.secure_chunk(chunk)) {
    return false;
  }
  FT_CRASH_POINT("blocks.small.secured");
  std::atomic<std::uint32_t>* words = small_words(chunk);
  for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
    std::uint32_t word = kUnbackedWord;
    static_cast<void>(words[index].compare_exchange_strong(word, kFreeWord));
    FT_CRASH_POINT("blocks.small.backed");
  }
  look_here_next(size_class, chunk);
  return true;
}

}  // namespace freethreading::memory
