// Codes all linears that share their inputs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "factor.h"
#include "order.h"
#include "quant/calibrated.h"
#include "quant/gptq.h"
#include "refine.h"

namespace quant::gptq {

/// What follows from the inputs alone, found once for a group of linears.
class SharedInputs {
 public:
  /// Keeps references to all arguments.
  SharedInputs(const InputStatistics& inputs, const GptqOptions& options, const RunContext& context);

  const InputStatistics& inputs() const { return inputs_; }
  const GptqOptions& options() const { return options_; }
  const RunContext& context() const { return context_; }
  std::span<const float> diagonal() const { return diagonal_; }
  /// Why H must not be used at all (too few tokens, not finite), or empty.
  const std::string& refusal() const { return refusal_; }
  std::span<const std::uint32_t> dead() const { return dead_; }
  /// Weights of the columns' squared errors, finite and >= 0; empty if H says nothing.
  std::span<const float> importance() const { return importance_; }

  /// The option of that name, or 0 where the inputs lack what it needs (experts of a mixture do).
  double asymmetric() const { return asymmetric_; }
  /// Likewise; 0 also where the residual stream that was measured is not what this linear adds to.
  double residual(const LinearTask& task) const {
    return inputs_.residual.size() == task.rows * task.cols ? residual_ : 0;
  }

  struct Ordered {
    Order order;
    std::shared_ptr<const Factor> factor;
  };
  /// The order of a linear of these arguments, and H factored in it. One factor is kept at a time.
  Ordered ordered(const QuantArgs& args);
  /// H for refining a linear whose columns were coded in that order.
  RefineInputs refine_inputs(const Ordered& ordered);

 private:
  std::string reason_against() const;

  const InputStatistics& inputs_;
  const GptqOptions& options_;
  const RunContext& context_;
  std::vector<float> diagonal_, importance_;
  std::vector<std::uint32_t> dead_;
  std::string refusal_;
  double asymmetric_ = 0, residual_ = 0;
  std::vector<std::uint32_t> factored_columns_;
  std::shared_ptr<const Factor> factor_;
  std::vector<std::uint32_t> permuted_columns_;
  std::vector<float> permuted_gram_;  // in the order of permuted_columns_
};

/// How often the columns of a linear are gone over.
double sweeps(const GptqOptions& options);
/// Codes one linear into *task.out and fills task.record.
void solve(LinearTask& task, SharedInputs& shared);

}  // namespace quant::gptq
