#include "containers/gguf/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "containers/gguf/architectures.h"
#include "containers/gguf/export_parts.h"
#include "containers/gguf/header.h"
#include "containers/gguf/imatrix.h"
#include "containers/io/file_io.h"
#include "containers/io/text.h"
#include "quant/error.h"

namespace quant::gguf {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using io::in_quotes;

constexpr std::uint64_t kFirstRead = 4U << 20U;
constexpr std::uint64_t kLargestHeader = std::uint64_t{1} << 29U;

struct OpenFile {
  io::FileHandle handle;
  std::uint64_t bytes = 0;
  Header header;
};

// The header is read in ever larger parts from the start, for nothing says how long it is.
OpenFile read_header(const fs::path& path) {
  OpenFile file{io::open_regular_file(path), 0, {}};
  file.bytes = io::file_size_of(file.handle, path);
  std::vector<std::byte> start;
  for (std::uint64_t size = std::min(kFirstRead, file.bytes);; size = std::min(size * 4, file.bytes)) {
    if (size > kLargestHeader) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{} has a header of more than {} bytes.", in_quotes(path.string()), kLargestHeader),
                  "Fetch the file again.", "BadGguf");
    }
    start.resize(size);
    io::read_at(file.handle, path, 0, start);
    try {
      file.header = parse_header(start, file.bytes, path.string());
      return file;
    } catch (const Incomplete&) {
      continue;
    }
  }
}

// The fields of config.json that follow from the file's keys.
class ConfigWriter {
 public:
  ConfigWriter(const Header& header, const Architecture& architecture)
      : metadata_(header.metadata), prefix_(std::string(architecture.name) + "."), architecture_(architecture) {}

  Json config() {
    json_ = {{"architectures", {architecture_.model_class}}, {"model_type", architecture_.model_type}};
    natural("context_length", "max_position_embeddings");
    natural("embedding_length", "hidden_size");
    natural("feed_forward_length", "intermediate_size");
    natural("block_count", "num_hidden_layers");
    natural("attention.head_count", "num_attention_heads");
    natural("attention.head_count_kv", "num_key_value_heads");
    natural("attention.key_length", "head_dim");
    natural("attention.sliding_window", "sliding_window");
    natural("vocab_size", "vocab_size");
    number("attention.layer_norm_rms_epsilon", "rms_norm_eps");
    number("rope.freq_base", "rope_theta");
    number("attn_logit_softcapping", "attn_logit_softcapping");
    number("final_logit_softcapping", "final_logit_softcapping");
    if (!json_.contains("rope_theta")) json_["rope_theta"] = 10000.0;
    if (!json_.contains("num_key_value_heads") && json_.contains("num_attention_heads")) {
      json_["num_key_value_heads"] = json_["num_attention_heads"];
    }
    if (architecture_.model_type == "llama" && !json_.contains("sliding_window")) json_["mlp_bias"] = false;
    for (const char* name : {"bos", "eos"}) {
      const auto id = natural_of(find_value(metadata_, fmt::format("tokenizer.ggml.{}_token_id", name)));
      if (id) json_[fmt::format("{}_token_id", name)] = *id;
    }
    add_scaling();
    if (architecture_.model_type == "gemma2") add_attention_scale();
    return json_;
  }

  /// Rotary frequencies that the file divides by these numbers: rope_type llama3, if they are such.
  static void add_factors(Json& json, const std::vector<float>& factors) {
    Llama3Rope rope;
    rope.base = json.value("rope_theta", 10000.0);
    rope.factor = static_cast<double>(*std::ranges::max_element(factors));
    for (int power = 5; power <= 20; ++power) {
      rope.context = static_cast<double>(1 << power);
      const std::vector<float> made = llama3_factors(rope, 2 * factors.size());
      const bool same =
          std::ranges::equal(made, factors, [](float a, float b) { return std::fabs(a - b) <= 1e-4F * a; });
      if (!same) continue;
      json["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", rope.factor},
                              {"low_freq_factor", rope.low},
                              {"high_freq_factor", rope.high},
                              {"original_max_position_embeddings", 1 << power}};
      return;
    }
    json["rope_scaling"] = {{"rope_type", "factors of a GGUF file"}};  // nothing that this library computes
  }

 private:
  void natural(const char* key, const char* name) {
    if (const auto value = natural_of(find_value(metadata_, prefix_ + key))) json_[name] = *value;
  }
  // The shortest decimal of the 32-bit number, which is what the model's own file said.
  void number(const char* key, const char* name) {
    const auto value = number_of(find_value(metadata_, prefix_ + key));
    if (value) json_[name] = Json::parse(fmt::format("{}", static_cast<float>(*value)), nullptr, false);
  }
  void add_scaling() {
    const auto type = text_of(find_value(metadata_, prefix_ + "rope.scaling.type"));
    const auto factor = number_of(find_value(metadata_, prefix_ + "rope.scaling.factor"));
    if (!type || *type == "none" || !factor) return;
    json_["rope_scaling"] = {{"rope_type", *type}, {"factor", *factor}};
    const auto original = natural_of(find_value(metadata_, prefix_ + "rope.scaling.original_context_length"));
    if (original) json_["rope_scaling"]["original_max_position_embeddings"] = *original;
  }

  // What llama.cpp does for this family, which files say nothing of.
  void add_attention_scale() {
    const std::uint64_t layers = json_.value("num_hidden_layers", std::uint64_t{0});
    const std::uint64_t heads = json_.value("num_attention_heads", std::uint64_t{0});
    const std::uint64_t width = heads == 0 ? 0 : json_.value("hidden_size", std::uint64_t{0}) / heads;
    json_["query_pre_attn_scalar"] = layers == 46 ? width : json_.value("head_dim", width);
  }

  const Metadata& metadata_;
  std::string prefix_;
  const Architecture& architecture_;
  Json json_;
};

std::string without_weight(const std::string& name) {
  constexpr std::string_view kEnding = ".weight";
  return name.ends_with(kEnding) ? name.substr(0, name.size() - kEnding.size()) : name;
}

// What becomes of the tensors of a file.
class Contents {
 public:
  Contents(const Header& header, const fs::path& path) : header_(header), path_(path) {
    const auto name = text_of(find_value(header.metadata, "general.architecture"));
    architecture_ = name ? architecture_of_file(*name) : nullptr;
    if (architecture_ == nullptr) return;
    const std::string prefix = std::string(architecture_->name) + ".attention.";
    query_heads_ = natural_of(find_value(header.metadata, prefix + "head_count")).value_or(0);
    key_heads_ = natural_of(find_value(header.metadata, prefix + "head_count_kv")).value_or(query_heads_);
  }

  void read(const io::MappedFile& map) {
    for (const TensorEntry& tensor : header_.tensors) add(tensor, map);
  }

  ModelConfig config() const {
    Json json = Json::object();
    if (architecture_ != nullptr) {
      json = ConfigWriter(header_, *architecture_).config();
      if (!rope_factors_.empty()) ConfigWriter::add_factors(json, rope_factors_);
      if (!json.contains("vocab_size")) {
        const auto found = std::ranges::find(header_.tensors, "token_embd.weight", &TensorEntry::name);
        if (found != header_.tensors.end()) json["vocab_size"] = found->rows();
      }
      json["tie_word_embeddings"] =
          std::ranges::find(header_.tensors, "output.weight", &TensorEntry::name) == header_.tensors.end();
      if (architecture_->model_type == "qwen2" || architecture_->model_type == "qwen3") {
        json["use_sliding_window"] = false;
      } else if (!json.contains("sliding_window") && architecture_->model_type == "phi3") {
        json["sliding_window"] = nullptr;
      }
    }
    if (!blocks_.empty()) json["quantization_config"] = {{"quant_method", "gguf"}, {"tensors", blocks_}};
    return parse_model_config(json.dump(2, ' ', false, Json::error_handler_t::replace), path_);
  }

  std::vector<TensorInfo> tensors;
  std::map<std::size_t, std::vector<std::byte>> owned;  // of tensors that are not as the file has them

 private:
  std::uint64_t heads_of(const TensorEntry& tensor) const {
    switch (architecture_ == nullptr ? Rows::in_order : rows_of(*architecture_, tensor.name)) {
      case Rows::query_heads:
        return query_heads_;
      case Rows::key_heads:
        return key_heads_;
      case Rows::in_order:
        return 0;
    }
    return 0;
  }

  void add(const TensorEntry& tensor, const io::MappedFile& map) {
    if (architecture_ != nullptr && tensor.name == "rope_freqs.weight" && tensor.type == 0 &&
        tensor.sizes.size() == 1) {
      const auto bytes = map.range(header_.data_start + tensor.offset, tensor.bytes);
      rope_factors_.resize(tensor.cols());
      std::memcpy(rope_factors_.data(), bytes.data(), bytes.size());
      return;  // config.json says it
    }
    const auto known = architecture_ == nullptr ? std::nullopt : model_name(*architecture_, tensor.name);
    const std::string name = known.value_or(tensor.name);
    const std::uint64_t heads = heads_of(tensor);
    const bool vector = tensor.sizes.size() == 1;
    const std::uint64_t permuted = vector ? tensor.cols() : tensor.rows();
    if (heads != 0 && (permuted % heads != 0 || permuted / heads % 2 != 0)) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("Tensor {} of {} has {} rows for {} heads.", in_quotes(tensor.name),
                              in_quotes(path_.string()), permuted, heads),
                  "Fetch the file again.", "BadGguf");
    }
    const auto plain = plain_dtype(tensor.type);
    const bool packed = !plain || (heads != 0 && !vector);
    TensorInfo info{name, DType::U8, {}, tensor.bytes, header_.data_start + tensor.offset, 0};
    if (packed) {
      info.shape = {tensor.rows(), tensor.bytes / tensor.rows()};
      Json entry = {{"type", find_block_format(tensor.type)->name}, {"rows", tensor.rows()}, {"cols", tensor.cols()}};
      if (heads != 0) entry["heads"] = heads;
      blocks_[without_weight(name)] = std::move(entry);
      if (!name.ends_with(".weight")) info.name = name + ".weight";
    } else {
      info.dtype = *plain;
      info.shape.assign(tensor.sizes.rbegin(), tensor.sizes.rend());
      if (vector && (heads != 0 || is_shifted(tensor))) own(tensor, heads, map);
    }
    tensors.push_back(std::move(info));
  }

  bool is_shifted(const TensorEntry& tensor) const {
    return architecture_ != nullptr && architecture_->norm_plus_one && tensor.name.ends_with("norm.weight") &&
           tensor.type == 0;
  }

  // A vector in the model's order, or less the 1 that files of Gemma hold.
  void own(const TensorEntry& tensor, std::uint64_t heads, const io::MappedFile& map) {
    const auto bytes = map.range(header_.data_start + tensor.offset, tensor.bytes);
    std::vector<std::byte> copy(bytes.begin(), bytes.end());
    const std::uint64_t count = tensor.cols(), size = tensor.bytes / count;
    if (heads != 0) {
      for (std::uint64_t i = 0; i < count; ++i) {
        std::memcpy(copy.data() + i * size, bytes.data() + file_row(i, count / heads) * size, size);
      }
    } else {
      std::vector<float> values(count);
      std::memcpy(values.data(), bytes.data(), bytes.size());
      for (float& value : values) value -= 1.0F;
      std::memcpy(copy.data(), values.data(), copy.size());
    }
    owned[tensors.size()] = std::move(copy);
  }

  const Header& header_;
  const fs::path& path_;
  const Architecture* architecture_ = nullptr;
  std::uint64_t query_heads_ = 0, key_heads_ = 0;
  Json blocks_ = Json::object();
  std::vector<float> rope_factors_;
};

class GgufCheckpoint final : public Checkpoint {
 public:
  GgufCheckpoint(const fs::path& path, io::MappedFile map, Contents contents, CheckpointFile file)
      : path_(path),
        map_(std::move(map)),
        tensors_(std::move(contents.tensors)),
        owned_(std::move(contents.owned)),
        config_(contents.config()),
        files_{std::move(file)} {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (names_.emplace(tensors_[i].name, i).second) continue;
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{} holds two tensors called {}.", in_quotes(path.string()), in_quotes(tensors_[i].name)),
                  "Fetch the file again.", "DuplicateTensor");
    }
  }

  const fs::path& location() const override { return path_; }
  const std::vector<CheckpointFile>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto found = names_.find(name);
    return found == names_.end() ? nullptr : &tensors_[found->second];
  }
  TensorView view(const TensorInfo& info) const override {
    const auto found = names_.find(info.name);
    if (found == names_.end() || info.bytes != byte_count(info.dtype, info.shape)) {
      throw Error(ErrorCode::internal, fmt::format("Tensor {} does not describe a tensor of {}.", in_quotes(info.name),
                                                   in_quotes(path_.string())));
    }
    if (const auto own = owned_.find(found->second); own != owned_.end()) return {info.dtype, info.shape, own->second};
    return {info.dtype, info.shape, map_.range(info.offset, info.bytes)};
  }
  void will_read(const TensorView& part) const override { map_.populate(part.bytes); }
  void done_reading(const TensorView& part) const override { map_.release(part.bytes); }
  const ModelConfig& config() const override { return config_; }
  const std::vector<fs::path>& companions() const override { return companions_; }

 private:
  fs::path path_;
  io::MappedFile map_;
  std::vector<TensorInfo> tensors_;
  std::map<std::size_t, std::vector<std::byte>> owned_;
  ModelConfig config_;
  std::vector<CheckpointFile> files_;
  std::vector<fs::path> companions_;
  std::map<std::string, std::size_t, std::less<>> names_;
};

CheckpointFile describe_file(const fs::path& path, const OpenFile& file) {
  CheckpointFile out{path, file.bytes, {}};
  for (const auto& [key, value] : file.header.metadata) {
    std::string text = describe(value);
    if (io::is_utf8(key) && io::is_utf8(text)) out.metadata.emplace_back(key, std::move(text));
  }
  std::ranges::sort(out.metadata);
  return out;
}

}  // namespace

bool is_gguf_file(const fs::path& file) {
  std::array<std::byte, 4> start{};
  const io::FileHandle handle = io::open_regular_file(file);
  if (io::file_size_of(handle, file) < start.size()) return false;
  io::read_at(handle, file, 0, start);
  return is_gguf(start);
}

std::unique_ptr<Checkpoint> open_gguf(const fs::path& path) {
  OpenFile file = read_header(path);
  CheckpointFile described = describe_file(path, file);
  io::MappedFile map(std::move(file.handle), path, file.bytes);
  if (text_of(find_value(file.header.metadata, "general.type")) == "imatrix") {
    return importance_checkpoint(path, read_importance(file.header, map, path), std::move(described));
  }
  Contents contents(file.header, path);
  contents.read(map);
  return std::make_unique<GgufCheckpoint>(path, std::move(map), std::move(contents), std::move(described));
}

}  // namespace quant::gguf
