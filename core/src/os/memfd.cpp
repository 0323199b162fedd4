#include "os/memfd.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "freethreading/deadline.hpp"

namespace freethreading::os {

int memfd_create(const char* name) noexcept { return ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING); }

bool memfd_seal_against_shrinking(int descriptor) noexcept {
  return fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) == 0;
}

bool is_sealed_against_shrinking(int descriptor) noexcept {
  const int seals = fcntl(descriptor, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

bool identify(int descriptor, FileIdentity& identity) noexcept {
  struct stat status {};
  if (fstat(descriptor, &status) != 0) {
    return false;
  }
  identity = {.device = status.st_dev, .inode = status.st_ino};
  return true;
}

int secure_pages(int descriptor, std::uint64_t offset, std::uint64_t size) noexcept {
  // Growing past RLIMIT_FSIZE raises SIGXFSZ, whose default ends the process: asked first.
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && offset + size > limit.rlim_cur) {
    return EFBIG;
  }
  int result = 0;
  do {
    result = fallocate(descriptor, 0, static_cast<off_t>(offset), static_cast<off_t>(size)) == 0 ? 0 : errno;
  } while (result == EINTR);
  return result;
}

void give_pages_back(int descriptor, std::uint64_t offset, std::uint64_t size) noexcept {
  static_cast<void>(fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                              static_cast<off_t>(size)));
}

void fault_in(std::byte* address, std::uint64_t size) noexcept {
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers do not have
  static_cast<void>(madvise(address, size, kPopulateWrite));
}

bool read_at(int descriptor, std::uint64_t offset, void* target, std::size_t size) noexcept {
  return pread(descriptor, target, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

std::byte* map_shared(int descriptor, std::uint64_t size) noexcept {
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor, 0);
  if (address == MAP_FAILED) {
    return nullptr;
  }
  static_cast<void>(madvise(address, size, MADV_DONTDUMP));
  return static_cast<std::byte*>(address);
}

std::byte* map_private(int descriptor, std::uint64_t offset, std::uint64_t size) noexcept {
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor,
                       static_cast<off_t>(offset));
  return address == MAP_FAILED ? nullptr : static_cast<std::byte*>(address);
}

void unmap(std::byte* address, std::uint64_t size) noexcept { munmap(address, size); }

std::uint64_t size_of(int descriptor) noexcept {
  struct stat status {};
  return fstat(descriptor, &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

std::uint64_t allocated_bytes(int descriptor) noexcept {
  struct stat status {};
  return fstat(descriptor, &status) == 0 ? static_cast<std::uint64_t>(status.st_blocks) * 512 : 0;
}

void close_descriptor(int descriptor) noexcept { close(descriptor); }

std::uint64_t random_bits() noexcept {
  std::uint64_t bits = 0;
  if (getrandom(&bits, sizeof bits, GRND_NONBLOCK) != static_cast<ssize_t>(sizeof bits)) {
    bits = static_cast<std::uint64_t>(monotonic_now()) * 0x9E3779B97F4A7C15ULL ^ static_cast<std::uint64_t>(getpid());
  }
  return bits;
}

}  // namespace freethreading::os
