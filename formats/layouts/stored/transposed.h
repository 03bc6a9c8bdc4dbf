// What GPTQ and AWQ files share: float16 scales [groups, rows], transposed against ours, and the same arguments.
#pragma once

#include <optional>
#include <string>

#include "quant/layout.h"

namespace quant::stored {

/// Writes a slice's scales as columns [first_row, first_row + slice.rows) of a float16 matrix [groups, linear rows].
/// Throws Error{numerical} naming the linear for one that float16 cannot hold or would make 0.
void write_transposed_scales(const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                             std::size_t place, StoredBytesSink& sink);
/// The inverse, from a matrix with `stride` columns; sizes are those of `out`, set before.
void read_transposed_scales(const Checkpoint& checkpoint, const TensorInfo& info, std::uint64_t stride,
                            std::uint64_t first_row, QuantizedTensor& out);

/// Why weights of this scheme are no groups or rows of whole-number codes with float16 scales and nothing else, which
/// is all that files of GPTQ and AWQ hold; `layout`: how the sentence calls it.
std::optional<std::string> why_no_plain_groups(const Scheme& scheme, const LinearShape& linear, std::string_view layout,
                                               std::string_view other_layouts);

/// Throws Error{internal} unless the slice can be written at that place: whole rows, sizes that fit each other, and a
/// first row that is a multiple of `alignment`.
void check_slice(const QuantArgs& args, const LinearShape& linear, std::uint64_t first_row, std::uint64_t alignment,
                 const QuantizedTensor& slice);
/// The same for rows to be read.
void check_read(const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count, std::uint64_t alignment);

/// Integers of that many bits with one scale per `group` columns, or one per row for 0.
QuantArgs grouped_args(unsigned bits, bool symmetric, std::uint64_t group);
/// Columns per scale; all of them where there is one scale per row.
std::uint64_t group_columns(const QuantArgs& args, std::uint64_t cols);
/// What a label `group_size` means for `groups` groups in `cols` columns: the label where it fits, else what does, as
/// for files with other sizes in single linears. 0: one scale per row. Nothing where no size fits.
std::optional<std::uint64_t> fitting_group(std::int64_t label, std::uint64_t cols, std::uint64_t groups);

/// The type that the weights had: what config.json says, else that of the tensors that are not quantized, else F16.
DType weight_dtype(const Checkpoint& checkpoint);

}  // namespace quant::stored
