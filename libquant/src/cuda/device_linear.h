// A quantized matrix on a device, and the choice of kernels for its products.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "cuda/backend.h"
#include "cuda/pack.h"
#include "quant/packed_linear.h"

namespace quant::cuda {

/// A matrix in tiles, in device memory.
struct DeviceTiles {
  TileMatrix exact{}, rounded{};  ///< `rounded`: a table's values as BF16
  std::uint64_t packed = 0;
  float factor = 1;
  DeviceBuffer codes, scales, zeros, table, source;
};

/// The same for the reference.
struct DevicePlain {
  PlainMatrix matrix{};
  DeviceBuffer codes, scales, zeros, real_zeros, table, groups;
};

/// y = x W^T + bias on a backend. Which kernel computes it follows from the matrix, the inputs and the number of
/// tokens:
///   8-bit inputs and integers      tiles (or the reference): codes times codes
///   up to kTileTokens tokens       tiles: 16 rows by 8 columns per instruction
///   more                           weights are dequantized, some rows at a time, for a dense product
///   without a tiled layout         the reference up to kPlainLimit tokens
class DeviceLinear {
 public:
  /// `tuned`: tiles where there is such a layout, else the reference for everything. The backend must outlive it.
  DeviceLinear(Backend& backend, const QuantizedTensor& weight, std::span<const float> bias, bool tuned, int threads);

  std::uint64_t rows() const { return rows_; }
  std::uint64_t cols() const { return cols_; }
  std::uint64_t bytes() const;
  bool tuned() const { return tiles_.has_value(); }
  bool int8() const { return int8_; }

  /// x [tokens, cols] and y [tokens, rows] in device memory; work is put on the stream.
  void multiply(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options, void* stream) const;
  /// Inputs that `input` quantizes in a way that no kernel knows, and are thus quantized and turned back by the host.
  bool host_quantizes(const PackedOptions& options) const;

 private:
  void set_tiles(const PackedTiles& packed);
  void set_plain(const PackedPlain& packed);
  void set_sparse(const SparseRows& sparse);
  template <class Value>
  DeviceBuffer upload(const std::vector<Value>& values) const;
  Finish finish_of(const float* x, std::uint64_t tokens, float* y) const;
  InputRows input_rows(const float* x, std::uint64_t tokens, Order order) const;

  void run_host_quantized(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options,
                          void* stream) const;
  void run_part(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options, void* stream) const;
  void run_coded(const float* x, std::uint64_t tokens, float* y, const InputQuantizer* input, void* stream) const;
  void run_tiles(const TileInputs& inputs, const TileMatrix& matrix, const float* x, float* y, bool coded,
                 void* stream) const;
  void run_float_tiles(const float* x, std::uint64_t tokens, float* y, bool bf16, void* stream) const;
  void run_plain(const PlainProduct& product, const float* x, float* y, void* stream) const;
  void run_dense(const float* x, std::uint64_t tokens, float* y, bool bf16, void* stream) const;

  Backend* backend_;
  std::uint64_t rows_, cols_;
  bool plain_only_;
  bool int8_ = false;
  std::optional<DeviceTiles> tiles_;
  std::optional<DevicePlain> plain_;
  DeviceBuffer starts_, columns_, values_, bias_;
};

}  // namespace quant::cuda
