#include "freethreading/memory/private_view.hpp"

#include "os/memfd.hpp"

namespace freethreading {

namespace {

constexpr std::uint64_t kPage = 4096;

}  // namespace

PrivateView::~PrivateView() {
  if (mapped_ != nullptr) {
    os::unmap(mapped_, mapped_size_);
  }
}

bool PrivateView::map(Session& session, const void* begin, std::size_t size) noexcept {
  if (size == 0) {
    return true;
  }
  const Offset offset = session.place().offset_of(begin);
  const Offset first_page = offset / kPage * kPage;
  const std::size_t mapped_size = offset - first_page + size;
  std::byte* mapped = os::map_private(session.descriptor(), first_page, mapped_size);
  if (mapped == nullptr) {
    return false;
  }
  mapped_ = mapped;
  mapped_size_ = mapped_size;
  data_ = mapped + (offset - first_page);
  size_ = size;
  return true;
}

}  // namespace freethreading
