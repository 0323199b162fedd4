// Objects: what a handle names, what keeps it alive, how it ends.
#include "memory/memory_test_support.hpp"

namespace freethreading::testing {
namespace {

using ObjectsTest = SessionTest;

TEST_F(ObjectsTest, AreBornZeroedAndUnborn) {
  const Offset dirty = place().allocate(1000);
  std::memset(place().at<std::byte>(dirty), 0xFF, 1000);
  place().free(dirty);
  ObjectHeader* object = session().create_object(ObjectType::kEvent, 700);
  ASSERT_NE(object, nullptr);
  EXPECT_EQ(object->state.load(), ObjectState::kUnborn);
  const auto* body = object->body<unsigned char>();
  EXPECT_EQ(std::count(body, body + 700, 0), 700);
  EXPECT_EQ(references(*object), 0U);
  EXPECT_EQ(session().usage().objects, before_.objects) << "nobody else sees it yet";
  session().drop_reference((session().publish_object(object), object));
}

TEST_F(ObjectsTest, AreNamedByTheirHandle) {
  const Published published = publish(session(), ObjectType::kBarrier);
  EXPECT_EQ(published.handle.session, session().id());
  EXPECT_EQ(published.handle.type, ObjectType::kBarrier);
  EXPECT_EQ(published.object->state.load(), ObjectState::kLive);
  EXPECT_EQ(references(*published.object), 1U);
  EXPECT_EQ(session().open(published.handle), published.object);
  session().drop_reference(published.object);
  session().drop_reference(published.object);
}

TEST_F(ObjectsTest, EndWithTheLastProxy) {
  const Published published = publish(session());
  session().add_reference(published.object);
  session().drop_reference(published.object);
  EXPECT_EQ(session().usage().objects, before_.objects + 1);
  session().drop_reference(published.object);
  EXPECT_EQ(session().usage().objects, before_.objects);
  EXPECT_EQ(session().open(published.handle), nullptr);
  EXPECT_FALSE(session().retain_in_flight(published.handle));
}

TEST_F(ObjectsTest, AHandleDoesNotNameTheNextOneInItsPlace) {
  const Published first = publish(session());
  session().drop_reference(first.object);
  const Published second = publish(session());
  ASSERT_EQ(second.handle.offset, first.handle.offset) << "the block was to be used again";
  EXPECT_NE(second.handle, first.handle);
  EXPECT_EQ(session().open(first.handle), nullptr);
  session().drop_in_flight(first.handle);
  session().drop_reference(second.object);
}

TEST_F(ObjectsTest, AHandleIsComparedInAllItsParts) {
  const Published published = publish(session());
  int part = 0;
  for (Handle wrong : {Handle{}, published.handle, published.handle, published.handle, published.handle}) {
    switch (part++) {
      case 1:
        wrong.session += 1;
        break;
      case 2:
        wrong.generation += 1;
        break;
      case 3:
        wrong.type = ObjectType::kQueue;
        break;
      case 4:
        wrong.offset += 64;
        break;
      default:
        break;
    }
    EXPECT_EQ(session().open(wrong), nullptr) << part;
    EXPECT_FALSE(session().retain_in_flight(wrong)) << part;
  }
  session().drop_reference(published.object);
}

TEST_F(ObjectsTest, AHandleIntoNowhereIsRefused) {
  for (const Offset offset : {Offset{1}, Offset{4096}, memory::kFirstChunk + 1, memory::kFirstChunk + (Offset{1} << 37),
                              ~Offset{0}, ~Offset{63}}) {
    const Handle handle{.session = session().id(), .offset = offset, .generation = 1, .type = ObjectType::kEvent};
    EXPECT_EQ(session().open(handle), nullptr) << offset;
  }
}

TEST_F(ObjectsTest, AHandleToPlainDataIsRefused) {
  const Offset data = place().allocate(1000);
  auto* forged = place().at<ObjectHeader>(data);
  forged->generation = 7;
  forged->type = ObjectType::kEvent;
  forged->state = ObjectState::kLive;
  EXPECT_EQ(session().open({session().id(), data, 7, ObjectType::kEvent}), nullptr);
  place().free(data);
}

TEST_F(ObjectsTest, LiveWhileAMessageCarriesThem) {
  const Published published = publish(session());
  ASSERT_TRUE(session().retain_in_flight(published.handle));
  ASSERT_TRUE(session().retain_in_flight(published.handle));
  session().drop_reference(published.object);
  session().drop_in_flight(published.handle);
  ASSERT_EQ(session().open(published.handle), published.object);
  session().drop_in_flight(published.handle);
  EXPECT_EQ(published.object->in_flight.load(), 0U);
  session().drop_in_flight(published.handle);  // one too many changes nothing
  EXPECT_EQ(session().usage().objects, before_.objects + 1);
  session().drop_reference(published.object);
}

TEST_F(ObjectsTest, EndWithTheLastMessage) {
  const Published published = publish(session());
  ASSERT_TRUE(session().retain_in_flight(published.handle));
  session().drop_reference(published.object);
  session().drop_in_flight(published.handle);
  EXPECT_EQ(session().open(published.handle), nullptr);
}

TEST_F(ObjectsTest, FreeWhatTheyOwn) {
  const Published inner = publish(session());
  SessionSubject subject;
  MessageQueue& queue = subject.make(0);
  for (std::uint64_t i = 1; i <= 200; ++i) {
    ASSERT_EQ(put(queue, place(), i), QueueOutcome::kDone);
  }
  subject.drop();
  EXPECT_EQ(session().usage().blocks, before_.blocks + 1);
  session().drop_reference(inner.object);
}

TEST_F(ObjectsTest, AnotherProcessKeepsThemAlive) {
  Scoreboard<Steps> steps;
  const Published published = publish(session());
  const pid_t child = in_plain_child([&] {
    ASSERT_EQ(session().open(published.handle), published.object);
    steps->reach(1);
    ASSERT_TRUE(steps->await(2));
    EXPECT_EQ(published.object->state.load(), ObjectState::kLive);
    session().drop_reference(published.object);
    session().drop_reference(published.object);  // the one that the fork copied
  });
  ASSERT_TRUE(steps->await(1));
  EXPECT_EQ(references(*published.object), 2U);
  session().drop_reference(published.object);
  EXPECT_EQ(session().usage().objects, before_.objects + 1);
  steps->reach(2);
  EXPECT_EQ(await_child(child), 0);
  EXPECT_EQ(session().usage().objects, before_.objects);
}

TEST_F(ObjectsTest, ADeathDropsItsReferences) {
  const Published published = publish(session());
  Scoreboard<Steps> steps;
  const pid_t child = in_plain_child([&] {
    ASSERT_NE(session().open(published.handle), nullptr);
    session().drop_reference(publish(session()).object);
    publish(session());
    steps->reach(1);
    pause();
  });
  ASSERT_TRUE(steps->await(1));
  session().drop_reference(published.object);
  EXPECT_EQ(session().usage().objects, before_.objects + 2);
  kill(child, SIGKILL);
  EXPECT_TRUE(was_killed(await_child(child)));
  session().sweep();
  EXPECT_EQ(session().usage().objects, before_.objects);
}

TEST_F(ObjectsTest, ADeathBeforePublishGivesTheBlockBack) {
  ASSERT_EQ(await_child(in_child([&] { ASSERT_NE(session().create_object(ObjectType::kQueue, 500), nullptr); })), 0);
  session().sweep();
  EXPECT_EQ(session().usage().blocks, before_.blocks);
}

TEST_F(ObjectsTest, AMillionShortLivedOnesLeaveMemoryFlat) {
  const auto turn = [&](int count) {
    for (int i = 0; i < count; ++i) {
      session().drop_reference(publish(session(), ObjectType::kLock, 8).object);
    }
  };
  turn(1000);
  session().trim(true);  // what else is warm goes at the end of a period, which may come in between
  const std::size_t before = session().usage().file_bytes;
  turn(kThreadSanitizer || kAddressSanitizer ? 100'000 : 1'000'000);
  session().trim(true);
  EXPECT_EQ(session().usage().file_bytes, before);
}

// Threads open an object, and the last proxy goes, again and again: it is never gone while somebody has it.
TEST_F(ObjectsTest, AreOpenedWhileTheyEnd) {
  struct Body {
    std::atomic<std::uint64_t> number;
  };
  std::atomic<std::uint64_t> offset{0};
  std::atomic<std::uint64_t> generation{0};
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  const auto use = [&] {
    while (!stop) {
      const std::uint64_t known = generation.load();
      const Handle handle{session().id(), offset.load(), known, ObjectType::kEvent};
      if (ObjectHeader* object = session().open(handle)) {
        wrong += object->body<Body>()->number.load() == known ? 0 : 1;
        std::this_thread::yield();
        wrong += object->state.load() == ObjectState::kLive && object->generation == known ? 0 : 1;
        session().drop_reference(object);
      }
    }
  };
  std::thread first(use);
  std::thread second(use);
  for (int i = 0; i < 20'000; ++i) {
    ObjectHeader* object = session().create_object(ObjectType::kEvent, sizeof(Body));
    const std::uint64_t next = place().at<memory::RegionHeader>(0)->generation.load() + 1;
    object->body<Body>()->number.store(next);
    const Handle handle = session().publish_object(object);
    ASSERT_EQ(handle.generation, next);
    offset.store(handle.offset);
    generation.store(handle.generation);
    session().drop_reference(object);
  }
  stop = true;
  first.join();
  second.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace freethreading::testing
