// Builds the model's program and works out what is collected where.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "plan/calibration_work.h"
#include "quant/error.h"
#include "quant/observers.h"

namespace quant {
namespace {

using plan_detail::add_problem;
using plan_detail::check_imported;
using plan_detail::check_saved;
using plan_detail::is_ignored;
using plan_detail::needs_of;
using plan_detail::open_statistics;
using plan_detail::read_data;
using plan_detail::require_reach;
using plan_detail::residual_of;
using plan_detail::warn_of_head;
using plan_detail::warn_of_idle_transforms;
using plan_detail::warn_of_residual;

class Planner {
 public:
  explicit Planner(Plan& plan)
      : plan_(plan), work_(std::make_shared<CalibrationWork>(*plan.checkpoint, *plan.registry)) {
    work_->algorithms = create_algorithms(plan.recipe, *plan.registry);
    work_->all_experts = plan.options.calibration.all_experts;
    work_->linear_is_here.assign(plan.linears.size(), false);
    work_->copy_is_here.assign(plan.copies.size(), false);
    for (std::size_t i = 0; i < plan.linears.size(); ++i) by_module_[plan.linears[i].shape.module] = i;
    for (std::size_t i = 0; i < plan.copies.size(); ++i) {
      if (plan.copies[i].tensor != nullptr) copy_of_[plan.copies[i].tensor->name] = i;
    }
  }

  std::shared_ptr<CalibrationWork> make() {
    const bool has_program = build_program();
    const CalibrationRequest& request = plan_.options.calibration;
    work_->save_statistics = !request.save_statistics.empty();
    const std::size_t before = plan_.problems.size();
    const bool has_data = request.statistics.empty() ? read_data(plan_, *work_, has_program) : open_file();
    plan_.input_problems += plan_.problems.size() - before;
    if (!has_program) return nullptr;
    add_blocks();
    const std::size_t known = plan_.problems.size();
    choose_streams();
    warn_of_residual(plan_, *work_);
    if (work_->statistics != nullptr) check_imported(plan_, *work_, summary_);
    if (work_->save_statistics) check_saved(plan_, *work_);
    plan_.input_problems += plan_.problems.size() - known;
    warn_of_idle_transforms(plan_, *work_);
    warn_of_head(plan_, *work_);
    warn_of_biases();
    require_reach(plan_, *work_);
    if (!has_data || !plan_.problems.empty()) return nullptr;
    describe();
    return std::move(work_);
  }

 private:
  bool build_program() {
    try {
      work_->program = build_model_program(work_->tensors);
      return true;
    } catch (const Error& error) {
      add_problem(plan_, "calibration needs to run the model: ", error);
      return false;
    }
  }

  bool open_file() {
    work_->statistics = open_statistics(plan_, summary_);
    return work_->statistics != nullptr;
  }

  void add_blocks() {
    work_->blocks.push_back(table_work(work_->program.embeddings));
    for (const Program& block : work_->program.blocks) work_->blocks.push_back(block_work(block));
    BlockWork head = head_work(work_->program.head);
    if (!head.sweeps.empty()) {
      work_->blocks.push_back(std::move(head));
      work_->blocks.back().last = true;
    } else {
      work_->blocks.back().last = true;
    }
    for (const BlockWork& block : work_->blocks) {
      for (const std::size_t linear : block.linears) work_->linear_is_here[linear] = true;
      for (const std::size_t copy : block.copies) work_->copy_is_here[copy] = true;
      for (const std::size_t bias : block.biases) work_->copy_is_here[bias] = true;
    }
  }

  // Where the unquantized model runs beside, the last layer's outputs too are compared; a head's would cost much.
  void choose_streams() {
    if (plan_.options.calibration.block_errors) {
      if (work_->statistics == nullptr) {
        work_->second_stream = true;
      } else {
        plan_.problems.emplace_back(
            "errors of blocks need the model to run: give --calibration FILE instead of statistics, or leave "
            "--block-errors out");
      }
    }
    if (plan_.options.calibration.unquantized_inputs && work_->second_stream) {
      plan_.problems.emplace_back(
          "unquantized inputs: asymmetric calibration, compensation of the residual stream and --block-errors compare "
          "the quantized model with the unquantized one, and here there is no other; switch them off (asymmetric: 0, "
          "residual: 0), or leave --unquantized-inputs out");
    }
    for (std::size_t b = 0; b < work_->blocks.size(); ++b) {
      BlockWork& block = work_->blocks[b];
      const bool is_layer = b > 0 && b <= work_->program.blocks.size();
      block.whole = !block.last || !block.caches.empty() || (is_layer && work_->second_stream);
    }
  }

  BlockWork table_work(const Program& program) {
    BlockWork work;
    work.program = &program;
    for (const Op& op : program.ops) {
      const auto* embedding = std::get_if<EmbeddingOp>(&op);
      if (embedding == nullptr) continue;
      const auto planned = by_module_.find(embedding->module);
      if (planned == by_module_.end()) continue;
      if (needs_input_range(plan_.groups[plan_.linears[planned->second].scheme].scheme)) {
        plan_.problems.push_back(embedding->module +
                                 ": an embedding has no inputs that a static scale could be measured of; give it a "
                                 "scheme without input_activations");
      }
      work.tables.push_back(planned->second);
      work.linears.push_back(planned->second);
    }
    return work;
  }

  // What is collected before the linears of one stage are coded; linears that need nothing go to `work.plain`.
  Sweep sweep_of(const Program& program, const Stage& stage, BlockWork& work) {
    Sweep sweep{stage.begin, stage.linears, stage.live, {}};
    std::map<std::tuple<ValueId, int>, std::size_t> units;
    for (const std::size_t op : stage.members) {
      const auto& linear = std::get<LinearOp>(program.ops[op]);
      for (std::size_t w = 0; w < linear.weights.size(); ++w) {
        const auto planned = by_module_.find(linear.weights[w].module);
        if (planned == by_module_.end() || linear.weights[w].slice >= 0) continue;
        const Scheme& scheme = plan_.groups[plan_.linears[planned->second].scheme].scheme;
        WorkLinear entry{{op, w}, planned->second, needs_input_range(scheme)};
        const CalibrationNeeds needs = needs_of(plan_, *work_, planned->second);
        work.linears.push_back(planned->second);
        if (!needs.any()) {
          work.plain.push_back(entry);
          continue;
        }
        const int expert = linear.routing >= 0 ? static_cast<int>(w) : -1;
        const auto [at, is_new] = units.try_emplace({linear.in, expert}, sweep.units.size());
        if (is_new) sweep.units.push_back({linear.in, op, expert, {}, {}, {}});
        InputUnit& unit = sweep.units[at->second];
        entry.bias = corrected_bias(linear.weights[w], planned->second);
        if (entry.bias) work.biases.push_back(*entry.bias);
        unit.asked |= needs;
        unit.linears.push_back(entry);
      }
    }
    for (InputUnit& unit : sweep.units) {
      // The unquantized model chooses experts of its own: its rows are not those of the quantized one.
      if (unit.expert >= 0) unit.asked.cross_gram = false;
      if (unit.asked.residual) unit.residual = residual_of(program, stage, unit);
      unit.asked.residual = unit.residual >= 0;
      unit.needs = unit.asked;
      // What another recipe may want.
      if (work_->save_statistics)
        unit.needs |= {.absmax = true, .mean_abs = true, .gram = true, .mean = true, .square = true};
      work_->second_stream = work_->second_stream || unit.needs.cross_gram || unit.needs.residual;
    }
    return sweep;
  }

  // The bias of a linear whose sparsifier corrects it.
  std::optional<std::size_t> corrected_bias(const LinearWeight& weight, std::size_t linear) {
    const auto& pruning = plan_.linears[linear].pruning;
    const auto corrects = [&](const PlannedPruning& p) {
      return work_->algorithms[p.modifier].sparsifier->corrects_bias();
    };
    if (std::none_of(pruning.begin(), pruning.end(), corrects)) return std::nullopt;
    ++corrected_;
    const auto found = copy_of_.find(weight.bias);
    if (weight.bias.empty() || found == copy_of_.end()) return std::nullopt;
    const TensorInfo& tensor = *plan_.copies[found->second].tensor;
    const bool known = tensor.dtype == DType::F32 || tensor.dtype == DType::F16 || tensor.dtype == DType::BF16;
    if (!known || element_count(tensor.shape) != weight.rows) return std::nullopt;
    ++with_bias_;
    plan_.copies[found->second].reason = "a bias, corrected when its weight is pruned";
    return found->second;
  }

  void warn_of_biases() {
    if (corrected_ == with_bias_) return;
    plan_.warnings.push_back(
        fmt::format("correct_bias: {} of {} pruned linears have no bias; the mean of their error stays",
                    corrected_ - with_bias_, corrected_));
  }

  BlockWork block_work(const Program& program) {
    BlockWork work;
    work.program = &program;
    for (const Stage& stage : stages_of(program)) {
      Sweep sweep = sweep_of(program, stage, work);
      if (!sweep.units.empty()) work.sweeps.push_back(std::move(sweep));
    }
    add_sites(program, work);
    add_caches(program, work);
    return work;
  }

  // The head runs only for linears that need statistics; others are coded from their weights alone.
  BlockWork head_work(const Program& program) {
    BlockWork work;
    work.program = &program;
    for (const Stage& stage : stages_of(program)) {
      Sweep sweep = sweep_of(program, stage, work);
      if (!sweep.units.empty()) work.sweeps.push_back(std::move(sweep));
    }
    for (const WorkLinear& plain : work.plain) std::erase(work.linears, plain.linear);
    work.plain.clear();
    return work;
  }

  void add_sites(const Program& program, BlockWork& work) {
    std::set<std::size_t> copies;
    for (SmoothingSite& site : find_smoothing_sites(program)) {
      WorkSite wanted{std::move(site), {}, {}};
      for (std::size_t m = 0; m < work_->algorithms.size(); ++m) {
        if (!wants(program, wanted.site, m)) continue;
        wanted.modifiers.push_back(m);
        wanted.needs |= work_->algorithms[m].transform->needs();
        wanted.needs.cross_gram = false;
        wanted.needs.residual = false;
      }
      if (wanted.modifiers.empty()) continue;
      note_changes(program, wanted.site, copies);
      work.sites.push_back(std::move(wanted));
    }
    for (const std::size_t bias : work.biases) copies.erase(bias);  // written once its linear is coded
    work.copies.assign(copies.begin(), copies.end());
  }

  // One scheme holds for the whole model: that is all that config.json can say.
  void add_caches(const Program& program, BlockWork& work) {
    const auto modifier = std::find_if(plan_.recipe.modifiers.begin(), plan_.recipe.modifiers.end(),
                                       [](const RecipeModifier& m) { return m.kv_cache.has_value(); });
    if (modifier == plan_.recipe.modifiers.end()) return;
    DType type = DType::F32;
    for (const Op& op : program.ops) {
      if (const auto* linear = std::get_if<LinearOp>(&op)) {
        type = work_->tensors.find(linear->weights.front().tensor)->dtype;
      } else if (const auto* attention = std::get_if<AttentionOp>(&op)) {
        work.caches.push_back(plan_.caches.size());
        plan_.caches.push_back(
            {attention->module,
             *modifier->kv_cache,
             {{attention->module + ".k_scale", type, {1}}, {attention->module + ".v_scale", type, {1}}}});
      }
    }
  }

  bool wants(const Program& program, const SmoothingSite& site, std::size_t modifier) const {
    const Transform* transform = work_->algorithms[modifier].transform;
    if (transform == nullptr || is_ignored(plan_.recipe.modifiers[modifier], site.smooth_layer)) return false;
    std::vector<LinearTask> tasks;
    bool any_coded = false;
    bool all_ignored = true;
    for (const LinearPlace& place : site.readers) {
      const LinearWeight& weight = weight_at(program, place);
      LinearTask task;
      task.module = weight.module;
      task.rows = weight.rows;
      task.cols = weight.cols;
      const auto planned = by_module_.find(weight.module);
      task.quantized = planned != by_module_.end();
      if (task.quantized) {
        const Scheme& scheme = plan_.groups[plan_.linears[planned->second].scheme].scheme;
        task.args = *scheme.weights;
        task.input_args = scheme.input_activations;
        any_coded = true;
      }
      all_ignored = all_ignored && is_ignored(plan_.recipe.modifiers[modifier], weight.module);
      tasks.push_back(std::move(task));
    }
    if (!any_coded || all_ignored) return false;
    const SmoothingGroup group{site.kind, site.smooth_layer, tasks, site.rows};
    return transform->wants(group);
  }

  // Tensors that are stored as floats and whose values folding changes.
  void note_changes(const Program& program, const SmoothingSite& site, std::set<std::size_t>& copies) const {
    const auto note = [&](const std::string& tensor) {
      const auto found = copy_of_.find(tensor);
      if (found != copy_of_.end()) copies.insert(found->second);
    };
    if (site.kind == ProducerKind::norm) {
      const auto& norm = std::get<NormOp>(program.ops[site.norm]);
      note(norm.weight);
      note(norm.bias);
    } else {
      note(weight_at(program, site.linear).tensor);
      note(weight_at(program, site.linear).bias);
    }
    for (const LinearPlace& reader : site.readers) note(weight_at(program, reader).tensor);
  }

  void describe() {
    CalibrationPlan& summary = summary_;
    summary.family = work_->program.family;
    summary.blocks = work_->program.blocks.size();
    if (work_->statistics != nullptr) {
      plan_.calibration = summary;
      return;
    }
    summary.source = work_->data.source;
    summary.hash = work_->data.hash;
    summary.sequences = work_->data.sequences.size();
    summary.tokens = work_->data.tokens();
    for (const auto& sequence : work_->data.sequences) {
      summary.longest = std::max<std::uint64_t>(summary.longest, sequence.size());
    }
    summary.product = plan_.options.calibration.product.value_or(fastest_product_type());
    summary.second_stream = work_->second_stream;
    plan_.calibration = summary;
  }

  Plan& plan_;
  std::shared_ptr<CalibrationWork> work_;
  std::map<std::string, std::size_t> by_module_;
  std::map<std::string, std::size_t> copy_of_;
  CalibrationPlan summary_;
  std::size_t corrected_ = 0;  // linears whose bias was to be corrected, and those of them that have one
  std::size_t with_bias_ = 0;
};

}  // namespace

bool needs_input_range(const Scheme& scheme) {
  return scheme.input_activations && scheme.input_activations->dynamic != Dynamic::yes &&
         !constant_absmax(*scheme.input_activations);
}

Scheme with_input_range(const Scheme& scheme) {
  Scheme result = scheme;
  result.input_activations->observer_kwargs["absmax"] = 1.0;
  return result;
}

namespace plan_detail {

CalibrationNeeds needs_of(const Plan& plan, const CalibrationWork& work, std::size_t linear) {
  const PlannedLinear& planned = plan.linears[linear];
  CalibrationNeeds needs = work.algorithms[planned.modifier].own->needs();
  for (const PlannedPruning& pruning : planned.pruning) needs |= work.algorithms[pruning.modifier].own->needs();
  needs.absmax = needs.absmax || needs_input_range(plan.groups[planned.scheme].scheme);
  return needs;
}

bool is_calibrated(const Plan& plan, const std::vector<ModifierAlgorithm>& algorithms) {
  for (const RecipeModifier& modifier : plan.recipe.modifiers) {
    if (modifier.kv_cache) return true;
  }
  for (const ModifierAlgorithm& algorithm : algorithms) {
    if (algorithm.own != nullptr && (algorithm.transform != nullptr || algorithm.own->needs().any())) return true;
  }
  return std::any_of(plan.linears.begin(), plan.linears.end(),
                     [&](const PlannedLinear& linear) { return needs_input_range(plan.groups[linear.scheme].scheme); });
}

std::shared_ptr<CalibrationWork> plan_calibration(Plan& plan) { return Planner(plan).make(); }

}  // namespace plan_detail
}  // namespace quant
