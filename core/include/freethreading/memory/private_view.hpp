// PrivateView: bytes of a session's region as this process alone sees them: it may write them, and nobody else sees that.
//
// Pages are copied when they are written. What is not written yet is read from the region: it must stay there, unchanged.
#pragma once

#include <cstddef>
#include <cstdint>

#include "freethreading/memory/session.hpp"

namespace freethreading {

class PrivateView {
 public:
  PrivateView() = default;
  PrivateView(const PrivateView&) = delete;
  PrivateView& operator=(const PrivateView&) = delete;
  ~PrivateView();

  // Once. False: no address space, or the session's descriptor is gone (errno).
  [[nodiscard]] bool map(Session& session, const void* begin, std::size_t size) noexcept;
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  std::byte* mapped_ = nullptr;
  std::size_t mapped_size_ = 0;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace freethreading
