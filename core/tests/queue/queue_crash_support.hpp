// What the crash tests of the queue share: the named points, a queue that must give everything back, and a process to lose.
#pragma once

#include "freethreading/crash_point.hpp"

#ifdef FT_CRASH_POINTS

#include <algorithm>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "freethreading/queue/message_queue.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {

inline constexpr std::uint64_t kItems = 200;  // several segments
inline constexpr Nanoseconds kAtOnce = kSecond;

inline std::vector<std::string> points(std::string_view prefix) {
  std::vector<std::string> found;
  for (const std::string_view name : list_crash_points()) {
    if (name.starts_with(prefix)) {
      found.emplace_back(name);
    }
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  EXPECT_FALSE(found.empty()) << prefix;
  return found;
}

inline std::string readable(const std::string& point) {
  std::string name = point;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

inline bool was_killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }

struct Progress {
  std::atomic<std::uint64_t> done;  // calls that returned
};

class QueueCrashTest : public WatchedTest {
 protected:
  void SetUp() override {
    WatchedTest::SetUp();
    test_session().sweep();
    before_ = test_session().usage().blocks;
    queue_ = &subject_.make(0);
  }
  void TearDown() override {
    test_session().sweep();
    subject_.drop();
    if (note_ != kNoOffset) {
      place().free(note_);
    }
    EXPECT_EQ(test_session().usage().blocks, before_) << "blocks did not come back";
    WatchedTest::TearDown();
  }
  Place& place() { return subject_.place(); }
  TakeNote* make_note() {
    note_ = place().allocate(sizeof(TakeNote));
    return new (place().at<TakeNote>(note_)) TakeNote;
  }

  SessionSubject subject_;
  MessageQueue* queue_ = nullptr;
  Offset note_ = kNoOffset;
  std::size_t before_ = 0;
  Scoreboard<Progress> progress_;
};

// name of the point, its nth passing dies, whether the session is swept before the survivors go on
using CrashCase = std::tuple<std::string, int, bool>;

inline std::string case_name(const ::testing::TestParamInfo<CrashCase>& info) {
  return readable(std::get<0>(info.param)) + "_" + std::to_string(std::get<1>(info.param)) +
         (std::get<2>(info.param) ? "_swept" : "_met");
}

}  // namespace freethreading::testing

#endif
