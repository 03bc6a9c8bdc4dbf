// Memory for packed weights: aligned, and in large pages where it is large, since a page's address costs as much time
// to find as its bytes take to read.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace quant::packed {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Contents are zero.
  explicit AlignedBuffer(std::size_t bytes);

  /// What a buffer of so many bytes takes: whole pages where it is large.
  static std::size_t rounded(std::size_t bytes);

  std::byte* data() { return memory_.get(); }
  const std::byte* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }
  std::size_t taken() const { return size_ == 0 ? 0 : rounded(size_); }  ///< of memory
  template <class Value>
  Value* as() {
    return reinterpret_cast<Value*>(memory_.get());
  }
  template <class Value>
  const Value* as() const {
    return reinterpret_cast<const Value*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t size_ = 0;
};

}  // namespace quant::packed
