#include "os/written_pages.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <utility>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14; an older one refuses it, and nothing is copied beforehand
#endif

namespace freethreading::os {

namespace {

struct Range {
  std::uintptr_t begin;
  std::uintptr_t end;
};

// More than these, and a fork has lived another life than those to come may.
constexpr std::size_t kMaxPages = 1024;
constexpr std::size_t kMaxRanges = 768;
constexpr std::size_t kMaxMappings = 512;
// Reserved address space rather than memory.
constexpr std::uintptr_t kMaxMapping = 256UL << 20;
constexpr std::uint32_t kMaxAttempts = 4;

// state: kOpen -> kTaken (by one fork) -> kNoted, or kOpen again. Where that fork dies, it stays kTaken.
enum State : std::uint32_t { kOpen, kTaken, kNoted };

// What a fork has written to.
struct Pages {
  std::size_t count = 0;
  std::array<Range, kMaxRanges> ranges{};
};

struct Notes {
  std::atomic<std::uint32_t> state{kOpen};
  std::atomic<std::uint32_t> attempts{0};
  std::size_t mapping_count = 0;               // written before the first fork, as `before` is
  std::array<Range, kMaxMappings> mappings{};  // of the process that forks: private and writable
  Pages before;                                // what was noted of the forks of earlier
  Pages found;
};

Notes* notes = nullptr;

void find_mappings(Notes& into) noexcept {
  std::FILE* file = std::fopen("/proc/self/maps", "re");
  if (file == nullptr) {
    return;
  }
  char line[512];
  while (into.mapping_count < kMaxMappings && std::fgets(line, sizeof line, file) != nullptr) {
    unsigned long begin = 0;
    unsigned long end = 0;
    char access[5] = {};
    // NOLINTNEXTLINE(cert-err34-c,bugprone-unchecked-string-to-number-conversion): the kernel's own numbers
    if (std::sscanf(line, "%lx-%lx %4s", &begin, &end, access) == 3 && access[1] == 'w' && access[3] == 'p' &&
        end - begin <= kMaxMapping) {
      into.mappings[into.mapping_count++] = {.begin = begin, .end = end};
    }
  }
  static_cast<void>(std::fclose(file));
}

// Whether the page is this process's alone, and was not so in the one that forked it. A word of pagemap(5).
bool is_own_copy(std::uint64_t word) noexcept {
  constexpr std::uint64_t kPresent = 1ULL << 63;
  constexpr std::uint64_t kFileOrShared = 1ULL << 61;
  constexpr std::uint64_t kExclusive = 1ULL << 56;
  return (word & (kPresent | kFileOrShared | kExclusive)) == (kPresent | kExclusive);
}

// False: they are too many.
bool find_pages(const Notes& of, Pages& into, int pagemap) noexcept {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  std::size_t pages = 0;
  into.count = 0;
  for (std::size_t index = 0; index < of.mapping_count; ++index) {
    const Range mapping = of.mappings[index];
    std::array<std::uint64_t, 512> words{};
    for (std::uintptr_t at = mapping.begin; at < mapping.end; at += words.size() * page) {
      const std::size_t wanted = std::min<std::size_t>(words.size(), (mapping.end - at) / page);
      const ssize_t got = pread(pagemap, words.data(), wanted * sizeof words[0], static_cast<off_t>(at / page * sizeof words[0]));
      for (std::size_t word = 0; got > 0 && word < static_cast<std::size_t>(got) / sizeof words[0]; ++word) {
        if (!is_own_copy(words[word])) {
          continue;
        }
        const std::uintptr_t address = at + word * page;
        if (into.count != 0 && into.ranges[into.count - 1].end == address) {
          into.ranges[into.count - 1].end += page;
        } else if (into.count < kMaxRanges) {
          into.ranges[into.count++] = {.begin = address, .end = address + page};
        } else {
          return false;
        }
        if (++pages > kMaxPages) {
          return false;
        }
      }
    }
  }
  return true;
}

// What a fork of now is to have copied.
// sync: NOTES (seq_cst, so acquire): the pages found; pairs with note_written_pages. Those of `before` never change
const Pages& known(const Notes& of) noexcept { return of.state.load() == kNoted ? of.found : of.before; }

}  // namespace

void expect_forks() noexcept {
  void* memory = mmap(nullptr, sizeof(Notes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return;
  }
  Notes* old = std::exchange(notes, new (memory) Notes);
  if (old != nullptr) {
    notes->before = known(*old);
    munmap(old, sizeof *old);  // forks of before keep theirs
  }
  find_mappings(*notes);
}

void note_written_pages() noexcept {
  std::uint32_t expected = kOpen;
  if (notes == nullptr || notes->state.load() != kOpen || notes->attempts.load() >= kMaxAttempts ||
      !notes->state.compare_exchange_strong(expected, kTaken)) {
    return;
  }
  notes->attempts.fetch_add(1);
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  const bool found = pagemap >= 0 && find_pages(*notes, notes->found, pagemap);
  if (pagemap >= 0) {
    close(pagemap);
  }
  // sync: NOTES (seq_cst, so release): the pages found; pairs with known()
  notes->state.store(found ? kNoted : kOpen);
}

void copy_written_pages() noexcept {
  if (notes == nullptr) {
    return;
  }
  const Pages& pages = known(*notes);
  for (std::size_t index = 0; index < pages.count; ++index) {
    const Range range = pages.ranges[index];
    // NOLINTNEXTLINE(performance-no-int-to-ptr,*-reinterpret-cast): an address of this process's, from the kernel
    static_cast<void>(madvise(reinterpret_cast<void*>(range.begin), range.end - range.begin, MADV_POPULATE_WRITE));
  }
}

}  // namespace freethreading::os
