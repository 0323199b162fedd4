#include "memory/runs.hpp"

#include <algorithm>

#include "freethreading/crash_point.hpp"
#include "memory/region_guard.hpp"
#include "os/memfd.hpp"
#include "os/memory.hpp"

namespace freethreading::memory {

Offset Runs::allocate(std::uint64_t length, OwnerId owner, bool touch) noexcept {
  const Backing backing(*this);
  Run run{.head = kNone, .length = length};
  bool warm = false;
  {
    const RegionGuard guard(place_, header_->growth);
    FT_CRASH_POINT("blocks.run.guarded");
    run.head = find(length);
    if (run.head == kNone) {
      return kNoOffset;
    }
    warm = cut(run.head, length, owner);
    const std::int64_t used = hints_.used.fetch_add(static_cast<std::int64_t>(length)) + static_cast<std::int64_t>(length);
    hints_.peak.store(std::max(hints_.peak.load(), used));
    hints_.taken.fetch_add(1);
  }
  if (!warm) {
    if (!secure(run)) {
      free(run.head);
      return kNoOffset;
    }
    FT_CRASH_POINT("blocks.run.secured");
    descriptor(run.head).store(run_descriptor(block_word(BlockKind::kProcess, owner), length));
    FT_CRASH_POINT("blocks.run.backed");
    if (touch) {
      os::fault_in(place_.at<std::byte>(offset_of(run.head)), length * kChunkSize);
    }
  }
  static_cast<void>(end_period_late());
  return offset_of(run.head);
}

// The head of free chunks, the warmest first, new ones last; kNone: the region is full.
std::uint64_t Runs::find(std::uint64_t length) noexcept {
  if (const std::uint64_t recent = find_recent(length); recent != kNone) {
    return recent;
  }
  const std::uint64_t freed = hints_.freed.load();
  if (freed == hints_.searched_at.load() && length >= hints_.searched_for.load()) {
    return grow(header_->chunks.load(), length);  // nothing has become free since so much was not found
  }
  const Survey found = survey(length);
  if (found.warm != kNone) {
    return found.warm;
  }
  if (found.free != kNone) {
    return found.free;
  }
  hints_.searched_at.store(freed);
  hints_.searched_for.store(length);
  return grow(found.tail, length);
}

// Of the warm runs that were freed last: the last one of this very length, else the shortest that is long enough.
std::uint64_t Runs::find_recent(std::uint64_t length) noexcept {
  if (hints_.warm.load() < static_cast<std::int64_t>(length)) {
    return kNone;
  }
  std::uint64_t best = kNone;
  std::uint64_t best_length = kNone;
  std::uint64_t end = hints_.recent_end.load();
  while (end != 0 && hints_.recent[(end - 1) % RunHints::kRecent].load() == 0 &&
         hints_.recent_end.compare_exchange_strong(end, end - 1)) {
    --end;  // it was taken
  }
  for (std::uint64_t back = 1; back <= std::min<std::uint64_t>(end, RunHints::kRecent); ++back) {
    std::atomic<std::uint32_t>& entry = hints_.recent[(end - back) % RunHints::kRecent];
    std::uint32_t noted = entry.load();
    if (noted == 0) {
      continue;
    }
    const std::uint64_t word = descriptor(noted - 1).load();
    if (!is_warm_run(word)) {
      entry.compare_exchange_strong(noted, 0);  // unless another run was noted there meanwhile
      continue;
    }
    if (run_length(word) == length) {
      best = noted - 1;
      entry.compare_exchange_strong(noted, 0);
      break;
    }
    if (run_length(word) > length && run_length(word) < best_length) {
      best = noted - 1;
      best_length = run_length(word);
    }
  }
  return best;
}

// Looks at all chunks: joins free neighbours, counts what is used and warm, notes warm runs of at least `length`.
Runs::Survey Runs::survey(std::uint64_t length) noexcept {
  constexpr int kMostNoted = RunHints::kRecent / 8;
  const std::uint64_t chunks = header_->chunks.load();
  Survey found;
  std::uint64_t best_length = kNone;
  std::uint64_t row = 0;  // free chunks in a row until here
  std::int64_t used = 0;
  std::int64_t warm = 0;
  int noted = 0;
  for (std::uint64_t chunk = 0; chunk < chunks;) {
    const std::uint64_t before = descriptor(chunk).load();
    if (!is_free_run(before)) {
      used += static_cast<std::int64_t>(run_length(before));
      row = 0;
      chunk += run_length(before);
      continue;
    }
    const std::uint64_t here = join(chunk, chunks);
    if (is_warm_run(descriptor(chunk).load())) {
      warm += static_cast<std::int64_t>(here);
      if (here >= length && here < best_length) {
        found.warm = chunk;
        best_length = here;
      }
      if (here >= length && noted < kMostNoted) {
        remember(chunk);
        ++noted;
      }
    }
    row += here;
    chunk += here;
    if (found.free == kNone && row >= length) {
      found.free = chunk - row;
    }
  }
  found.tail = chunks - row;
  hints_.used.store(used);
  hints_.warm.store(warm);
  return found;
}

// The free run at `head` and its free neighbours, warm or unbacked as it is itself, become one. How long it is then.
std::uint64_t Runs::join(std::uint64_t head, std::uint64_t chunks) noexcept {
  const std::uint64_t before = descriptor(head).load();
  const bool warm = is_warm_run(before);
  std::uint64_t length = run_length(before);
  bool lost = before == 0;  // a death left chunks without a head; they may have pages
  while (head + length < chunks) {
    const std::uint64_t next = descriptor(head + length).load();
    if (!is_free_run(next) || is_warm_run(next) != warm) {
      break;
    }
    lost = lost || next == 0;
    if (next != 0) {
      descriptor(head + length).store(0);
    }
    length += run_length(next);
  }
  if (length == run_length(before) && before != 0) {
    return length;
  }
  FT_CRASH_POINT("blocks.join.cleared");
  descriptor(head).store(run_descriptor(block_word(warm ? BlockKind::kFree : BlockKind::kUnbacked), length));
  if (lost) {
    empty({.head = head, .length = length});
    hints_.freed.fetch_add(1);
  }
  return length;
}

// `length` free chunks at `from`, of which those behind the last chunk are new: their descriptors are 0.
std::uint64_t Runs::grow(std::uint64_t from, std::uint64_t length) noexcept {
  if (length > kMaxChunks - from || offset_of(from + length) > header_->reserved) {
    return kNone;
  }
  const std::uint64_t table_bytes = (from + length) * sizeof(std::uint64_t);
  if (table_bytes > header_->secured_descriptors.load()) {
    const std::uint64_t pages = (table_bytes + 4095) / 4096 * 4096;
    if (os::secure_pages(file_.descriptor(), kDescriptors, pages) != 0) {
      return kNone;
    }
    header_->secured_descriptors.store(pages);
  }
  header_->chunks.store(from + length);
  FT_CRASH_POINT("blocks.grow.done");
  return from;
}

// Takes `length` chunks at the head of free ones. True: they are warm, all of them, and the owner's; else it has to secure them.
bool Runs::cut(std::uint64_t head, std::uint64_t length, OwnerId owner) noexcept {
  const std::uint64_t end = head + length;
  std::uint64_t rest = 0;
  std::int64_t warm_chunks = 0;
  for (std::uint64_t chunk = head; chunk < end;) {
    const std::uint64_t word = descriptor(chunk).load();
    const std::uint64_t next = chunk + run_length(word);
    if (is_warm_run(word)) {
      warm_chunks += static_cast<std::int64_t>(std::min(next, end) - chunk);
    }
    if (next > end) {
      rest = run_descriptor(run_block_word(word), next - end);
    }
    if (chunk != head && word != 0) {
      descriptor(chunk).store(0);
    }
    chunk = next;
  }
  FT_CRASH_POINT("blocks.cut.cleared");
  const bool warm = warm_chunks == static_cast<std::int64_t>(length);
  descriptor(head).store(run_descriptor(block_word(warm ? BlockKind::kProcess : BlockKind::kBacking, owner), length));
  FT_CRASH_POINT("blocks.cut.taken");
  hints_.warm.fetch_sub(warm_chunks);
  if (rest != 0) {
    descriptor(end).store(rest);
    FT_CRASH_POINT("blocks.cut.rest");
    if (is_warm_run(rest)) {
      remember(end);
    }
  }
  return warm;
}

bool Runs::secure(Run run) noexcept {
  const std::uint64_t bytes = run.length * kChunkSize;
  return is_allowed(bytes) && os::secure_pages(file_.descriptor(), offset_of(run.head), bytes) == 0;
}

// Whether the system has so much: it would rather kill a process than refuse it pages. Where it has not, what is kept warm goes
// back first. It is asked when a part of what it had the last time is used up: others take some as well.
bool Runs::is_allowed(std::uint64_t bytes) noexcept {
  constexpr std::uint64_t kSpared = std::uint64_t{4} << 20;
  constexpr std::uint64_t kPart = 16;
  const auto wanted = static_cast<std::int64_t>(bytes);
  if (allowance_.fetch_sub(wanted) >= wanted) {
    return true;
  }
  std::uint64_t available = os::available_memory();
  if (available < bytes + kSpared && hints_.warm.load() > 0) {
    trim(0);
    available = os::available_memory();
  }
  if (available < bytes + kSpared) {
    allowance_.store(0);
    return false;
  }
  allowance_.store(static_cast<std::int64_t>(std::min(available - bytes, header_->reserved) / kPart));
  return true;
}

void Runs::empty(Run run) noexcept {
  os::give_pages_back(file_.descriptor(), offset_of(run.head), run.length * kChunkSize);
}

bool Runs::secure_chunk(std::uint64_t chunk) noexcept {
  return os::secure_pages(file_.descriptor(), offset_of(chunk), kChunkSize) == 0;
}

void Runs::empty_chunk(std::uint64_t chunk, std::uint64_t from) noexcept {
  os::give_pages_back(file_.descriptor(), offset_of(chunk) + from, kChunkSize - from);
}

void Runs::free(std::uint64_t head) noexcept {
  const std::uint64_t word = descriptor(head).load();
  const Run run{.head = head, .length = run_length(word)};
  const auto length = static_cast<std::int64_t>(run.length);
  if (kind_of(run_block_word(word)) == BlockKind::kBacking) {
    empty(run);
    FT_CRASH_POINT("blocks.free.emptied");
    end_backing(run, block_word(BlockKind::kUnbacked));
    return;
  }
  static_cast<void>(end_period_late());
  descriptor(head).store(run_descriptor(block_word(BlockKind::kFree), run.length));
  FT_CRASH_POINT("blocks.free.warm");
  hints_.used.fetch_sub(length);
  hints_.freed.fetch_add(1);
  remember(head);
  // No more than twice what was freed: a bound that has fallen is not one call's to pay for.
  if (const std::int64_t warm = hints_.warm.fetch_add(length) + length; warm > bound()) {
    trim(std::max(bound(), warm - 2 * length));
  }
}

// A kBacking run becomes nobody's.
void Runs::end_backing(Run run, std::uint32_t word) noexcept {
  descriptor(run.head).store(run_descriptor(word, run.length));
  hints_.used.fetch_sub(static_cast<std::int64_t>(run.length));
  hints_.freed.fetch_add(1);
}

void Runs::remember(std::uint64_t head) noexcept {
  hints_.recent[hints_.recent_end.fetch_add(1) % RunHints::kRecent].store(static_cast<std::uint32_t>(head + 1));
}

// How many free chunks stay warm: so many that with those in use they are no more than what was in use lately.
std::int64_t Runs::bound() const noexcept {
  const std::int64_t lately = std::max(hints_.peak.load(), hints_.earlier_peak.load());
  return std::clamp(lately - hints_.used.load(), kAlwaysWarm, kNeverWarmer);
}

bool Runs::end_period_after(Nanoseconds length) noexcept {
  const Nanoseconds now = monotonic_now();
  std::int64_t start = hints_.period_start.load();
  if (now - start < length || !hints_.period_start.compare_exchange_strong(start, now)) {
    return false;
  }
  const std::uint64_t events = hints_.taken.load() + hints_.freed.load();
  const bool idle = hints_.period_events.exchange(events) == events;
  hints_.earlier_peak.store(hints_.peak.load());
  hints_.peak.store(hints_.used.load());
  if (hints_.warm.load() > (idle ? 0 : bound())) {
    trim(idle ? 0 : bound());
  }
  return true;
}

// Gives the pages of warm runs back until `target` chunks are warm: those that were freed last stay so.
void Runs::trim(std::int64_t target) noexcept {
  const OwnerId owner = place_.self();
  if (owner == kNobody || file_.descriptor() < 0) {
    return;
  }
  const Backing backing(*this);
  Trimming trimming(target);
  {
    const RegionGuard guard(place_, header_->growth);
    choose_to_keep(trimming);
  }
  while (const std::optional<Run> run = begin_trimming(trimming, owner)) {
    FT_CRASH_POINT("blocks.trim.taken");
    empty(*run);
    FT_CRASH_POINT("blocks.trim.emptied");
    end_backing(*run, block_word(BlockKind::kUnbacked));
  }
}

void Runs::choose_to_keep(Trimming& trimming) noexcept {
  if (trimming.target == 0) {
    static_cast<void>(survey(kNone));  // what is joined is given back at once
  }
  auto left = static_cast<std::uint64_t>(trimming.target);
  const std::uint64_t end = hints_.recent_end.load();
  for (std::uint64_t back = 1; back <= std::min<std::uint64_t>(end, RunHints::kRecent) && left > 0; ++back) {
    const std::uint32_t noted = hints_.recent[(end - back) % RunHints::kRecent].load();
    if (noted == 0 || !is_warm_run(descriptor(noted - 1).load()) || trimming.kept_of(noted - 1) > 0) {
      continue;  // or noted twice
    }
    const std::uint64_t length = std::min(left, run_length(descriptor(noted - 1).load()));
    trimming.kept[trimming.count++] = {.head = noted - 1, .length = length};
    left -= length;
  }
}

std::uint64_t Runs::Trimming::kept_of(std::uint64_t head) const noexcept {
  const Run* const last = kept.data() + count;
  const Run* const found = std::find_if(kept.data(), last, [&](const Run& run) { return run.head == head; });
  return found == last ? 0 : found->length;
}

// Takes a warm run that is not kept, or the end of one. None: no more than `target` chunks are warm.
std::optional<Runs::Run> Runs::begin_trimming(Trimming& trimming, OwnerId owner) noexcept {
  const RegionGuard guard(place_, header_->growth);
  const std::uint64_t chunks = header_->chunks.load();
  const std::int64_t surplus = hints_.warm.load() - trimming.target;
  // From the middle of the chunks on: a descriptor that is not 0 is a head's, wherever one comes from.
  while (trimming.chunk < chunks && surplus > 0) {
    const std::uint64_t head = trimming.chunk;
    const std::uint64_t word = descriptor(head).load();
    const std::uint64_t whole = run_length(word);
    const std::uint64_t kept = is_warm_run(word) ? trimming.kept_of(head) : 0;
    trimming.chunk += whole;
    if (!is_warm_run(word) || kept >= whole) {
      continue;
    }
    Run run{.head = head, .length = std::min(whole - kept, static_cast<std::uint64_t>(surplus))};
    if (run.length < whole) {
      run.head = head + whole - run.length;
      descriptor(head).store(run_descriptor(block_word(BlockKind::kFree), whole - run.length));
      FT_CRASH_POINT("blocks.trim.cut");
    }
    descriptor(run.head).store(run_descriptor(block_word(BlockKind::kBacking, owner), run.length));
    hints_.warm.fetch_sub(static_cast<std::int64_t>(run.length));
    hints_.used.fetch_add(static_cast<std::int64_t>(run.length));
    return run;
  }
  if (surplus > 0) {
    static_cast<void>(survey(kNone));  // there is less than was thought
  }
  return std::nullopt;
}

}  // namespace freethreading::memory
