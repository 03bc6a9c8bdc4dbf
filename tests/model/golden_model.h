// The tiny models of make_golden.py and what Transformers computes for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/open.h"
#include "support/memory_checkpoint.h"

namespace quant::test {

/// The values of a tensor, computed as make_golden.py's `fill` does.
inline std::vector<float> golden_weights(const std::string& name, const Shape& shape) {
  std::uint64_t state = 14695981039346656037U;
  for (const char c : name) state = (state ^ static_cast<unsigned char>(c)) * 1099511628211U;
  std::vector<float> values(element_count(shape));
  const bool row = shape.size() == 1;
  const double base = row && (name.ends_with(".weight") || name.ends_with(".gamma")) ? 1.0 : 0.0;
  const double scale = row ? 0.25 : std::sqrt(3.0 / static_cast<double>(shape.back()));
  for (float& value : values) {
    state += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    z ^= z >> 31U;
    value = static_cast<float>(base + (std::ldexp(static_cast<double>(z >> 40U), -23) - 1.0) * scale);
  }
  return values;
}

struct GoldenModel {
  std::string name;
  MemoryCheckpoint checkpoint;
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<float>> outputs;

  void set_config(const nlohmann::json& config) {
    checkpoint.mutable_config() = parse_model_config(config.dump(), "config.json");
  }
  nlohmann::json config() const { return nlohmann::json::parse(checkpoint.config().text); }
};

inline std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(GOLDEN_DIR)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

template <typename T>
std::vector<T> stored_values(const Checkpoint& file, const std::string& name) {
  const TensorView view = file.view(*file.find(name));
  std::vector<T> values(view.bytes.size() / sizeof(T));
  std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
  return values;
}

inline std::unique_ptr<GoldenModel> golden_model(const std::string& name) {
  const auto file = open_checkpoint(std::filesystem::path(GOLDEN_DIR) / (name + ".safetensors"));
  auto model = std::make_unique<GoldenModel>();
  model->name = name;
  for (const auto& [key, text] : file->files().at(0).metadata) {
    const auto json = key == "made_with" ? nlohmann::json() : nlohmann::json::parse(text);
    if (key == "config") model->set_config(json);
    if (key != "tensors") continue;
    for (const auto& [tensor, shape] : json.items()) {
      model->checkpoint.set_values(tensor, DType::F32, shape.get<Shape>(), golden_weights(tensor, shape.get<Shape>()));
    }
  }
  for (const char* i : {"0", "1"}) {
    model->ids.push_back(stored_values<std::int32_t>(*file, std::string("ids.") + i));
    model->outputs.push_back(stored_values<float>(*file, std::string("output.") + i));
  }
  return model;
}

/// max |a - b| / max |b|.
template <typename A, typename B>
double relative_error(const std::vector<A>& a, const std::vector<B>& b) {
  double difference = 0;
  double largest = 0;
  if (a.size() != b.size()) return HUGE_VAL;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    difference = d > difference || std::isnan(d) ? d : difference;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return difference / largest;
}

}  // namespace quant::test
