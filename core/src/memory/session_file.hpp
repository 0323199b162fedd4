// SessionFile: the descriptor of a session's region, known to be the region's still.
//
// Anybody in the process may close a descriptor's number, or have another file under it afterwards. So the number is
// compared with the file that was attached before each use. Thread-safe.
#pragma once

#include <atomic>

#include "os/memfd.hpp"

namespace freethreading::memory {

class SessionFile {
 public:
  SessionFile(int number, const os::FileIdentity& identity) noexcept : number_(number), identity_(identity) {}

  // -1: closed, or another file has its number. Every call of core/src/os/ fails with that.
  [[nodiscard]] int descriptor() const noexcept {
    const int number = number_.load();
    os::FileIdentity now;
    return os::identify(number, now) && now == identity_ ? number : -1;
  }
  [[nodiscard]] bool is(const os::FileIdentity& file) const noexcept { return file == identity_; }
  // The number it was attached with, whatever is there now.
  [[nodiscard]] int number() const noexcept { return number_.load(); }
  // Another descriptor of the same file, after this one has gone.
  void replace(int number) noexcept { number_.store(number); }

 private:
  std::atomic<int> number_;
  os::FileIdentity identity_;
};

}  // namespace freethreading::memory
