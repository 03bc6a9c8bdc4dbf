// The library's version.
#pragma once

#include <string_view>

namespace quant {

/// "0.1.0".
std::string_view version();

}  // namespace quant
