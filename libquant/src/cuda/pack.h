// Quantized matrices in the two layouts of the device, still in host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "cuda/plain.h"
#include "cuda/tiles.h"
#include "quant/quantized_tensor.h"

namespace quant::cuda {

/// Any matrix. Pointers of `shape` are null.
struct PackedPlain {
  PlainMatrix shape{};
  std::vector<std::uint32_t> codes;
  std::vector<float> scales, real_zeros, table;
  std::vector<std::int8_t> zeros;
  std::vector<std::int32_t> groups;
};
PackedPlain pack_plain(const QuantizedTensor& weight, int threads);

/// A matrix that the tensor-core kernels read. Pointers of `shape` are null.
struct PackedTiles {
  TileMatrix shape{};
  std::uint64_t packed = 0;          ///< columns, a multiple of 128
  std::vector<std::int32_t> source;  ///< [packed]: the column, or -1 for padding; empty: in order
  float factor = 1;                  ///< of all results (NVFP4's global scale)
  std::vector<std::uint32_t> codes;
  std::vector<std::uint32_t> table;  ///< of tables: [8] in BF16, and [3][8] exact parts where shape.planes is 3
  std::vector<std::byte> scales;
  std::vector<std::int8_t> zeros;

  bool int8() const { return shape.kind == TileKind::integer && shape.group_runs > 1; }
};
/// Nothing where there is no such kernel: tables of rows or of more than 4 bits, real zero points, groups that are
/// neither within a step nor whole steps, unusual codes or scales (as for pack_matrix). Sparse parts are not included.
std::optional<PackedTiles> pack_tiles(const QuantizedTensor& weight, int threads);

}  // namespace quant::cuda
