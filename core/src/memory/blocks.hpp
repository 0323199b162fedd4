// BlockAllocator: blocks of a session's region, each of which says in one word whose it is.
//
// Taking a small block is one compare-and-swap of its word, giving it back another: a death in between leaves the word
// with the dead process in it, and a sweep of the words gives the block back. Larger blocks are runs of chunks (runs.hpp).
// What this process has freed it tries first (warm pages).
//
// Thread-safe. Knows nothing of objects or slots.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "freethreading/place.hpp"
#include "memory/layout.hpp"
#include "memory/runs.hpp"
#include "memory/session_file.hpp"

namespace freethreading::memory {

class BlockAllocator {
 public:
  BlockAllocator(Place& place, RegionHeader* header, const SessionFile& file) noexcept
      : place_(place), header_(header), runs_(place, header, file) {}

  // A block of `size` bytes of the kind kProcess, owned by `owner`; kNoOffset: no memory.
  Offset allocate(std::size_t size, OwnerId owner) noexcept;
  void free(Offset block) noexcept;
  [[nodiscard]] std::size_t usable_size(Offset block) const noexcept;
  void set_word(Offset block, std::uint32_t word) noexcept;
  // The block's word; 0 where `block` is no block's offset.
  [[nodiscard]] std::uint32_t word_of(Offset block) const noexcept;

  [[nodiscard]] Runs& runs() noexcept { return runs_; }
  // Gives the pages of free blocks back to the system: of runs as Runs::end_period() says, and of split chunks all of whose
  // blocks are free, half of those that are more than 4 MiB.
  void end_period() noexcept;
  // All of both.
  void give_back() noexcept;

  // Calls visit(offset, word, usable bytes) for every block that is not free.
  template <class Visit>
  void for_each(Visit visit) const {
    const std::uint64_t chunks = header_->chunks.load();
    for (std::uint64_t chunk = 0; chunk < chunks;) {
      const std::uint64_t descriptor = runs_.descriptor(chunk).load();
      if (is_split(descriptor)) {
        const unsigned size_class = class_of(descriptor);
        for (std::size_t index = 0; index < blocks_in_chunk(size_class); ++index) {
          const std::uint32_t word = small_words(chunk)[index].load();
          if (!is_free(word)) {
            visit(small_offset(chunk, size_class, index), word, class_size(size_class));
          }
        }
      } else if (!is_free_run(descriptor)) {
        visit(Runs::offset_of(chunk), run_block_word(descriptor), run_length(descriptor) * kChunkSize);
      }
      chunk += run_length(descriptor);
    }
  }

  // Around a fork: hints are not half written in the child.
  void lock_for_fork() noexcept { acquire(hints_busy_); }
  void unlock_after_fork(bool in_child) noexcept {
    if (in_child) {
      runs_.forget_threads_after_fork();
      trimming_.clear();
    }
    hints_busy_.clear();
  }

 private:
  static constexpr std::size_t kMaxHints = 256;
  static constexpr std::size_t kHintsOfALook = kMaxHints / 4;  // what is freed has room as well
  static constexpr std::size_t kMaxBare = 64;

  // Blocks of one size that this process believes to be free, and where it looks for more.
  struct Hints {
    std::array<Offset, kMaxHints> free;  // not initialised: `count` of them
    std::size_t count = 0;
    std::uint64_t scan_chunk = 0;  // where the next look begins: so many words of this chunk it has not seen
    std::size_t scan_words = 0;
    // What the last look at all chunks found, where it found nothing free: those with blocks that are kUnbacked, and how many
    // chunks may be added before the next such look (a part of those that it saw: so looking costs a block the same, however
    // many there are).
    std::array<std::uint64_t, kMaxBare> bare;  // not initialised: `bare_count` of them
    std::size_t bare_count = 0;
    std::uint64_t additions = 0;
  };

  [[nodiscard]] std::atomic<std::uint32_t>* small_words(std::uint64_t chunk) const noexcept {
    return place_.at<std::atomic<std::uint32_t>>(Runs::offset_of(chunk));
  }
  static Offset small_offset(std::uint64_t chunk, unsigned size_class, std::size_t index) noexcept {
    return Runs::offset_of(chunk) + first_block(size_class) + index * class_size(size_class);
  }
  static void acquire(std::atomic_flag& flag) noexcept;

  Offset allocate_small(unsigned size_class, OwnerId owner) noexcept;
  Offset take_hint(unsigned size_class, OwnerId owner) noexcept;
  bool find_hints(unsigned size_class) noexcept;
  bool look_at_all(Hints& hints, unsigned size_class) noexcept;
  bool look_into(Hints& hints, unsigned size_class, std::uint64_t chunk, std::size_t unseen) noexcept;
  void look_here_next(unsigned size_class, std::uint64_t chunk) noexcept;
  bool may_look_again(unsigned size_class) noexcept;
  bool split_new_chunk(unsigned size_class, OwnerId owner) noexcept;
  bool back_again(unsigned size_class) noexcept;
  [[nodiscard]] bool is_unused(std::uint64_t chunk, unsigned size_class, bool bare_too) const noexcept;
  [[nodiscard]] std::uint64_t count_unused() const noexcept;
  void trim_surplus() noexcept;
  void trim(std::uint64_t kept, bool bare_too) noexcept;
  bool condemn(std::uint64_t chunk, unsigned size_class, OwnerId owner) noexcept;
  void empty(std::uint64_t chunk, unsigned size_class, OwnerId owner) noexcept;
  // Where a small block's word lies; null: the offset is of no small block.
  [[nodiscard]] std::atomic<std::uint32_t>* small_word_of(Offset block, unsigned* size_class) const noexcept;

  Place& place_;
  RegionHeader* header_;
  Runs runs_;
  std::atomic_flag hints_busy_ = ATOMIC_FLAG_INIT;
  std::array<Hints, kSizeClasses> hints_;  // guarded by hints_busy_
  std::uint32_t small_allocations_ = 0;    // guarded by hints_busy_
  std::atomic_flag trimming_ = ATOMIC_FLAG_INIT;  // one thread of a process at a time: they condemn with the same word
};

}  // namespace freethreading::memory
