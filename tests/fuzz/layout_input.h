// Reading of checkpoints in one layout, for the fuzz targets of layouts. Input: config.json's quantization_config, a
// line "---", lines
// "<tensor> <dtype> <size>,<size>", a line "---", and the tensors' bytes in that order (zeros where they run out).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "quant/error.h"
#include "quant/registry.h"
#include "support/memory_checkpoint.h"

namespace quant::fuzz {

inline constexpr std::uint64_t kMaxBytes = 1 << 20;
inline constexpr const char* kMark = "\n---\n";

inline const Layout& layout_named(const char* name) {
  static const quant::Registry registry = [] {
    quant::Registry filled;
    quant::register_builtin_formats(filled);
    return filled;
  }();
  return *registry.layout(name);
}

/// Cuts everything before the next mark off the front of `text`.
inline std::string next_part(std::string& text) {
  const std::size_t end = text.find(kMark);
  std::string part = text.substr(0, end);
  text = end == std::string::npos ? std::string() : text.substr(end + std::string(kMark).size());
  return part;
}

inline void add_tensors(const std::string& table, const std::string& data, quant::test::MemoryCheckpoint& checkpoint) {
  std::istringstream lines(table);
  std::uint64_t used = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name;
    std::string type;
    fields >> name >> type;
    const auto dtype = quant::parse_dtype(type);
    if (!dtype) continue;
    quant::Shape shape;
    for (std::uint64_t size = 0; shape.size() < 8 && fields >> size; fields.ignore(1)) shape.push_back(size);
    const std::uint64_t bytes = quant::byte_count(*dtype, shape);
    if (bytes > kMaxBytes - used) continue;
    std::vector<std::byte> content(bytes);
    for (std::uint64_t i = 0; i < bytes && used + i < data.size(); ++i) {
      content[i] = static_cast<std::byte>(data[used + i]);
    }
    used += bytes;
    checkpoint.set(name, *dtype, shape, content);
  }
}

inline void read_everything(const Layout& layout, const quant::test::MemoryCheckpoint& checkpoint) {
  quant::QuantizedTensor rows;
  for (const auto& linear : layout.find_linears(checkpoint)) {
    const std::uint64_t step = layout.read_alignment(linear);
    std::vector<float> values(linear.shape.cols);
    for (std::uint64_t first = 0; first < linear.shape.rows; first += step) {
      layout.read_rows(checkpoint, linear, first, std::min(step, linear.shape.rows - first), rows);
      quant::dequantize_row(rows, 0, values);
      if (step > linear.shape.rows) break;  // and no overflow of `first`
    }
  }
}

inline int read_input(const Layout& layout, const std::uint8_t* data, std::size_t size) {
  std::string text(reinterpret_cast<const char*>(data), size);
  quant::test::MemoryCheckpoint checkpoint;
  checkpoint.mutable_config().quantization_config = next_part(text);
  try {
    const std::string table = next_part(text);
    add_tensors(table, text, checkpoint);
    layout.recognizes(checkpoint.config());
    quant::ModelConfig model;
    model.text = checkpoint.config().quantization_config;
    layout.config_json(model, {}, {});
  } catch (const quant::Error&) {  // hostile text; the tensors may still be read
  }
  try {
    read_everything(layout, checkpoint);
  } catch (const quant::Error&) {
  }
  return 0;
}

}  // namespace quant::fuzz
