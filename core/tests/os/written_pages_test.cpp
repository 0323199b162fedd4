#include "os/written_pages.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>

#include "freethreading/pool/worker_record.hpp"

namespace freethreading::os {
namespace {

long faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

class WrittenPages : public testing::Test {
 protected:
  static constexpr std::size_t kPages = 2000;
  static constexpr std::size_t kPage = 4096;

  void SetUp() override {
    void* memory = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    bytes_ = static_cast<volatile char*>(memory);
    write(kPages, 1, 'a');
  }
  void TearDown() override { munmap(const_cast<char*>(bytes_), kPages * kPage); }

  void write(std::size_t pages, std::size_t step, char value) {
    for (std::size_t page = 0; page < pages; page += step) {
      bytes_[page * kPage] = value;
    }
  }
  // In a fork of a process that expects forks: the exit code of `work`.
  template <class Work>
  int in_fork(Work work) {
    const pid_t pid = fork();
    if (pid == 0) {
      _exit(work());
    }
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return exit_code_of(status);
  }
  // What is noted in `body` is not for other tests.
  template <class Body>
  void alone(Body body) {
    EXPECT_EQ(in_fork([&] {
                body();
                return HasFailure() ? 1 : 0;
              }),
              0);
  }
  bool kernel_can() {
    void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    constexpr int kPopulateWrite = 23;
    const bool can = madvise(memory, kPage, kPopulateWrite) == 0 && access("/proc/self/pagemap", R_OK) == 0;
    munmap(memory, kPage);
    return can;
  }

  volatile char* bytes_ = nullptr;
};

TEST_F(WrittenPages, OfTheFirstForkAreThereInTheNext) {
  if (!kernel_can()) {
    GTEST_SKIP() << "this kernel cannot copy pages beforehand";
  }
  alone([&] {
    expect_forks();
    constexpr std::size_t kWritten = 600;
    EXPECT_EQ(in_fork([&] {
                write(kWritten, 2, 'b');
                note_written_pages();
                return 0;
              }),
              0);
    const auto faults_of_writing = [&](bool copies) {
      return in_fork([&] {
        if (copies) {
          copy_written_pages();
        }
        const long before = faults();
        write(kWritten, 2, 'c');
        const long taken = faults() - before;
        return bytes_[kPage] == 'a' && bytes_[0] == 'c' ? static_cast<int>(taken / 10) : 255;
      });
    };
    EXPECT_EQ(faults_of_writing(false), 30);
    EXPECT_LE(faults_of_writing(true), 1);
    EXPECT_EQ(bytes_[0], 'a');
  });
}

TEST_F(WrittenPages, AreCopiedUntilLaterForksHaveNoted) {
  if (!kernel_can()) {
    GTEST_SKIP() << "this kernel cannot copy pages beforehand";
  }
  alone([&] {
    const auto write_and_note = [&](std::size_t pages) {
      return in_fork([&] {
        write(pages, 1, 'b');
        note_written_pages();
        return 0;
      });
    };
    const auto faults_of_writing = [&](std::size_t pages) {
      return in_fork([&] {
        copy_written_pages();
        const long before = faults();
        write(pages, 1, 'c');
        return static_cast<int>((faults() - before) / 10);
      });
    };
    expect_forks();
    EXPECT_EQ(write_and_note(600), 0);
    expect_forks();
    EXPECT_LE(faults_of_writing(600), 1);
    EXPECT_EQ(write_and_note(kPages), 0);  // too many: nothing is noted
    EXPECT_LE(faults_of_writing(600), 1);
    EXPECT_EQ(write_and_note(100), 0);
    EXPECT_LE(faults_of_writing(100), 1);
    EXPECT_GE(faults_of_writing(600), 49);
  });
}

TEST_F(WrittenPages, AreNotNotedWhereTheyAreTooMany) {
  alone([&] {
    expect_forks();
    EXPECT_EQ(in_fork([&] {
                write(kPages, 1, 'b');
                note_written_pages();
                return 0;
              }),
              0);
    EXPECT_EQ(in_fork([&] {
                copy_written_pages();
                const long before = faults();
                write(kPages, 1, 'c');
                return faults() - before >= static_cast<long>(kPages) ? 0 : 1;
              }),
              0);
  });
}

TEST_F(WrittenPages, MayBeOfMemoryThatIsGone) {
  alone([&] {
    expect_forks();
    EXPECT_EQ(in_fork([&] {
                write(10, 1, 'b');
                note_written_pages();
                return 0;
              }),
              0);
    EXPECT_EQ(in_fork([&] {
                munmap(const_cast<char*>(bytes_), kPages * kPage);
                copy_written_pages();
                return 0;
              }),
              0);
  });
}

}  // namespace
}  // namespace freethreading::os
