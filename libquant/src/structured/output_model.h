// The files of the smaller model while they are written.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "quant/logical_tensors.h"
#include "structured/cut.h"

namespace quant::structured {

/// Tensors in model order, divided into files, each in storage order.
struct OutputLayout {
  struct File {
    std::string name;
    std::vector<StoredTensor> tensors;
    std::vector<std::size_t> cuts;  ///< index into CutList::tensors of each
  };
  std::vector<File> files;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::string index;  ///< its text; empty for a single file
  std::uint64_t tensor_bytes = 0;
  std::uint64_t file_bytes = 0;  ///< with the index
};
OutputLayout lay_out(const Checkpoint& checkpoint, const CutList& cuts, const Container& container,
                     std::uint64_t shard_bytes);

class OutputModel {
 public:
  OutputModel(const Checkpoint& checkpoint, const CutList& cuts, const OutputLayout& layout, const Container& container,
              const std::filesystem::path& directory);

  /// The new tensor `name` and its cut.
  const TensorCut& cut(const std::string& name) const;
  bool has(const std::string& name) const { return places_.contains(name); }
  /// Values of a tensor from its element number `first` on, rounded to its type; what was given here is not written by
  /// write_rest. Throws Error{numerical} for values that the type cannot hold.
  void write_values(const std::string& name, std::uint64_t first, std::span<const float> values);
  /// All tensors that were not given.
  void write_rest(int threads, const std::atomic<bool>* stop);
  void sync();

 private:
  struct Place {
    std::size_t file = 0, tensor = 0, cut = 0;
  };
  const Checkpoint& checkpoint_;
  const CutList& cuts_;
  std::vector<std::unique_ptr<ContainerWriter>> writers_;
  std::map<std::string, Place> places_;
  std::set<std::string> given_;
};

}  // namespace quant::structured
