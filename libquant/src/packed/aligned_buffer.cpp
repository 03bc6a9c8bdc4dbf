#include "packed/aligned_buffer.h"

#include <cstring>

namespace quant::packed {

AlignedBuffer::AlignedBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  constexpr std::size_t kHugePage = std::size_t{1} << 21;
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  if (bytes > SIZE_MAX - alignment) throw std::bad_alloc();
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
  if (!memory_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(memory_.get(), rounded, MADV_HUGEPAGE);  // only advice: a refusal changes nothing
#endif
  std::memset(memory_.get(), 0, rounded);
}

}  // namespace quant::packed
