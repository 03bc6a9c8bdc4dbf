#include "solver.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "best_rows.h"
#include "quant/error.h"
#include "quant/linalg.h"
#include "quant/tensor.h"
#include "rtn/parallel_for.h"
#include "rtn/rules.h"
#include "rtn/tensor_params.h"
#include "scales.h"
#include "sweep.h"
#include "tile.h"

namespace quant::gptq {
namespace {

// Rows that are in memory twice: about 2^24 weights.
std::uint64_t slab_rows(const QuantizedTensor& out) {
  const std::uint64_t unit =
      out.args.strategy == Strategy::block ? out.grid.row_extent * kTileRows : std::uint64_t{kTileRows};
  return std::max(unit, (std::uint64_t{1} << 24) / std::max<std::uint64_t>(1, out.cols) / unit * unit);
}

// What ScaleSearch::solve tries: the range of the scheme's observer or that of least weighted error, times a factor.
struct Candidate {
  bool weighted;
  float factor;
};
constexpr std::array<Candidate, 8> kCandidates{{{false, 1.0F},
                                                {false, 0.92F},
                                                {false, 0.84F},
                                                {false, 0.76F},
                                                {true, 0.94F},
                                                {true, 1.0F},
                                                {true, 1.07F},
                                                {true, 1.14F}}};
constexpr std::array<Candidate, 3> kMxCandidates{{{false, 1.0F}, {false, 0.5F}, {true, 1.0F}}};

// A rule with its importance in the order of columns, and in the order of coding.
struct Rule {
  ScaleRule by_column, by_position;
};

std::string percent(double part) {
  const auto tenths = static_cast<int>(std::lround(part * 1000));
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " %";
}

// One linear.
class TaskSolver {
 public:
  TaskSolver(LinearTask& task, SharedInputs& shared)
      : task_(task),
        shared_(shared),
        options_(shared.options()),
        out_(*task.out),
        threads_(rtn::useful_threads(shared.context().threads, task.rows * task.cols)) {}

  void run() {
    prepare();
    if (out_.codes.empty()) return;
    if (!shared_.refusal().empty()) return fall_back(shared_.refusal());
    const SharedInputs::Ordered ordered = shared_.ordered(task_.args);
    if (ordered.factor->upper.empty()) return fall_back(ordered.factor->failure);
    order_ = &ordered.order;
    factor_ = ordered.factor.get();
    record_inputs();
    make_rules();
    if (options_.refine_rounds > 0) refine_inputs_ = shared_.refine_inputs(ordered);
    each_slab([this](std::uint64_t first, std::uint64_t count) { solve_slab(first, count); });
    if (!order_->own_groups) return;
    out_.group_index.resize(task_.cols);
    for (std::uint64_t p = 0; p < task_.cols; ++p) {
      out_.group_index[order_->columns[p]] = static_cast<std::int32_t>(order_->groups[p]);
    }
  }

 private:
  void prepare() {
    const TensorView view = f32_view(task_.weight, task_.rows, task_.cols);
    if (!all_finite(task_.weight)) rtn::reject_non_finite(view, 0);
    out_.resize(task_.args, task_.rows, task_.cols);
    out_.scale_dtype = task_.scale_dtype;
    if (out_.codes.empty()) return;
    params_ = task_.params;
    const bool lacks_scale = task_.args.strategy == Strategy::tensor && !params_.scale;
    const bool lacks_global = is_nvfp4(task_.args) && !params_.global_scale;
    if (lacks_scale || lacks_global) {
      const ScaleRule rule =
          make_scale_rule(task_.args, task_.scale_dtype, {}, options_.scale_search, shared_.importance());
      QuantArgs args = rule.args;
      if (!is_mx(args)) args.scale_dtype = task_.scale_dtype;
      const TensorParams found = rtn::tensor_params(view, args, rule.importance, threads_);
      if (lacks_scale) params_.scale = found.scale, params_.zero_point = found.zero_point;
      if (lacks_global) params_.global_scale = found.global_scale;
    }
    out_.global_scale = params_.global_scale.value_or(1.0F);
  }

  void record_inputs() {
    task_.record.damping = factor_->damping;
    task_.record.notes = factor_->notes;
    if (shared_.asymmetric() < options_.asymmetric) {
      task_.record.notes.emplace_back(
          "earlier layers' errors are not compensated: there is no (finite) cross-Gram matrix of the inputs");
    }
    if (options_.residual > 0 && !shared_.inputs().residual.empty() && shared_.residual(task_) == 0) {
      const bool fits = shared_.inputs().residual.size() == task_.rows * task_.cols;
      task_.record.notes.emplace_back(
          std::string("the residual stream's error is not compensated: what was measured of it ") +
          (fits ? "is not finite" : "does not fit the weight"));
    }
    const std::uint64_t dead = shared_.dead().size();
    if (dead == 0) return;
    task_.record.notes.push_back(std::to_string(dead) + " of " + std::to_string(task_.cols) + " inputs (" +
                                 percent(static_cast<double>(dead) / static_cast<double>(task_.cols)) +
                                 ") were always 0: their weights were " +
                                 (options_.zero_dead_columns ? "set to 0" : "rounded to nearest"));
  }

  void make_rules() {
    rules_ = rtn::make_rules(task_.args, task_.scale_dtype, out_.global_scale);
    for (Rule* rule : {&rule_, &weighted_rule_}) {
      rule->by_column =
          make_scale_rule(task_.args, task_.scale_dtype, params_,
                          rule == &rule_ ? ScaleSearch::none : ScaleSearch::diagonal, shared_.importance());
      rule->by_position = rule->by_column;
      for (std::size_t p = 0; p < rule->by_column.importance.size(); ++p) {
        rule->by_position.importance[p] = rule->by_column.importance[order_->columns[p]];
      }
    }
  }

  template <class Body>
  void each_slab(const Body& body) const {
    const std::uint64_t step = slab_rows(out_);
    for (std::uint64_t first = 0; first < task_.rows; first += step) {
      const std::atomic<bool>* stop = shared_.context().stop;
      if (stop != nullptr && stop->load()) throw Error(ErrorCode::interrupted, "stopped while coding " + task_.module);
      body(first, std::min(step, task_.rows - first));
    }
  }

  void fall_back(const std::string& reason) {
    const bool weighted = !shared_.importance().empty();
    task_.record.fallback =
        std::string("rounded to nearest") + (weighted ? " with scales of least weighted error" : "") + ": " + reason;
    const ScaleRule rule = make_scale_rule(task_.args, task_.scale_dtype, params_,
                                           weighted ? ScaleSearch::diagonal : ScaleSearch::none, shared_.importance());
    each_slab([&](std::uint64_t first, std::uint64_t count) {
      round_to_nearest(rule, task_.weight.subspan(first * task_.cols, count * task_.cols), first, count, out_,
                       threads_);
    });
    if (order_kind(task_.args, options_) != ColumnOrder::group || out_.grid.cols == 1) return;
    out_.group_index.resize(task_.cols);
    for (std::uint64_t c = 0; c < task_.cols; ++c) {
      out_.group_index[c] = static_cast<std::int32_t>(c / out_.grid.col_extent);
    }
  }

  // to[r, p] = from[r, columns[p]]
  void permute(std::span<const float> from, std::uint64_t rows, std::span<float> to) const {
    const std::uint64_t n = task_.cols;
    const auto& columns = order_->columns;
    rtn::parallel_for(threads_, rows, [&](std::size_t r) {
      const float* source = from.data() + r * n;
      float* target = to.data() + r * n;
      for (std::uint64_t p = 0; p < n; ++p) target[p] = source[columns[p]];
    });
  }

  // weights += (asymmetric * weights C + residual * D) H^-1: those whose outputs on X are nearest what the unquantized
  // model's outputs and residual stream make on F.
  void retarget(std::span<float> weights, std::uint64_t first, std::uint64_t rows) {
    const std::uint64_t n = task_.cols, count = rows * n;
    std::vector<float> product(count), moved(count);
    if (shared_.asymmetric() > 0) {
      const float factor = static_cast<float>(shared_.asymmetric()) / factor_->unit;
      gemm(rows, n, n, factor, {weights.data(), n}, {shared_.inputs().cross_gram.data(), n}, false, 0.0F,
           {product.data(), n}, threads_);
    }
    if (shared_.residual(task_) > 0) {
      const float factor = static_cast<float>(shared_.residual(task_)) / factor_->unit;
      const float* gap = shared_.inputs().residual.data() + first * n;
      for (std::uint64_t i = 0; i < count; ++i) product[i] += factor * gap[i];
    }
    permute(product, rows, moved);
    gemm(rows, n, n, 1.0F, {moved.data(), n}, {factor_->upper.data(), n}, true, 0.0F, {product.data(), n}, threads_);
    gemm(rows, n, n, 1.0F, {product.data(), n}, {factor_->upper.data(), n}, false, 0.0F, {moved.data(), n}, threads_);
    rtn::parallel_for(threads_, rows, [&](std::size_t r) {
      const float* change = moved.data() + r * n;
      if (!all_finite({change, n})) return;
      for (std::uint64_t p = 0; p < n; ++p) weights[r * n + order_->columns[p]] += change[p];
    });
  }

  void solve_slab(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t n = task_.cols;
    const std::span<float> weights = task_.weight.subspan(first * n, count * n);
    if (options_.zero_dead_columns) {
      for (std::uint64_t r = 0; r < count; ++r) {
        for (const std::uint32_t c : shared_.dead()) weights[r * n + c] = 0;
      }
    }
    kept_.clear();
    if (task_.args.keep_zeros) {
      for (const float weight : weights) kept_.push_back(weight != 0 ? 1 : 0);
    }
    const bool retargets = shared_.asymmetric() > 0 || shared_.residual(task_) > 0;
    if (retargets) retarget(weights, first, count);
    ranged_.clear();
    if (retargets && !kept_.empty()) {
      ranged_.assign(weights.begin(), weights.end());
      for (std::uint64_t i = 0; i < ranged_.size(); ++i) ranged_[i] = kept_[i] != 0 ? ranged_[i] : 0.0F;
    }
    std::vector<float> ordered(weights.size());
    const bool searches = options_.scale_search == ScaleSearch::solve && task_.args.strategy != Strategy::tensor;
    if (searches) {
      search_slab(first, count, weights, ordered);
    } else {
      code_slab({options_.scale_search == ScaleSearch::diagonal, 1}, first, count, weights, ordered, nullptr);
    }
    if (options_.refine_rounds == 0) return;
    if (order_->own_groups) permute(weights, count, ordered);
    Refiner refiner(rules_, refine_inputs_, options_.block_size, threads_, out_);
    refiner.run(order_->own_groups ? ordered : weights, kept_.empty() ? nullptr : kept_.data(), first, count,
                static_cast<int>(options_.refine_rounds), options_.refit_scales);
  }

  // Codes the slab with a candidate's ranges.
  void code_slab(const Candidate& candidate, std::uint64_t first, std::uint64_t count, std::span<const float> weights,
                 std::span<float> ordered, double* losses) {
    const Rule& rule = candidate.weighted ? weighted_rule_ : rule_;
    const bool own = order_->own_groups;
    const std::span<const float> ranged = ranged_.empty() ? weights : std::span<const float>(ranged_);
    if (own) permute(ranged, count, ordered);
    round_to_nearest(own ? rule.by_position : rule.by_column, own ? ordered : ranged, first, count, out_, threads_);
    if (!own || !ranged_.empty()) permute(weights, count, ordered);
    const std::uint64_t height = out_.grid.row_extent, groups = out_.grid.cols;
    if (candidate.factor != 1) {
      multiply_scales(rules_, candidate.factor,
                      std::span(out_.scales).subspan(first / height * groups, (count + height - 1) / height * groups));
    }
    grid_.resize(groups, count);
    load_grid(rules_, out_, first, grid_);
    Sweep sweep(rules_, *order_, factor_->upper, options_.block_size);
    sweep.run({count, task_.cols, ordered.data(), out_.codes.data() + first * task_.cols,
               kept_.empty() ? nullptr : kept_.data(), losses},
              grid_, group_entry(candidate, first, count, ordered), threads_);
  }

  void search_slab(std::uint64_t first, std::uint64_t count, std::span<const float> weights, std::span<float> ordered) {
    BestRows best(out_, first, count);
    std::vector<double> losses(count);
    for (const Candidate& candidate : rules_.mx ? std::span<const Candidate>(kMxCandidates) : kCandidates) {
      code_slab(candidate, first, count, weights, ordered, losses.data());
      best.keep(losses);
    }
    best.restore();
  }

  // Static groups: nothing.
  std::function<void(std::uint64_t, std::uint64_t)> group_entry(const Candidate& candidate, std::uint64_t first,
                                                                std::uint64_t count, std::span<const float> ordered) {
    const bool grouped = task_.args.strategy == Strategy::group || task_.args.strategy == Strategy::tensor_group;
    if (options_.static_groups || !order_->adjoining || !grouped || out_.grid.cols == 1) return {};
    return [this, candidate, first, count, ordered](std::uint64_t group, std::uint64_t position) {
      const std::uint64_t n = task_.cols;
      std::uint64_t end = position;
      while (end < n && order_->groups[end] == group) ++end;
      const std::uint64_t width = end - position;
      std::vector<float> values(count * width);
      for (std::uint64_t r = 0; r < count; ++r) {
        std::copy_n(ordered.data() + r * n + position, width, values.data() + r * width);
        for (std::uint64_t k = 0; k < width && !kept_.empty(); ++k) {
          if (kept_[r * n + order_->columns[position + k]] == 0) values[r * width + k] = 0;
        }
      }
      if (!all_finite(values)) return;
      const Rule& rule = candidate.weighted ? weighted_rule_ : rule_;
      fit_group(rule.by_position, values, first, count, position, group, out_, threads_);
      for (std::uint64_t r = 0; r < count && candidate.factor != 1; ++r) {
        multiply_scales(rules_, candidate.factor, {&out_.scales[(first + r) * out_.grid.cols + group], 1});
      }
      load_group(rules_, out_, first, group, grid_);
    };
  }

  LinearTask& task_;
  SharedInputs& shared_;
  const GptqOptions& options_;
  QuantizedTensor& out_;
  int threads_;
  TensorParams params_;
  const Order* order_ = nullptr;
  const Factor* factor_ = nullptr;
  rtn::Rules rules_;
  Rule rule_, weighted_rule_;
  std::vector<std::uint8_t> kept_;  // of the slab, in the order of columns; empty: no zeros are kept
  std::vector<float> ranged_;       // the slab's weights whose ranges make scales, where they are not those to be coded
  SlabGrid grid_;
  RefineInputs refine_inputs_;
};

}  // namespace

SharedInputs::SharedInputs(const InputStatistics& inputs, const GptqOptions& options, const RunContext& context)
    : inputs_(inputs), options_(options), context_(context), refusal_(reason_against()) {
  const bool usable = inputs.cross_gram.size() == inputs.gram.size() && all_finite(inputs.cross_gram);
  asymmetric_ = usable ? options.asymmetric : 0;
  residual_ = !inputs.residual.empty() && all_finite(inputs.residual) ? options.residual : 0;
  const bool readable = inputs.gram.size() == inputs.cols * inputs.cols && inputs.tokens > 0;
  if (!readable) return;
  diagonal_ = diagonal_of(inputs.gram, inputs.cols);
  dead_ = dead_columns(diagonal_);
  if (!all_finite(diagonal_) || dead_.size() == diagonal_.size()) return;
  importance_ = diagonal_;
  for (float& value : importance_) value = std::max(value, 0.0F);
}

std::string SharedInputs::reason_against() const {
  const std::uint64_t n = inputs_.cols;
  if (inputs_.tokens == 0) return "no calibration token reached it";
  if (inputs_.tokens < options_.fallback_threshold) {
    return "only " + std::to_string(inputs_.tokens) + " calibration tokens reached it (fallback_threshold is " +
           std::to_string(options_.fallback_threshold) + ")";
  }
  if (inputs_.gram.size() != n * n) return "there is no Gram matrix of its inputs";
  if (!all_finite(inputs_.gram)) return "the Gram matrix of its inputs is not finite";
  return {};
}

SharedInputs::Ordered SharedInputs::ordered(const QuantArgs& args) {
  const ScaleGrid grid = scale_grid(args, 1, inputs_.cols);
  Ordered result{make_order(order_kind(args, options_), diagonal_, grid.col_extent), nullptr};
  if (!factor_ || factored_columns_ != result.order.columns) {
    factor_.reset();  // before the next one is made: each takes as much memory as H
    factored_columns_ = result.order.columns;
    factor_ = std::make_shared<const Factor>(factorize(inputs_.gram, result.order.columns, options_, context_.threads));
  }
  result.factor = factor_;
  return result;
}

RefineInputs SharedInputs::refine_inputs(const Ordered& ordered) {
  RefineInputs inputs;
  inputs.damping = static_cast<float>(ordered.factor->damping * ordered.factor->mean);
  if (!ordered.order.own_groups) {
    inputs.gram = inputs_.gram;
    inputs.columns.resize(inputs_.cols);
    std::iota(inputs.columns.begin(), inputs.columns.end(), 0U);
    return inputs;
  }
  const std::uint64_t n = inputs_.cols;
  inputs.columns = ordered.order.columns;
  if (permuted_columns_ != inputs.columns) {
    permuted_columns_ = inputs.columns;
    permuted_gram_.resize(n * n);
    rtn::parallel_for(context_.threads, n, [&](std::size_t p) {
      const float* row = inputs_.gram.data() + permuted_columns_[p] * n;
      for (std::uint64_t k = 0; k < n; ++k) permuted_gram_[p * n + k] = row[permuted_columns_[k]];
    });
  }
  inputs.gram = permuted_gram_;
  return inputs;
}

double sweeps(const GptqOptions& options) {
  return options.scale_search == ScaleSearch::solve ? static_cast<double>(kCandidates.size()) : 1;
}

void solve(LinearTask& task, SharedInputs& shared) { TaskSolver(task, shared).run(); }

}  // namespace quant::gptq
