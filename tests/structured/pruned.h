// Golden models that are pruned, and what becomes of them.
#pragma once

#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/golden_model.h"
#include "model/reference_forward.h"
#include "pipeline/calibrated_fixture.h"
#include "quant/open.h"
#include "quant/structured.h"
#include "structured/axes.h"
#include "support/temp_dir.h"

namespace quant::test {

inline const Registry& everything_built_in() {
  static const Registry* registry = [] {
    auto* made = new Registry;
    register_builtin_algorithms(*made);
    register_builtin_formats(*made);
    return made;
  }();
  return *registry;
}

/// Float64 outputs of a checkpoint for the sequences of a golden model.
inline std::vector<double> reference_outputs(const Checkpoint& checkpoint,
                                             const std::vector<std::vector<std::int32_t>>& ids) {
  const LogicalTensors tensors(checkpoint, everything_built_in());
  const ModelProgram program = build_model_program(tensors);
  ReferenceForward forward(tensors);
  std::vector<double> outputs;
  for (const auto& one : ids) {
    const std::vector<double> logits = forward.run(program, one);
    outputs.insert(outputs.end(), logits.begin(), logits.end());
  }
  return outputs;
}

/// What plan and run of one golden model share.
struct Pruning {
  explicit Pruning(const std::string& name) : golden(golden_model(name)) { options.ffn_divisor = 1; }

  StructuredPlan plan() const {
    return plan_structured(golden->checkpoint, recipe, everything_built_in(), options, resources);
  }
  /// Token ids for calibration, all of the vocabulary of 64.
  void give_data(std::uint64_t sequences = 12, std::uint64_t length = 24) {
    write_ids(dir / "ids.npy", sequences, length, 64);
    resources.calibration.file = dir / "ids.npy";
    resources.calibration.data.seq_len = length;
    resources.calibration.product = ProductType::f32;
  }
  RunReport run(const std::string& output = "out") const {
    RunOptions run_options;
    run_options.output = dir / output;
    const StructuredPlan made = plan();
    if (!made.problems.empty()) throw std::runtime_error(made.problems.front());
    return run_structured(made, run_options);
  }
  std::unique_ptr<Checkpoint> opened(const std::string& output = "out") const { return open_checkpoint(dir / output); }

  std::unique_ptr<GoldenModel> golden;
  StructuredOptions options;
  Recipe recipe;
  PlanOptions resources;
  TempDir dir{memory_folder()};
};

/// A model's axes with all that they point into.
struct Axes {
  explicit Axes(const Checkpoint& checkpoint)
      : tensors(checkpoint, everything_built_in()),
        program(build_model_program(tensors)),
        model(family(program.family), tensors),
        axes(program, model) {}
  static const Family& family(const std::string& name) {
    for (const Family& one : families()) {
      if (one.model_type == name) return one;
    }
    throw std::runtime_error("no family " + name);
  }
  LogicalTensors tensors;
  ModelProgram program;
  ProgramModel model;
  structured::ModelAxes axes;
};

/// Changes single values of an F32 tensor, seen as a linear's weight [rows, cols].
class WeightEditor {
 public:
  WeightEditor(MemoryCheckpoint& checkpoint, const LinearWeight& weight) : checkpoint_(checkpoint), weight_(weight) {}
  float get(std::uint64_t row, std::uint64_t col) {
    float value = 0;
    std::memcpy(&value, place(row, col), sizeof value);
    return value;
  }
  void set(std::uint64_t row, std::uint64_t col, float value) { std::memcpy(place(row, col), &value, sizeof value); }
  void zero_row(std::uint64_t row) {
    for (std::uint64_t c = 0; c < weight_.cols; ++c) set(row, c, 0);
    if (weight_.bias.empty()) return;
    std::memset(checkpoint_.bytes(weight_.bias).data() + row * sizeof(float), 0, sizeof(float));
  }
  void zero_col(std::uint64_t col) {
    for (std::uint64_t r = 0; r < weight_.rows; ++r) set(r, col, 0);
  }

 private:
  std::byte* place(std::uint64_t row, std::uint64_t col) {
    const std::uint64_t first = static_cast<std::uint64_t>(std::max<std::int64_t>(weight_.slice, 0));
    const std::uint64_t within = weight_.transposed ? col * weight_.rows + row : row * weight_.cols + col;
    return checkpoint_.bytes(weight_.tensor).data() + (first * weight_.rows * weight_.cols + within) * sizeof(float);
  }
  MemoryCheckpoint& checkpoint_;
  const LinearWeight& weight_;
};

/// All weights of a block that a column of a value goes through: rows that make it, columns that read it.
inline void kill_channel(MemoryCheckpoint& checkpoint, const structured::BlockAxes& axes, ValueId value,
                         std::uint64_t column, std::size_t expert = 0) {
  const std::uint32_t channel = axes.channels.channel(value, column);
  for (const Op& op : axes.program->ops) {
    const auto* linear = std::get_if<LinearOp>(&op);
    if (linear == nullptr) continue;
    const LinearWeight& weight = linear->weights[linear->routing >= 0 ? expert : 0];
    WeightEditor editor(checkpoint, weight);
    for (std::uint64_t r = 0; r < weight.rows; ++r) {
      if (axes.channels.channel(linear->out, r) == channel) editor.zero_row(r);
    }
    for (std::uint64_t c = 0; c < weight.cols; ++c) {
      if (axes.channels.channel(linear->in, c) == channel) editor.zero_col(c);
    }
  }
}

}  // namespace quant::test
