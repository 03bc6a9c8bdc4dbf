// Scales of a quantized cache of keys and values.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::compressed_tensors {

/// Why a cache of such numbers has no static scales in this layout, or nothing.
std::optional<std::string> why_unsupported_kv(const QuantArgs& args);
/// "<attention>.k_scale" and "<attention>.v_scale", of the type of the module's weights, shape [1].
std::vector<StoredTensor> stored_kv(const QuantArgs& args, const std::string& attention, DType dtype);
void write_kv(const QuantArgs& args, const std::string& attention, DType dtype, const KvScales& scales,
              StoredBytesSink& sink);
std::vector<StoredKv> find_kv(const Checkpoint& checkpoint);

}  // namespace quant::compressed_tensors
