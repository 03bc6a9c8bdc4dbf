#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "containers/io/text.h"
#include "containers/safetensors/header.h"
#include "quant/error.h"

namespace quant::safetensors {
namespace {

using io::has_control_character;
using io::in_quotes;
using io::is_utf8;

constexpr std::uint64_t kAlignment = 8;

[[noreturn]] void refuse(const std::string& message, const char* kind) {
  throw Error(ErrorCode::usage, message, "Fix the caller: no reader would accept such a file.", kind);
}

[[noreturn]] void refuse_size() {
  throw Error(ErrorCode::unsupported,
              fmt::format("The header of a safetensors file would be larger than {} bytes.", kMaxHeaderBytes),
              "Use smaller shards, or less metadata.", "HeaderTooLarge");
}

std::string json_string(const std::string& text) {
  if (!is_utf8(text)) refuse(fmt::format("The text {} is not UTF-8.", in_quotes(text)), "InvalidHeader");
  return nlohmann::json(text).dump();
}

void check_tensor(const StoredTensor& tensor) {
  if (tensor.name.empty() || tensor.name == "__metadata__" || has_control_character(tensor.name)) {
    refuse(fmt::format("{} cannot be the name of a tensor.", in_quotes(tensor.name)), "InvalidName");
  }
  if (tensor.shape.size() > kMaxRank) {
    refuse(fmt::format("Tensor {} has {} dimensions; the limit is {}.", in_quotes(tensor.name), tensor.shape.size(),
                       kMaxRank),
           "RankTooLarge");
  }
  std::uint64_t bits = dtype_bits(tensor.dtype);
  bool empty = false;
  for (const std::uint64_t size : tensor.shape) {
    empty = empty || size == 0;
    if (size != 0 && __builtin_mul_overflow(bits, size, &bits)) {
      refuse(fmt::format("Tensor {} of shape {} is larger than 64 bits can count.", in_quotes(tensor.name),
                         to_string(tensor.shape)),
             "ValidationOverflow");
    }
  }
  if (!empty && bits % 8 != 0) {
    refuse(fmt::format("Tensor {} of type {} and shape {} does not fill whole bytes.", in_quotes(tensor.name),
                       dtype_name(tensor.dtype), to_string(tensor.shape)),
           "MisalignedSlice");
  }
}

void append_metadata(std::string& text, Metadata metadata) {
  std::sort(metadata.begin(), metadata.end());
  const auto same = std::adjacent_find(metadata.begin(), metadata.end(),
                                       [](const auto& a, const auto& b) { return a.first == b.first; });
  if (same != metadata.end())
    refuse(fmt::format("The metadata key {} is given twice.", in_quotes(same->first)), "DuplicateKey");
  text += "\"__metadata__\":{";
  const char* separator = "";
  for (const auto& [key, value] : metadata) {
    if (text.size() + key.size() + value.size() > kMaxHeaderBytes) refuse_size();
    text += separator + json_string(key) + ':' + json_string(value);
    if (text.size() > kMaxHeaderBytes) refuse_size();
    separator = ",";
  }
  text += '}';
}

void append_tensor(std::string& text, const StoredTensor& tensor, std::uint64_t begin, std::uint64_t end) {
  text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", json_string(tensor.name),
                      dtype_name(tensor.dtype), fmt::join(tensor.shape, ","), begin, end);
  if (text.size() > kMaxHeaderBytes) refuse_size();
}

}  // namespace

std::string make_header(const std::vector<StoredTensor>& tensors, const Metadata& metadata) {
  std::string text = "{";
  if (!metadata.empty()) append_metadata(text, metadata);
  std::set<std::string_view> names;
  std::uint64_t begin = 0;
  for (const StoredTensor& tensor : tensors) {
    check_tensor(tensor);
    if (!names.insert(tensor.name).second) {
      refuse(fmt::format("The tensor {} is given twice.", in_quotes(tensor.name)), "DuplicateKey");
    }
    const std::uint64_t end = checked_add(begin, tensor.bytes(), "end of tensor " + in_quotes(tensor.name));
    if (text.size() > 1) text += ',';
    append_tensor(text, tensor, begin, end);
    begin = end;
  }
  text += '}';
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  if (text.size() > kMaxHeaderBytes) refuse_size();

  const std::uint64_t length = text.size();
  std::array<char, kLengthBytes> field{};
  std::memcpy(field.data(), &length, sizeof length);
  return std::string(field.data(), field.size()) + text;
}

}  // namespace quant::safetensors
