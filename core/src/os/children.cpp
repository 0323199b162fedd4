#include "os/children.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>

#include "os/signals.hpp"

namespace freethreading::os {

namespace {

// What may be given back behind a process's end: some milliseconds' worth.
constexpr long kLightMemory = 64L << 20;

#ifdef __SANITIZE_THREAD__
constexpr bool kMayOutlive = false;  // what the sanitizer adds to a function needs a thread that it knows
#else
constexpr bool kMayOutlive = true;
#endif

// 1 while the process lives whose memory is given back: the kernel clears it, and wakes who waits for it, when that ends.
std::atomic<int> lives{1};

// Runs in the memory of a process that ends, on a stack of its own: nothing but system calls.
int outlive(void* /*unused*/) {
  while (lives.load() != 0) {
    // Not a private futex: the kernel's wake is not.
    static_cast<void>(syscall(SYS_futex, &lives, FUTEX_WAIT, 1, nullptr, nullptr, 0));
  }
  syscall(SYS_exit_group, 0);
  return 0;
}

// Closes all descriptors of the calling thread's, for good; those of other threads go with them. False: the system cannot.
bool close_own() noexcept {
#ifdef SYS_close_range
  constexpr unsigned kUnshare = 1U << 1;  // CLOSE_RANGE_UNSHARE
  return syscall(SYS_close_range, 0U, ~0U, kUnshare) == 0;
#else
  return false;
#endif
}

bool is_light() noexcept {
  const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    return false;
  }
  char text[128] = {};
  const bool has_text = read(file, text, sizeof text - 1) > 0;
  close(file);
  char* resident = std::strchr(text, ' ');
  constexpr int kDecimal = 10;
  return has_text && resident != nullptr &&
         std::strtol(resident, nullptr, kDecimal) <= kLightMemory / sysconf(_SC_PAGESIZE);
}

class SpawnSettings {
 public:
  SpawnSettings() noexcept {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
    for (const int descriptor : duplicates_) {
      close(descriptor);
    }
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  // `above`: a number above all targets, so that no target is a source that comes later.
  bool place(int descriptor, int target, int above) {
    const int duplicate = fcntl(descriptor, F_DUPFD_CLOEXEC, above);
    if (duplicate < 0) {
      return false;
    }
    duplicates_.push_back(duplicate);
    errno = posix_spawn_file_actions_adddup2(&actions_, duplicate, target);
    return errno == 0;
  }
  void block(const SignalMask& mask) noexcept {
    posix_spawnattr_setsigmask(&attributes_, &mask.set);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK);
  }
  int run(const std::vector<std::string>& argv) {
    std::vector<char*> words;
    for (const std::string& word : argv) {
      words.push_back(const_cast<char*>(word.c_str()));  // NOLINT(*-const-cast): exec reads only
    }
    words.push_back(nullptr);
    pid_t pid = 0;
    errno = posix_spawn(&pid, words[0], &actions_, &attributes_, words.data(), environ);
    return errno == 0 ? pid : 0;
  }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
  std::vector<int> duplicates_;
};

}  // namespace

int spawn(const std::vector<std::string>& argv, const std::vector<int>& descriptors, const SignalMask* mask) noexcept {
  SpawnSettings settings;
  constexpr int kFirst = 3;
  const int above = kFirst + static_cast<int>(descriptors.size());
  int target = kFirst;
  for (const int descriptor : descriptors) {
    if (!settings.place(descriptor, target++, above)) {
      return 0;
    }
  }
  if (mask != nullptr) {
    settings.block(*mask);
  }
  return settings.run(argv);
}

Ended next_ended_child() noexcept {
  siginfo_t info{};
  // WNOWAIT: the process stays a zombie, and its id its own, until what depends on it has been written down.
  if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
    return {};
  }
  const std::int32_t status = info.si_code == CLD_EXITED ? (info.si_status & 0xFF) << 8 : info.si_status & 0x7F;
  return {.pid = info.si_pid, .status = status};
}

void reap(int pid) noexcept { static_cast<void>(waitpid(pid, nullptr, WNOHANG)); }

bool wait_for_child(int pid) noexcept {
  pid_t result = 0;
  do {
    result = waitpid(pid, nullptr, 0);
  } while (result < 0 && errno == EINTR);
  return result == pid;
}

void kill_process(int pid, int signal) noexcept { static_cast<void>(kill(pid, signal)); }

Activity activity_of(int pid) noexcept {
  std::array<char, 32> path{};
  // NOLINTNEXTLINE(*-vararg): std::format allocates
  static_cast<void>(std::snprintf(path.data(), path.size(), "/proc/%d/stat", pid));
  const int descriptor = open(path.data(), O_RDONLY | O_CLOEXEC);  // NOLINT(*-vararg): it is open's
  if (descriptor < 0) {
    return Activity::kEnded;
  }
  std::array<char, 128> bytes{};
  const ssize_t length = read(descriptor, bytes.data(), bytes.size());
  close(descriptor);
  // proc(5): the process id, its name in brackets, which may have some itself, a letter.
  const std::string_view text(bytes.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  const std::size_t bracket = text.rfind(')');
  if (bracket == std::string_view::npos || bracket + 2 >= text.size()) {
    return Activity::kEnded;
  }
  switch (text[bracket + 2]) {
    case 'T':
    case 't':
      return Activity::kStopped;
    case 'Z':
    case 'X':
      return Activity::kEnded;
    default:
      return Activity::kRuns;
  }
}

bool move_to_orphan() noexcept {
  const pid_t child = fork();
  if (child > 0) {
    _exit(0);
  }
  return child == 0;
}

int fork_orphan() noexcept {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return -1;
  }
  // The process between shares this one's memory, which waits for it: it costs no copy of the page tables. The child, which goes
  // on in the same frame, has a copy as of any fork. Where a vfork is a fork (under qemu-user, ThreadSanitizer), all the same.
  const pid_t between = vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork): that is the point
  if (between == 0) {
    const pid_t child = fork();  // NOLINT(clang-analyzer-unix.Vfork): nothing but this process runs in this memory now
    if (child == 0) {
      close(ends[0]);
      close(ends[1]);
      return 0;
    }
    const int told = child > 0 ? child : -errno;
    static_cast<void>(!write(ends[1], &told, sizeof told));
    _exit(0);
  }
  const int error = errno;
  close(ends[1]);
  int answer = between < 0 ? -error : -ECHILD;  // ECHILD: the one between was killed, and its child with it or not
  if (between > 0) {
    ssize_t got = 0;
    do {
      got = read(ends[0], &answer, sizeof answer);
    } while (got < 0 && errno == EINTR);
    static_cast<void>(wait_for_child(between));
  }
  close(ends[0]);
  if (answer < 0) {
    errno = -answer;
    return -1;
  }
  return answer;
}

void become_subreaper() noexcept { static_cast<void>(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)); }

void exit_lightly(int code) noexcept {
  // The descriptors first: who is told of the end, finds files unlocked and pipes closed. Another thread, which runs until _exit(),
  // keeps its own until then, so that nothing it opens takes the number of another file.
  if (kMayOutlive && is_light() && close_own()) {
    constexpr std::size_t kStack = 16384;
    alignas(16) static std::byte stack[kStack];
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, nullptr);  // no handler of this process's runs in the other
    syscall(SYS_set_tid_address, &lives);
    // No signal at its end, which waitpid() in this process would not tell of either.
    static_cast<void>(clone(outlive, stack + kStack, CLONE_VM, nullptr));
  }
  _exit(code);
}

void close_from(int first) noexcept {
#ifdef SYS_close_range
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) {
    return;
  }
#endif
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  if (folder == nullptr) {
    return;
  }
  std::vector<int> found;
  while (const dirent* entry = readdir(folder.get())) {
    const int descriptor = std::atoi(entry->d_name);
    if (descriptor >= first && descriptor != dirfd(folder.get())) {
      found.push_back(descriptor);
    }
  }
  for (const int descriptor : found) {
    close(descriptor);
  }
}

void close_standard_input() noexcept {
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null >= 0) {
    dup2(null, STDIN_FILENO);
    if (null != STDIN_FILENO) {
      close(null);
    }
  }
}

}  // namespace freethreading::os
