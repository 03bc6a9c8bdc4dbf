// Looks into texts.
#pragma once

#include <string>

namespace quant::test {

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace quant::test
