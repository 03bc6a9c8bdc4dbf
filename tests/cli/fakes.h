// A checkpoint in memory, a layout that stores 8-bit codes beside float scales, and a container of raw bytes.
#pragma once

#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quant/error.h"
#include "quant/registry.h"

namespace quant::test {

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

class FakeCheckpoint final : public Checkpoint {
 public:
  explicit FakeCheckpoint(std::filesystem::path location = "fake") : location_(std::move(location)) {
    files_.push_back({location_ / "model.raw", 0, {}});
  }

  void add_bytes(const std::string& name, DType dtype, Shape shape, std::vector<std::byte> bytes) {
    tensors_.push_back({name, dtype, std::move(shape), bytes.size(), 0, 0});
    data_[name] = std::move(bytes);
  }
  void add(const std::string& name, Shape shape, const std::vector<float>& values) {
    add_bytes(name, DType::F32, std::move(shape), bytes_of(values));
  }
  void set_config(std::string text, std::string quantization) {
    config_.text = std::move(text);
    config_.quantization_config = std::move(quantization);
  }
  void add_companion(std::filesystem::path file) { companions_.push_back(std::move(file)); }
  std::vector<std::byte>& data(const std::string& name) { return data_.at(name); }

  const std::filesystem::path& location() const override { return location_; }
  const std::vector<CheckpointFile>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override {
    for (const TensorInfo& info : tensors_) {
      if (info.name == name) return &info;
    }
    return nullptr;
  }
  TensorView view(const TensorInfo& info) const override { return {info.dtype, info.shape, data_.at(info.name)}; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<std::filesystem::path>& companions() const override { return companions_; }

 private:
  std::filesystem::path location_;
  std::vector<CheckpointFile> files_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::vector<std::byte>> data_;
  ModelConfig config_;
  std::vector<std::filesystem::path> companions_;
};

inline QuantArgs fake_args() {
  QuantArgs args;
  args.num_bits = 4;
  args.symmetric = false;
  args.strategy = Strategy::group;
  args.group_size = 4;
  return args;
}

/// "<module>.weight_packed" I8 [rows, cols], "<module>.weight_scale" F32 and "<module>.weight_zero_point" I8 of the
/// grid.
class FakeLayout final : public Layout {
 public:
  std::string_view name() const override { return "fake"; }
  DType scale_dtype(const QuantArgs&, DType) const override { return DType::F32; }
  std::optional<std::string> unsupported(const Scheme&, const LinearShape&) const override { return {}; }
  std::string format_of(const Scheme&) const override { return "fake-int8"; }
  std::vector<StoredTensor> stored(const Scheme&, const LinearShape&) const override { return {}; }
  std::uint64_t row_alignment(const Scheme&) const override { return 1; }
  void write_rows(const Scheme&, const LinearShape&, std::uint64_t, const QuantizedTensor&,
                  StoredBytesSink&) const override {}
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>&,
                          const std::vector<std::string>&) const override {
    return model.text;
  }
  std::vector<StoredKv> find_kv(const Checkpoint& checkpoint) const override {
    if (checkpoint.find("attn.k_scale") == nullptr) return {};
    return {{"attn", {1, 1}, {"attn.k_scale", "attn.v_scale"}}};
  }
  bool recognizes(const ModelConfig& model) const override {
    return model.quantization_config.find("\"fake\"") != std::string::npos;
  }
  std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const override {
    std::vector<StoredLinear> linears;
    for (const TensorInfo& info : checkpoint.tensors()) {
      if (!info.name.ends_with(".weight_packed")) continue;
      const std::string module = info.name.substr(0, info.name.size() - std::strlen(".weight_packed"));
      if (checkpoint.find(module + ".weight_scale") == nullptr) {
        throw Error(ErrorCode::corrupt_file, "'" + module + "' has no scale", {}, "MissingScale");
      }
      linears.push_back({{module, info.shape[0], info.shape[1], DType::F16},
                         fake_args(),
                         DType::F32,
                         "fake-int8",
                         {info.name, module + ".weight_scale", module + ".weight_zero_point"}});
    }
    return linears;
  }
  void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first, std::uint64_t count,
                 QuantizedTensor& out) const override {
    if (first % read_alignment(linear) != 0) throw Error(ErrorCode::internal, "unaligned read");
    out.resize(linear.args, count, linear.shape.cols);
    const auto copy = [&](const char* part, auto& values, std::uint64_t row_values) {
      const auto& bytes = checkpoint.view(*checkpoint.find(linear.shape.module + part)).bytes;
      const std::size_t size = sizeof(values[0]);
      std::memcpy(values.data(), bytes.data() + first * row_values * size, count * row_values * size);
    };
    copy(".weight_packed", out.codes, linear.shape.cols);
    copy(".weight_scale", out.scales, out.grid.cols);
    copy(".weight_zero_point", out.zero_points, out.grid.cols);
  }
  std::uint64_t read_alignment(const StoredLinear&) const override { return 3; }
};

class RawWriter final : public ContainerWriter {
 public:
  RawWriter(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors)
      : path_(path), tensors_(tensors) {
    std::uint64_t at = 0;
    for (const StoredTensor& tensor : tensors_) {
      starts_.push_back(at);
      at += tensor.bytes();
    }
    bytes_.resize(at);
  }
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset + data.size() > tensors_.at(tensor).bytes()) throw Error(ErrorCode::internal, "outside the tensor");
    if (!data.empty()) std::memcpy(bytes_.data() + starts_[tensor] + offset, data.data(), data.size());
  }
  void sync() override {
    std::ofstream out(path_, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes_.data()), static_cast<std::streamsize>(bytes_.size()));
  }

 private:
  std::filesystem::path path_;
  std::vector<StoredTensor> tensors_;
  std::vector<std::uint64_t> starts_;
  std::vector<std::byte> bytes_;
};

/// Files are the tensors' bytes one after the other; `created` remembers what was asked for.
class RawContainer final : public Container {
 public:
  std::string_view name() const override { return "raw"; }
  std::string_view extension() const override { return ".raw"; }
  std::uint64_t file_bytes(const std::vector<StoredTensor>&,
                           const std::vector<std::pair<std::string, std::string>>&) const override {
    return 0;
  }
  std::unique_ptr<ContainerWriter> create(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                                          const std::vector<std::pair<std::string, std::string>>&,
                                          bool) const override {
    created[path.filename().string()] = tensors;
    return std::make_unique<RawWriter>(path, tensors);
  }
  mutable std::map<std::string, std::vector<StoredTensor>> created;
};

inline Registry fake_registry() {
  Registry registry;
  registry.add(std::make_unique<FakeLayout>());
  registry.add(std::make_unique<RawContainer>());
  return registry;
}

/// A deterministic stream of numbers in [-1, 1).
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed * 2654435761U + 12345U) {}
  float next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<float>(static_cast<std::int32_t>(state_ >> 32)) / 2147483648.0F;
  }
  std::vector<float> many(std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = next();
    return values;
  }

 private:
  std::uint64_t state_;
};

/// A quantized linear of the fake layout, and the values that it stands for.
struct FakeLinear {
  std::vector<std::int8_t> codes, zero_points;
  std::vector<float> scales;
  std::vector<float> values;
};

inline FakeLinear make_linear(std::uint64_t rows, std::uint64_t cols, std::uint64_t seed) {
  Numbers numbers(seed);
  const std::uint64_t groups = (cols + 3) / 4;
  FakeLinear linear;
  for (std::uint64_t i = 0; i < rows * cols; ++i) linear.codes.push_back(static_cast<std::int8_t>(numbers.next() * 8));
  for (std::uint64_t i = 0; i < rows * groups; ++i) {
    linear.scales.push_back(0.01F + 0.005F * numbers.next());
    linear.zero_points.push_back(static_cast<std::int8_t>(numbers.next() * 3));
  }
  for (std::uint64_t r = 0; r < rows; ++r) {
    for (std::uint64_t c = 0; c < cols; ++c) {
      const std::size_t g = r * groups + c / 4;
      linear.values.push_back(static_cast<float>(linear.codes[r * cols + c] - linear.zero_points[g]) *
                              linear.scales[g]);
    }
  }
  return linear;
}

inline void add_linear(FakeCheckpoint& checkpoint, const std::string& module, std::uint64_t rows, std::uint64_t cols,
                       const FakeLinear& linear) {
  checkpoint.add_bytes(module + ".weight_packed", DType::I8, {rows, cols}, bytes_of(linear.codes));
  checkpoint.add_bytes(module + ".weight_scale", DType::F32, {rows, (cols + 3) / 4}, bytes_of(linear.scales));
  checkpoint.add_bytes(module + ".weight_zero_point", DType::I8, {rows, (cols + 3) / 4}, bytes_of(linear.zero_points));
}

inline constexpr const char* kFakeQuantization =
    R"({"quant_method": "fake", "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"]}}})";

}  // namespace quant::test
