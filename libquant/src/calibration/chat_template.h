// Conversations as texts.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "quant/calibration_data.h"

namespace quant::calibration {

/// The text of a list of messages {"role": ..., "content": ...}; content is a string, null (nothing), or a list of
/// parts
/// {"type": "text", "text": ...}. `where` names it in errors. Throws Error{corrupt_file}.
std::string join_messages(const nlohmann::json& messages, const ChatTemplate& chat, const std::string& where);

}  // namespace quant::calibration
