// A checkpoint as a GGUF file.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <system_error>

#include "containers/gguf/export_parts.h"
#include "containers/gguf/export_tensors.h"
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
using gguf::Item;
using gguf::ModelFacts;
using gguf::Piece;
using gguf::Place;
using gguf::Rows;
using gguf::Source;
using gguf::TensorEntry;

// The parts of one tensor of the file, as they turn up.
struct Group {
  std::string name;
  Piece piece = Piece::whole;
  std::map<std::uint64_t, Source> parts;
};

bool is_matrix(const LogicalTensor& tensor) { return tensor.shape.size() >= 2; }

// llama.cpp wants these as float32.
bool stays_float(std::string_view name) {
  return name == "position_embd.weight" || name.ends_with(".ffn_gate_inp.weight") ||
         name.ends_with(".ffn_gate_inp_shexp.weight");
}

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
    add_head();
    for (const Group& group : groups_) finish(group);
    if (of_images_ > 0) {
      result_.remarks.push_back(
          fmt::format("{} tensors that read images are left out: the file holds the language model", of_images_));
    }
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
    if (gguf::is_of_images(facts_.architecture(), tensor.name)) {
      ++of_images_;
      return;
    }
    const std::vector<Place> places = gguf::places_of(facts_.architecture(), tensor.name);
    if (places.empty() && gguf::is_buffer(tensor.name)) return;
    if (facts_.tied() && !places.empty() && places.front().name == "output.weight") return;
    if (places.empty() || !tensor.numeric) {
      no_place_.push_back(tensor.name);
      return;
    }
    for (const Place& place : places) add(tensor, place);
  }

  void add(const LogicalTensor& tensor, const Place& place) {
    auto group = std::ranges::find(groups_, place.name, &Group::name);
    if (group == groups_.end()) group = groups_.insert(groups_.end(), {place.name, place.piece, {}});
    const auto keep = [&](std::uint64_t part, Source source) {
      if (group->piece == place.piece && group->parts.emplace(part, source).second) return;
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{} has two tensors for {}; {} is the second.", checkpoint_.location().string(),
                              place.name, tensor.name),
                  "", "DuplicateTensor");
    };
    if (place.piece == Piece::whole || place.piece == Piece::part) return keep(place.part, {&tensor, 0, tensor.rows});
    const bool halves = place.piece != Piece::stack;
    if (tensor.shape.size() != 3 || (halves && tensor.shape[1] % 2 != 0)) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{} {} is no tensor of experts", tensor.name, to_string(tensor.shape)), "", "BadExperts");
    }
    const std::uint64_t step = tensor.shape[1], rows = halves ? step / 2 : step;
    const std::uint64_t first = place.piece == Piece::second_halves ? rows : 0;
    for (std::uint64_t e = 0; e < tensor.shape[0]; ++e) keep(e, {&tensor, e * step + first, rows});
  }

  void finish(const Group& group) {
    Item item;
    for (const auto& [part, source] : group.parts) item.sources.push_back(source);
    const LogicalTensor& tensor = *item.sources.front().tensor;
    item.matrix = is_matrix(tensor);
    item.cols = tensor.cols;
    item.one_more = facts_.architecture().norm_plus_one && group.name.ends_with("norm.weight");
    item.transposed = gguf::is_transposed(facts_.architecture(), group.name) && tensor.plain != nullptr;
    std::vector<std::uint64_t> sizes(tensor.shape.rbegin(), tensor.shape.rend());
    if (item.transposed) {
      if (sizes.size() != 2) throw Error(ErrorCode::corrupt_file, fmt::format("{} is no matrix", tensor.name));
      std::swap(sizes[0], sizes[1]);
      item.cols = tensor.rows;
      item.sources.front().rows = tensor.cols;
    }
    if (group.piece != Piece::whole) sizes = stacked_sizes(group, item);
    const Rows rows = gguf::rows_of(facts_.architecture(), group.name);
    if (rows == Rows::fused_heads) split_heads(item);
    if (rows == Rows::query_heads) set_heads(item, facts_.query_heads());
    if (rows == Rows::key_heads) set_heads(item, facts_.key_heads());
    if (item.matrix && !stays_float(group.name)) choose_type(item, group.name);
    put(std::move(item), group.name, std::move(sizes));
  }

  // All parts are there and of one size, which the file's tensor has as often as there are parts.
  std::vector<std::uint64_t> stacked_sizes(const Group& group, const Item& item) const {
    const std::uint64_t wanted = group.name.ends_with("_exps.weight")         ? facts_.experts()
                                 : group.name.ends_with("attn_q_norm.weight") ? facts_.query_heads()
                                                                              : facts_.key_heads();
    const Source& one = item.sources.front();
    if (group.parts.size() != wanted || group.parts.rbegin()->first != wanted - 1) {
      throw Error(
          ErrorCode::corrupt_file,
          fmt::format("{} has {} parts of {}, {} for example; its config.json says {}", checkpoint_.location().string(),
                      group.parts.size(), group.name, one.tensor->name, wanted),
          "Fetch the model again.", "MissingTensor");
    }
    for (const Source& source : item.sources) {
      if (source.rows == one.rows && source.tensor->cols == one.tensor->cols &&
          is_matrix(*source.tensor) == item.matrix)
        continue;
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{} {} and {} {} are of different sizes", one.tensor->name, to_string(one.tensor->shape),
                              source.tensor->name, to_string(source.tensor->shape)),
                  "", "WrongShape");
    }
    if (!item.matrix) return {one.rows, wanted};
    return {item.cols, one.rows, wanted};
  }

  // The rows of q of all heads, then of k, then of v, from heads that have all three.
  void split_heads(Item& item) const {
    const Source all = item.sources.front();
    const std::uint64_t heads = facts_.query_heads(), head = all.rows / heads / 3;
    if (all.rows == 0 || all.rows != heads * head * 3) {
      throw Error(ErrorCode::corrupt_file, fmt::format("{} {} does not divide into q, k and v of {} heads",
                                                       all.tensor->name, to_string(all.tensor->shape), heads));
    }
    item.sources.clear();
    for (std::uint64_t which = 0; which < 3; ++which) {
      for (std::uint64_t h = 0; h < heads; ++h) item.sources.push_back({all.tensor, (h * 3 + which) * head, head});
    }
  }

  void set_heads(Item& item, std::uint64_t heads) const {
    const Source& source = item.sources.front();
    if (heads == 0 || source.rows % heads != 0 || source.rows / heads % 2 != 0) {
      throw Error(ErrorCode::corrupt_file, fmt::format("{} {} does not divide into {} heads of an even number of rows",
                                                       source.tensor->name, to_string(source.tensor->shape), heads));
    }
    item.head = source.rows / heads;
  }

  // The embedding once more, for families whose head llama.cpp wants to see.
  void add_head() {
    const auto named = [&](const char* name) { return std::ranges::find(groups_, name, &Group::name); };
    if (!facts_.architecture().needs_head || named("output.weight") != groups_.end()) return;
    const auto embedding = named("token_embd.weight");
    if (embedding == groups_.end()) return;  // make_metadata says so
    if (!facts_.tied()) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{} has no output head, which llama.cpp needs.", checkpoint_.location().string()), "",
                  "MissingTensor");
    }
    Group head = *embedding;
    head.name = "output.weight";
    groups_.push_back(std::move(head));
  }

  std::optional<BlockType> wanted_type(const std::string& name) const {
    if (name == "token_embd.weight") return options_.embedding ? options_.embedding : options_.type;
    if (name == "output.weight") return options_.head ? options_.head : options_.type;
    return options_.type;
  }

  void choose_type(Item& item, const std::string& name) {
    const LogicalTensor& tensor = *item.sources.front().tensor;
    const auto wanted = wanted_type(name);
    const std::vector<const LogicalTensor*> tensors = tensors_in(item);
    const auto quantized = std::ranges::find_if(tensors, [](const auto* one) { return one->linear != nullptr; });
    if (quantized != tensors.end()) {
      if (const auto same = lossless_type(tensors)) {
        item.type = *same;
        item.moved = true;
        return;
      }
      if (!options_.requantize || !wanted) {
        lossy_.push_back(fmt::format("{} ({})", (*quantized)->name, describe((*quantized)->linear->args)));
        return;
      }
      item.rounded = true;
    }
    const bool one_type = std::ranges::all_of(tensors, [&](const auto* one) { return one->dtype == tensor.dtype; });
    item.type = one_type ? float_type(tensor.dtype) : BlockType::f32;
    if (!wanted) return;
    item.type = fallback_of(*wanted, item.cols);
    if (item.type != *wanted) {
      result_.remarks.push_back(fmt::format("{} has {} columns, no whole blocks of {}: it becomes {}", tensor.name,
                                            item.cols, block_format(*wanted).name, block_format(item.type).name));
    }
  }

  static std::vector<const LogicalTensor*> tensors_in(const Item& item) {
    std::vector<const LogicalTensor*> tensors;
    for (const Source& source : item.sources) {
      if (tensors.empty() || tensors.back() != source.tensor) tensors.push_back(source.tensor);
    }
    return tensors;
  }

  // The one block format that holds the codes of all these tensors.
  std::optional<BlockType> lossless_type(const std::vector<const LogicalTensor*>& tensors) const {
    std::optional<BlockType> all;
    for (const LogicalTensor* tensor : tensors) {
      if (tensor->linear == nullptr) return std::nullopt;
      const auto same = lossless_block_type(tensor->linear->args, tensor->cols);
      if (!same || (all && *all != *same) || !fits(*tensor, *same)) return std::nullopt;
      all = same;
    }
    return all;
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
    const gguf::TensorWriter writer(checkpoint_, tensors_, options_);
    std::uint64_t bytes = header.size();
    for (const TensorEntry& entry : entries_) bytes += gguf::padded(entry.bytes, gguf::kAlignment);
    write_new_file(options_.output, bytes, [&](const io::FileHandle& file, const fs::path& partial) {
      io::write_at(file, partial, 0, std::as_bytes(std::span(header)));
      std::uint64_t end = header.size();
      for (std::size_t i = 0; i < items_.size(); ++i) {
        writer.write(items_[i], file, partial, header.size() + entries_[i].offset, result_.matrices);
        if (items_[i].matrix) done_ += entries_[i].cols() * entries_[i].rows();
        if (items_[i].matrix && options_.scan.progress) options_.scan.progress(done_, total_);
        end = header.size() + entries_[i].offset + gguf::padded(entries_[i].bytes, gguf::kAlignment);
      }
      if (ftruncate(file.get(), static_cast<off_t>(end)) != 0) io::fail_io("extend", partial, errno);
      result_.bytes_after = end;
    });
    result_.tensors = items_.size();
  }

  const GgufExportOptions& options_;
  const Checkpoint& checkpoint_;
  ModelFacts facts_;
  LogicalTensors tensors_;
  GgufExportResult result_;
  gguf::Metadata metadata_;
  std::vector<Group> groups_;
  std::size_t of_images_ = 0;
  std::vector<Item> items_;
  std::vector<TensorEntry> entries_;
  std::vector<std::string> no_place_, lossy_;
  std::uint64_t total_ = 0, done_ = 0;
};

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
