#include "packed/aligned_buffer.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstring>

namespace quant::packed {
namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;

std::size_t alignment_of(std::size_t bytes) { return bytes >= kHugePage ? kHugePage : 64; }

}  // namespace

std::size_t AlignedBuffer::rounded(std::size_t bytes) {
  const std::size_t alignment = alignment_of(bytes);
  if (bytes > SIZE_MAX - alignment) throw std::bad_alloc();
  return (bytes + alignment - 1) / alignment * alignment;
}

AlignedBuffer::AlignedBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const std::size_t alignment = alignment_of(bytes);
  const std::size_t all = rounded(bytes);
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, all)));
  if (!memory_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(memory_.get(), all, MADV_HUGEPAGE);  // only advice: a refusal changes nothing
#endif
  std::memset(memory_.get(), 0, all);
}

}  // namespace quant::packed
