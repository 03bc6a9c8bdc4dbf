// Codes linears once their inputs are known, writes them, and puts their dequantized weights in place.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "pipeline/bias_correction.h"
#include "pipeline/item_output.h"
#include "plan/calibration_work.h"
#include "quant/forward.h"

namespace quant {

struct SolverContext {
  const Plan* plan = nullptr;
  const ItemOutput* output = nullptr;
  ModelWeights* weights = nullptr;  ///< float weights to code; receive the dequantized ones
  RunContext run;
  /// Takes over each finished item.
  std::function<void(const ItemKey&, ItemResult)> finished;
  std::function<void(const std::string& module)> begin;
};

class BlockSolver {
 public:
  explicit BlockSolver(SolverContext context) : context_(std::move(context)) {}

  /// Codes all linears of a unit. Throws Error{numerical} naming tensor and place for a weight that is not finite.
  void solve(const Program& program, const InputUnit& unit, const InputStatistics& inputs);
  /// Codes linears whose inputs nobody asked for.
  void solve_plain(const Program& program, const std::vector<WorkLinear>& linears);
  /// Codes an embedding table, which has no inputs.
  void solve_table(const LinearWeight& table, std::size_t linear);
  /// How the inputs of linears coded so far are quantized, by module.
  const std::map<std::string, InputQuantizer>& static_inputs() const { return static_inputs_; }

 private:
  struct Job;
  Job load(const LinearWeight& weight, std::size_t linear);
  void code_plain(const Quantizer& quantizer, Job& job);
  void finish(Job& job, const InputStatistics& inputs, double seconds);
  std::optional<BiasCorrection> finish_bias(Job& job, const InputStatistics& inputs, std::span<const float> values);
  void prune(std::span<Job> jobs, const InputStatistics& inputs) const;
  void clamp_pruned(Job& job) const;
  void prepare(Job& job, const InputStatistics& inputs) const;
  TensorParams params_of(const Job& job) const;
  void require_finite(const Job& job) const;
  void scale_inputs(const InputStatistics& inputs, Job& job) const;
  std::optional<InputQuantizer> input_quantizer(const Job& job) const;
  const Scheme& scheme_of(const Job& job) const;
  void share_global_scales(std::vector<Job>& jobs) const;

  SolverContext context_;
  std::map<std::string, InputQuantizer> static_inputs_;
};

}  // namespace quant
