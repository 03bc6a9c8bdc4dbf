// Blocks of GGUF files as codes and scales of grids, where their values are such.
#pragma once

#include <optional>

#include "quant/quantized_tensor.h"

namespace quant::convert {

/// The grid that holds all codes of such blocks: integers in groups of 32 for Q4_0, Q4_1, Q5_0 and Q8_0, MXFP4 for
/// MXFP4; nothing for others, whose scales have scales of their own.
std::optional<QuantArgs> grid_of_blocks(BlockType type);

/// The same values under grid_of_blocks(*blocks.args.block), scales in `out` as float16 (MXFP4: powers of two). Throws
/// Error{unsupported, "NotExact"} for a minimum of Q4_1 that is no whole multiple of its scale within -15..0, and for
/// scales that are not finite.
void unpack_blocks(const QuantizedTensor& blocks, QuantizedTensor& out);

}  // namespace quant::convert
