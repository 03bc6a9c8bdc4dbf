// Which parts of which tensors make up the smaller model.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "quant/checkpoint.h"
#include "structured/axes.h"

namespace quant::structured {

/// Rows and columns of a matrix as it is stored: a whole tensor, or one slice of a tensor of experts.
struct CutPart {
  std::uint64_t slice = 0;  ///< of the source tensor
  Units rows, cols;
};

/// One tensor of the smaller model.
struct TensorCut {
  const TensorInfo* source = nullptr;  ///< null: zeros, a bias that was not there before
  std::string name;                    ///< in the smaller model
  DType dtype = DType::F32;
  Shape shape;
  std::uint64_t rows = 0, cols = 0;  ///< of a source matrix
  std::vector<CutPart> parts;        ///< empty: copied as it is
  std::uint64_t bytes() const { return byte_count(dtype, shape); }
  bool whole() const { return source != nullptr && parts.empty(); }
};

struct CutList {
  std::vector<TensorCut> tensors;      ///< sorted by source's place in the checkpoint, new biases last
  std::vector<std::string> untouched;  ///< tensors that no operation reads, copied as they are (dropped layers' aside)
};

/// Biases that are added: names of the linears' modules and their outputs.
struct NewBias {
  std::string module;
  std::uint64_t rows = 0;
  DType dtype = DType::F32;
};

/// `biases`: of modules of the original.
CutList make_cuts(const Checkpoint& checkpoint, const ModelAxes& axes, const ProgramModel& model, const KeptUnits& kept,
                  const std::vector<NewBias>& biases);

/// The name of a tensor of layer `from` and of expert numbers after renumbering; empty for what is removed.
std::string new_name(const std::string& name, const ProgramModel& model, const KeptUnits& kept);

/// The bytes of rows [first, first + count) of the new tensor, seen as a matrix of parts that lie one after another
/// (1 for a tensor of one dimension). Only for a cut with parts.
std::vector<std::byte> cut_bytes(const Checkpoint& checkpoint, const TensorCut& cut, std::size_t part,
                                 std::uint64_t first, std::uint64_t count);
/// All of the new tensor.
std::vector<std::byte> all_bytes(const Checkpoint& checkpoint, const TensorCut& cut);

/// A checkpoint of names, types, shapes and config.json. Tensors that are copied as they are have their bytes, others
/// while they are held in memory.
class CutCheckpoint final : public Checkpoint {
 public:
  CutCheckpoint(const Checkpoint& source, const CutList& cuts, const std::string& config_json);

  const std::filesystem::path& location() const override { return source_.location(); }
  const std::vector<CheckpointFile>& files() const override { return source_.files(); }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override;
  /// Cuts a tensor, so that it can be read. Not beside other calls.
  void hold(const TensorCut& cut);
  void release_all() { held_.clear(); }
  /// Throws Error{internal} for a tensor that is neither copied as it is nor held.
  TensorView view(const TensorInfo& info) const override;
  void will_read(const TensorView& part) const override { source_.will_read(part); }
  void done_reading(const TensorView& part) const override;
  const ModelConfig& config() const override { return config_; }
  const std::vector<std::filesystem::path>& companions() const override { return source_.companions(); }

 private:
  const Checkpoint& source_;
  std::map<std::string, std::vector<std::byte>, std::less<>> held_;
  std::vector<TensorInfo> tensors_;
  std::vector<const TensorInfo*> copied_;  // the source, or null
  std::map<std::string, std::size_t, std::less<>> by_name_;
  ModelConfig config_;
};

}  // namespace quant::structured
