// The backend of a CUDA device, with what measuring needs besides.
#pragma once

#include <functional>
#include <memory>

#include "cuda/backend.h"
#include "cuda/cublaslt.h"

namespace quant::cuda {

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(int device);

  void* allocate(std::size_t bytes, void* stream) override;
  void free(void* memory, void* stream) noexcept override;
  void wait() noexcept override;
  void to_device(void* to, const void* from, std::size_t bytes, void* stream) override;
  void to_host(void* to, const void* from, std::size_t bytes, void* stream) override;
  void run(const PlainProduct& product, void* stream) override;
  void run(const TileProduct& product, bool coded, void* stream) override;
  void run(const Finish& finish, void* stream) override;
  void run(const Bf16Inputs& inputs, void* stream) override;
  void run(const FloatInputs& inputs, void* stream) override;
  void run(const CodedInputs& inputs, void* stream) override;
  void run(const DenseFill& fill, void* stream) override;
  bool multiplies_dense() const override { return dense_ != nullptr; }
  void run(const DenseProduct& product, void* stream) override;

  void multiply_dense(const DenseProduct& product, DenseType type, void* stream);
  void copy_on_device(void* to, const void* from, std::size_t bytes, void* stream);
  /// Seconds that the device spends on what `work` puts on the default stream.
  double seconds_of(const std::function<void()>& work);

 private:
  template <class Action>
  void on_device(const Action& action) noexcept;

  int device_;
  void* pool_ = nullptr;
  std::unique_ptr<DenseLibrary> dense_;
};

}  // namespace quant::cuda
