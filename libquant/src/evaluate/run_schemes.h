// How a checkpoint's linears and attention quantize what they read when they run.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "quant/forward.h"
#include "quant/logical_tensors.h"

namespace quant::evaluate {

/// Quantizers of the inputs of linears, by module. Throws Error{unsupported} naming checkpoint and linear for schemes
/// that cannot be computed here, and Error{corrupt_file} naming checkpoint and tensor for stored scales and zero points
/// that are missing or mean nothing.
std::map<std::string, InputQuantizer> input_quantizers(const LogicalTensors& tensors);

struct StoredCache {
  KvQuantizer kv;             ///< scales are still 0: see with_scales
  bool needs_scales = false;  ///< static scales of integers: without them the scheme means nothing
};
/// The checkpoint's own KV-cache scheme, or nothing.
std::optional<StoredCache> stored_kv_scheme(const LogicalTensors& tensors);
/// `kv` with the static scales "<attention>.k_scale" and ".v_scale" of one attention module, where its scales are per
/// tensor and the checkpoint has them; without them FP8 gets 1 and integers stay dynamic. Throws Error{corrupt_file}
/// for scales that are no positive number, and for missing ones that are needed.
KvQuantizer with_scales(const KvQuantizer& kv, const LogicalTensors& tensors, const std::string& attention,
                        bool needs_scales);

}  // namespace quant::evaluate
