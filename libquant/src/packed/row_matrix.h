// A matrix whose rows, or parts of rows, have codebooks of their own, repacked for the kernels.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/packed/packed_table.h"
#include "packed/aligned_buffer.h"
#include "quant/quantized_tensor.h"

namespace quant::packed {

struct RowMatrix {
  std::uint64_t bits = 0;
  std::uint64_t chunks = 0;  ///< of 512 columns
  std::uint64_t strips = 0;  ///< even
  std::uint64_t tables_per_row = 1;
  std::uint64_t table_fields = 32;
  std::optional<DType> half;  ///< what the tables are in bytes of, as PackedRows::half_tables; else they are float32
  AlignedBuffer codes, tables;

  std::uint64_t table_values() const { return bits <= 4 ? 16 : std::uint64_t{1} << bits; }
  std::uint64_t columns() const { return chunks * cpu::kRowChunk; }
  std::uint64_t bytes() const { return codes.taken() + tables.taken(); }
  cpu::PackedRows strip(std::uint64_t index) const;
};

/// As packed_matrix_bytes.
std::optional<std::uint64_t> row_matrix_bytes(const QuantizedTensor& frame);

/// Nothing if the weight is of another kind, or no kernel reads such tables: groups that are no multiple of 64 columns.
/// The sparse part is not included.
/// `half_tables`: 256 values that BF16 or F16 hold are kept so.
std::optional<RowMatrix> pack_rows(const QuantizedTensor& weight, bool half_tables, int threads);

}  // namespace quant::packed
