#include "containers/gguf/metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant/error.h"

namespace quant::gguf {
namespace {

template <class Number>
std::string raw(Number number) {
  std::string bytes(sizeof number, '\0');
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

template <class Number>
Number number_at(const std::string& bytes) {
  Number number{};
  if (bytes.size() == sizeof number) std::memcpy(&number, bytes.data(), sizeof number);
  return number;
}

std::optional<std::int64_t> whole_of(const Value& value) {
  switch (value.type) {
    case ValueType::u8:
      return number_at<std::uint8_t>(value.bytes);
    case ValueType::i8:
      return number_at<std::int8_t>(value.bytes);
    case ValueType::u16:
      return number_at<std::uint16_t>(value.bytes);
    case ValueType::i16:
      return number_at<std::int16_t>(value.bytes);
    case ValueType::u32:
      return number_at<std::uint32_t>(value.bytes);
    case ValueType::i32:
      return number_at<std::int32_t>(value.bytes);
    case ValueType::i64:
      return number_at<std::int64_t>(value.bytes);
    case ValueType::u64: {
      const auto number = number_at<std::uint64_t>(value.bytes);
      if (number > static_cast<std::uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<std::int64_t>(number);
    }
    default:
      return std::nullopt;
  }
}

template <class Number>
Value numbers_value(std::span<const Number> numbers, ValueType element) {
  Value value{ValueType::array, std::string(numbers.size_bytes(), '\0'), element, numbers.size()};
  if (!numbers.empty()) std::memcpy(value.bytes.data(), numbers.data(), numbers.size_bytes());
  return value;
}

}  // namespace

std::uint64_t value_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean:
      return 1;
    case ValueType::u16:
    case ValueType::i16:
      return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32:
      return 4;
    case ValueType::u64:
    case ValueType::i64:
    case ValueType::f64:
      return 8;
    case ValueType::text:
    case ValueType::array:
      return 0;
  }
  return 0;
}

Value u32_value(std::uint64_t number) {
  if (number > UINT32_MAX) throw Error(ErrorCode::usage, fmt::format("{} does not fit a 32-bit key of GGUF", number));
  return {ValueType::u32, raw(static_cast<std::uint32_t>(number))};
}
Value f32_value(double number) { return {ValueType::f32, raw(static_cast<float>(number))}; }
Value bool_value(bool flag) { return {ValueType::boolean, std::string(1, flag ? '\1' : '\0')}; }
Value text_value(std::string text) { return {ValueType::text, std::move(text)}; }

Value texts_value(std::span<const std::string> texts) {
  Value value{ValueType::array, {}, ValueType::text, texts.size()};
  for (const std::string& text : texts) value.bytes += raw(static_cast<std::uint64_t>(text.size())) + text;
  return value;
}
Value f32s_value(std::span<const float> numbers) { return numbers_value(numbers, ValueType::f32); }
Value i32s_value(std::span<const std::int32_t> numbers) { return numbers_value(numbers, ValueType::i32); }

const Value* find_value(const Metadata& metadata, std::string_view key) {
  const auto found = std::ranges::find(metadata, key, &Metadata::value_type::first);
  return found == metadata.end() ? nullptr : &found->second;
}

std::optional<std::uint64_t> natural_of(const Value* value) {
  if (value == nullptr) return std::nullopt;
  const auto whole = whole_of(*value);
  if (!whole || *whole < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*whole);
}

std::optional<double> number_of(const Value* value) {
  if (value == nullptr) return std::nullopt;
  if (value->type == ValueType::f32) return static_cast<double>(number_at<float>(value->bytes));
  if (value->type == ValueType::f64) return number_at<double>(value->bytes);
  const auto whole = whole_of(*value);
  return whole ? std::optional(static_cast<double>(*whole)) : std::nullopt;
}

std::optional<std::string> text_of(const Value* value) {
  return value != nullptr && value->type == ValueType::text ? std::optional(value->bytes) : std::nullopt;
}

std::optional<bool> bool_of(const Value* value) {
  if (value == nullptr || value->type != ValueType::boolean) return std::nullopt;
  return value->bytes != std::string(1, '\0');
}

std::vector<std::string> texts_of(const Value* value) {
  std::vector<std::string> texts;
  if (value == nullptr || value->type != ValueType::array || value->element != ValueType::text) return texts;
  std::size_t at = 0;
  while (value->bytes.size() - at >= 8) {
    std::uint64_t length = 0;
    std::memcpy(&length, value->bytes.data() + at, 8);
    at += 8;
    if (length > value->bytes.size() - at) break;
    texts.push_back(value->bytes.substr(at, length));
    at += length;
  }
  return texts;
}

std::string describe(const Value& value) {
  if (value.type == ValueType::text) return value.bytes;
  if (value.type == ValueType::array) {
    return fmt::format("array of {} {}", value.count, value.element == ValueType::text ? "texts" : "numbers");
  }
  if (const auto flag = bool_of(&value)) return *flag ? "true" : "false";
  if (value.type == ValueType::u64) return fmt::format("{}", number_at<std::uint64_t>(value.bytes));
  if (const auto whole = whole_of(value)) return fmt::format("{}", *whole);
  if (value.type == ValueType::f32) return fmt::format("{}", number_at<float>(value.bytes));
  return fmt::format("{}", number_of(&value).value_or(0));
}

}  // namespace quant::gguf
