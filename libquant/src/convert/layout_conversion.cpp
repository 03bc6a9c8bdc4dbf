// Writing a quantized checkpoint in another layout.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <system_error>

#include "convert/targets.h"
#include "convert/unpack_blocks.h"
#include "file_metadata.h"
#include "output/files.h"
#include "output/model_files.h"
#include "output/partial_directory.h"
#include "parallel_tasks.h"
#include "quant/algorithm.h"
#include "quant/error.h"
#include "quant/model.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

/// The stored tensors of one linear in memory, so that each is written at once: layouts that transpose would otherwise
/// write runs of a few bytes all over the file. Slices fill different bytes from several threads.
class MemorySink final : public StoredBytesSink {
 public:
  explicit MemorySink(const std::vector<StoredTensor>& tensors) {
    for (const StoredTensor& tensor : tensors) bytes_.emplace_back(tensor.bytes());
  }
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    if (tensor >= bytes_.size() || offset > bytes_[tensor].size() || data.size() > bytes_[tensor].size() - offset) {
      throw Error(ErrorCode::internal,
                  fmt::format("{} bytes at {} lie outside stored tensor {}", data.size(), offset, tensor));
    }
    if (!data.empty()) std::memcpy(bytes_[tensor].data() + offset, data.data(), data.size());
  }
  const std::vector<std::vector<std::byte>>& bytes() const { return bytes_; }

 private:
  std::vector<std::vector<std::byte>> bytes_;
};

/// What goes into a file together: a tensor that is copied, or all that a linear or a cache becomes.
struct Item {
  std::string name;
  const LogicalTensor* tensor = nullptr;  ///< null: scales of a cache
  std::size_t linear = 0;                 ///< place among the linears, where tensor->linear is not null
  const StoredKv* cache = nullptr;
  std::vector<StoredTensor> stored;
  std::vector<std::size_t> places;  ///< of `stored` in the file
};

struct Shard {
  std::string file;
  std::vector<Item*> items;
  std::vector<StoredTensor> tensors;
};

class Conversion {
 public:
  Conversion(const Checkpoint& checkpoint, const Registry& registry, const LayoutConversionOptions& options)
      : source_(checkpoint, registry), options_(options) {}

  LayoutConversionResult run();

 private:
  const Checkpoint& checkpoint() const { return source_.checkpoint(); }
  void plan();
  void plan_caches();
  void plan_items();
  void plan_shards();
  std::vector<SchemeGroup> groups() const;
  std::string config_text() const;
  void write_shard(const fs::path& directory, Shard& shard);
  void write_linear(const Item& item, ContainerWriter& writer);
  ErrorSums convert_rows(const Item& item, std::uint64_t first, std::uint64_t count, MemorySink& sink) const;
  ErrorSums round_again(const StoredLinear& linear, const convert::Target& target, const QuantizedTensor& old,
                        DType scale_dtype, QuantizedTensor& out) const;
  void write_small_files(const fs::path& directory) const;
  ScanOptions scan_from_here() const;

  LogicalTensors source_;
  const LayoutConversionOptions& options_;
  std::vector<convert::Target> targets_;
  std::optional<QuantArgs> kv_cache_;
  std::vector<StoredKv> caches_;
  std::set<std::string> cache_tensors_;
  std::vector<Item> items_;
  std::vector<Shard> shards_;
  std::string config_;
  std::uint64_t values_ = 0, values_done_ = 0;
  LayoutConversionResult result_;
};

void Conversion::plan_caches() {
  kv_cache_ = source_.layout()->kv_cache_scheme(checkpoint().config());
  caches_ = source_.layout()->find_kv(checkpoint());
  for (const StoredKv& cache : caches_) cache_tensors_.insert(cache.tensors.begin(), cache.tensors.end());
  if (!kv_cache_) return;
  const auto reason = options_.layout->unsupported_kv(*kv_cache_);
  if (!reason) return;
  if (!options_.weights_only) {
    throw Error(ErrorCode::unsupported, *reason, "--weights-only leaves out how keys and values are quantized",
                "NotExact");
  }
  result_.notes.push_back(fmt::format("keys and values were quantized ({}) and stay float in {}", describe(*kv_cache_),
                                      options_.layout->name()));
  kv_cache_.reset();
  caches_.clear();
}

void Conversion::plan_items() {
  std::map<const StoredLinear*, std::size_t> place;
  for (std::size_t i = 0; i < source_.linears().size(); ++i) place[&source_.linears()[i]] = i;
  for (const LogicalTensor& tensor : source_.tensors()) {
    if (cache_tensors_.contains(tensor.name)) continue;
    Item item{tensor.name, &tensor, 0, nullptr, {}, {}};
    if (tensor.linear == nullptr) {
      item.stored = {{tensor.name, tensor.dtype, tensor.shape}};
    } else {
      item.linear = place.at(tensor.linear);
      const convert::Target& target = targets_[item.linear];
      item.stored = target.layout->stored(target.scheme, target.shape);
    }
    values_ += tensor.count();
    items_.push_back(std::move(item));
  }
  for (const StoredKv& cache : caches_) {
    const DType dtype = checkpoint().config().dtype.value_or(DType::BF16);
    const auto stored = options_.layout->stored_kv(*kv_cache_, cache.attention, dtype);
    items_.push_back({stored.front().name, nullptr, 0, &cache, stored, {}});
  }
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return natural_less(a.name, b.name); });
}

void Conversion::plan_shards() {
  std::uint64_t bytes = 0;
  for (Item& item : items_) {
    std::uint64_t size = 0;
    for (const StoredTensor& tensor : item.stored) size += tensor.bytes();
    if (shards_.empty() || (bytes > 0 && bytes + size > options_.shard_bytes)) {
      shards_.emplace_back();
      bytes = 0;
    }
    shards_.back().items.push_back(&item);
    bytes += size;
    result_.bytes_after += size;
  }
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    Shard& shard = shards_[i];
    shard.file = shard_file_name(i, shards_.size(), options_.container->extension());
    struct Place {
      Item* item;
      std::size_t tensor;
    };
    std::vector<Place> order;
    for (Item* item : shard.items) {
      item->places.resize(item->stored.size());
      for (std::size_t t = 0; t < item->stored.size(); ++t) order.push_back({item, t});
    }
    std::sort(order.begin(), order.end(), [](const Place& a, const Place& b) {
      return stored_before(a.item->stored[a.tensor], b.item->stored[b.tensor]);
    });
    for (const Place& place : order) {
      place.item->places[place.tensor] = shard.tensors.size();
      shard.tensors.push_back(place.item->stored[place.tensor]);
    }
    result_.tensors += shard.tensors.size();
  }
}

/// One for each scheme, in the order in which linears have them first.
std::vector<SchemeGroup> Conversion::groups() const {
  std::vector<SchemeGroup> list;
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    if (targets_[i].layout != options_.layout) continue;
    const Scheme& scheme = targets_[i].scheme;
    auto group = std::find_if(list.begin(), list.end(), [&](const SchemeGroup& g) { return g.scheme == scheme; });
    if (group == list.end()) {
      group = list.insert(list.end(), {fmt::format("group_{}", list.size()), scheme, {}});
    }
    group->linears.push_back(targets_[i].shape);
  }
  std::sort(list.begin(), list.end(), [](const SchemeGroup& a, const SchemeGroup& b) { return a.name < b.name; });
  for (SchemeGroup& group : list) {
    std::sort(group.linears.begin(), group.linears.end(),
              [](const LinearShape& a, const LinearShape& b) { return natural_less(a.module, b.module); });
    if (list.size() == 1) continue;
    group.scheme.targets.clear();
    for (const LinearShape& linear : group.linears) group.scheme.targets.push_back(linear.module);
  }
  return list;
}

std::string Conversion::config_text() const {
  std::set<std::string> quantized;
  for (const convert::Target& target : targets_) {
    if (target.layout == options_.layout) quantized.insert(target.shape.module);
  }
  std::vector<std::string> ignore;
  for (const Module& module : outline_model(checkpoint()).modules) {
    if (module.class_name == "Linear" && !quantized.contains(module.name)) ignore.push_back(module.name);
  }
  for (const convert::Target& target : targets_) {
    if (target.layout != options_.layout && !is_embedding(target.shape.module)) ignore.push_back(target.shape.module);
  }
  std::sort(ignore.begin(), ignore.end(), natural_less);
  ignore.erase(std::unique(ignore.begin(), ignore.end()), ignore.end());
  const auto list = groups();
  if (const auto problems = options_.layout->contradictions(list); !problems.empty()) {
    throw Error(ErrorCode::unsupported, problems.front(), "", "NotExact");
  }
  return kv_cache_ ? options_.layout->config_json_kv(checkpoint().config(), list, ignore, *kv_cache_)
                   : options_.layout->config_json(checkpoint().config(), list, ignore);
}

void Conversion::plan() {
  if (source_.layout() == nullptr) {
    throw Error(ErrorCode::usage, fmt::format("{} is not quantized", checkpoint().location().string()),
                "'quant run' quantizes it");
  }
  targets_ = convert::find_targets(source_, options_, result_.notes);
  const auto coded = [&](const convert::Target& target) { return target.layout == options_.layout; };
  if (!targets_.empty() && std::none_of(targets_.begin(), targets_.end(), coded)) {
    throw Error(ErrorCode::usage,
                fmt::format("{} is pruned and not quantized: {} has no place for it", checkpoint().location().string(),
                            options_.layout->name()),
                "'quant dequantize' writes it as plain tensors, which every loader reads");
  }
  plan_caches();
  config_ = config_text();
  plan_items();
  plan_shards();
  for (const TensorInfo& info : checkpoint().tensors()) result_.bytes_before += info.bytes;
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    result_.linears.push_back(
        {targets_[i].shape.module, source_.linears()[i].args, targets_[i].scheme, targets_[i].reason, {}});
  }
}

ScanOptions Conversion::scan_from_here() const {
  ScanOptions scan = options_.scan;
  if (scan.progress) {
    scan.progress = [this](std::uint64_t done, std::uint64_t) { options_.scan.progress(values_done_ + done, values_); };
  }
  return scan;
}

ErrorSums Conversion::round_again(const StoredLinear& linear, const convert::Target& target, const QuantizedTensor& old,
                                  DType scale_dtype, QuantizedTensor& out) const {
  std::vector<float> values(old.rows * old.cols);
  for (std::uint64_t r = 0; r < old.rows; ++r) {
    dequantize_row(old, r, std::span(values).subspan(r * old.cols, old.cols));
  }
  const TensorView view = f32_view(values, old.rows, old.cols);
  QuantArgs args = *target.scheme.weights;
  // The scale with the least error, since the old one is lost; what is stored does not say how it was found.
  if (!args.observer && args.type == NumberType::integer) args.observer = "mse_search";
  std::vector<ErrorSums> rows(old.rows);
  try {
    options_.requantizer->quantize_rows(view, args, scale_dtype, {}, {}, out, {rows, {}, {}});
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}: {}", linear.shape.module, error.what()), error.hint(), error.kind());
  }
  out.args = *target.scheme.weights;
  out.input_scale = old.input_scale;
  out.input_global_scale = old.input_global_scale;
  out.input_zero_point = old.input_zero_point;
  ErrorSums sums;
  for (const ErrorSums& row : rows) sums += row;
  return sums;
}

/// Moves the codes, with scales rounded to the type that the layout stores.
ErrorSums round_scales(QuantizedTensor& old, const QuantArgs& to, DType scale_dtype, QuantizedTensor& out) {
  const QuantizedTensor before = old;
  for (auto* values : {&old.scales, &old.codebook}) {
    if (values == &old.codebook && !has_learned_codebook(old.args)) continue;
    for (float& value : *values) value = round_to_dtype(scale_dtype, value);
  }
  old.scale_dtype = scale_dtype;
  move_codes(old, to, scale_dtype, out);
  ErrorSums sums;
  std::vector<float> was(old.cols), is(old.cols);
  for (std::uint64_t r = 0; r < old.rows; ++r) {
    dequantize_row(before, r, was);
    dequantize_row(out, r, is);
    sums += measure_values(was, is);
  }
  return sums;
}

QuantizedTensor unpacked(QuantizedTensor blocks) {
  QuantizedTensor out;
  convert::unpack_blocks(blocks, out);
  return out;
}

/// Plain numbers instead of blocks.
QuantizedTensor values_of(const QuantizedTensor& blocks) {
  QuantizedTensor out;
  out.resize(plain_args(), blocks.rows, blocks.cols);
  for (std::uint64_t r = 0; r < blocks.rows; ++r) {
    dequantize_row(blocks, r, std::span(out.plain).subspan(r * blocks.cols, blocks.cols));
  }
  return out;
}

ErrorSums Conversion::convert_rows(const Item& item, std::uint64_t first, std::uint64_t count, MemorySink& sink) const {
  const StoredLinear& linear = *item.tensor->linear;
  const convert::Target& target = targets_[item.linear];
  QuantizedTensor old, converted;
  source_.layout()->read_rows(checkpoint(), linear, first, count, old);
  if (linear.input) {
    old.input_scale = linear.input->scale;
    old.input_global_scale = linear.input->global_scale;
    old.input_zero_point = static_cast<std::int8_t>(std::clamp(linear.input->zero_point, -128.0F, 127.0F));
  }
  const DType scale_dtype = target.layout->scale_dtype(*target.scheme.weights, target.shape.dtype);
  ErrorSums sums;
  try {
    if (is_plain(*target.scheme.weights) && has_blocks(old.args)) {
      converted = values_of(old);
    } else if (target.reason.empty()) {
      if (has_blocks(old.args) && !has_blocks(*target.scheme.weights)) old = unpacked(std::move(old));
      move_codes(old, *target.scheme.weights, scale_dtype, converted);
    } else if (target.only_scales) {
      if (has_blocks(old.args)) old = unpacked(std::move(old));
      sums = round_scales(old, *target.scheme.weights, scale_dtype, converted);
    } else {
      sums = round_again(linear, target, old, scale_dtype, converted);
    }
  } catch (const Error& error) {
    if (error.kind() != "NotExact") throw;
    throw Error(error.code(), fmt::format("{}: {}", linear.shape.module, error.what()), error.hint(), error.kind());
  }
  target.layout->write_rows(target.scheme, target.shape, first, converted, sink);
  return sums;
}

void Conversion::write_linear(const Item& item, ContainerWriter& writer) {
  const LogicalTensor& tensor = *item.tensor;
  MemorySink sink(item.stored);
  std::vector<RowBlock> blocks;
  append_blocks(0, tensor.rows, convert::rows_at_once(source_, tensor, targets_[item.linear]), blocks);
  std::vector<std::uint64_t> costs;
  for (const RowBlock& block : blocks) costs.push_back(block.count * tensor.cols);
  std::vector<ErrorSums> sums(blocks.size());
  run_tasks(costs, scan_from_here(),
            [&](std::size_t i) { sums[i] = convert_rows(item, blocks[i].first, blocks[i].count, sink); });
  for (const ErrorSums& part : sums) result_.linears[item.linear].sums += part;
  result_.lost += result_.linears[item.linear].sums;
  for (std::size_t i = 0; i < item.stored.size(); ++i) writer.write(item.places[i], 0, sink.bytes()[i]);
  source_.done_reading(tensor);
}

/// Passes on to the places of a file.
class PlacedSink final : public StoredBytesSink {
 public:
  PlacedSink(ContainerWriter& writer, const std::vector<std::size_t>& places) : writer_(writer), places_(places) {}
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    writer_.write(places_.at(tensor), offset, data);
  }

 private:
  ContainerWriter& writer_;
  const std::vector<std::size_t>& places_;
};

void Conversion::write_shard(const fs::path& directory, Shard& shard) {
  auto metadata = merged_metadata(checkpoint());
  metadata["format"] = "pt";  // loaders refuse files that do not say so
  const auto writer =
      options_.container->create(directory / shard.file, shard.tensors, {metadata.begin(), metadata.end()}, false);
  for (const Item* item : shard.items) {
    if (item->tensor == nullptr) {
      PlacedSink sink(*writer, item->places);
      const DType dtype = checkpoint().config().dtype.value_or(DType::BF16);
      options_.layout->write_kv(*kv_cache_, item->cache->attention, dtype, item->cache->scales, sink);
      continue;
    }
    if (item->tensor->linear != nullptr) {
      write_linear(*item, *writer);
    } else {
      const std::uint64_t cost = item->tensor->count();
      run_tasks(std::span(&cost, 1), scan_from_here(), [&](std::size_t) {
        const TensorView view = checkpoint().view(*item->tensor->plain);
        if (!view.bytes.empty()) writer->write(item->places[0], 0, view.bytes);
        checkpoint().done_reading(view);
      });
    }
    values_done_ += item->tensor->count();
  }
  writer->sync();
}

void Conversion::write_small_files(const fs::path& directory) const {
  if (shards_.size() > 1) {
    std::map<std::string, std::string> file_of_tensor;
    for (const Shard& shard : shards_) {
      for (const StoredTensor& stored : shard.tensors) file_of_tensor[stored.name] = shard.file;
    }
    write_file_atomically(directory / index_file_name(options_.container->extension()),
                          index_text(file_of_tensor, result_.bytes_after));
  }
  for (const fs::path& companion : checkpoint().companions()) {
    const fs::path name = companion_name(checkpoint(), companion);
    if (belongs_to_quantization(name)) continue;
    fs::create_directories((directory / name).parent_path());
    copy_file_atomically(companion, directory / name);
  }
  write_file_atomically(directory / "config.json", config_);
  for (const SideFile& file : options_.layout->side_files(config_)) {
    write_file_atomically(directory / file.name, file.text);
  }
}

LayoutConversionResult Conversion::run() {
  plan();
  const auto existing =
      options_.overwrite_partial ? PartialDirectory::Existing::discard : PartialDirectory::Existing::refuse;
  const PartialDirectory directory(options_.output, existing, "remove it, or give --overwrite-partial");
  try {
    directory.require_space(result_.bytes_after);
    for (Shard& shard : shards_) write_shard(directory.path(), shard);
    write_small_files(directory.path());
    directory.commit();
  } catch (...) {
    directory.remove();
    throw;
  }
  result_.files = shards_.size();
  return std::move(result_);
}

}  // namespace

LayoutConversionResult convert_layout(const Checkpoint& checkpoint, const Registry& registry,
                                      const LayoutConversionOptions& options) {
  if (options.layout == nullptr || options.container == nullptr) {
    throw Error(ErrorCode::usage, "convert_layout needs a layout and a container");
  }
  try {
    return Conversion(checkpoint, registry, options).run();
  } catch (const fs::filesystem_error& error) {
    const fs::path& path = error.path1().empty() ? options.output : error.path1();
    throw Error(ErrorCode::io, fmt::format("cannot convert {} to {}: {}: {}", checkpoint.location().string(),
                                           options.output.string(), path.string(), error.code().message()));
  }
}

}  // namespace quant
