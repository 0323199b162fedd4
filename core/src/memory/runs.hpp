// Runs: the chunks of a session's region, taken and given back in runs of one or more.
//
//   kind       whose      pages            next
//   kFree      nobody's   secured (warm)   kProcess: taken; kBacking: taken with others, or given back to the system
//   kUnbacked  nobody's   maybe none       kBacking: taken
//   kBacking   a process  maybe none       kProcess: secured; kUnbacked: refused, given back, or the process died
//   kProcess   a process  secured          kFree, kLinked, kObject, kCarrier, a split chunk
//
// Runs are cut and joined under RegionHeader::growth (a RegionGuard: each step is one store and leaves the region valid).
// Pages are secured and given back without it, by the process that the run's word names: a kBacking run is touched by nobody.
//
// The runs that were freed last stay warm and are taken first. What is warm beyond bound() goes back to the system, by whoever
// frees; what nobody has used for a period goes too, by whoever comes by after it (the supervisor, where there is one).
//
// Thread-safe. Knows nothing of small blocks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "freethreading/deadline.hpp"
#include "freethreading/place.hpp"
#include "memory/layout.hpp"
#include "memory/session_file.hpp"

namespace freethreading::memory {

class Runs {
 public:
  // What stays warm: this much whatever happens, and never more than that.
  static constexpr std::int64_t kAlwaysWarm = (std::int64_t{64} << 20) / kChunkSize;
  static constexpr std::int64_t kNeverWarmer = (std::int64_t{512} << 20) / kChunkSize;
  static constexpr Nanoseconds kPeriod = 3 * kSecond;
  static constexpr Nanoseconds kSupervisorFirst = 2 * kSecond;

  Runs(Place& place, RegionHeader* header, const SessionFile& file) noexcept
      : place_(place), header_(header), hints_(header->runs), file_(file) {}

  // Takes `length` chunks for `owner` (kProcess); kNoOffset: no memory. `touch`: this process will write all of it now.
  Offset allocate(std::uint64_t length, OwnerId owner, bool touch) noexcept;
  // Makes the run at this head nobody's. REQUIRES: the caller's, or a dead process's that the caller sweeps.
  void free(std::uint64_t head) noexcept;
  // Ends the period, where it is over: what stays warm is decided anew, and where no run was taken or freed in it, nothing
  // does. For the supervisor, which does so off everybody's path; others come later, and find work only where it is missing.
  // Whether this call was the one that ended it.
  bool end_period() noexcept { return end_period_after(kPeriod); }
  bool end_period_late() noexcept { return end_period_after(kPeriod + kSupervisorFirst); }
  // Gives back all that is free.
  void give_back() noexcept { trim(0); }

  // Whether the system has so many bytes. REQUIRES: `growth` is not held.
  [[nodiscard]] bool is_allowed(std::uint64_t bytes) noexcept;
  // For a chunk that is split, under `growth`: has its pages secured again; gives those of them back that begin at `from` bytes
  // and later.
  [[nodiscard]] bool secure_chunk(std::uint64_t chunk) noexcept;
  void empty_chunk(std::uint64_t chunk, std::uint64_t from) noexcept;
  // Counts a thread among those that is_backing() tells of.
  class Backing {
   public:
    explicit Backing(Runs& runs) noexcept : count_(runs.backing_) { count_.fetch_add(1); }
    Backing(const Backing&) = delete;
    Backing& operator=(const Backing&) = delete;
    ~Backing() { count_.fetch_sub(1); }

   private:
    std::atomic<std::uint32_t>& count_;
  };

  [[nodiscard]] std::atomic<std::uint64_t>& descriptor(std::uint64_t chunk) const noexcept {
    return *place_.at<std::atomic<std::uint64_t>>(kDescriptors + chunk * sizeof(std::uint64_t));
  }
  static Offset offset_of(std::uint64_t chunk) noexcept { return kFirstChunk + chunk * kChunkSize; }

  // Threads of this process that have something kBacking. Nobody finishes their work but they, or a sweep after the process's death.
  [[nodiscard]] bool is_backing() const noexcept { return backing_.load() != 0; }
  void forget_threads_after_fork() noexcept { backing_.store(0); }

 private:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};

  struct Run {
    std::uint64_t head;
    std::uint64_t length;
  };
  // What a look at all chunks found: the heads of the best warm run and of the first free chunks in a row, each at least as
  // long as wanted, and where the free chunks at the end begin.
  struct Survey {
    std::uint64_t warm = kNone;
    std::uint64_t free = kNone;
    std::uint64_t tail = kNone;
  };
  // A trim on its way through the chunks, and the parts of warm runs that it passes over.
  struct Trimming {
    explicit Trimming(std::int64_t wanted) noexcept : target(wanted) {}
    std::int64_t target;
    std::uint64_t chunk = 0;
    std::size_t count = 0;
    std::array<Run, RunHints::kRecent> kept;  // not initialised: `count` of them
    [[nodiscard]] std::uint64_t kept_of(std::uint64_t head) const noexcept;
  };

  // Under `growth`:
  std::uint64_t find(std::uint64_t length) noexcept;
  std::uint64_t find_recent(std::uint64_t length) noexcept;
  Survey survey(std::uint64_t length) noexcept;
  std::uint64_t join(std::uint64_t head, std::uint64_t chunks) noexcept;
  std::uint64_t grow(std::uint64_t from, std::uint64_t length) noexcept;
  bool cut(std::uint64_t head, std::uint64_t length, OwnerId owner) noexcept;
  void choose_to_keep(Trimming& trimming) noexcept;
  std::optional<Run> begin_trimming(Trimming& trimming, OwnerId owner) noexcept;

  bool end_period_after(Nanoseconds length) noexcept;
  bool secure(Run run) noexcept;
  void empty(Run run) noexcept;
  void trim(std::int64_t target) noexcept;
  void end_backing(Run run, std::uint32_t word) noexcept;
  void remember(std::uint64_t head) noexcept;
  [[nodiscard]] std::int64_t bound() const noexcept;

  Place& place_;
  RegionHeader* header_;
  RunHints& hints_;
  const SessionFile& file_;
  std::atomic<std::uint32_t> backing_{0};
  std::atomic<std::int64_t> allowance_{0};  // bytes to secure before the system is asked again how much it has
};

}  // namespace freethreading::memory
