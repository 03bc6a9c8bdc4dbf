// A checkpoint as a GGUF file.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <system_error>

#include "containers/gguf/export_parts.h"
#include "containers/gguf/header.h"
#include "containers/gguf/imatrix.h"
#include "containers/io/file_io.h"
#include "quant/error.h"
#include "quant/gguf.h"
#include "quant/model.h"
#include "quant/statistics_file.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using gguf::ModelFacts;
using gguf::Rows;
using gguf::TensorEntry;

constexpr std::uint64_t kSliceWeights = 1U << 20U;

// How one tensor becomes one of the file.
struct Item {
  const LogicalTensor* tensor = nullptr;  ///< null: `values`
  std::vector<float> values;
  BlockType type = BlockType::f32;
  bool moved = false;      ///< codes are kept
  bool rounded = false;    ///< it was quantized, and is once more
  bool one_more = false;   ///< 1 is added: norms of Gemma
  std::uint64_t head = 0;  ///< rows of a head whose order changes; 0: they stay
};

bool is_matrix(const LogicalTensor& tensor) { return tensor.shape.size() >= 2; }

BlockType float_type(DType dtype) {
  return dtype == DType::F16 ? BlockType::f16 : dtype == DType::BF16 ? BlockType::bf16 : BlockType::f32;
}

// What holds rows that are no whole blocks of `type`: as llama-quantize, a type of 32 weights with about as many bits.
BlockType fallback_of(BlockType type, std::uint64_t cols) {
  if (cols % block_format(type).weights == 0) return type;
  if (cols % 32 != 0) return BlockType::f16;
  switch (type) {
    case BlockType::q5_k:
      return BlockType::q5_1;
    case BlockType::q6_k:
      return BlockType::q8_0;
    case BlockType::q4_k:
      return BlockType::q5_0;
    case BlockType::iq4_xs:
      return BlockType::iq4_nl;
    default:
      return BlockType::q4_0;
  }
}

void require_absent(const fs::path& output) {
  if (!fs::exists(fs::symlink_status(output))) return;
  throw Error(ErrorCode::io, fmt::format("'{}' exists already.", output.string()), "Choose another name.");
}

// Two processes that write one file would rename each other's halves.
void lock(const io::FileHandle& file, const fs::path& partial) {
  struct stat opened {};
  struct stat named {};
  const bool locked = flock(file.get(), LOCK_EX | LOCK_NB) == 0 && fstat(file.get(), &opened) == 0 &&
                      stat(partial.c_str(), &named) == 0 && opened.st_ino == named.st_ino;
  if (!locked) {
    throw Error(ErrorCode::io, fmt::format("another process is working on '{}'.", partial.string()),
                "Wait for it, or stop it first.");
  }
}

void require_space(const fs::path& partial, std::uint64_t bytes) {
  std::error_code failed;
  const auto space = fs::space(partial, failed);
  if (failed || space.available >= bytes) return;
  throw Error(ErrorCode::io,
              fmt::format("'{}' needs {:.1f} MB, and {:.1f} MB are free.", partial.string(),
                          static_cast<double>(bytes) / 1e6, static_cast<double>(space.available) / 1e6),
              "Free some space, or choose another output.");
}

// Gives the file its name when `write` has filled it and it is durable; leaves nothing otherwise.
template <class Write>
void write_new_file(const fs::path& output, std::uint64_t bytes, const Write& write) {
  require_absent(output);
  const fs::path partial = output.string() + ".partial";
  io::FileHandle file(open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (file.get() < 0) io::fail_io("create", partial, errno);
  lock(file, partial);
  try {
    require_space(partial, bytes);
    if (ftruncate(file.get(), 0) != 0) io::fail_io("empty", partial, errno);
    write(file, partial);
    if (fsync(file.get()) != 0) io::fail_io("sync", partial, errno);
    require_absent(output);  // it may have appeared meanwhile
    if (std::rename(partial.c_str(), output.c_str()) != 0) io::fail_io("create", output, errno);
  } catch (...) {
    unlink(partial.c_str());
    throw;
  }
}

class Exporter {
 public:
  Exporter(const Checkpoint& checkpoint, const Registry& registry, const GgufExportOptions& options)
      : options_(options), checkpoint_(checkpoint), facts_(checkpoint), tensors_(checkpoint, registry) {}

  GgufExportResult run() {
    require_absent(options_.output);
    plan();
    write();
    return std::move(result_);
  }

 private:
  void plan() {
    std::vector<const LogicalTensor*> order;
    for (const LogicalTensor& tensor : tensors_.tensors()) order.push_back(&tensor);
    std::ranges::sort(order, [](const auto* a, const auto* b) { return natural_less(a->name, b->name); });
    for (const LogicalTensor* tensor : order) add(*tensor);
    const std::vector<float> factors = facts_.rope_factors();
    if (!factors.empty()) {
      Item item;
      item.values = factors;
      put(std::move(item), "rope_freqs.weight", {factors.size()});
    }
    report_problems();
    make_metadata();
  }

  void add(const LogicalTensor& tensor) {
    result_.bytes_before += tensor.stored_bytes;
    const bool left_out = tensor.name.ends_with("rotary_emb.inv_freq") || tensor.name.ends_with("masked_bias") ||
                          (facts_.tied() && tensor.name == "lm_head.weight");
    if (left_out) return;
    const auto name = gguf::gguf_name(facts_.architecture(), tensor.name);
    if (!name || !tensor.numeric) {
      no_place_.push_back(tensor.name);
      return;
    }
    Item item;
    item.tensor = &tensor;
    item.one_more = facts_.architecture().norm_plus_one && name->ends_with("norm.weight");
    const Rows rows = gguf::rows_of(facts_.architecture(), *name);
    if (rows != Rows::in_order) set_heads(item, rows == Rows::query_heads ? facts_.query_heads() : facts_.key_heads());
    if (is_matrix(tensor)) choose_type(item, *name);
    std::vector<std::uint64_t> sizes(tensor.shape.rbegin(), tensor.shape.rend());
    put(std::move(item), *name, std::move(sizes));
  }

  void set_heads(Item& item, std::uint64_t heads) const {
    const LogicalTensor& tensor = *item.tensor;
    const std::uint64_t rows = is_matrix(tensor) ? tensor.rows : tensor.count();
    if (heads == 0 || rows % heads != 0 || rows / heads % 2 != 0) {
      throw Error(ErrorCode::corrupt_file, fmt::format("{} {} does not divide into {} heads of an even number of rows",
                                                       tensor.name, to_string(tensor.shape), heads));
    }
    item.head = rows / heads;
  }

  std::optional<BlockType> wanted_type(const std::string& name) const {
    if (name == "token_embd.weight") return options_.embedding ? options_.embedding : options_.type;
    if (name == "output.weight") return options_.head ? options_.head : options_.type;
    return options_.type;
  }

  void choose_type(Item& item, const std::string& name) {
    const LogicalTensor& tensor = *item.tensor;
    const auto wanted = wanted_type(name);
    if (tensor.linear != nullptr) {
      const auto same = lossless_block_type(tensor.linear->args, tensor.cols);
      if (same && fits(tensor, *same)) {
        item.type = *same;
        item.moved = true;
        return;
      }
      if (!options_.requantize || !wanted) {
        lossy_.push_back(fmt::format("{} ({})", tensor.name, describe(tensor.linear->args)));
        return;
      }
      item.rounded = true;
    }
    item.type = float_type(tensor.dtype);
    if (!wanted) return;
    item.type = fallback_of(*wanted, tensor.cols);
    if (item.type != *wanted) {
      result_.remarks.push_back(fmt::format("{} has {} columns, no whole blocks of {}: it becomes {}", tensor.name,
                                            tensor.cols, block_format(*wanted).name, block_format(item.type).name));
    }
  }

  // Whether the codes of all rows can be moved, which their scales decide.
  bool fits(const LogicalTensor& tensor, BlockType type) const {
    if (has_blocks(tensor.linear->args)) return true;
    const std::uint64_t step = tensors_.block_rows(tensor);
    QuantizedTensor slice;
    for (std::uint64_t first = 0; first < tensor.rows; first += step) {
      if (options_.scan.stop != nullptr && *options_.scan.stop) throw Error(ErrorCode::interrupted, "stopped");
      const std::uint64_t count = std::min(step, tensor.rows - first);
      tensors_.layout()->read_rows(checkpoint_, *tensor.linear, first, count, slice);
      try {
        move_to_blocks(slice, type);
      } catch (const Error&) {
        return false;
      }
    }
    return true;
  }

  void put(Item item, const std::string& name, std::vector<std::uint64_t> sizes) {
    TensorEntry entry{name, std::move(sizes), static_cast<std::uint32_t>(item.type), 0, 0};
    std::uint64_t count = 1;
    for (const std::uint64_t size : entry.sizes) count = checked_mul(count, size, name);
    entry.bytes = block_bytes(item.type, count);
    items_.push_back(std::move(item));
    entries_.push_back(std::move(entry));
    total_ += count;
  }

  void report_problems() const {
    if (!no_place_.empty()) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{} tensors have no place in GGUF files of this family, {} for example.",
                              no_place_.size(), no_place_.front()),
                  "", "UnsupportedTensor");
    }
    if (lossy_.empty()) return;
    throw Error(ErrorCode::unsupported,
                fmt::format("The codes of {} matrices fit no block format of GGUF as they are, {} for example.",
                            lossy_.size(), lossy_.front()),
                "Round them once more with --requantize and --type, at some loss, or convert the original model.",
                "LossyConversion");
  }

  void make_metadata() {
    metadata_ = facts_.metadata();
    const TensorEntry* embedding = nullptr;
    for (const TensorEntry& entry : entries_) {
      if (entry.name == "token_embd.weight") embedding = &entry;
    }
    if (embedding == nullptr) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{} has no model.embed_tokens.weight", checkpoint_.location().string()), "",
                  "MissingTensor");
    }
    metadata_.emplace_back("general.file_type", gguf::u32_value(file_type()));
    metadata_.emplace_back("general.quantization_version", gguf::u32_value(2));
    for (auto& pair :
         gguf::tokenizer_metadata(checkpoint_, embedding->rows(), options_.pre_tokenizer, result_.remarks)) {
      metadata_.push_back(std::move(pair));
    }
  }

  // llama.cpp's name for the type of most weights.
  std::uint32_t file_type() const {
    static const std::map<BlockType, std::uint32_t> kNumbers = {
        {BlockType::f32, 0},     {BlockType::f16, 1},     {BlockType::q4_0, 2},  {BlockType::q4_1, 3},
        {BlockType::q8_0, 7},    {BlockType::q5_0, 8},    {BlockType::q5_1, 9},  {BlockType::q2_k, 10},
        {BlockType::q3_k, 12},   {BlockType::q4_k, 15},   {BlockType::q5_k, 17}, {BlockType::q6_k, 18},
        {BlockType::iq4_nl, 25}, {BlockType::iq4_xs, 30}, {BlockType::bf16, 32}, {BlockType::tq1_0, 36},
        {BlockType::tq2_0, 37},  {BlockType::mxfp4, 38},  {BlockType::nvfp4, 39}};
    std::map<BlockType, std::uint64_t> bytes;
    for (const TensorEntry& entry : entries_) {
      if (entry.sizes.size() > 1) bytes[static_cast<BlockType>(entry.type)] += entry.cols() * entry.rows();
    }
    const auto most = std::ranges::max_element(bytes, {}, [](const auto& pair) { return pair.second; });
    return most == bytes.end() ? 0 : kNumbers.at(most->first);
  }

  void write() {
    const std::string header = gguf::make_header(metadata_, entries_);
    std::uint64_t bytes = header.size();
    for (const TensorEntry& entry : entries_) bytes += gguf::padded(entry.bytes, gguf::kAlignment);
    write_new_file(options_.output, bytes, [&](const io::FileHandle& file, const fs::path& partial) {
      io::write_at(file, partial, 0, std::as_bytes(std::span(header)));
      std::uint64_t end = header.size();
      for (std::size_t i = 0; i < items_.size(); ++i) {
        write_tensor(file, partial, items_[i], header.size() + entries_[i].offset);
        end = header.size() + entries_[i].offset + gguf::padded(entries_[i].bytes, gguf::kAlignment);
      }
      if (ftruncate(file.get(), static_cast<off_t>(end)) != 0) io::fail_io("extend", partial, errno);
      result_.bytes_after = end;
    });
    result_.tensors = items_.size();
  }

  void write_tensor(const io::FileHandle& file, const fs::path& path, const Item& item, std::uint64_t offset) {
    if (item.tensor == nullptr) return io::write_at(file, path, offset, std::as_bytes(std::span(item.values)));
    const LogicalTensor& tensor = *item.tensor;
    if (!is_matrix(tensor)) return write_vector(file, path, item, offset);
    const std::uint64_t unit = std::max<std::uint64_t>(1, item.head);
    const std::uint64_t step = std::max(unit, kSliceWeights / std::max<std::uint64_t>(1, tensor.cols) / unit * unit);
    const std::uint64_t slices = (tensor.rows + step - 1) / step, row_bytes = block_bytes(item.type, tensor.cols);
    std::vector<ErrorSums> sums(slices);
    std::atomic<bool> failed = false;
    std::exception_ptr error;
    // Slices are written where they belong, so their order does not matter.
#pragma omp parallel for schedule(dynamic) num_threads(threads())
    for (std::uint64_t s = 0; s < slices; ++s) {
      if (failed) continue;
      try {
        if (options_.scan.stop != nullptr && *options_.scan.stop) throw Error(ErrorCode::interrupted, "stopped");
        const std::uint64_t first = s * step, count = std::min(step, tensor.rows - first);
        const std::vector<std::byte> bytes = rows_of(item, first, count, sums[s]);
        io::write_at(file, path, offset + first * row_bytes, bytes);
        tensors_.done_reading(tensor, first, count);
      } catch (...) {
#pragma omp critical
        if (!error) error = std::current_exception();
        failed = true;
      }
    }
    if (error) std::rethrow_exception(error);
    if (block_format(item.type).weights > 1) {
      result_.matrices.push_back({tensor.name, item.type, item.moved, item.rounded, {}});
      for (const ErrorSums& part : sums) result_.matrices.back().sums += part;
    }
    tensors_.done_reading(tensor);
    done_ += tensor.count();
    if (options_.scan.progress) options_.scan.progress(done_, total_);
  }

  int threads() const;

  void write_vector(const io::FileHandle& file, const fs::path& path, const Item& item, std::uint64_t offset) const {
    std::vector<float> values(item.tensor->count()), ordered(values.size());
    tensors_.read_rows(*item.tensor, 0, item.tensor->rows, values);
    for (std::uint64_t i = 0; i < values.size(); ++i) {
      ordered[i] = values[item.head == 0 ? i : gguf::model_row(i, item.head)] + (item.one_more ? 1.0F : 0.0F);
    }
    io::write_at(file, path, offset, std::as_bytes(std::span(ordered)));
  }

  // Rows [first, first + count) of the file's tensor, whole heads of them.
  std::vector<std::byte> rows_of(const Item& item, std::uint64_t first, std::uint64_t count, ErrorSums& sums) const {
    const LogicalTensor& tensor = *item.tensor;
    const std::uint64_t row_bytes = block_bytes(item.type, tensor.cols);
    std::vector<std::byte> bytes(count * row_bytes);
    if (item.moved) {
      QuantizedTensor slice;
      const std::uint64_t alignment = std::max<std::uint64_t>(1, tensors_.layout()->read_alignment(*tensor.linear));
      const std::uint64_t skipped = first % alignment;
      tensors_.layout()->read_rows(checkpoint_, *tensor.linear, first - skipped, count + skipped, slice);
      const QuantizedTensor blocks = move_to_blocks(slice, item.type);
      std::memcpy(bytes.data(), blocks.blocks.data() + skipped * row_bytes, bytes.size());
    } else {
      std::vector<float> values(count * tensor.cols);
      tensors_.read_rows(tensor, first, count, values);
      check_finite(tensor, first, values);
      encode_blocks(item.type, values, tensor.cols, importance_of(tensor), options_.encoder, bytes);
      std::vector<float> decoded(values.size());
      decode_blocks(item.type, bytes, decoded);
      if (!std::ranges::all_of(decoded, [](float value) { return std::isfinite(value); })) {
        throw Error(ErrorCode::numerical,
                    fmt::format("{} has weights beyond half precision, which {} needs.", tensor.name,
                                block_format(item.type).name),
                    "BF16 and F32 hold them.");
      }
      sums = measure_values(values, decoded);
    }
    if (item.head == 0) return bytes;
    std::vector<std::byte> ordered(bytes.size());
    for (std::uint64_t r = 0; r < count; ++r) {
      std::memcpy(ordered.data() + r * row_bytes, bytes.data() + gguf::model_row(r, item.head) * row_bytes, row_bytes);
    }
    return ordered;
  }

  static void check_finite(const LogicalTensor& tensor, std::uint64_t first, const std::vector<float>& values) {
    const auto bad = std::ranges::find_if(values, [](float value) { return !std::isfinite(value); });
    if (bad == values.end()) return;
    const auto place = static_cast<std::uint64_t>(bad - values.begin());
    throw Error(ErrorCode::numerical, fmt::format("{} holds {} in row {}, column {}", tensor.name, *bad,
                                                  first + place / tensor.cols, place % tensor.cols));
  }

  std::vector<float> importance_of(const LogicalTensor& tensor) const {
    if (options_.importance == nullptr) return {};
    const TensorInfo* info = options_.importance->find(tensor.name);
    if (info == nullptr) return {};
    const TensorView view = options_.importance->view(*info);
    std::vector<float> values(element_count(info->shape));
    if (values.size() != tensor.cols) {
      throw Error(ErrorCode::usage, fmt::format("the importance of {} is {}; its weight has {} columns", tensor.name,
                                                to_string(info->shape), tensor.cols));
    }
    read_f32(view, 0, values);
    return values;
  }

  const GgufExportOptions& options_;
  const Checkpoint& checkpoint_;
  ModelFacts facts_;
  LogicalTensors tensors_;
  GgufExportResult result_;
  gguf::Metadata metadata_;
  std::vector<Item> items_;
  std::vector<TensorEntry> entries_;
  std::vector<std::string> no_place_, lossy_;
  std::uint64_t total_ = 0, done_ = 0;
};

int Exporter::threads() const {
  const long all = sysconf(_SC_NPROCESSORS_ONLN);
  return options_.scan.threads > 0 ? options_.scan.threads : static_cast<int>(std::max(1L, all));
}

}  // namespace

GgufExportResult export_gguf(const Checkpoint& checkpoint, const Registry& registry, const GgufExportOptions& options) {
  for (const auto& type : {options.type, options.embedding, options.head}) {
    if (type && !can_encode(*type)) {
      throw Error(ErrorCode::usage, fmt::format("blocks of {} are read but not made", block_format(*type).name));
    }
  }
  return Exporter(checkpoint, registry, options).run();
}

void export_imatrix(const fs::path& statistics, const fs::path& output, ImatrixForm form) {
  const StatisticsFileReader reader(statistics);
  std::vector<gguf::Importance> entries;
  std::uint64_t tokens = 1;
  for (const std::string& module : reader.modules()) {
    const bool squares = reader.describe(module).parts.square;
    CalibrationNeeds parts;
    (squares ? parts.square : parts.gram) = true;
    const InputStatistics inputs = reader.read(module, parts);
    if (!squares && inputs.gram.empty()) {
      throw Error(ErrorCode::usage,
                  fmt::format("{} has no mean squares and no Gram matrix of {}", statistics.string(), module),
                  "Collect statistics with a recipe that needs them: importance: hessian, GPTQ, or Wanda.");
    }
    const bool fused = module.ends_with("qkv_proj") || module.ends_with("gate_up_proj");
    const auto name = gguf::gguf_name(*gguf::find_architecture(fused ? "phi3" : "llama"), module + ".weight");
    if (!name) {
      throw Error(ErrorCode::unsupported, fmt::format("{} has no name in GGUF files", module), "", "UnsupportedTensor");
    }
    gguf::Importance entry{*name, {}, static_cast<double>(inputs.tokens)};
    entry.squares = inputs.square;
    for (std::uint64_t c = 0; !squares && c < inputs.cols; ++c) {
      entry.squares.push_back(inputs.gram[c * inputs.cols + c]);
    }
    entries.push_back(std::move(entry));
    tokens = std::max<std::uint64_t>(tokens, inputs.tokens);
  }
  const std::string& data = reader.origin().data;
  const std::string bytes = form == ImatrixForm::gguf ? gguf::importance_bytes(entries, data, tokens)
                                                      : gguf::legacy_importance_bytes(entries, data);
  write_new_file(output, bytes.size(), [&](const io::FileHandle& file, const fs::path& partial) {
    io::write_at(file, partial, 0, std::as_bytes(std::span(bytes)));
  });
}

}  // namespace quant
