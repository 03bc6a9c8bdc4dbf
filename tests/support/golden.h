// Reader of golden files: safetensors written by our own scripts, trusted, read whole. See
// tests/compressed_tensors/golden/README.md for the schema.
#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "quant/scheme.h"
#include "quant/tensor.h"
#include "support/temp_dir.h"

namespace quant::test {

/// QuantizationArgs as the Python package prints them.
inline QuantArgs golden_args(const nlohmann::json& json) {
  QuantArgs args;
  args.num_bits = json.at("num_bits");
  args.type = json.at("type") == "float" ? NumberType::floating : NumberType::integer;
  args.symmetric = json.at("symmetric");
  for (const auto strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block, Strategy::token,
                              Strategy::tensor_group}) {
    if (json.at("strategy") == std::string(to_string(strategy))) args.strategy = strategy;
  }
  if (!json.at("group_size").is_null()) args.group_size = json.at("group_size").get<std::int64_t>();
  if (!json.at("block_structure").is_null()) {
    args.block_structure = json.at("block_structure").get<std::array<std::uint64_t, 2>>();
  }
  if (json.at("dynamic") == true) args.dynamic = Dynamic::yes;
  if (!json.at("scale_dtype").is_null())
    args.scale_dtype = parse_torch_dtype(json.at("scale_dtype").get<std::string>());
  return args;
}

struct GoldenCase {
  std::string name;
  std::string weight;  ///< name of the weight tensor
  DType weight_dtype = DType::F32;
  std::string format;
  Scheme scheme;
  std::vector<std::string> stored;  ///< suffixes
};

class GoldenFile {
 public:
  explicit GoldenFile(const std::filesystem::path& path) : bytes_(read_file(path)) {
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, bytes_.data(), 8);
    const auto header = nlohmann::json::parse(bytes_.substr(8, header_bytes));
    for (const auto& [name, item] : header.items()) {
      if (name == "__metadata__") continue;
      const std::uint64_t begin = item.at("data_offsets").at(0);
      const std::uint64_t end = item.at("data_offsets").at(1);
      TensorView view{*parse_dtype(item.at("dtype").get<std::string>()), item.at("shape").get<Shape>(), {}};
      view.bytes = std::as_bytes(std::span(bytes_)).subspan(8 + header_bytes + begin, end - begin);
      tensors_.emplace(name, view);
    }
    for (const auto& item : nlohmann::json::parse(header.at("__metadata__").at("cases").get<std::string>())) {
      add_case(item);
    }
  }
  GoldenFile(const GoldenFile&) = delete;
  GoldenFile& operator=(const GoldenFile&) = delete;

  const std::vector<GoldenCase>& cases() const { return cases_; }
  const GoldenCase& find_case(const std::string& name) const {
    for (const auto& item : cases_) {
      if (item.name == name) return item;
    }
    throw std::runtime_error("no golden case " + name);
  }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const TensorView& tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw std::runtime_error("no golden tensor " + name);
    return found->second;
  }
  /// The elements as T, whose size must be that of the stored type.
  template <typename T>
  std::vector<T> values(const std::string& name) const {
    const TensorView& view = tensor(name);
    std::vector<T> out(element_count(view.shape));
    if (view.bytes.size() != out.size() * sizeof(T)) throw std::runtime_error(name + " is of another type");
    if (!out.empty()) std::memcpy(out.data(), view.bytes.data(), view.bytes.size());
    return out;
  }

 private:
  void add_case(const nlohmann::json& item) {
    GoldenCase golden{item.at("name"), item.at("weight"), DType::F32, item.at("format"), {}, item.at("stored")};
    golden.weight_dtype = *parse_torch_dtype(item.at("weight_dtype").get<std::string>());
    golden.scheme.targets = {"Linear"};
    golden.scheme.weights = golden_args(item.at("weights"));
    if (!item.at("input_activations").is_null()) {
      golden.scheme.input_activations = golden_args(item.at("input_activations"));
    }
    cases_.push_back(std::move(golden));
  }

  std::string bytes_;
  std::map<std::string, TensorView> tensors_;
  std::vector<GoldenCase> cases_;
};

inline const GoldenFile& compressed_tensors_golden() {
  static const GoldenFile file(std::filesystem::path(QUANT_SOURCE_DIR) /
                               "tests/compressed_tensors/golden/golden.safetensors");
  return file;
}

}  // namespace quant::test
