// Reads the calibration data, builds the model's program, and works out what is collected where.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "plan/calibration_work.h"
#include "quant/error.h"
#include "quant/names.h"
#include "quant/observers.h"

namespace quant {
namespace {

// A recipe's transforms act on whole blocks, whatever the modules' classes.
bool is_ignored(const RecipeModifier& modifier, const std::string& module) {
  return std::any_of(modifier.ignore.begin(), modifier.ignore.end(), [&](const Pattern& pattern) {
    return NamePattern(pattern.text).match(module, "Linear").has_value();
  });
}

using plan_detail::check_imported;
using plan_detail::check_saved;
using plan_detail::open_statistics;

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
    const bool has_data = request.statistics.empty() ? read_data(has_program) : open_file();
    if (!has_program) return nullptr;
    add_blocks();
    if (work_->statistics != nullptr) check_imported(plan_, *work_, summary_);
    if (work_->save_statistics) check_saved(plan_, *work_);
    check_order();
    warn_of_head();
    require_reach();
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
      add_problem("calibration needs to run the model: ", error);
      return false;
    }
  }

  void add_problem(const std::string& what, const Error& error) {
    plan_.problems.push_back(what + error.what() + (error.hint().empty() ? "" : " (" + error.hint() + ")"));
  }

  static bool holds_ids(const std::filesystem::path& file) {
    const std::string extension = file.extension().string();
    return extension == ".npy" || extension == ".h5" || extension == ".hdf5";
  }

  bool open_file() {
    work_->statistics = open_statistics(plan_, summary_);
    return work_->statistics != nullptr;
  }

  bool read_data(bool has_program) {
    const CalibrationRequest& request = plan_.options.calibration;
    if (request.file.empty()) {
      plan_.problems.push_back(who_needs_data() +
                               " needs calibration data: give --calibration FILE (text, JSON lines, "
                               "or token ids)");
      return false;
    }
    try {
      std::optional<Tokenizer> tokenizer;
      if (!holds_ids(request.file)) tokenizer.emplace(Tokenizer::open(model_directory()));
      work_->data = read_sequences(request.file, tokenizer ? &*tokenizer : nullptr, request.data);
    } catch (const Error& error) {
      add_problem("calibration data: ", error);
      return false;
    }
    if (has_program) check_data();
    return true;
  }

  std::filesystem::path model_directory() const {
    const std::filesystem::path& location = plan_.checkpoint->location();
    return std::filesystem::is_directory(location) ? location : location.parent_path();
  }

  std::string who_needs_data() const {
    for (std::size_t m = 0; m < work_->algorithms.size(); ++m) {
      const ModifierAlgorithm& algorithm = work_->algorithms[m];
      const RecipeModifier& modifier = plan_.recipe.modifiers[m];
      if (algorithm.transform != nullptr || algorithm.own->needs().any()) {
        return modifier.where.to_string() + ": " + modifier.type;
      }
    }
    for (const RecipeModifier& modifier : plan_.recipe.modifiers) {
      if (modifier.kv_cache) return modifier.where.to_string() + ": kv_cache_scheme";
    }
    return "a scheme with static input_activations";
  }

  void check_data() {
    const ModelProgram& program = work_->program;
    std::int32_t largest = 0;
    std::uint64_t longest = 0;
    for (const auto& sequence : work_->data.sequences) {
      longest = std::max<std::uint64_t>(longest, sequence.size());
      for (const std::int32_t id : sequence) {
        if (id < 0) {
          plan_.problems.push_back(fmt::format("calibration data: {} holds the token id {}", work_->data.source, id));
          return;
        }
        largest = std::max(largest, id);
      }
    }
    if (static_cast<std::uint64_t>(largest) >= program.vocabulary) {
      plan_.problems.push_back(
          fmt::format("calibration data: {} holds the token id {}, but the model's vocabulary has {} entries; was it "
                      "made with another tokenizer?",
                      work_->data.source, largest, program.vocabulary));
    }
    if (program.max_positions != 0 && longest > program.max_positions) {
      plan_.problems.push_back(
          fmt::format("calibration data: sequences of {} tokens, but the model has {} positions; "
                      "use --seq-len {}",
                      longest, program.max_positions, program.max_positions));
    }
    const std::uint64_t wanted = plan_.options.calibration.data.samples;
    if (wanted > work_->data.sequences.size()) {
      plan_.warnings.push_back(fmt::format("calibration data: {} gives {} sequences, not {}", work_->data.source,
                                           work_->data.sequences.size(), wanted));
    }
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

  CalibrationNeeds needs_of(std::size_t linear, bool& static_input) const {
    const PlannedLinear& planned = plan_.linears[linear];
    CalibrationNeeds needs = work_->algorithms[planned.modifier].own->needs();
    static_input = needs_input_range(plan_.groups[planned.scheme].scheme);
    needs.absmax = needs.absmax || static_input;
    return needs;
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
        WorkLinear entry{{op, w}, planned->second, false};
        CalibrationNeeds needs = needs_of(planned->second, entry.static_input);
        work.linears.push_back(planned->second);
        if (!needs.any()) {
          work.plain.push_back(entry);
          continue;
        }
        // What another recipe may want.
        if (work_->save_statistics) needs.absmax = needs.mean_abs = needs.gram = true;
        const int expert = linear.routing >= 0 ? static_cast<int>(w) : -1;
        const auto [at, is_new] = units.try_emplace({linear.in, expert}, sweep.units.size());
        if (is_new) sweep.units.push_back({linear.in, op, expert, {}, {}});
        InputUnit& unit = sweep.units[at->second];
        unit.needs |= needs;
        unit.linears.push_back(entry);
      }
    }
    for (InputUnit& unit : sweep.units) {
      // The unquantized model chooses experts of its own: its rows are not those of the quantized one.
      if (unit.expert >= 0) unit.needs.cross_gram = false;
      unit.needs.residual = unit.needs.residual && find_residual(program, stage, unit);
      work_->second_stream = work_->second_stream || unit.needs.cross_gram || unit.needs.residual;
    }
    return sweep;
  }

  // The value that the output of the unit's one linear is added to, and nothing else, where that value is there before
  // the stage's linears run.
  static bool find_residual(const Program& program, const Stage& stage, InputUnit& unit) {
    if (unit.expert >= 0 || unit.linears.size() != 1) return false;
    const ValueId output = output_of(program.ops[unit.op]);
    int readers = 0;
    for (const Op& op : program.ops) {
      const std::vector<ValueId> inputs = inputs_of(op);
      const auto uses = std::count(inputs.begin(), inputs.end(), output);
      readers += static_cast<int>(uses);
      const auto* add = std::get_if<AddOp>(&op);
      if (uses == 1 && add != nullptr) unit.residual = add->a == output ? add->b : add->a;
    }
    if (readers != 1 || unit.residual < 0) return false;
    if (unit.residual == program.input) return true;
    const auto made =
        std::find_if(program.ops.begin(), program.ops.begin() + static_cast<std::ptrdiff_t>(stage.linears),
                     [&](const Op& op) { return output_of(op) == unit.residual; });
    return made != program.ops.begin() + static_cast<std::ptrdiff_t>(stage.linears);
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

  void check_order() {
    for (std::size_t m = 0; m < work_->algorithms.size(); ++m) {
      if (work_->algorithms[m].transform == nullptr) continue;
      const RecipeModifier& modifier = plan_.recipe.modifiers[m];
      std::size_t groups = 0;
      for (const BlockWork& block : work_->blocks) {
        for (const WorkSite& site : block.sites) {
          groups += static_cast<std::size_t>(std::count(site.modifiers.begin(), site.modifiers.end(), m));
        }
      }
      if (groups == 0) {
        plan_.warnings.push_back(fmt::format("{}: {} rescales nothing: no group of linears that it wants is quantized",
                                             modifier.where.to_string(), modifier.type));
      }
    }
  }

  // Transforms rescale within blocks. That a head's inputs are not rescaled must not pass in silence.
  void warn_of_head() {
    for (const Op& op : work_->program.head.ops) {
      const auto* linear = std::get_if<LinearOp>(&op);
      if (linear == nullptr || !by_module_.contains(linear->weights.front().module)) continue;
      for (std::size_t m = 0; m < work_->algorithms.size(); ++m) {
        const RecipeModifier& modifier = plan_.recipe.modifiers[m];
        const std::string& module = linear->weights.front().module;
        if (work_->algorithms[m].transform == nullptr || is_ignored(modifier, module)) continue;
        plan_.warnings.push_back(
            fmt::format("{}: {} rescales the inputs of blocks, not those of {}, which is quantized "
                        "without it",
                        modifier.where.to_string(), modifier.type, module));
      }
    }
  }

  // Linears that learn from inputs which the program never computes.
  void require_reach() {
    std::vector<std::string> unreached;
    for (std::size_t i = 0; i < plan_.linears.size(); ++i) {
      bool static_input = false;
      if (!work_->linear_is_here[i] && needs_of(i, static_input).any()) {
        unreached.push_back(plan_.linears[i].shape.module);
      }
    }
    if (unreached.empty()) return;
    plan_.problems.push_back(fmt::format(
        "{}{}: the model's forward pass does not compute the inputs of {} linear{} here; ignore {}, or give "
        "{} to a QuantizationModifier",
        fmt::join(unreached.begin(), unreached.begin() + std::min<std::ptrdiff_t>(3, std::ssize(unreached)), ", "),
        unreached.size() > 3 ? fmt::format(" and {} more", unreached.size() - 3) : "", unreached.size(),
        unreached.size() == 1 ? "" : "s", unreached.size() == 1 ? "it" : "them",
        unreached.size() == 1 ? "it" : "them"));
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

std::vector<TokenChunk> divide(const TokenSequences& data, std::uint64_t tokens) {
  std::vector<TokenChunk> chunks;
  for (std::size_t s = 0; s < data.sequences.size(); ++s) {
    const std::uint64_t length = data.sequences[s].size();
    if (chunks.empty() || chunks.back().tokens + length > tokens) chunks.push_back({s, 0, 0});
    chunks.back().count += 1;
    chunks.back().tokens += length;
  }
  return chunks;
}

std::shared_ptr<CalibrationWork> plan_calibration(Plan& plan) { return Planner(plan).make(); }

}  // namespace plan_detail
}  // namespace quant
