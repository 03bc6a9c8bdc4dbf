#include "layouts/stored/json_value.h"

#include <fmt/format.h>

#include "quant/error.h"

namespace quant::stored {

nlohmann::ordered_json parse_json(std::string_view text, std::string_view what) {
  using Json = nlohmann::ordered_json;
  // Values are printed and copied by recursion, so depth is bounded while parsing.
  const Json::parser_callback_t check_depth = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxJsonDepth) {
      throw Error(ErrorCode::corrupt_file, fmt::format("{} is nested deeper than {} levels", what, kMaxJsonDepth));
    }
    return true;
  };
  try {
    return Json::parse(text, check_depth);
  } catch (const Json::exception& problem) {
    throw Error(ErrorCode::corrupt_file, fmt::format("{} is not valid JSON: {}", what, problem.what()));
  }
}

}  // namespace quant::stored
