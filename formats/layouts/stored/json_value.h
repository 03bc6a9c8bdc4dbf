// JSON from files that nobody vouches for: bounded depth, and every failure an Error that says where.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace quant::stored {

/// Parses JSON text with at most kMaxJsonDepth levels. Throws Error{corrupt_file} naming `what`.
inline constexpr int kMaxJsonDepth = 64;
nlohmann::ordered_json parse_json(std::string_view text, std::string_view what);

}  // namespace quant::stored
