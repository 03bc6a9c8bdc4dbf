#include "structured/parameters.h"

#include <fmt/format.h>

#include <cmath>

#include "quant/error.h"

namespace quant::structured_pruning {

const KwValue* Reader::find(const std::string& name) const {
  const auto at = parameters_.find(name);
  return at == parameters_.end() ? nullptr : &at->second;
}

double Reader::number(const std::string& name, double absent) const {
  const KwValue* value = find(name);
  if (value == nullptr) return absent;
  if (const auto* real = std::get_if<double>(value)) return *real;
  if (const auto* integer = std::get_if<std::int64_t>(value)) return static_cast<double>(*integer);
  throw Error(ErrorCode::usage, fmt::format("{}: expected a number", name));
}

bool Reader::flag(const std::string& name, bool absent) const {
  const KwValue* value = find(name);
  const auto* flag = value == nullptr ? nullptr : std::get_if<bool>(value);
  return flag == nullptr ? absent : *flag;
}

std::string Reader::text(const std::string& name, const std::string& absent) const {
  const KwValue* value = find(name);
  if (value == nullptr) return absent;
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  if (const auto* flag = std::get_if<bool>(value)) return *flag ? "true" : "false";
  throw Error(ErrorCode::usage, fmt::format("{}: expected a word", name));
}

CutAmount Reader::amount(const std::string& name) const {
  const double value = number(name, 0);
  const bool whole = std::floor(value) == value && value <= 1e9;
  if (value >= 0 && (value < 1 || whole)) return {value};
  throw Error(ErrorCode::usage,
              fmt::format("{}: {:g} is neither a fraction from 0 to 1 nor a whole number of units", name, value));
}

std::uint64_t Reader::divisor(const std::string& name, std::uint64_t absent) const {
  const double value = number(name, static_cast<double>(absent));
  if (value >= 0 && value <= 1e6 && std::floor(value) == value) return static_cast<std::uint64_t>(value);
  throw Error(ErrorCode::usage, fmt::format("{}: {:g} is no whole number from 0 to 1000000", name, value));
}

void Reader::refuse_word(const std::string& name, const std::string& found, const std::string& known) {
  throw Error(ErrorCode::usage, fmt::format("{}: there is no '{}'; known are {}", name, found, known));
}

}  // namespace quant::structured_pruning
