#include "freethreading/pool/blob_log.hpp"

#include <string>
#include <thread>
#include <vector>

#include "freethreading/crash_point.hpp"
#include "queue/queue_test_support.hpp"

namespace freethreading::testing {
namespace {

class BlobLogTest : public WatchedTest {
 protected:
  void SetUp() override {
    WatchedTest::SetUp();
    test_session().sweep();
    before_ = test_session().usage().blocks;
    object_ = test_session().create_object(ObjectType::kBlobLog, sizeof(BlobLog));
    log_ = object_->body<BlobLog>();
    static_cast<void>(test_session().publish_object(object_));
  }
  void TearDown() override {
    test_session().sweep();
    test_session().drop_reference(object_);
    EXPECT_EQ(test_session().usage().blocks, before_);
    WatchedTest::TearDown();
  }
  Place& place() { return test_session().place(); }
  std::uint64_t append(const std::string& text) {
    return log_->append(place(), reinterpret_cast<const std::byte*>(text.data()), text.size());
  }
  std::vector<std::string> read_after(std::uint64_t number) {
    std::vector<std::string> texts;
    for (const BlobLog::Entry* entry = log_->after(place(), number); entry != nullptr;
         entry = log_->after(place(), number)) {
      EXPECT_EQ(entry->number, number + 1);
      number = entry->number;
      texts.emplace_back(reinterpret_cast<const char*>(entry->bytes()), entry->size);
    }
    return texts;
  }

  ObjectHeader* object_ = nullptr;
  BlobLog* log_ = nullptr;
  std::size_t before_ = 0;
};

TEST_F(BlobLogTest, NumbersItsEntries) {
  EXPECT_EQ(log_->last(), 0U);
  EXPECT_EQ(log_->after(place(), 0), nullptr);
  EXPECT_EQ(append("one"), 1U);
  EXPECT_EQ(append(""), 2U);
  EXPECT_EQ(append(std::string(100'000, 'x')), 3U);
  EXPECT_EQ(log_->last(), 3U);
  EXPECT_EQ(read_after(0), (std::vector<std::string>{"one", "", std::string(100'000, 'x')}));
  EXPECT_EQ(read_after(2).size(), 1U);
  EXPECT_TRUE(read_after(3).empty());
}

TEST_F(BlobLogTest, AnotherProcessReadsWhatWasAppended) {
  append("one");
  EXPECT_EQ(await_child(in_child([&] {
              ASSERT_EQ(read_after(0), std::vector<std::string>{"one"});
              ASSERT_EQ(append("two"), 2U);
            })),
            0);
  EXPECT_EQ(read_after(1), std::vector<std::string>{"two"});
}

TEST_F(BlobLogTest, ThreadsAppendOneByOne) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        append("entry");
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(read_after(0), std::vector<std::string>(800, "entry"));
}

#ifdef FT_CRASH_POINTS

TEST_F(BlobLogTest, AWritersDeathLeavesAWholeLog) {
  std::uint64_t entries = 0;
  for (const std::string_view point : list_crash_points()) {
    if (!point.starts_with("blob_log.append.")) {
      continue;
    }
    for (const bool swept : {true, false}) {
      SCOPED_TRACE(std::string(point) + (swept ? " swept" : " met"));
      const int status = await_child(in_child([&] {
        set_crash_point(point, 1);
        append("dying");
      }));
      ASSERT_TRUE(WIFSIGNALED(status));
      if (swept) {
        test_session().sweep();
      }
      const std::uint64_t number = append("after");
      ASSERT_TRUE(number == entries + 1 || number == entries + 2);
      const std::vector<std::string> expected =
          number == entries + 1 ? std::vector<std::string>{"after"} : std::vector<std::string>{"dying", "after"};
      EXPECT_EQ(read_after(entries), expected);
      entries = number;
      EXPECT_EQ(log_->last(), entries);
    }
  }
  EXPECT_GT(entries, 0U);
}

#endif

}  // namespace
}  // namespace freethreading::testing
