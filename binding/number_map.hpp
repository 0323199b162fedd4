// NumberMap: objects by number. A table with open addresses: 16 bytes for each entry that it has room for, of which a third at least are
// in use once it has grown.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#include "compat.hpp"

namespace freethreading::binding {

// Not thread-safe. Owns a reference to each object; gives it up where it says so. Numbers are not 0.
class NumberMap {
 public:
  // Takes the reference where it is there then. False: there is no memory. REQUIRES: the number is new.
  [[nodiscard]] bool put(std::uint64_t number, PyObject* object) noexcept {
    if (size_ * 3 >= entries_.size() * 2 && !resize(entries_.empty() ? kLeast : 2 * entries_.size())) return false;
    place(number, object);
    ++size_;
    return true;
  }
  // Borrowed; null: there is none.
  [[nodiscard]] PyObject* find(std::uint64_t number) const noexcept {
    const std::size_t at = index_of(number);
    return at == kNone ? nullptr : entries_[at].object;
  }
  // Takes it out: the reference is the caller's. Null: there is none.
  [[nodiscard]] PyObject* take(std::uint64_t number) noexcept {
    std::size_t hole = index_of(number);
    if (hole == kNone) return nullptr;
    PyObject* object = entries_[hole].object;
    // What comes behind it moves up, so that nothing is looked for behind an empty place.
    const std::size_t mask = entries_.size() - 1;
    for (std::size_t next = (hole + 1) & mask; entries_[next].number != 0; next = (next + 1) & mask) {
      const std::size_t home = home_of(entries_[next].number);
      if (((next - home) & mask) >= ((next - hole) & mask)) {
        entries_[hole] = entries_[next];
        hole = next;
      }
    }
    entries_[hole] = {};
    if (--size_ == 0 && entries_.size() > kLeast) clear_table();
    return object;
  }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  // Calls visit(object) for each; ends, and gives, where that is not 0.
  template <class Visit>
  int each(Visit visit) const {
    for (const Entry& entry : entries_) {
      const int result = entry.number == 0 ? 0 : visit(entry.object);
      if (result != 0) return result;
    }
    return 0;
  }

 private:
  struct Entry {
    std::uint64_t number = 0;  // 0: nobody's
    PyObject* object = nullptr;
  };
  static constexpr std::size_t kLeast = 64;
  static constexpr std::size_t kNone = SIZE_MAX;

  [[nodiscard]] std::size_t home_of(std::uint64_t number) const noexcept {
    constexpr std::uint64_t kSpread = 0x9E3779B97F4A7C15;  // 2**64 by the golden ratio: numbers in a row go far from each other
    constexpr int kHigh = 32;
    return static_cast<std::size_t>(number * kSpread >> kHigh) & (entries_.size() - 1);
  }
  [[nodiscard]] std::size_t index_of(std::uint64_t number) const noexcept {
    if (size_ == 0) return kNone;
    std::size_t at = home_of(number);
    while (entries_[at].number != number) {
      if (entries_[at].number == 0) return kNone;
      at = (at + 1) & (entries_.size() - 1);
    }
    return at;
  }
  void place(std::uint64_t number, PyObject* object) noexcept {
    std::size_t at = home_of(number);
    while (entries_[at].number != 0) at = (at + 1) & (entries_.size() - 1);
    entries_[at] = {.number = number, .object = object};
  }
  bool resize(std::size_t room) noexcept {
    try {
      std::vector<Entry> old(room);
      old.swap(entries_);
      for (const Entry& entry : old) {
        if (entry.number != 0) place(entry.number, entry.object);
      }
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  }
  void clear_table() noexcept { std::vector<Entry>().swap(entries_); }

  std::vector<Entry> entries_;  // a power of two of them, or none
  std::size_t size_ = 0;
};

}  // namespace freethreading::binding
