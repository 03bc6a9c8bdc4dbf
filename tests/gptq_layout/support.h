// Golden files of GPTQ and AWQ packers, and random tensors of such schemes in memory.
#pragma once

#include <fstream>

#include "native_layout/support.h"
#include "support/golden.h"

namespace quant::test {

/// The list of cases that make_golden.py put into a file's metadata under `key`.
inline nlohmann::json golden_list(const std::filesystem::path& path, const std::string& key) {
  const std::string bytes = read_file(path);
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, size));
  return nlohmann::json::parse(header.at("__metadata__").at(key).get<std::string>());
}

inline std::filesystem::path golden_path(const char* name) {
  return std::filesystem::path(QUANT_SOURCE_DIR) / "tests/gptq_layout/golden" / name;
}

inline QuantArgs integer_args(int bits, bool symmetric, std::int64_t group) {
  QuantArgs args;
  args.num_bits = bits;
  args.symmetric = symmetric;
  args.strategy = group > 0 ? Strategy::group : Strategy::channel;
  if (group > 0) args.group_size = group;
  return args;
}

inline Scheme scheme_of(const QuantArgs& args) {
  Scheme scheme;
  scheme.targets = {"Linear"};
  scheme.weights = args;
  return scheme;
}

/// Everything that a layout says of the one linear of a checkpoint.
struct ReadBack {
  StoredLinear linear;
  QuantizedTensor tensor;
};
inline ReadBack read_back(const Layout& layout, const Checkpoint& checkpoint) {
  const auto linears = layout.find_linears(checkpoint);
  REQUIRE(linears.size() == 1);
  ReadBack result{linears[0], {}};
  layout.read_rows(checkpoint, linears[0], 0, linears[0].shape.rows, result.tensor);
  return result;
}

/// Codes, zero points and scales of the golden case `name` as our own tensor.
inline QuantizedTensor golden_tensor(const GoldenFile& golden, const std::string& name, const nlohmann::json& item,
                                     int bits) {
  QuantizedTensor tensor;
  const std::uint64_t rows = item.at("rows"), cols = item.at("cols");
  tensor.resize(integer_args(bits, item.at("symmetric"), item.at("group")), rows, cols);
  tensor.scale_dtype = DType::F16;
  tensor.codes = golden.values<std::int8_t>(name + ".codes");
  if (!tensor.args.symmetric) tensor.zero_points = golden.values<std::int8_t>(name + ".zeros");
  return tensor;
}

}  // namespace quant::test
