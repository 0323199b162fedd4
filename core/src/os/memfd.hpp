// A file in memory without a name, mapped once with room to grow (memfd_create(2)).
#pragma once

#include <cstddef>
#include <cstdint>

namespace freethreading::os {

// Tells one file from another, whatever number its descriptor has.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

// A new file (close-on-exec, sealable); -1: see errno.
[[nodiscard]] int memfd_create(const char* name) noexcept;
// Nobody can make the file smaller from now on, nor undo this. False: the kernel refuses.
[[nodiscard]] bool memfd_seal_against_shrinking(int descriptor) noexcept;
[[nodiscard]] bool is_sealed_against_shrinking(int descriptor) noexcept;
// Identity of the file behind a descriptor; false: it is closed.
[[nodiscard]] bool identify(int descriptor, FileIdentity& identity) noexcept;
// Makes the pages [offset, offset + size) exist, growing the file where it is shorter: writing them cannot fail afterwards.
// 0, or the errno (ENOSPC, ENOMEM, EFBIG: limits). Never raises a signal.
[[nodiscard]] int secure_pages(int descriptor, std::uint64_t offset, std::uint64_t size) noexcept;
// Gives pages back; they read as zero and must be secured again before they are written.
void give_pages_back(int descriptor, std::uint64_t offset, std::uint64_t size) noexcept;
// Maps the pages of [address, address + size) into this process at once, where the kernel can (MADV_POPULATE_WRITE, 5.14):
// cheaper than a fault for each. REQUIRES: they are secured.
void fault_in(std::byte* address, std::uint64_t size) noexcept;
// Reads from the file; false: it is shorter, or no file.
[[nodiscard]] bool read_at(int descriptor, std::uint64_t offset, void* target, std::size_t size) noexcept;
// Maps `size` bytes of the file, also beyond its end, readable and writable for all that share it. Null: see errno. Core dumps
// leave it out: it is no one process's, and they would look at each page of `size`, which takes minutes.
[[nodiscard]] std::byte* map_shared(int descriptor, std::uint64_t size) noexcept;
// Maps pages of the file so that what is written to them is this mapping's only. Null: see errno. REQUIRES: a page's offset.
[[nodiscard]] std::byte* map_private(int descriptor, std::uint64_t offset, std::uint64_t size) noexcept;
void unmap(std::byte* address, std::uint64_t size) noexcept;
// Where the file ends; 0: it is closed.
[[nodiscard]] std::uint64_t size_of(int descriptor) noexcept;
// Pages that an owner of the file holds, in bytes.
[[nodiscard]] std::uint64_t allocated_bytes(int descriptor) noexcept;
void close_descriptor(int descriptor) noexcept;
// 64 unpredictable bits.
[[nodiscard]] std::uint64_t random_bits() noexcept;

}  // namespace freethreading::os
