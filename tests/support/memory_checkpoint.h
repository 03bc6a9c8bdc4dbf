// A checkpoint that lives in memory.
#pragma once

#include <cstring>
#include <deque>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quant/checkpoint.h"

namespace quant::test {

class MemoryCheckpoint final : public Checkpoint {
 public:
  /// Adds or replaces a tensor; bytes must fit dtype and shape.
  void set(const std::string& name, DType dtype, Shape shape, std::span<const std::byte> bytes) {
    remove(name);
    if (bytes.size() != byte_count(dtype, shape)) throw std::invalid_argument(name + ": bytes do not fit the shape");
    data_.emplace_back(bytes.begin(), bytes.end());
    tensors_.push_back({name, dtype, std::move(shape), bytes.size(), data_.size() - 1, 0});
  }
  template <typename T>
  void set_values(const std::string& name, DType dtype, Shape shape, const std::vector<T>& values) {
    set(name, dtype, std::move(shape), std::as_bytes(std::span(values)));
  }
  void set(const std::string& name, const TensorView& view) { set(name, view.dtype, view.shape, view.bytes); }
  void remove(const std::string& name) {
    std::erase_if(tensors_, [&](const TensorInfo& info) { return info.name == name; });
  }
  std::vector<std::byte>& bytes(const std::string& name) { return data_[find(name)->offset]; }
  ModelConfig& mutable_config() { return config_; }
  std::vector<CheckpointFile>& mutable_files() { return files_; }

  const std::filesystem::path& location() const override { return path_; }
  const std::vector<CheckpointFile>& files() const override { return files_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override {
    for (const auto& info : tensors_) {
      if (info.name == name) return &info;
    }
    return nullptr;
  }
  TensorView view(const TensorInfo& info) const override { return {info.dtype, info.shape, data_[info.offset]}; }
  const ModelConfig& config() const override { return config_; }
  const std::vector<std::filesystem::path>& companions() const override { return companions_; }

 private:
  std::filesystem::path path_ = "in-memory";
  std::vector<CheckpointFile> files_ = {{"in-memory/model.safetensors", 0, {}}};
  std::deque<std::vector<std::byte>> data_;  // TensorInfo::offset is the place in this list
  std::vector<TensorInfo> tensors_;
  ModelConfig config_;
  std::vector<std::filesystem::path> companions_;
};

}  // namespace quant::test
