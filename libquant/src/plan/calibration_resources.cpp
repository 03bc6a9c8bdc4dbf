// What the calibrated part of a plan costs: operations, memory, disk, time.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "plan/calibration_work.h"
#include "plan/pruning.h"
#include "plan/resources.h"
#include "quant/linalg.h"

namespace quant {
namespace {

constexpr std::uint64_t kMiB = 1U << 20U;
// Big enough that products run at full rate, small enough that a chunk's values do not count beside the weights.
constexpr std::uint64_t kChunkTokens = 2048;
constexpr std::uint64_t kSmallestChunk = 256;
// What is spilled stays in the page cache while there is room, so that a small budget costs little.
constexpr std::uint64_t kActivationBytes = 1024 * kMiB;
constexpr std::uint64_t kStatisticsBytes = 1536 * kMiB;
// Of the libraries that multiply: their code buffers, and workspace that grows with the operands up to a bound.
constexpr std::uint64_t kLibraryBytes = 2 * kMiB;
constexpr std::uint64_t kLargestWorkspace = 46 * kMiB;
// Of one input in a file of statistics, beside its values.
constexpr std::uint64_t kGroupBytes = 16384;
// Shares of the measured rate of products that the parts reach; only order the estimate.
constexpr double kProductShare = 0.7;
constexpr double kGramShare = 0.6;
constexpr double kSolveShare = 0.3;

const ProgramValue& value_of(const Program& program, ValueId id) {
  return program.values[static_cast<std::size_t>(id)];
}

// Rows of a value per token; for experts, of all of them together.
double rows_per_token(const CalibrationWork& work, const Program& program, const LinearOp& op) {
  if (op.routing < 0) return static_cast<double>(value_of(program, op.in).rows_per_token);
  return work.all_experts ? static_cast<double>(op.weights.size())
                          : static_cast<double>(value_of(program, op.in).rows_per_token);
}

// Other products with X^T are collected beside X^T X.
bool needs_gram(const CalibrationNeeds& needs) { return needs.gram || needs.cross_gram || needs.residual; }

double average_length(const CalibrationWork& work) {
  double squares = 0;
  double tokens = 0;
  for (const auto& sequence : work.data.sequences) {
    const auto length = static_cast<double>(sequence.size());
    squares += length * length;
    tokens += length;
  }
  return tokens > 0 ? squares / tokens : 0;
}

double attention_operations(const AttentionOp& op, double length) {
  double seen = op.causal ? (length + 1) / 2 : length;
  if (op.window > 0) seen = std::min(seen, static_cast<double>(op.window));
  return 2.0 * static_cast<double>(op.heads) * seen * static_cast<double>(op.head_dim + op.value_dim);
}

// The most bytes that the linears of operations [begin, end) take: as floats that are prepared for products one by one,
// or all prepared, while `beside` bytes of other things are there.
std::uint64_t linears_bytes(const Program& program, std::size_t begin, std::size_t end, ProductType product,
                            std::uint64_t beside) {
  std::uint64_t weights = 0;
  std::uint64_t largest = 0;
  for (std::size_t i = begin; i < end; ++i) {
    const auto* linear = std::get_if<LinearOp>(&program.ops[i]);
    if (linear == nullptr) continue;
    for (const LinearWeight& weight : linear->weights) {
      weights += weight.rows * weight.cols;
      largest = std::max(largest, weight.rows * weight.cols);
    }
  }
  const std::uint64_t prepared = product == ProductType::bf16 ? 2 : 4;
  return std::max(weights * sizeof(float) + largest * (sizeof(float) + prepared), weights * prepared + beside);
}

// The most bytes of values that exist at once while a chunk passes operations [begin, end).
std::uint64_t chunk_bytes(const Program& program, std::size_t begin, std::size_t end, std::uint64_t tokens) {
  std::vector<std::size_t> last(program.values.size(), 0);
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    for (const ValueId id : inputs_of(program.ops[i])) last[static_cast<std::size_t>(id)] = i;
  }
  std::uint64_t most = 0;
  for (std::size_t i = begin; i < end; ++i) {
    std::set<ValueId> alive;
    for (std::size_t k = 0; k <= i; ++k) {
      const ValueId out = output_of(program.ops[k]);
      if (last[static_cast<std::size_t>(out)] >= i || k == i) alive.insert(out);
    }
    if (program.input >= 0 && last[static_cast<std::size_t>(program.input)] >= i) alive.insert(program.input);
    std::uint64_t floats = 0;
    for (const ValueId id : alive) floats += value_of(program, id).width * value_of(program, id).rows_per_token;
    most = std::max(most, floats * tokens * sizeof(float));
  }
  return most;
}

std::uint64_t live_width(const Program& program, const std::vector<ValueId>& live) {
  std::uint64_t width = 0;
  for (const ValueId id : live) width += value_of(program, id).width * value_of(program, id).rows_per_token;
  return width;
}

class Estimator {
 public:
  Estimator(const Plan& plan, const CalibrationWork& work) : plan_(plan), work_(work), summary_(*plan.calibration) {
    largest_chunk_ = 0;
    for (const TokenChunk& chunk : work.chunks) largest_chunk_ = std::max(largest_chunk_, chunk.tokens);
  }

  // All activations that are kept between passes at the widest place.
  std::uint64_t store_bytes() const {
    std::uint64_t most = 0;
    for (const BlockWork& block : work_.blocks) {
      std::uint64_t before = block.program->input < 0 ? 0 : value_of(*block.program, block.program->input).width;
      for (const Sweep& sweep : block.sweeps) {
        const std::uint64_t here = live_width(*block.program, sweep.live);
        most = std::max(most, sweep.begin == 0 ? here : std::max(before, here));
        before = here;
      }
    }
    most = std::max(most, work_.program.hidden);
    return most * summary_.tokens * sizeof(float) * streams();
  }

  std::uint64_t streams() const { return work_.second_stream ? 2 : 1; }

  // Nothing runs, and of the file only what a solve needs is read: the largest solve is what counts.
  std::uint64_t imported_peak() const {
    std::uint64_t most = 0;
    for (const BlockWork& block : work_.blocks) {
      for (const std::size_t table : block.tables) most = std::max(most, table_peak(table));
      for (const Sweep& sweep : block.sweeps) {
        for (const InputUnit& unit : sweep.units) most = std::max(most, solve_bytes(*block.program, unit));
      }
    }
    return most + library_bytes();
  }

  // Triangles of Gram matrices and a few rows, compressed at best, and what HDF5 writes around each.
  std::uint64_t saved_bytes() const {
    std::uint64_t bytes = 0;
    for (const BlockWork& block : work_.blocks) {
      for (const Sweep& sweep : block.sweeps) {
        for (const InputUnit& unit : sweep.units) {
          const std::uint64_t cols = value_of(*block.program, unit.value).width;
          bytes += (cols * (cols + 1) / 2 + 4 * cols) * sizeof(float) + kGroupBytes;
          if (unit.needs.rows) bytes += kSampleRows * cols * sizeof(float);
        }
      }
    }
    return bytes;
  }

  // While a chunk moves on, it exists in the old place and in the new one.
  std::uint64_t peak() const {
    std::uint64_t most = 0;
    for (const BlockWork& block : work_.blocks) most = std::max(most, peak(block));
    return most + with_gaps(std::min(summary_.activation_bytes, store_bytes())) + library_bytes() + summary_.tokens * 4;
  }

  // Chunks of several widths come and go in the heap, which keeps gaps between them: a fifth to a quarter was measured.
  static std::uint64_t with_gaps(std::uint64_t activations) { return activations + activations / 4; }
  // The most activations whose gaps fit as well.
  static std::uint64_t without_gaps(std::uint64_t bytes) { return bytes / 5 * 4; }

 private:
  std::uint64_t library_bytes() const {
    std::uint64_t largest = 0;
    for (const PlannedLinear& linear : plan_.linears) {
      largest = std::max(largest, linear.shape.rows * linear.shape.cols * sizeof(float));
    }
    return kLibraryBytes + std::min(kLargestWorkspace, 2 * largest);
  }

  std::uint64_t weights_bytes(const BlockWork& block) const {
    std::uint64_t weights = 0;
    for (const std::size_t linear : block.linears) {
      weights += plan_.linears[linear].shape.rows * plan_.linears[linear].shape.cols;
    }
    return weights * sizeof(float);
  }

  std::uint64_t peak(const BlockWork& block) const {
    const Program& program = *block.program;
    // Folded weights wait as floats for their turn.
    const std::uint64_t folded = block.sites.empty() ? 0 : weights_bytes(block) * streams();
    std::uint64_t most = sites_peak(block);
    for (const std::size_t table : block.tables) most = std::max(most, table_peak(table));
    for (const WorkLinear& plain : block.plain) most = std::max(most, folded + plain_peak(plan_.linears[plain.linear]));
    std::size_t position = 0;
    for (std::size_t k = 0; k < block.sweeps.size(); ++k) {
      const Sweep& sweep = block.sweeps[k];
      std::uint64_t statistics = 0;
      std::uint64_t solving = 0;
      for (const InputUnit& unit : sweep.units) {
        statistics += collecting_bytes(program, unit, summary_.product);
        solving = std::max(solving, solve_bytes(program, unit));
      }
      const std::uint64_t first =
          sweep.units.empty() ? 0 : collecting_bytes(program, sweep.units.front(), summary_.product);
      statistics = std::max(first, std::min(statistics, summary_.statistics_bytes));
      most = std::max(most, folded + statistics + passing(program, position, sweep.begin, sweep.linears));
      most = std::max(most, folded + (statistics - std::min(first, statistics)) + solving);
      position = sweep.begin;
    }
    if (block.whole) most = std::max(most, passing(program, position, program.ops.size(), program.ops.size()));
    return most;
  }

  std::uint64_t passing(const Program& program, std::size_t begin, std::size_t to, std::size_t until) const {
    const std::uint64_t chunk = chunk_bytes(program, begin, std::max(to, until), largest_chunk_);
    return streams() * linears_bytes(program, begin, to, summary_.product, chunk);
  }

  std::uint64_t sites_peak(const BlockWork& block) const {
    if (block.sites.empty()) return 0;
    std::uint64_t statistics = 0;
    for (const WorkSite& site : block.sites) {
      statistics += collecting_bytes(*block.program, unit_of(site), summary_.product);
    }
    const std::size_t end = block.program->ops.size();
    const std::uint64_t chunk = chunk_bytes(*block.program, 0, end, largest_chunk_);
    const std::uint64_t pass = linears_bytes(*block.program, 0, end, summary_.product, chunk);
    // Searching keeps the readers, a scaled copy and its rounded form.
    return statistics + std::max(pass, weights_bytes(block) * (streams() + 3) / 2);
  }

  // Linears of a unit that are pruned and coded together.
  struct Together {
    std::uint64_t floats_and_masks = 0;
    std::uint64_t codes = 0;
    std::uint64_t largest = 0;
    std::uint64_t pruning = 0;  // what that takes in addition, one linear after the other
  };

  void add(const PlannedLinear& linear, Together& together) const {
    const std::uint64_t weights = linear.shape.rows * linear.shape.cols;
    // With several modifiers the weights before the first of them are kept.
    const std::uint64_t floats = (linear.pruning.size() > 1 ? 2 : 1) * sizeof(float);
    together.floats_and_masks += weights * (floats + (linear.pruning.empty() ? 0 : 1));
    together.codes += weights * (is_plain(*plan_.groups[linear.scheme].scheme.weights) ? sizeof(float) : 1);
    together.largest = std::max(together.largest, weights);
    together.pruning = std::max(together.pruning, pruning_scratch(linear, work_.algorithms, plan_.options.threads));
  }

  // Statistics, and the most of pruning and of coding.
  std::uint64_t solve_bytes(const Program& program, const InputUnit& unit) const {
    const std::uint64_t cols = value_of(program, unit.value).width;
    const std::uint64_t matrix = cols * cols * sizeof(float);
    std::uint64_t bytes = statistics_bytes(program, unit);
    std::map<std::size_t, Together> by_modifier;
    for (const WorkLinear& entry : unit.linears) {
      const PlannedLinear& linear = plan_.linears[entry.linear];
      add(linear, by_modifier[linear.modifier]);
      if (linear.sensitivity != nullptr) bytes += element_count(linear.sensitivity->shape) * sizeof(float);
    }
    std::uint64_t most = 0;
    for (const auto& [modifier, together] : by_modifier) {
      // A factor with room to invert, and for the largest linear a second copy: the solver's own, or the result.
      std::uint64_t coding = together.floats_and_masks + together.codes + together.largest * sizeof(float);
      if (work_.algorithms[modifier].calibrated != nullptr) {
        coding += (needs_gram(unit.needs) ? matrix : 0) + (unit.needs.cross_gram ? matrix : 0);
      } else {
        coding += together.largest * sizeof(float);
      }
      most = std::max({most, coding, together.floats_and_masks + together.pruning});
    }
    return bytes + most;
  }

  // One after the other: floats, codes and a copy.
  std::uint64_t plain_peak(const PlannedLinear& linear) const {
    Together together;
    add(linear, together);
    return together.floats_and_masks +
           std::max(together.pruning, together.codes + 2 * sizeof(float) * together.largest);
  }

  std::uint64_t table_peak(std::size_t table) const {
    return plan_.linears[table].shape.rows * plan_.linears[table].shape.cols * 13;
  }

  const Plan& plan_;
  const CalibrationWork& work_;
  const CalibrationPlan& summary_;
  std::uint64_t largest_chunk_ = 0;
};

void count_operations(const Plan& plan, const CalibrationWork& work, CalibrationPlan& summary) {
  for (const BlockWork& block : work.blocks) {
    const Program& program = *block.program;
    std::size_t end = program.ops.size();
    if (!block.whole && !block.sweeps.empty()) end = block.sweeps.back().begin;
    const double streams = work.second_stream ? 2 : 1;
    summary.product_operations += streams * operations_between(work, program, 0, end, summary.tokens);
    if (!block.sites.empty()) {
      summary.product_operations += operations_between(work, program, 0, program.ops.size(), summary.tokens);
    }
    for (const WorkSite& site : block.sites) {
      summary.gram_operations += gram_operations(work, program, unit_of(site), summary.tokens);
    }
    for (const Sweep& sweep : block.sweeps) {
      for (const InputUnit& unit : sweep.units) {
        summary.gram_operations += gram_operations(work, program, unit, summary.tokens);
        summary.solve_operations += solve_operations(plan, work, unit);
      }
    }
  }
}

// Operations per second of one product of this machine, measured for a few milliseconds: of the fastest round, since
// what other programs take now says little about the hours to come.
double product_rate(ProductType type, int threads) {
  constexpr std::uint64_t kTokens = 256;
  constexpr std::uint64_t kSize = 512;
  std::vector<float> weight(kSize * kSize, 0.5F);
  std::vector<float> x(kTokens * kSize, 0.25F);
  std::vector<float> y(kTokens * kSize);
  const Product product(weight, kSize, kSize, type, threads);
  product.run(x, kTokens, y, threads);  // warms up
  double elapsed = 0;
  double shortest = 1e9;
  for (int round = 0; round < 3 || (elapsed < 0.01 && round < 1000); ++round) {
    const auto start = std::chrono::steady_clock::now();
    product.run(x, kTokens, y, threads);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    shortest = std::min(shortest, seconds);
    elapsed += seconds;
  }
  return 2.0 * static_cast<double>(kTokens * kSize * kSize) / std::max(shortest, 1e-9);
}

double estimate_seconds(const CalibrationPlan& summary, int threads) {
  const double rate = product_rate(summary.product, threads);
  const double single = summary.product == ProductType::f32 ? rate : product_rate(ProductType::f32, threads);
  return summary.product_operations / (kProductShare * rate) + summary.gram_operations / (kGramShare * rate) +
         summary.solve_operations / (kSolveShare * single);
}

}  // namespace

double operations_between(const CalibrationWork& work, const Program& program, std::size_t begin, std::size_t end,
                          std::uint64_t tokens) {
  double per_token = 0;
  for (std::size_t i = begin; i < end; ++i) {
    if (const auto* linear = std::get_if<LinearOp>(&program.ops[i])) {
      double weights = 0;
      for (const LinearWeight& weight : linear->weights) {
        weights += static_cast<double>(weight.rows) * static_cast<double>(weight.cols);
      }
      const double rows = rows_per_token(work, program, *linear);
      per_token += 2.0 * weights / static_cast<double>(linear->weights.size()) * rows;
    } else if (const auto* attention = std::get_if<AttentionOp>(&program.ops[i])) {
      per_token += attention_operations(*attention, average_length(work));
    }
  }
  return per_token * static_cast<double>(tokens);
}

double gram_operations(const CalibrationWork& work, const Program& program, const InputUnit& unit,
                       std::uint64_t tokens) {
  const ProgramValue& value = value_of(program, unit.value);
  double rows = static_cast<double>(tokens * value.rows_per_token);
  if (unit.expert >= 0) {
    const auto& op = std::get<LinearOp>(program.ops[unit.op]);
    rows = static_cast<double>(tokens) * rows_per_token(work, program, op) / static_cast<double>(op.weights.size());
  }
  const auto cols = static_cast<double>(value.width);
  // X^T X is symmetric; (F - X)^T X is not.
  double operations = rows * cols * cols * ((needs_gram(unit.needs) ? 1 : 0) + (unit.needs.cross_gram ? 2 : 0));
  if (unit.needs.residual)
    operations += 2.0 * rows * cols * static_cast<double>(value_of(program, unit.residual).width);
  return operations;
}

double solve_operations(const Plan& plan, const CalibrationWork& work, const InputUnit& unit) {
  if (!unit.asked.gram) return 0;
  std::map<std::size_t, std::uint64_t> rows_by_modifier;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  for (const WorkLinear& entry : unit.linears) {
    const PlannedLinear& linear = plan.linears[entry.linear];
    rows_by_modifier[linear.modifier] += linear.shape.rows;
    rows += linear.shape.rows;
    cols = linear.shape.cols;
  }
  // Output errors: quadratic forms of the weights, of the coded ones, and of their differences.
  double operations = 3 * 2.0 * static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(cols);
  for (const auto& [modifier, together] : rows_by_modifier) {
    const CalibratedQuantizer* quantizer = work.algorithms[modifier].calibrated;
    if (quantizer != nullptr) operations += quantizer->operations(together, cols, unit.asked);
  }
  for (const WorkLinear& entry : unit.linears) {
    for (const PlannedPruning& pruning : plan.linears[entry.linear].pruning) {
      operations +=
          work.algorithms[pruning.modifier].sparsifier->operations(plan.linears[entry.linear].shape.rows, cols);
    }
  }
  return operations;
}

std::uint64_t statistics_bytes(const Program& program, const InputUnit& unit) {
  const std::uint64_t cols = value_of(program, unit.value).width;
  const CalibrationNeeds& needs = unit.needs;
  std::uint64_t bytes = cols * 40;
  if (needs_gram(needs)) bytes += cols * cols * sizeof(float);
  if (needs.cross_gram) bytes += cols * cols * sizeof(float);
  if (needs.residual) bytes += value_of(program, unit.residual).width * cols * sizeof(float);
  if (needs.rows) bytes += kSampleRows * cols * sizeof(float);
  return bytes;
}

std::uint64_t collecting_bytes(const Program& program, const InputUnit& unit, ProductType product) {
  const CalibrationNeeds& needs = unit.needs;
  std::uint64_t bytes = statistics_bytes(program, unit);
  if (needs_gram(needs)) {
    bytes += GramAccumulator::waiting_bytes(value_of(program, unit.value).width, product, needs.cross_gram,
                                            needs.residual ? value_of(program, unit.residual).width : 0);
  }
  return bytes;
}

namespace plan_detail {

namespace {

void refuse_memory(Plan& plan) {
  const std::uint64_t limit = plan.options.memory_bytes;
  if (limit == 0 || plan.peak_memory <= limit) return;
  ++plan.input_problems;
  plan.problems.push_back(
      fmt::format("a memory limit of {:.1f} MB is too small for calibration: at least {:.1f} MB "
                  "are needed",
                  static_cast<double>(limit) / 1e6, static_cast<double>(plan.peak_memory) / 1e6 + 0.1));
}

void estimate_imported(Plan& plan, const CalibrationWork& work) {
  CalibrationPlan& summary = *plan.calibration;
  plan.peak_memory += Estimator(plan, work).imported_peak();
  for (const BlockWork& block : work.blocks) {
    for (const Sweep& sweep : block.sweeps) {
      for (const InputUnit& unit : sweep.units) summary.solve_operations += solve_operations(plan, work, unit);
    }
  }
  plan.seconds_estimate += estimate_seconds(summary, plan.options.threads);
  refuse_memory(plan);
}

}  // namespace

void estimate_calibration(Plan& plan, CalibrationWork& work) {
  if (work.statistics != nullptr) return estimate_imported(plan, work);
  CalibrationPlan& summary = *plan.calibration;
  const std::uint64_t limit = plan.options.memory_bytes;
  const std::uint64_t asked = plan.options.calibration.activation_bytes;
  const std::uint64_t base = plan.peak_memory;
  summary.chunk_tokens = kChunkTokens;
  summary.statistics_bytes = kStatisticsBytes;
  summary.activation_bytes = asked != 0 ? asked : kActivationBytes;
  work.chunks = divide(work.data, summary.chunk_tokens);
  const auto peak = [&] { return base + Estimator(plan, work).peak(); };
  if (limit != 0) {
    if (asked == 0) {
      summary.activation_bytes = 0;
      const std::uint64_t fixed = peak();
      summary.activation_bytes = Estimator::without_gaps(limit > fixed ? limit - fixed : 0);
    }
    while (peak() > limit && summary.statistics_bytes > 16 * kMiB) summary.statistics_bytes /= 2;
    while (peak() > limit && summary.chunk_tokens > kSmallestChunk) {
      summary.chunk_tokens /= 2;
      work.chunks = divide(work.data, summary.chunk_tokens);
    }
  }
  const std::uint64_t store = Estimator(plan, work).store_bytes();
  summary.activation_bytes = std::min(summary.activation_bytes, store);
  plan.peak_memory = peak();
  refuse_memory(plan);
  if (!plan.problems.empty()) return;
  // The files of blocks stay until the one that is joined from them is complete.
  if (work.save_statistics) {
    work.saved_bytes = Estimator(plan, work).saved_bytes();
    summary.disk_bytes += work.saved_bytes;
  }
  const std::uint64_t stream = work.program.hidden * summary.tokens * sizeof(float) * (work.second_stream ? 2 : 1);
  // What does not fit in memory, in an old and a new place, and two states to resume from.
  summary.disk_bytes += 2 * (store - summary.activation_bytes) + 2 * stream;
  count_operations(plan, work, summary);
  plan.seconds_estimate += estimate_seconds(summary, plan.options.threads);
}

}  // namespace plan_detail
}  // namespace quant
