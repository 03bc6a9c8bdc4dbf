// Statistics of linears' inputs as anyone would compute them: float64, one sequence after the other.
#pragma once

#include <cmath>
#include <map>

#include "calibrated_fixture.h"
#include "quant/forward.h"
#include "support/catch.h"

namespace quant::test {

struct NaiveStatistics {
  std::uint64_t tokens = 0;
  std::vector<double> gram, absmax, minimum, maximum, sum_abs;

  void add(std::span<const float> row) {
    const std::size_t cols = row.size();
    gram.resize(cols * cols);
    for (auto* list : {&absmax, &minimum, &maximum, &sum_abs}) list->resize(cols);
    for (std::size_t c = 0; c < cols; ++c) {
      absmax[c] = std::max(absmax[c], std::fabs(static_cast<double>(row[c])));
      minimum[c] = std::min(minimum[c], static_cast<double>(row[c]));
      maximum[c] = std::max(maximum[c], static_cast<double>(row[c]));
      sum_abs[c] += std::fabs(static_cast<double>(row[c]));
      for (std::size_t d = 0; d < cols; ++d) {
        gram[c * cols + d] += static_cast<double>(row[c]) * static_cast<double>(row[d]);
      }
    }
    ++tokens;
  }
};

using InputQuantizers = std::map<std::string, InputQuantizer>;

/// Of every linear of the blocks of a model in a directory, by module; experts see the rows that chose them. `inputs`:
/// quantized as said on their way into the products.
inline std::map<std::string, NaiveStatistics> naive_statistics(const std::filesystem::path& model,
                                                               const std::vector<std::vector<std::int32_t>>& sequences,
                                                               const InputQuantizers& inputs = {}) {
  const auto checkpoint = open_checkpoint(model);
  const LogicalTensors tensors(*checkpoint, builtin_registry());
  const ModelProgram program = build_model_program(tensors);
  const ModelWeights weights(tensors);
  std::map<std::string, NaiveStatistics> all;
  for (const auto& sequence : sequences) {
    Batch batch;
    batch.lengths = {sequence.size()};
    batch.ids = sequence;
    std::vector<float> stream;
    std::vector<const Program*> programs = {&program.embeddings};
    for (const Program& block : program.blocks) programs.push_back(&block);
    for (const Program* part : programs) {
      ProgramRunner runner(*part, weights, {});
      for (const auto& [module, quantizer] : inputs) runner.set_input_quantizer(module, quantizer);
      Values values(*part);
      if (part->input >= 0) values.at(part->input) = stream;
      std::vector<ValueId> keep = {part->output};
      for (const Op& op : part->ops) {
        if (const auto* linear = std::get_if<LinearOp>(&op)) {
          keep.push_back(linear->in);
          if (linear->routing >= 0) keep.push_back(linear->routing);
        }
      }
      runner.run(0, part->ops.size(), batch, values, keep);
      for (const Op& op : part->ops) {
        const auto* linear = std::get_if<LinearOp>(&op);
        if (linear == nullptr) continue;
        const std::uint64_t cols = linear->weights.front().cols;
        const std::vector<float>& x = values.at(linear->in);
        std::vector<std::uint64_t> ends = {0, x.size() / cols};
        if (linear->routing >= 0) ends = ProgramRunner::expert_rows(*part, *linear, values, sequence.size(), false);
        for (std::size_t w = 0; w < linear->weights.size(); ++w) {
          NaiveStatistics& naive = all[linear->weights[w].module];
          for (std::uint64_t t = ends[w]; t < ends[w + 1]; ++t) naive.add(std::span(x).subspan(t * cols, cols));
        }
      }
      stream = values.at(part->output);
    }
  }
  return all;
}

inline std::map<std::string, NaiveStatistics> naive_statistics(const std::filesystem::path& model,
                                                               const std::filesystem::path& ids,
                                                               const InputQuantizers& inputs = {}) {
  CalibrationOptions options;
  options.seq_len = 16;
  return naive_statistics(model, read_sequences(ids, nullptr, options).sequences, inputs);
}

/// (R_F - R)^T X over all tokens in float64, for the linear `module`, whose output is added to R (in parallel branches:
/// to the block's input and another branch's output); F is another model of the same architecture. [outputs * cols]
inline std::vector<double> naive_residual(const Checkpoint& model, const Checkpoint& reference,
                                          const std::filesystem::path& ids, const std::string& module,
                                          bool parallel = false) {
  CalibrationOptions options;
  options.seq_len = 16;
  const auto sequences = read_sequences(ids, nullptr, options).sequences;
  // R and X of all sequences, one after the other.
  const auto rows_of = [&](const Checkpoint& checkpoint) {
    const LogicalTensors tensors(checkpoint, builtin_registry());
    const ModelProgram program = build_model_program(tensors);
    const ModelWeights weights(tensors);
    std::pair<std::vector<float>, std::vector<float>> rows;
    for (const auto& sequence : sequences) {
      Batch batch;
      batch.lengths = {sequence.size()};
      batch.ids = sequence;
      std::vector<float> stream;
      std::vector<const Program*> programs = {&program.embeddings};
      for (const Program& block : program.blocks) programs.push_back(&block);
      for (const Program* part : programs) {
        ProgramRunner runner(*part, weights, {});
        Values values(*part);
        if (part->input >= 0) values.at(part->input) = stream;
        std::vector<ValueId> keep = {part->output};
        for (const Op& op : part->ops) {
          const auto* linear = std::get_if<LinearOp>(&op);
          if (linear == nullptr || linear->weights.front().module != module) continue;
          for (const Op& next : part->ops) {
            const auto* add = std::get_if<AddOp>(&next);
            if (add == nullptr || (add->a != linear->out && add->b != linear->out)) continue;
            const ValueId beside = add->a == linear->out ? add->b : add->a;
            keep = {part->output, parallel ? part->input : beside, linear->in};
          }
        }
        runner.run(0, part->ops.size(), batch, values, keep);
        if (keep.size() == 3) {
          rows.first.insert(rows.first.end(), values.at(keep[1]).begin(), values.at(keep[1]).end());
          rows.second.insert(rows.second.end(), values.at(keep[2]).begin(), values.at(keep[2]).end());
        }
        stream = values.at(part->output);
      }
    }
    return rows;
  };
  const auto own = rows_of(model), other = rows_of(reference);
  std::size_t tokens = 0;
  for (const auto& sequence : sequences) tokens += sequence.size();
  const std::size_t outputs = own.first.size() / tokens, cols = own.second.size() / tokens;
  std::vector<double> sums(outputs * cols);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t o = 0; o < outputs; ++o) {
      const double gap = static_cast<double>(other.first[t * outputs + o]) - own.first[t * outputs + o];
      for (std::size_t c = 0; c < cols; ++c) sums[o * cols + c] += gap * own.second[t * cols + c];
    }
  }
  return sums;
}

/// Equal up to `tolerance` times the largest value; expected / divisor is what should be there.
inline void check_near(const std::vector<float>& values, const std::vector<double>& expected, double divisor,
                       double tolerance) {
  REQUIRE(values.size() == expected.size());
  double largest = 0;
  double worst = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    largest = std::max(largest, std::fabs(expected[i] / divisor));
    worst = std::max(worst, std::fabs(static_cast<double>(values[i]) - expected[i] / divisor));
  }
  CHECK(largest > 0);
  CHECK(worst <= tolerance * largest);
}

}  // namespace quant::test
