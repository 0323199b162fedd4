#include "memory/blocks.hpp"

#include <algorithm>
#include <new>
#include <thread>

#include "freethreading/crash_point.hpp"
#include "memory/region_guard.hpp"
#include "os/cpu.hpp"
#include "os/memfd.hpp"

namespace freethreading::memory {

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
  return allocate_run((size + kChunkSize - 1) / kChunkSize, owner);
}

Offset BlockAllocator::allocate_small(unsigned size_class, OwnerId owner) noexcept {
  for (;;) {
    const Offset block = take_hint(size_class, owner);
    if (block != kNoOffset) {
      FT_CRASH_POINT("blocks.allocate.taken");
      return block;
    }
    if (!find_hints(size_class) && !split_new_chunk(size_class, owner)) {
      return kNoOffset;
    }
  }
}

Offset BlockAllocator::take_hint(unsigned size_class, OwnerId owner) noexcept {
  Hints& hints = hints_[size_class];
  for (;;) {
    acquire(hints_busy_);
    const Offset block = hints.free.empty() ? kNoOffset : hints.free.back();
    if (block != kNoOffset) {
      hints.free.pop_back();
    }
    hints_busy_.clear(std::memory_order_release);  // sync: HINTS (release): publishes `free`; pairs with acquire()
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

// Collects some free blocks of a size, from where the last look ended. False: there are none.
bool BlockAllocator::find_hints(unsigned size_class) noexcept {
  const std::uint64_t chunks = header_->chunks.load();
  Hints& hints = hints_[size_class];
  const std::size_t in_chunk = blocks_in_chunk(size_class);
  acquire(hints_busy_);
  if (hints.free.capacity() == 0) {
    try {
      hints.free.reserve(kMaxHints);
    } catch (const std::bad_alloc&) {
      hints_busy_.clear();
      return false;
    }
  }
  for (std::uint64_t looked = 0; looked < chunks && hints.free.empty(); ++looked) {
    const std::uint64_t chunk = (hints.scan_chunk + looked) % chunks;
    const std::uint64_t descriptor = descriptor_word(chunk).load();
    if (!is_split(descriptor) || class_of(descriptor) != size_class) {
      continue;
    }
    const std::atomic<std::uint32_t>* words = small_words(chunk);
    for (std::size_t index = in_chunk; index-- > 0 && hints.free.size() < kMaxHints / 4;) {
      if (words[index].load(std::memory_order_relaxed) == block_word(BlockKind::kFree)) {  // a hint publishes nothing
        hints.free.push_back(small_offset(chunk, size_class, index));
      }
    }
    hints.scan_chunk = chunk;
  }
  const bool found = !hints.free.empty();
  hints_busy_.clear();
  return found;
}

bool BlockAllocator::split_new_chunk(unsigned size_class, OwnerId owner) noexcept {
  const Offset run = allocate_run(1, owner);
  if (run == kNoOffset) {
    return false;
  }
  const std::uint64_t chunk = (run - kFirstChunk) / kChunkSize;
  std::atomic<std::uint32_t>* words = small_words(chunk);
  for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
    words[index].store(block_word(BlockKind::kFree));
  }
  FT_CRASH_POINT("blocks.split.zeroed");
  descriptor_word(chunk).store(split_descriptor(size_class));
  return true;
}

Offset BlockAllocator::allocate_run(std::uint64_t length, OwnerId owner) noexcept {
  const RegionGuard guard(place_, header_->growth);
  FT_CRASH_POINT("blocks.run.guarded");
  const Offset run = take_free_run(length, owner);
  return run != kNoOffset ? run : append_run(length, owner);
}

// The first free run that is long enough; free neighbours become one on the way. Under `growth`.
Offset BlockAllocator::take_free_run(std::uint64_t length, OwnerId owner) noexcept {
  const std::uint64_t chunks = header_->chunks.load();
  for (std::uint64_t chunk = 0; chunk < chunks;) {
    std::uint64_t descriptor = descriptor_word(chunk).load();
    std::uint64_t here = std::max<std::uint64_t>(run_length(descriptor), 1);
    const auto is_free = [](std::uint64_t word) {
      return !is_split(word) && kind_of(run_block_word(word)) == BlockKind::kFree;
    };
    if (is_free(descriptor)) {
      while (chunk + here < chunks && is_free(descriptor_word(chunk + here).load())) {
        here += std::max<std::uint64_t>(run_length(descriptor_word(chunk + here).load()), 1);
        descriptor_word(chunk).store(run_descriptor(block_word(BlockKind::kFree), here));
      }
      if (here >= length) {
        if (here > length) {
          descriptor_word(chunk + length).store(run_descriptor(block_word(BlockKind::kFree), here - length));
        }
        FT_CRASH_POINT("blocks.run.split");
        descriptor_word(chunk).store(run_descriptor(block_word(BlockKind::kProcess, owner), length));
        return chunk_offset(chunk);
      }
    }
    chunk += here;
  }
  return kNoOffset;
}

// New chunks behind the last one. Under `growth`. A death before `chunks` is stored leaves pages secured and nothing else.
Offset BlockAllocator::append_run(std::uint64_t length, OwnerId owner) noexcept {
  const std::uint64_t chunks = header_->chunks.load();
  if (length > kMaxChunks - chunks || chunk_offset(chunks + length) > header_->reserved) {
    return kNoOffset;
  }
  const int descriptor = file_.descriptor();
  const std::uint64_t table_bytes = (chunks + length) * sizeof(std::uint64_t);
  if (table_bytes > header_->secured_descriptors.load()) {
    const std::uint64_t pages = (table_bytes + 4095) / 4096 * 4096;
    if (os::secure_pages(descriptor, kDescriptors, pages) != 0) {
      return kNoOffset;
    }
    header_->secured_descriptors.store(pages);
  }
  if (os::secure_pages(descriptor, chunk_offset(chunks), length * kChunkSize) != 0) {
    return kNoOffset;
  }
  FT_CRASH_POINT("blocks.append.secured");
  descriptor_word(chunks).store(run_descriptor(block_word(BlockKind::kProcess, owner), length));
  header_->chunks.store(chunks + length);
  FT_CRASH_POINT("blocks.append.done");
  return chunk_offset(chunks);
}

std::atomic<std::uint32_t>* BlockAllocator::small_word_of(Offset block, unsigned* size_class) const noexcept {
  const std::uint64_t chunk = (block - kFirstChunk) / kChunkSize;
  if (block < kFirstChunk || chunk >= header_->chunks.load()) {
    return nullptr;
  }
  const std::uint64_t descriptor = descriptor_word(chunk).load();
  if (!is_split(descriptor)) {
    return nullptr;
  }
  *size_class = class_of(descriptor);
  const std::uint64_t within = block - chunk_offset(chunk);
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
  if (block < kFirstChunk || chunk >= header_->chunks.load() || block != chunk_offset(chunk)) {
    return 0;
  }
  const std::uint64_t descriptor = descriptor_word(chunk).load();
  return is_split(descriptor) ? 0 : run_block_word(descriptor);
}

void BlockAllocator::set_word(Offset block, std::uint32_t word) noexcept {
  unsigned size_class = 0;
  if (std::atomic<std::uint32_t>* small = small_word_of(block, &size_class)) {
    small->store(word);
    return;
  }
  std::atomic<std::uint64_t>& descriptor = descriptor_word((block - kFirstChunk) / kChunkSize);
  descriptor.store(run_descriptor(word, run_length(descriptor.load())));
}

void BlockAllocator::free(Offset block) noexcept {
  FT_CRASH_POINT("blocks.free.begun");
  unsigned size_class = 0;
  std::atomic<std::uint32_t>* word = small_word_of(block, &size_class);
  if (word == nullptr) {
    set_word(block, block_word(BlockKind::kFree));  // neighbours are joined by whoever needs a run next
    return;
  }
  word->store(block_word(BlockKind::kFree));
  acquire(hints_busy_);
  std::vector<Offset>& hints = hints_[size_class].free;
  if (hints.size() < hints.capacity()) {
    hints.push_back(block);
  }
  hints_busy_.clear();
}

std::size_t BlockAllocator::usable_size(Offset block) const noexcept {
  unsigned size_class = 0;
  if (small_word_of(block, &size_class) != nullptr) {
    return class_size(size_class);
  }
  return run_length(descriptor_word((block - kFirstChunk) / kChunkSize).load()) * kChunkSize;
}

}  // namespace freethreading::memory
