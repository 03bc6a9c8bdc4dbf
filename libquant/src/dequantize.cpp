#include "quant/dequantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <system_error>

#include "output/files.h"
#include "output/model_files.h"
#include "output/partial_directory.h"
#include "parallel_tasks.h"
#include "quant/error.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Shard {
  std::string file;
  std::vector<StoredTensor> stored;
  std::vector<const LogicalTensor*> sources;
  std::uint64_t bytes = 0;
};

bool is_plain_float(DType type) { return type == DType::F32 || type == DType::F16 || type == DType::BF16; }

// The type a tensor is written in: 8- and 4-bit floats of a checkpoint that is not quantized stay what they are.
DType target_dtype(const LogicalTensor& tensor, const std::optional<DType>& wanted) {
  if (tensor.linear != nullptr) return wanted.value_or(is_plain_float(tensor.dtype) ? tensor.dtype : DType::F32);
  const bool converted = wanted && (is_plain_float(tensor.dtype) || tensor.dtype == DType::F64);
  return converted ? *wanted : tensor.dtype;
}

// Values as bytes of `type`; false if a finite value became infinite.
template <class Convert>
bool convert_to_16(std::span<const float> values, std::uint16_t infinity, Convert convert, std::span<std::byte> out) {
  bool fits = true;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = convert(values[i]);
    if ((bits & 0x7FFFU) == infinity && std::isfinite(values[i])) fits = false;
    std::memcpy(out.data() + 2 * i, &bits, sizeof bits);
  }
  return fits;
}

bool to_bytes(std::span<const float> values, DType type, std::vector<std::byte>& out) {
  if (type == DType::F32) {
    const auto bytes = std::as_bytes(values);
    out.assign(bytes.begin(), bytes.end());
    return true;
  }
  out.resize(values.size() * 2);
  return type == DType::F16 ? convert_to_16(values, 0x7C00, f32_to_f16, out)
                            : convert_to_16(values, 0x7F80, f32_to_bf16, out);
}

std::string plain_config(const ModelConfig& config, const std::optional<DType>& dtype) {
  Json json = Json::parse(config.text, nullptr, false);
  if (!json.is_object()) throw Error(ErrorCode::corrupt_file, "config.json is no JSON object");
  json.erase("quantization_config");
  if (json.contains("text_config") && json["text_config"].is_object()) json["text_config"].erase("quantization_config");
  if (dtype) {
    const bool new_spelling = json.contains("dtype") && !json.contains("torch_dtype");
    json[new_spelling ? "dtype" : "torch_dtype"] = std::string(torch_dtype_name(*dtype));
    if (!new_spelling && json.contains("dtype")) json["dtype"] = std::string(torch_dtype_name(*dtype));
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

class Dequantizer {
 public:
  Dequantizer(const Checkpoint& checkpoint, const Registry& registry, const Container& container,
              const DequantizeOptions& options)
      : tensors_(checkpoint, registry), container_(container), options_(options) {
    if (options.dtype && !is_plain_float(*options.dtype)) {
      throw Error(ErrorCode::usage, fmt::format("weights cannot be written as {}", dtype_name(*options.dtype)),
                  "choose F32, F16 or BF16");
    }
  }

  DequantizeResult run() {
    assign_shards();
    const auto existing =
        options_.overwrite_partial ? PartialDirectory::Existing::discard : PartialDirectory::Existing::refuse;
    const PartialDirectory directory(options_.output, existing, "remove it, or give --overwrite-partial");
    try {
      std::uint64_t bytes = 0;
      for (const Shard& shard : shards_) bytes += shard.bytes;
      directory.require_space(bytes);
      write_shards(directory.path());
      if (shards_.size() > 1) {
        write_file_atomically(directory.path() / index_file_name(container_.extension()), index());
      }
      write_small_files(directory.path());
      directory.commit();
    } catch (...) {
      directory.remove();
      throw;
    }
    result_.files = shards_.size();
    result_.linears = tensors_.linears().size();
    return result_;
  }

 private:
  const std::vector<std::pair<std::string, std::string>> metadata_{{"format", "pt"}};

  /// Scales of a quantized cache mean nothing beside plain weights.
  std::set<std::string> cache_scales() const {
    std::set<std::string> names;
    if (tensors_.layout() == nullptr) return names;
    for (const StoredKv& kv : tensors_.layout()->find_kv(tensors_.checkpoint())) {
      names.insert(kv.tensors.begin(), kv.tensors.end());
    }
    return names;
  }

  void assign_shards() {
    const std::set<std::string> dropped = cache_scales();
    for (const LogicalTensor& tensor : tensors_.tensors()) {
      if (dropped.contains(tensor.name)) continue;
      const StoredTensor stored{tensor.name, target_dtype(tensor, options_.dtype), tensor.shape};
      const std::uint64_t bytes = stored.bytes();
      if (shards_.empty() || (!shards_.back().stored.empty() && shards_.back().bytes + bytes > options_.shard_bytes)) {
        shards_.emplace_back();
      }
      Shard& shard = shards_.back();
      shard.stored.push_back(stored);
      shard.sources.push_back(&tensor);
      shard.bytes += bytes;
      result_.bytes_before += tensor.stored_bytes;
      result_.bytes_after += bytes;
      ++result_.tensors;
    }
    for (std::size_t i = 0; i < shards_.size(); ++i) {
      shards_[i].file = shard_file_name(i, shards_.size(), container_.extension());
      sort_for_storage(shards_[i]);
    }
  }

  // Larger element types first, so that every tensor is aligned, which some readers rely on.
  static void sort_for_storage(Shard& shard) {
    std::vector<std::size_t> order(shard.stored.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return stored_before(shard.stored[a], shard.stored[b]); });
    Shard sorted{shard.file, {}, {}, shard.bytes};
    for (const std::size_t at : order) {
      sorted.stored.push_back(shard.stored[at]);
      sorted.sources.push_back(shard.sources[at]);
    }
    shard = std::move(sorted);
  }

  void write_shards(const fs::path& directory) {
    std::uint64_t total = 0;
    for (const LogicalTensor& tensor : tensors_.tensors()) total += tensor.count();
    std::uint64_t before = 0;
    for (const Shard& shard : shards_) {
      const auto writer = container_.create(directory / shard.file, shard.stored, metadata_, false);
      ScanOptions scan = options_.scan;
      if (scan.progress) {
        scan.progress = [&, before](std::uint64_t done, std::uint64_t) {
          options_.scan.progress(before + done, total);
        };
      }
      write_shard(shard, *writer, scan);
      writer->sync();
      for (const LogicalTensor* tensor : shard.sources) before += tensor->count();
    }
  }

  void write_shard(const Shard& shard, ContainerWriter& writer, const ScanOptions& scan) const {
    std::vector<RowBlock> blocks;
    std::vector<std::uint64_t> costs;
    for (std::size_t i = 0; i < shard.sources.size(); ++i) {
      const LogicalTensor& tensor = *shard.sources[i];
      const bool copied = copies(tensor, shard.stored[i]);
      // A copy is one block: its bytes go from the mapping to the file without a buffer of ours.
      if (copied || tensor.rows == 0) {
        blocks.push_back({i, 0, tensor.rows});
      } else {
        append_blocks(i, tensor.rows, tensors_.block_rows(tensor), blocks);
      }
    }
    for (const RowBlock& block : blocks) costs.push_back(block.count * shard.sources[block.tensor]->cols);
    run_tasks(costs, scan, [&](std::size_t i) { write_block(shard, blocks[i], writer); });
  }

  static bool copies(const LogicalTensor& tensor, const StoredTensor& stored) {
    return tensor.plain != nullptr && stored.dtype == tensor.dtype;
  }

  void write_block(const Shard& shard, const RowBlock& block, ContainerWriter& writer) const {
    const LogicalTensor& tensor = *shard.sources[block.tensor];
    const StoredTensor& stored = shard.stored[block.tensor];
    if (copies(tensor, stored)) {
      writer.write(block.tensor, 0, tensors_.checkpoint().view(*tensor.plain).bytes);
      tensors_.done_reading(tensor);
      return;
    }
    if (block.count == 0) return;
    std::vector<float> values(block.count * tensor.cols);
    tensors_.read_rows(tensor, block.first, block.count, values);
    tensors_.done_reading(tensor, block.first, block.count);
    std::vector<std::byte> bytes;
    if (!to_bytes(values, stored.dtype, bytes)) {
      throw Error(ErrorCode::numerical,
                  fmt::format("'{}' holds values too large for {}", tensor.name, dtype_name(stored.dtype)),
                  "write BF16 or F32 instead", "Overflow");
    }
    writer.write(block.tensor, block.first * tensor.cols * (dtype_bits(stored.dtype) / 8), bytes);
  }

  std::string index() const {
    std::map<std::string, std::string> file_of_tensor;
    for (const Shard& shard : shards_) {
      for (const StoredTensor& stored : shard.stored) file_of_tensor[stored.name] = shard.file;
    }
    return index_text(file_of_tensor, result_.bytes_after);
  }

  void write_small_files(const fs::path& directory) const {
    const Checkpoint& checkpoint = tensors_.checkpoint();
    if (!checkpoint.config().text.empty()) {
      write_file_atomically(directory / "config.json", plain_config(checkpoint.config(), options_.dtype));
    }
    for (const fs::path& companion : checkpoint.companions()) {
      const fs::path name = companion_name(checkpoint, companion);
      if (belongs_to_quantization(name)) continue;
      fs::create_directories((directory / name).parent_path());
      copy_file_atomically(companion, directory / name);
    }
  }

  LogicalTensors tensors_;
  const Container& container_;
  const DequantizeOptions& options_;
  std::vector<Shard> shards_;
  DequantizeResult result_;
};

}  // namespace

DequantizeResult dequantize_checkpoint(const Checkpoint& checkpoint, const Registry& registry,
                                       const Container& container, const DequantizeOptions& options) {
  try {
    return Dequantizer(checkpoint, registry, container, options).run();
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorCode::io, fmt::format("cannot write {}: {}", options.output.string(), error.code().message()));
  }
}

}  // namespace quant
