#include "layouts/bitsandbytes/quant_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "layouts/stored/json_value.h"
#include "quant/error.h"

namespace quant::bitsandbytes {
namespace {

using Json = nlohmann::ordered_json;
using stored::parse_json;

constexpr std::uint64_t kOffsetDigits = 24;  // the longest shortest form of a double

[[noreturn]] void fail(const std::string& tensor, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("tensor {}: {}", tensor, problem), "", "BadQuantState");
}

std::string shortest(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  std::string result(text.data(), end);
  if (result.find_first_of(".en") == std::string::npos) result += ".0";
  return result;
}

std::string unpadded(const QuantArgs& args, const LinearShape& linear, const std::string& offset) {
  std::string text =
      fmt::format(R"({{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}, {}])",
                  to_string(args.codebook), *args.group_size, torch_dtype_name(linear.dtype), linear.rows, linear.cols);
  if (args.double_quant) {
    text += fmt::format(R"(, "nested_blocksize": {}, "nested_dtype": "float32", "nested_offset": {})", kNestedBlock,
                        offset);
  }
  return text + "}";
}

const Json& member(const Json& json, const char* key, const std::string& tensor) {
  const auto found = json.find(key);
  if (found == json.end()) fail(tensor, fmt::format("has no '{}'", key));
  return *found;
}

std::uint64_t natural(const Json& json, const char* key, const std::string& tensor) {
  constexpr std::uint64_t kLargest = std::uint64_t{1} << 48;
  if (!json.is_number_unsigned() || json.get<std::uint64_t>() == 0 || json.get<std::uint64_t>() > kLargest) {
    fail(tensor, fmt::format("'{}' is not a positive whole number", key));
  }
  return json.get<std::uint64_t>();
}

void read_nested(const Json& json, const std::string& tensor, QuantState& state) {
  if (!json.contains("nested_offset")) return;
  state.args.double_quant = true;
  const std::uint64_t block = natural(member(json, "nested_blocksize", tensor), "nested_blocksize", tensor);
  if (block != kNestedBlock) {
    throw Error(ErrorCode::unsupported,
                fmt::format("tensor {}: nested_blocksize is {}; {} can be read", tensor, block, kNestedBlock));
  }
  const Json& offset = json["nested_offset"];
  if (!offset.is_number()) fail(tensor, "'nested_offset' is not a number");
  state.nested_offset = offset.get<float>();
  if (!std::isfinite(state.nested_offset)) fail(tensor, "'nested_offset' is not a finite number");
}

}  // namespace

std::string state_suffix(Codebook codebook) {
  return fmt::format(".weight.quant_state.bitsandbytes__{}", to_string(codebook));
}

std::uint64_t state_bytes(const QuantArgs& args, const LinearShape& linear) {
  return unpadded(args, linear, std::string(kOffsetDigits, '0')).size();
}

std::string state_text(const QuantArgs& args, const LinearShape& linear, float nested_offset) {
  std::string text = unpadded(args, linear, shortest(static_cast<double>(nested_offset)));
  text.resize(state_bytes(args, linear), ' ');
  return text;
}

QuantState parse_state(const std::string& text, const std::string& module, Codebook codebook,
                       const std::string& tensor) {
  const Json json = parse_json(text, tensor);
  if (!json.is_object()) fail(tensor, "is not a JSON object");
  QuantState state;
  state.args.type = NumberType::codebook;
  state.args.num_bits = 4;
  state.args.codebook = codebook;
  if (member(json, "quant_type", tensor) != to_string(codebook)) fail(tensor, "'quant_type' contradicts its name");
  const Json& shape = member(json, "shape", tensor);
  if (!shape.is_array() || shape.size() != 2) {
    throw Error(ErrorCode::unsupported, fmt::format("tensor {}: only matrices can be read", tensor));
  }
  state.shape.module = module;
  state.shape.rows = natural(shape[0], "shape", tensor);
  state.shape.cols = natural(shape[1], "shape", tensor);
  checked_mul(state.shape.rows, state.shape.cols, tensor);
  const std::uint64_t block = natural(member(json, "blocksize", tensor), "blocksize", tensor);
  state.args.group_size = static_cast<std::int64_t>(block);
  // Blocks that end with the rows are groups; others run across rows.
  state.args.strategy = state.shape.cols % block == 0 ? Strategy::group : Strategy::flat;
  const Json& dtype = member(json, "dtype", tensor);
  const auto type = dtype.is_string() ? parse_torch_dtype(dtype.get<std::string>()) : std::nullopt;
  if (type != DType::F32 && type != DType::F16 && type != DType::BF16) fail(tensor, "'dtype' is no type of weights");
  state.shape.dtype = *type;
  read_nested(json, tensor, state);
  const auto problems = complete_and_check(state.args, true);
  if (!problems.empty()) fail(tensor, problems.front());
  return state;
}

}  // namespace quant::bitsandbytes
