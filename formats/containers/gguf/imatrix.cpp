#include "containers/gguf/imatrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "containers/gguf/architectures.h"
#include "containers/io/text.h"
#include "quant/error.h"

namespace quant::gguf {
namespace {

namespace fs = std::filesystem;
using io::in_quotes;

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr std::uint64_t kLargestLegacyFile = std::uint64_t{1} << 30U;

[[noreturn]] void fail(const fs::path& path, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file,
              fmt::format("{} is no valid file of importance: {}.", in_quotes(path.string()), problem),
              "Make it again with llama-imatrix, or calibrate with quant.", "BadImatrix");
}

void check(const Importance& entry, const fs::path& path) {
  for (const float square : entry.squares) {
    if (std::isfinite(square) && square >= 0) continue;
    fail(path, fmt::format("{} holds {}, no finite number from 0 up", in_quotes(entry.name), square));
  }
}

std::vector<float> floats(const TensorEntry& tensor, const Header& header, const io::MappedFile& map,
                          const fs::path& path) {
  if (tensor.type != 0) fail(path, fmt::format("{} is not of type F32", in_quotes(tensor.name)));
  const auto bytes = map.range(header.data_start + tensor.offset, tensor.bytes);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// Bytes of the older form, taken from the start.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const fs::path& path) : bytes_(bytes), path_(path) {}

  std::span<const std::byte> take(std::uint64_t count) {
    if (count > bytes_.size() - at_) fail(path_, "it ends too early");
    const auto part = bytes_.subspan(at_, count);
    at_ += count;
    return part;
  }
  std::uint64_t natural(const char* what) {
    std::int32_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    if (value < 0) fail(path_, fmt::format("{} is {}", what, value));
    return static_cast<std::uint64_t>(value);
  }
  std::string text(const char* what) {
    const auto part = take(natural(what));
    std::string text(reinterpret_cast<const char*>(part.data()), part.size());
    if (!io::is_utf8(text) || io::has_control_character(text)) fail(path_, fmt::format("{} is no plain text", what));
    return text;
  }

 private:
  std::span<const std::byte> bytes_;
  const fs::path& path_;
  std::uint64_t at_ = 0;
};

class ImportanceCheckpoint final : public Checkpoint {
 public:
  ImportanceCheckpoint(const fs::path& path, std::vector<Importance> entries, CheckpointFile file)
      : path_(path), entries_(std::move(entries)), files_{std::move(file)} {
    const bool fused =
        std::ranges::any_of(entries_, [](const Importance& e) { return e.name.ends_with("attn_qkv.weight"); });
    const Architecture& names = *find_architecture(fused ? "phi3" : "llama");
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const std::string& own = entries_[i].name;
      const std::string name = model_name(names, own).value_or(own);
      const std::uint64_t count = entries_[i].squares.size();
      if (!names_.emplace(name, i).second) fail(path, fmt::format("{} is there twice", in_quotes(name)));
      tensors_.push_back({name, DType::F32, {count}, count * sizeof(float), offset, 0});
      offset += count * sizeof(float);
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
    if (found == names_.end()) {
      throw Error(ErrorCode::internal, fmt::format("{} has no {}", path_.string(), info.name));
    }
    return {info.dtype, info.shape, std::as_bytes(std::span(entries_[found->second].squares))};
  }
  const ModelConfig& config() const override { return config_; }
  const std::vector<fs::path>& companions() const override { return companions_; }

 private:
  fs::path path_;
  std::vector<Importance> entries_;
  std::vector<TensorInfo> tensors_;
  std::vector<CheckpointFile> files_;
  ModelConfig config_;
  std::vector<fs::path> companions_;
  std::map<std::string, std::size_t, std::less<>> names_;
};

template <class Number>
void append(std::string& out, Number number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof number);
}

}  // namespace

std::vector<Importance> read_importance(const Header& header, const io::MappedFile& map, const fs::path& path) {
  std::map<std::string_view, const TensorEntry*> counts;
  for (const TensorEntry& tensor : header.tensors) {
    if (tensor.name.ends_with(kCounts)) counts[tensor.name] = &tensor;
  }
  std::vector<Importance> entries;
  for (const TensorEntry& tensor : header.tensors) {
    if (!tensor.name.ends_with(kSums)) continue;
    Importance entry{tensor.name.substr(0, tensor.name.size() - kSums.size()), floats(tensor, header, map, path)};
    const auto found = counts.find(entry.name + std::string(kCounts));
    if (found == counts.end()) fail(path, fmt::format("{} has no counts", in_quotes(entry.name)));
    const std::vector<float> own = floats(*found->second, header, map, path);
    if (own.size() != tensor.rows()) fail(path, fmt::format("{} has {} counts", in_quotes(entry.name), own.size()));
    for (std::size_t i = 0; i < entry.squares.size(); ++i) {
      const float count = own[i / tensor.cols()];
      if (!(count >= 0)) fail(path, fmt::format("{} counts {}", in_quotes(entry.name), count));
      entry.squares[i] = count > 0 ? entry.squares[i] / count : 0.0F;  // experts that no token chose
    }
    entry.count = static_cast<double>(own.front());
    check(entry, path);
    entries.push_back(std::move(entry));
  }
  if (entries.empty()) fail(path, "it holds no sums of squares");
  return entries;
}

std::vector<Importance> read_legacy_importance(std::span<const std::byte> bytes, const fs::path& path) {
  Reader reader(bytes, path);
  const std::uint64_t count = reader.natural("the number of entries");
  if (count == 0) fail(path, "it has no entries");
  std::vector<Importance> entries;
  for (std::uint64_t i = 0; i < count; ++i) {
    Importance entry{reader.text("a name"), {}};
    const std::uint64_t calls = reader.natural("a number of calls");
    entry.squares.resize(0);
    const std::uint64_t values = reader.natural("a number of values");
    const auto part = reader.take(values * sizeof(float));
    entry.squares.resize(values);
    if (!part.empty()) std::memcpy(entry.squares.data(), part.data(), part.size());
    if (values == 0) fail(path, fmt::format("{} has no values", in_quotes(entry.name)));
    const auto divisor = static_cast<float>(std::max<std::uint64_t>(1, calls));
    for (float& square : entry.squares) square /= divisor;
    entry.count = static_cast<double>(divisor);
    check(entry, path);
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::unique_ptr<Checkpoint> importance_checkpoint(const fs::path& path, std::vector<Importance> entries,
                                                  CheckpointFile file) {
  return std::make_unique<ImportanceCheckpoint>(path, std::move(entries), std::move(file));
}

bool has_importance_name(const fs::path& file) { return file.extension() == ".dat" || file.extension() == ".imatrix"; }

std::unique_ptr<Checkpoint> open_legacy_importance(const fs::path& file) {
  const std::string text = io::read_text_file(file, kLargestLegacyFile, "BadImatrix");
  auto entries = read_legacy_importance(std::as_bytes(std::span(text)), file);
  return importance_checkpoint(file, std::move(entries), {file, text.size(), {}});
}

std::string importance_bytes(std::span<const Importance> entries, const std::string& data, std::uint64_t chunk_tokens) {
  Metadata metadata = {{"general.type", text_value("imatrix")}};
  const std::vector<std::string> sets{data};
  metadata.emplace_back("imatrix.datasets", texts_value(sets));
  metadata.emplace_back("imatrix.chunk_count", u32_value(1));
  metadata.emplace_back("imatrix.chunk_size", u32_value(chunk_tokens));
  std::vector<TensorEntry> tensors;
  std::vector<std::string> contents;
  for (const Importance& entry : entries) {
    std::string sums;
    for (const float square : entry.squares)
      append(sums, static_cast<float>(static_cast<double>(square) * entry.count));
    std::string count;
    append(count, static_cast<float>(entry.count));
    tensors.push_back({entry.name + std::string(kSums), {entry.squares.size(), 1}, 0, 0, sums.size()});
    tensors.push_back({entry.name + std::string(kCounts), {1, 1}, 0, 0, count.size()});
    contents.push_back(std::move(sums));
    contents.push_back(std::move(count));
  }
  std::string out = make_header(metadata, tensors);
  for (const std::string& content : contents) {
    out += content;
    out.resize(padded(out.size(), kAlignment), '\0');
  }
  return out;
}

std::string legacy_importance_bytes(std::span<const Importance> entries, const std::string& data) {
  std::string out;
  append(out, static_cast<std::int32_t>(entries.size()));
  for (const Importance& entry : entries) {
    append(out, static_cast<std::int32_t>(entry.name.size()));
    out += entry.name;
    const auto calls = static_cast<std::int32_t>(std::clamp(entry.count, 1.0, 1e9));
    append(out, calls);
    append(out, static_cast<std::int32_t>(entry.squares.size()));
    for (const float square : entry.squares) append(out, square * static_cast<float>(calls));
  }
  append(out, std::int32_t{1});
  append(out, static_cast<std::int32_t>(data.size()));
  return out + data;
}

}  // namespace quant::gguf
