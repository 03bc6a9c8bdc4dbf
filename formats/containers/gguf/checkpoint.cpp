#include "containers/gguf/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "containers/gguf/architectures.h"
#include "containers/gguf/header.h"
#include "containers/gguf/imatrix.h"
#include "containers/gguf/read_config.h"
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
constexpr std::uint64_t kMostParts = 65536;  // experts of a layer

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

std::string without_weight(const std::string& name) {
  constexpr std::string_view kEnding = ".weight";
  return name.ends_with(kEnding) ? name.substr(0, name.size() - kEnding.size()) : name;
}

// What becomes of the tensors of a file.
class Contents {
 public:
  Contents(const Header& header, const fs::path& path) : header_(header), path_(path) {
    const auto name = text_of(find_value(header.metadata, "general.architecture"));
    if (!name) return;
    experts_ = natural_of(find_value(header.metadata, *name + ".expert_count")).value_or(0);
    architecture_ = architecture_of_file(*name, experts_ > 0);
    if (architecture_ == nullptr) return;
    const std::string prefix = std::string(architecture_->name) + ".attention.";
    query_heads_ = natural_of(find_value(header.metadata, prefix + "head_count")).value_or(0);
    key_heads_ = natural_of(find_value(header.metadata, prefix + "head_count_kv")).value_or(query_heads_);
  }

  void read(const io::MappedFile& map) {
    for (const TensorEntry& tensor : header_.tensors) add(tensor, map);
  }

  ModelConfig config() const {
    Json json = architecture_ == nullptr ? Json::object() : config_of_file(header_, *architecture_, rope_factors_);
    if (!blocks_.empty()) json["quantization_config"] = {{"quant_method", "gguf"}, {"tensors", blocks_}};
    return parse_model_config(json.dump(2, ' ', false, Json::error_handler_t::replace), path_);
  }

  std::vector<TensorInfo> tensors;
  std::map<std::size_t, std::vector<std::byte>> owned;  // of tensors that are not as the file has them

 private:
  Rows order_of(const TensorEntry& tensor) const {
    return architecture_ == nullptr ? Rows::in_order : rows_of(*architecture_, tensor.name);
  }

  std::uint64_t heads_of(Rows order) const {
    return order == Rows::in_order ? 0 : order == Rows::key_heads ? key_heads_ : query_heads_;
  }

  void add(const TensorEntry& tensor, const io::MappedFile& map) {
    if (architecture_ != nullptr && tensor.name == "rope_freqs.weight" && tensor.type == 0 &&
        tensor.sizes.size() == 1) {
      const auto bytes = map.range(header_.data_start + tensor.offset, tensor.bytes);
      rope_factors_.resize(tensor.cols());
      std::memcpy(rope_factors_.data(), bytes.data(), bytes.size());
      return;  // config.json says it
    }
    if (architecture_ != nullptr && part_name(*architecture_, tensor.name, 0)) return add_parts(tensor);
    const auto known = architecture_ == nullptr ? std::nullopt : model_name(*architecture_, tensor.name);
    const std::string name = known.value_or(tensor.name);
    const Rows order = order_of(tensor);
    const std::uint64_t heads = heads_of(order), unit = order == Rows::fused_heads ? 3 : 2;
    const bool vector = tensor.sizes.size() == 1;
    const std::uint64_t permuted = vector ? tensor.cols() : tensor.rows();
    if (heads != 0 && (permuted % heads != 0 || permuted / heads % unit != 0)) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("Tensor {} of {} has {} rows for {} heads.", in_quotes(tensor.name),
                              in_quotes(path_.string()), permuted, heads),
                  "Fetch the file again.", "BadGguf");
    }
    const auto plain = plain_dtype(tensor.type);
    // A matrix that the model stores as [in, out] is read as [out, in], as quantized ones are.
    const bool turned = architecture_ != nullptr && is_transposed(*architecture_, tensor.name);
    const bool packed = !plain || ((heads != 0 || turned) && !vector);
    TensorInfo info{name, DType::U8, {}, tensor.bytes, header_.data_start + tensor.offset, 0};
    if (packed) {
      info.shape = {tensor.rows(), tensor.bytes / tensor.rows()};
      Json entry = {{"type", find_block_format(tensor.type)->name}, {"rows", tensor.rows()}, {"cols", tensor.cols()}};
      if (heads != 0) entry[order == Rows::fused_heads ? "fused_heads" : "heads"] = heads;
      blocks_[without_weight(name)] = std::move(entry);
      if (!name.ends_with(".weight")) info.name = name + ".weight";
    } else {
      info.dtype = *plain;
      info.shape.assign(tensor.sizes.rbegin(), tensor.sizes.rend());
      if (vector && (heads != 0 || is_shifted(tensor))) own(tensor, order, map);
    }
    tensors.push_back(std::move(info));
  }

  // One tensor for many of the model: experts, norms of heads.
  void add_parts(const TensorEntry& tensor) {
    const bool vectors = tensor.sizes.size() == 2;
    const std::uint64_t wanted = !vectors                                      ? experts_
                                 : tensor.name.ends_with("attn_q_norm.weight") ? query_heads_
                                                                               : key_heads_;
    const std::uint64_t parts = tensor.sizes.back();
    const bool fits = (vectors || tensor.sizes.size() == 3) && parts == wanted && parts > 0 && parts <= kMostParts;
    if (!fits) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("Tensor {} of {} has {} parts where its keys say {}.", in_quotes(tensor.name),
                              in_quotes(path_.string()), parts, wanted),
                  "Fetch the file again.", "BadGguf");
    }
    const std::uint64_t rows = vectors ? 1 : tensor.sizes[1], bytes = tensor.bytes / parts;
    const auto plain = plain_dtype(tensor.type);
    for (std::uint64_t i = 0; i < parts; ++i) {
      const std::string name = *part_name(*architecture_, tensor.name, i);
      TensorInfo info{name, DType::U8, {rows, bytes / rows}, bytes, header_.data_start + tensor.offset + i * bytes, 0};
      if (plain) {
        info.dtype = *plain;
        info.shape = vectors ? Shape{tensor.cols()} : Shape{rows, tensor.cols()};
      } else {
        blocks_[without_weight(name)] = {
            {"type", find_block_format(tensor.type)->name}, {"rows", rows}, {"cols", tensor.cols()}};
      }
      tensors.push_back(std::move(info));
    }
  }

  bool is_shifted(const TensorEntry& tensor) const {
    return architecture_ != nullptr && architecture_->norm_plus_one && tensor.name.ends_with("norm.weight") &&
           tensor.type == 0;
  }

  // A vector in the model's order, or less the 1 that files of Gemma hold.
  void own(const TensorEntry& tensor, Rows order, const io::MappedFile& map) {
    const auto bytes = map.range(header_.data_start + tensor.offset, tensor.bytes);
    std::vector<std::byte> copy(bytes.begin(), bytes.end());
    const std::uint64_t count = tensor.cols(), size = tensor.bytes / count, heads = heads_of(order);
    if (heads != 0) {
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t from =
            order == Rows::fused_heads ? unfused_row(i, heads, count / heads / 3) : file_row(i, count / heads);
        std::memcpy(copy.data() + i * size, bytes.data() + from * size, size);
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
  std::uint64_t query_heads_ = 0, key_heads_ = 0, experts_ = 0;
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
