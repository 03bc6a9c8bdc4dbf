// --kv-cache: how keys and values are quantized.
#pragma once

#include <optional>
#include <string>

#include "quant/forward.h"

namespace quant::cli {

/// "int4", "int2,group=64,residual=128,keys=token", "fp8"; nothing for "none". Throws Error{usage} that names what is
/// wrong.
std::optional<KvQuantizer> parse_kv_cache(const std::string& text);
/// "int4, keys per channel, values per token, groups of 32, newest 32 float".
std::string describe_kv_cache(const KvQuantizer& kv);

}  // namespace quant::cli
