// Scales that are themselves coded with 8 bits (QuantArgs::double_quant), as in bitsandbytes.
#pragma once

#include <cstdint>
#include <span>

#include "quant/quantized_tensor.h"

namespace quant {

/// The 256 ascending values of bitsandbytes' signed dynamic map: create_dynamic_map(signed=True, 7, 8). Float32.
std::span<const float> dynamic_scale_map();

/// Codes `scales`, in blocks of CodedScales::kBlock from the first, with a given offset: out.scales[b] is the largest
/// |scale - offset| of a block, codes are the nearest entries of the map. Source: bitsandbytes, quantize_blockwise of
/// `absmax - offset`.
void code_scales(std::span<const float> scales, float offset, CodedScales& out);

}  // namespace quant
