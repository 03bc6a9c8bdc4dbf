// The layout "gguf": matrices of GGUF files, as the container presents them. It is read only; files are written by
// export_gguf (quant/gguf.h).
#include <fmt/format.h>

#include <cstring>

#include "containers/gguf/architectures.h"
#include "layouts/stored/json_value.h"
#include "layouts/stored/tensor_parts.h"
#include "quant/error.h"
#include "quant/registry.h"

namespace quant {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kWhere = "quantization_config of a GGUF file";

[[noreturn]] void fail(const std::string& module, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{}: {} {}", kWhere, module, problem), "", "BadQuantizationConfig");
}

std::uint64_t natural(const std::string& module, const Json& entry, const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() > (std::uint64_t{1} << 48U)) {
    fail(module, fmt::format("has no whole number '{}'", key));
  }
  return found->get<std::uint64_t>();
}

struct Entry {
  StoredLinear linear;
  std::uint64_t heads = 0;        ///< rotary pairs are interleaved
  std::uint64_t fused_heads = 0;  ///< q, k and v of a head follow each other in the model
};

Entry read_entry(const std::string& module, const Json& json) {
  if (!json.is_object() || !json.contains("type") || !json["type"].is_string()) fail(module, "has no type");
  const BlockFormat* format = find_block_format(json["type"].get<std::string>());
  if (format == nullptr) fail(module, "is of an unknown type");
  Entry entry;
  entry.linear.shape = {module, natural(module, json, "rows"), natural(module, json, "cols"), DType::F32};
  entry.linear.args = block_args(format->type);
  entry.linear.scale_dtype = DType::F16;
  entry.linear.format = std::string(format->name);
  entry.linear.tensors = {module + ".weight"};
  const LinearShape& shape = entry.linear.shape;
  checked_mul(shape.rows, shape.cols, module);
  if (shape.rows == 0 || shape.cols == 0 || shape.cols % format->weights != 0) fail(module, "has no whole blocks");
  if (json.contains("heads")) entry.heads = natural(module, json, "heads");
  if (entry.heads != 0 && (shape.rows % entry.heads != 0 || shape.rows / entry.heads % 2 != 0)) {
    fail(module, "has rows that are no whole heads");
  }
  if (json.contains("fused_heads")) entry.fused_heads = natural(module, json, "fused_heads");
  if (entry.fused_heads != 0 && (shape.rows % entry.fused_heads != 0 || shape.rows / entry.fused_heads % 3 != 0)) {
    fail(module, "has rows that are no q, k and v of whole heads");
  }
  return entry;
}

Json tensors_of(const ModelConfig& config) {
  const Json json = stored::parse_json(config.quantization_config, kWhere);
  if (!json.is_object() || !json.contains("tensors") || !json["tensors"].is_object()) fail("it", "lists no tensors");
  return json["tensors"];
}

class GgufLayout final : public Layout {
 public:
  std::string_view name() const override { return "gguf"; }
  DType scale_dtype(const QuantArgs&, DType) const override { return DType::F16; }
  std::optional<std::string> unsupported(const Scheme&, const LinearShape&) const override {
    return std::string(
        "the layout gguf is read, not written tensor by tensor; run with --layout libquant and convert "
        "the result with `quant convert DIR --to gguf`");
  }
  std::string format_of(const Scheme&) const override { return "gguf"; }
  std::vector<StoredTensor> stored(const Scheme&, const LinearShape&) const override { return {}; }
  std::uint64_t row_alignment(const Scheme&) const override { return 1; }
  void write_rows(const Scheme&, const LinearShape& linear, std::uint64_t, const QuantizedTensor&,
                  StoredBytesSink&) const override {
    throw Error(ErrorCode::internal, fmt::format("{} cannot be written in the layout gguf", linear.module));
  }
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>&,
                          const std::vector<std::string>&) const override {
    return model.text;
  }

  bool recognizes(const ModelConfig& model) const override {
    if (model.quantization_config.empty()) return false;
    try {
      const Json json = stored::parse_json(model.quantization_config, kWhere);
      return json.is_object() && json.value("quant_method", Json()) == "gguf" && json.contains("tensors");
    } catch (const Error&) {
      return false;
    }
  }

  std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const override {
    std::vector<StoredLinear> linears;
    const Json listed = tensors_of(checkpoint.config());
    for (const auto& [module, json] : listed.items()) {
      Entry entry = read_entry(module, json);
      const LinearShape& shape = entry.linear.shape;
      const Shape wanted{shape.rows, block_bytes(*entry.linear.args.block, shape.cols)};
      stored::need_tensor(checkpoint, entry.linear.tensors.front(), {DType::U8}, &wanted);
      // How rows are ordered is remembered where readers carry it along unchanged.
      if (entry.heads != 0) entry.linear.format += fmt::format("{}{}", kPairs, entry.heads);
      if (entry.fused_heads != 0) entry.linear.format += fmt::format("{}{}", kFused, entry.fused_heads);
      linears.push_back(std::move(entry.linear));
    }
    return linears;
  }

  void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
                 QuantizedTensor& out) const override {
    const LinearShape& shape = linear.shape;
    if (count == 0 || first_row > shape.rows || count > shape.rows - first_row) {
      throw Error(ErrorCode::internal, fmt::format("{}: rows {}..{} of {} cannot be read", shape.module, first_row,
                                                   first_row + count, shape.rows));
    }
    out.resize(linear.args, count, shape.cols);
    out.scale_dtype = linear.scale_dtype;
    const TensorInfo& info = stored::need_tensor(checkpoint, linear.tensors.front(), {DType::U8}, nullptr);
    const std::uint64_t row_bytes = block_bytes(*linear.args.block, shape.cols);
    const std::uint64_t heads = number_after(kPairs, linear), fused = number_after(kFused, linear);
    if (heads == 0 && fused == 0) {
      const auto bytes = stored::bytes_of(checkpoint, info, first_row * row_bytes, out.blocks.size());
      std::memcpy(out.blocks.data(), bytes.data(), bytes.size());
      return;
    }
    for (std::uint64_t r = 0; r < count; ++r) {
      const std::uint64_t from = fused != 0 ? gguf::unfused_row(first_row + r, fused, shape.rows / fused / 3)
                                            : gguf::file_row(first_row + r, shape.rows / heads);
      const auto bytes = stored::bytes_of(checkpoint, info, from * row_bytes, row_bytes);
      std::memcpy(out.blocks.data() + r * row_bytes, bytes.data(), row_bytes);
    }
  }
  std::uint64_t read_alignment(const StoredLinear&) const override { return 1; }

 private:
  static constexpr std::string_view kPairs = " heads ", kFused = " fused_heads ";

  static std::uint64_t number_after(std::string_view word, const StoredLinear& linear) {
    const std::size_t at = linear.format.find(word);
    return at == std::string::npos ? 0 : std::stoull(linear.format.substr(at + word.size()));
  }
};

}  // namespace

void register_gguf_layout(Registry& registry);
void register_gguf_layout(Registry& registry) { registry.add(std::make_unique<GgufLayout>()); }

}  // namespace quant
