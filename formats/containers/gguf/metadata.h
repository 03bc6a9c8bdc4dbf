// Key-value pairs of GGUF files.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quant::gguf {

/// As files number them.
enum class ValueType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  text = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12
};

/// Bytes of one number; 0 for texts, arrays and types that do not exist.
std::uint64_t value_bytes(ValueType type);

/// A value in the form that files have: a number's bytes, a text's, or those of an array's elements one after the
/// other (texts with their lengths in front). So what a file says takes no more memory than it has bytes.
struct Value {
  ValueType type = ValueType::u32;
  std::string bytes;
  ValueType element = ValueType::u8;  ///< of arrays
  std::uint64_t count = 0;            ///< of arrays
};

using Metadata = std::vector<std::pair<std::string, Value>>;

Value u32_value(std::uint64_t number);  ///< throws Error{usage} past 32 bits
Value f32_value(double number);
Value bool_value(bool flag);
Value text_value(std::string text);
Value texts_value(std::span<const std::string> texts);
Value f32s_value(std::span<const float> numbers);
Value i32s_value(std::span<const std::int32_t> numbers);

const Value* find_value(const Metadata& metadata, std::string_view key);
/// What the value says, or nothing where it is of another kind (negative, not whole, no number, no text).
std::optional<std::uint64_t> natural_of(const Value* value);
std::optional<double> number_of(const Value* value);
std::optional<std::string> text_of(const Value* value);
std::optional<bool> bool_of(const Value* value);
/// Elements of an array of texts; empty for other values.
std::vector<std::string> texts_of(const Value* value);
/// For people: "32", "llama", "array of 4096 texts".
std::string describe(const Value& value);

}  // namespace quant::gguf
