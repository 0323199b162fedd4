// Imports: what modules the zygote is to import for workers, one order after another.
//
//   asked   how many the program has asked for
//   done    how many of them are over, whatever came of them
//
// A worker that was asked for behind `n` imports is started when has_done(n).
#pragma once

#include <cstdint>
#include <deque>

#include "os/memfd.hpp"

namespace freethreading::supervisor {

class Imports {
 public:
  Imports() = default;
  Imports(const Imports&) = delete;
  Imports& operator=(const Imports&) = delete;
  ~Imports() {
    while (!descriptions_.empty()) {
      drop();
    }
  }

  // The program has asked for one; the file that describes it is this one's.
  void add(int description) {
    descriptions_.push_back(description);
    ++asked_;
  }
  // The file of the one that is to be ordered now; -1: none is, or one is out.
  [[nodiscard]] int next() const noexcept { return is_out_ || descriptions_.empty() ? -1 : descriptions_.front(); }
  void ordered() noexcept { is_out_ = true; }
  // Whoever had the first has it no more.
  void again() noexcept { is_out_ = false; }
  // The first is over.
  void done() noexcept {
    if (!descriptions_.empty()) {
      drop();
      ++done_;
    }
    is_out_ = false;
  }

  [[nodiscard]] bool is_out() const noexcept { return is_out_; }
  [[nodiscard]] std::uint64_t asked() const noexcept { return asked_; }
  [[nodiscard]] bool has_done(std::uint64_t count) const noexcept { return done_ >= count; }

 private:
  void drop() noexcept {
    os::close_descriptor(descriptions_.front());
    descriptions_.pop_front();
  }

  std::uint64_t asked_ = 0;
  std::uint64_t done_ = 0;
  bool is_out_ = false;  // the zygote has the first
  std::deque<int> descriptions_;
};

}  // namespace freethreading::supervisor
