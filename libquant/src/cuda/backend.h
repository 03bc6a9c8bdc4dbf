// The device as the rest of the code sees it: memory, and one function per kernel. There is one for CUDA; tests have
// another that runs the kernels' bodies on the processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/dense.h"
#include "cuda/finish.h"
#include "cuda/inputs.h"
#include "cuda/plain.h"
#include "cuda/tile_product.h"

namespace quant::cuda {

/// y [tokens][stride], of which `rows` columns from y on: x [tokens][columns] w^T, w [rows][columns]; both BF16 or both
/// float32 (without TF32), sums in float32.
struct DenseProduct {
  const void* weights;
  const void* x;
  float* y;
  std::uint64_t rows, tokens, columns, stride;
  bool bf16;
};

/// Work on a stream is done in order. All functions throw Error if the device refuses.
class Backend {
 public:
  Backend() = default;
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  virtual void* allocate(std::size_t bytes, void* stream) = 0;
  virtual void free(void* memory, void* stream) noexcept = 0;
  virtual void wait() noexcept = 0;  ///< for all work on all streams
  virtual void to_device(void* to, const void* from, std::size_t bytes, void* stream) = 0;
  virtual void to_host(void* to, const void* from, std::size_t bytes, void* stream) = 0;  ///< and waits for it

  virtual void run(const PlainProduct& product, void* stream) = 0;
  virtual void run(const TileProduct& product, bool coded, void* stream) = 0;
  virtual void run(const Finish& finish, void* stream) = 0;
  virtual void run(const Bf16Inputs& inputs, void* stream) = 0;
  virtual void run(const FloatInputs& inputs, void* stream) = 0;
  virtual void run(const CodedInputs& inputs, void* stream) = 0;  ///< both of its kernels
  virtual void run(const DenseFill& fill, void* stream) = 0;
  virtual bool multiplies_dense() const = 0;  ///< there is a library for dense products
  virtual void run(const DenseProduct& product, void* stream) = 0;
};

/// Device memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Backend& backend, std::size_t bytes, void* stream)
      : backend_(&backend),
        stream_(stream),
        size_(bytes),
        memory_(bytes == 0 ? nullptr : backend.allocate(bytes, stream)) {}
  ~DeviceBuffer() {
    if (memory_ != nullptr) backend_->free(memory_, stream_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = static_cast<DeviceBuffer&&>(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(stream_, other.stream_);
    std::swap(size_, other.size_);
    std::swap(memory_, other.memory_);
    return *this;
  }

  std::size_t size() const { return size_; }
  template <class Value>
  Value* as() const {
    return static_cast<Value*>(memory_);
  }

 private:
  Backend* backend_ = nullptr;
  void* stream_ = nullptr;
  std::size_t size_ = 0;
  void* memory_ = nullptr;
};

}  // namespace quant::cuda
