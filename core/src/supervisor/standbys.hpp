// Standbys: starts that the program has prepared for the case that it cannot ask for one itself.
//
// A program replaces a worker that has died; but not while it is in code that keeps the interpreter. So each crew may have one start
// in reserve. It is used where a worker of the crew has died and the program has asked for no other one for kPatience.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "freethreading/deadline.hpp"
#include "supervisor/waiting.hpp"

namespace freethreading::supervisor {

class Standbys {
 public:
  // `missing`: how many workers of the crew died before, and for which none was asked.
  void add(std::uint64_t crew, Waiting start, std::uint64_t missing);
  // A worker of that crew has died, and not because there is less to do.
  void died(std::uint64_t crew) noexcept;
  // The program has asked for a worker of that crew.
  void asked(std::uint64_t crew) noexcept;
  // Takes out the start of that record; none: it was used.
  [[nodiscard]] std::optional<Waiting> take(const ObjectHeader* record);
  // Takes out one whose time has come; none: there is none.
  [[nodiscard]] std::optional<Waiting> take_due();
  // Takes out any; none: there is none.
  [[nodiscard]] std::optional<Waiting> take_any();
  // When take_due() may have something, if nothing comes before.
  [[nodiscard]] Deadline next() const noexcept;

 private:
  struct Standby {
    std::uint64_t crew;
    Waiting start;
    std::uint64_t missing = 0;  // workers of the crew that died and for which none was asked
    Deadline due = Deadline::never();
  };
  [[nodiscard]] Standby* find(std::uint64_t crew) noexcept;
  [[nodiscard]] std::optional<Waiting> take_at(std::vector<Standby>::iterator found);

  std::vector<Standby> standbys_;
};

}  // namespace freethreading::supervisor
