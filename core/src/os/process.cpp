#include "os/process.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>

namespace freethreading::os {

int process_id() noexcept { return static_cast<int>(getpid()); }

int thread_id() noexcept { return static_cast<int>(syscall(SYS_gettid)); }

std::size_t descriptor_limit() noexcept {
  rlimit limit{};
  constexpr std::size_t kUnknown = 256;
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : kUnknown;
}

std::atomic<std::uint32_t>* make_word_wiped_on_fork() noexcept {
  const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* page = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return nullptr;
  }
  if (madvise(page, size, MADV_WIPEONFORK) != 0) {
    munmap(page, size);
    return nullptr;
  }
  return new (page) std::atomic<std::uint32_t>{0};
}

void at_fork(void (*prepare)(), void (*parent)(), void (*child)()) noexcept { pthread_atfork(prepare, parent, child); }

}  // namespace freethreading::os
