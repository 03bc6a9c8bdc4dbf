#include "quant/sparsity_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <thread>

#include "quant/error.h"
#include "quant/linalg.h"
#include "quant/logical_tensors.h"
#include "quant/sensitivity.h"
#include "sensitivity/items.h"
#include "sensitivity/model_chain.h"
#include "sensitivity/profile_memory.h"
#include "sensitivity/pruning.h"

namespace quant {
namespace {

using sensitivity::Item;
using sensitivity::ModelChain;
using sensitivity::WeightPruner;

constexpr int kSteps = 4;  // sparsities on either side of the average that a linear can get
constexpr std::uint64_t kRowsAtOnce = 256;
constexpr std::uint64_t kLogitMemory = 1'000'000'000;

double number(const RecipeModifier& modifier, const std::string& name, double otherwise) {
  const auto found = modifier.parameters.find(name);
  if (found == modifier.parameters.end()) return otherwise;
  if (const auto* value = std::get_if<double>(&found->second)) return *value;
  if (const auto* whole = std::get_if<std::int64_t>(&found->second)) return static_cast<double>(*whole);
  return otherwise;
}

const PlannedPruning* pruning_of(const PlannedLinear& linear, std::size_t modifier) {
  for (const PlannedPruning& pruning : linear.pruning) {
    if (pruning.modifier == modifier) return &pruning;
  }
  return nullptr;
}

std::uint64_t weights_of(const PlannedLinear& linear) { return linear.shape.rows * linear.shape.cols; }

/// The decoder layer of a module: what comes before and with the first number in its name.
std::string layer_of(const std::string& module) {
  for (std::size_t begin = 0; begin < module.size();) {
    const std::size_t end = std::min(module.find('.', begin), module.size());
    const auto part = std::string_view(module).substr(begin, end - begin);
    if (!part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos) return module.substr(0, end);
    begin = end + 1;
  }
  return module;
}

class Resolver {
 public:
  Resolver(const Plan& plan, std::size_t modifier, const TokenSequences& sequences,
           const SparsityProfileOptions& options)
      : plan_(plan), modifier_(modifier), sequences_(sequences), options_(options) {
    threads_ =
        options.threads > 0 ? options.threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    double zeros = 0;
    for (std::size_t i = 0; i < plan.linears.size(); ++i) {
      const PlannedPruning* pruning = pruning_of(plan.linears[i], modifier);
      if (pruning == nullptr) continue;
      if (pruning->pattern.semi_structured()) {
        throw Error(ErrorCode::usage,
                    fmt::format("{}: sparsity_profile shares zeros out between linears, but {} fixes the share in each",
                                recipe().where.to_string(), describe(pruning->pattern)),
                    "leave sparsity_profile out, or the N:M pattern");
      }
      mine_.push_back(i);
      weights_ += static_cast<double>(weights_of(plan.linears[i]));
      zeros += static_cast<double>(weights_of(plan.linears[i])) * pruning->pattern.sparsity;
    }
    average_ = weights_ > 0 ? zeros / weights_ : 0;
  }

  std::vector<ModuleSparsity> resolve() {
    if (mine_.empty()) return {};
    const std::string profile = sparsity_profile(recipe());
    if (profile == "global") return by_magnitude();
    if (profile == "owl") return by_outliers();
    if (profile == "error") return by_error();
    throw Error(ErrorCode::usage, recipe().where.to_string() + ": there is no sparsity_profile '" + profile + "'");
  }

 private:
  const RecipeModifier& recipe() const { return plan_.recipe.modifiers[modifier_]; }

  void check_stop() const {
    if (options_.stop != nullptr && options_.stop->load()) {
      throw Error(ErrorCode::interrupted, "stopped while the sparsity of layers was being found");
    }
  }
  void progress(const std::string& module) {
    ++done_;
    check_stop();
    const auto now = std::chrono::steady_clock::now();
    if (!options_.progress || (now - told_ < std::chrono::milliseconds(100) && done_ < total_)) return;
    told_ = now;
    options_.progress(std::min(done_, total_), total_, module);
  }

  std::vector<ModuleSparsity> averages() const {
    std::vector<ModuleSparsity> result;
    for (const std::size_t i : mine_) result.emplace_back(plan_.linears[i].shape.module, average_);
    return result;
  }

  // --- global

  template <class Take>
  void visit_magnitudes(const PlannedLinear& linear, const Take& take) const {
    const TensorView view = plan_.checkpoint->view(*linear.weight);
    std::vector<float> values;
    for (std::uint64_t first = 0; first < linear.shape.rows; first += kRowsAtOnce) {
      check_stop();
      const std::uint64_t count = std::min(kRowsAtOnce, linear.shape.rows - first);
      values.resize(count * linear.shape.cols);
      read_f32(view, first * linear.shape.cols, values);
      // Bits of magnitudes are in the order of magnitudes.
      for (const float value : values) take(std::bit_cast<std::uint32_t>(std::fabs(value)));
    }
    plan_.checkpoint->done_reading(view);
  }

  // The k-th smallest magnitude of all linears in two visits: its upper 16 bits, then the lower ones.
  std::vector<ModuleSparsity> by_magnitude() {
    total_ = 2 * mine_.size();
    std::vector<std::uint64_t> high(1U << 16U), low(1U << 16U);
    for (const std::size_t i : mine_) {
      visit_magnitudes(plan_.linears[i], [&](std::uint32_t bits) { ++high[bits >> 16U]; });
      progress(plan_.linears[i].shape.module);
    }
    auto wanted = static_cast<std::uint64_t>(average_ * weights_);
    std::uint32_t bin = 0;
    while (bin + 1 < high.size() && wanted >= high[bin]) wanted -= high[bin++];
    std::vector<std::uint64_t> below(mine_.size());
    std::vector<std::vector<std::uint32_t>> equal(mine_.size());  // lower bits of those in the bin
    for (std::size_t k = 0; k < mine_.size(); ++k) {
      visit_magnitudes(plan_.linears[mine_[k]], [&](std::uint32_t bits) {
        if (bits >> 16U < bin) ++below[k];
        if (bits >> 16U != bin) return;
        equal[k].push_back(bits & 0xFFFFU);
        ++low[bits & 0xFFFFU];
      });
      progress(plan_.linears[mine_[k]].shape.module);
    }
    std::uint32_t place = 0;
    while (place + 1 < low.size() && wanted >= low[place]) wanted -= low[place++];
    // Of equal ones the first linears give theirs.
    std::vector<ModuleSparsity> result;
    for (std::size_t k = 0; k < mine_.size(); ++k) {
      std::uint64_t zeros = below[k];
      for (const std::uint32_t bits : equal[k]) {
        if (bits < place) ++zeros;
        if (bits == place && wanted > 0) ++zeros, --wanted;
      }
      const PlannedLinear& linear = plan_.linears[mine_[k]];
      result.emplace_back(linear.shape.module, share(zeros, weights_of(linear)));
    }
    return result;
  }

  // A share that gives exactly so many zeros when it is multiplied by the size and rounded down.
  static double share(std::uint64_t zeros, std::uint64_t weights) {
    const double exact = static_cast<double>(zeros) / static_cast<double>(weights);
    const bool enough = static_cast<std::uint64_t>(exact * static_cast<double>(weights)) >= zeros;
    return enough ? exact : std::min(1.0, std::nextafter(exact, 2.0));
  }

  // --- profiles that look at activations

  struct ModelParts {
    explicit ModelParts(const Plan& plan)
        : tensors(*plan.checkpoint, *plan.registry),
          weights(tensors),
          program(build_model_program(tensors)),
          items(sensitivity::find_items(plan, program, false)) {}
    LogicalTensors tensors;
    ModelWeights weights;
    ModelProgram program;
    std::vector<Item> items;
  };
  struct Model {
    Model(std::unique_ptr<ModelParts> model_parts, const TokenSequences& sequences,
          sensitivity::ChainOptions chain_options)
        : parts(std::move(model_parts)),
          weights(parts->weights),
          items(parts->items),
          chain(parts->program, parts->weights, sequences.sequences, std::move(chain_options)) {}
    std::unique_ptr<ModelParts> parts;
    ModelWeights& weights;
    const std::vector<Item>& items;
    ModelChain chain;
  };

  std::unique_ptr<Model> open_model(bool logits) {
    if (sequences_.sequences.empty()) throw Error(ErrorCode::usage, "there are no token sequences to run the model on");
    sensitivity::ChainOptions chain;
    chain.forward.product = options_.product;
    chain.forward.threads = threads_;
    chain.resident = false;
    chain.logits = logits;
    chain.check_stop = [this] { check_stop(); };
    auto parts = std::make_unique<ModelParts>(plan_);
    for (Item& item : parts->items) keep_mine(item);
    std::erase_if(parts->items, [](const Item& item) { return item.linears.empty(); });
    total_ = parts->items.size();
    chain.logit_memory = logit_memory(*parts, logits);
    auto model = std::make_unique<Model>(std::move(parts), sequences_, std::move(chain));
    model->chain.start();
    return model;
  }

  // What the limit leaves for logits. Throws Error{usage} if it is too small for the rest.
  std::uint64_t logit_memory(const ModelParts& parts, bool errors) const {
    const sensitivity::ProfileWork work{modifier_, parts.items,      sequences_.tokens(),
                                        errors,    options_.product, threads_};
    const std::uint64_t needed = sensitivity::profile_memory(plan_, parts.program, work);
    if (options_.memory == 0) return kLogitMemory;
    if (needed <= options_.memory) return std::min(kLogitMemory, options_.memory - needed);
    throw Error(
        ErrorCode::usage,
        fmt::format("a memory limit of {:.1f} MB is too small to find a sparsity_profile: at least {:.1f} MB are "
                    "needed for {} tokens",
                    static_cast<double>(options_.memory) / 1e6, static_cast<double>(needed) / 1e6 + 0.1,
                    sequences_.tokens()),
        "allow more with --memory, or take shorter sequences with --seq-len", "MemoryTooSmall");
  }

  // Of the experts of one operation the modifier may prune some only.
  void keep_mine(Item& item) const {
    Item mine{item.part, item.op, {}, {}};
    for (std::size_t k = 0; k < item.linears.size(); ++k) {
      if (pruning_of(plan_.linears[item.linears[k]], modifier_) == nullptr) continue;
      mine.linears.push_back(item.linears[k]);
      mine.weights.push_back(item.weights[k]);
    }
    item = std::move(mine);
  }

  // --- owl

  std::vector<ModuleSparsity> by_outliers() {
    const double most = number(recipe(), "owl_m", 5);
    const double lambda = number(recipe(), "owl_lmbda", 0.08);
    struct Layer {
      double sum = 0, count = 0, outliers = 0;
      std::vector<std::vector<float>> scores;
    };
    std::vector<std::pair<std::string, Layer>> layers;
    const auto model = open_model(false);
    if (model->items.empty()) return averages();
    const auto close = [&](Layer& layer) {
      const double threshold = most * layer.sum / std::max(layer.count, 1.0);
      for (const auto& scores : layer.scores) {
        for (const float score : scores) layer.outliers += static_cast<double>(score) > threshold ? 1 : 0;
      }
      layer.scores.clear();
    };
    for (const Item& item : model->items) {
      model->chain.advance(item.part, item.op);
      CalibrationNeeds needs;
      needs.square = true;
      const InputStatistics inputs = sensitivity::inputs_of(model->chain, item.op, needs, options_.product, threads_);
      for (std::size_t k = 0; k < item.linears.size(); ++k) {
        const std::string layer = layer_of(plan_.linears[item.linears[k]].shape.module);
        if (layers.empty() || layers.back().first != layer) {
          if (!layers.empty()) close(layers.back().second);
          layers.emplace_back(layer, Layer{});
        }
        std::vector<float> scores = model->weights.read(*item.weights[k], threads_);
        for (std::size_t w = 0; w < scores.size(); ++w) {
          scores[w] = std::fabs(scores[w]) * std::sqrt(inputs.square[w % inputs.cols]);
          layers.back().second.sum += static_cast<double>(scores[w]);
        }
        layers.back().second.count += static_cast<double>(scores.size());
        layers.back().second.scores.push_back(std::move(scores));
      }
      progress(plan_.linears[item.linears.front()].shape.module);
    }
    close(layers.back().second);
    std::map<std::string, double> ratio;
    for (const auto& [name, layer] : layers) ratio[name] = layer.outliers / std::max(layer.count, 1.0);
    return shifted(ratio, lambda);
  }

  // Sparsity falls with the ratio, within 2 lambda, and keeps its average over all weights.
  std::vector<ModuleSparsity> shifted(std::map<std::string, double>& ratio, double lambda) const {
    const auto by_value = [](const auto& a, const auto& b) { return a.second < b.second; };
    const double least = std::min_element(ratio.begin(), ratio.end(), by_value)->second;
    const double most = std::max_element(ratio.begin(), ratio.end(), by_value)->second;
    double mean = 0;
    for (auto& [name, value] : ratio) value = most > least ? (value - least) / (most - least) * 2 * lambda : 0;
    for (const std::size_t i : mine_) {
      mean +=
          ratio[layer_of(plan_.linears[i].shape.module)] * static_cast<double>(weights_of(plan_.linears[i])) / weights_;
    }
    std::vector<ModuleSparsity> result;
    for (const std::size_t i : mine_) {
      const std::string& module = plan_.linears[i].shape.module;
      result.emplace_back(module, std::clamp(average_ + mean - ratio[layer_of(module)], 0.0, 1.0));
    }
    return result;
  }

  // --- error

  double sparsity_of_step(int step) const {
    const double reach = std::min(average_, 1 - average_) / 2;
    return average_ + reach * static_cast<double>(step) / kSteps;
  }

  std::vector<ModuleSparsity> by_error() {
    const auto model = open_model(true);
    if (model->items.empty()) return averages();
    const WeightPruner pruner(plan_, threads_);
    std::vector<std::vector<AllocationOption>> sets;
    for (const Item& item : model->items) {
      model->chain.advance(item.part, item.op);
      sets.push_back(options_of(*model, item, pruner));
      progress(plan_.linears[item.linears.front()].shape.module);
    }
    const auto budget = static_cast<std::uint64_t>(std::ceil((1 - average_) * weights_));
    std::vector<std::size_t> choice = allocate(sets, budget);
    std::map<std::string, double> found;
    for (std::size_t k = 0; k < sets.size(); ++k) {
      const double sparsity = sparsity_of_step(static_cast<int>(choice[k]) - kSteps);
      for (const std::size_t i : model->items[k].linears) found[plan_.linears[i].shape.module] = sparsity;
    }
    std::vector<ModuleSparsity> result;
    for (const std::size_t i : mine_) {
      const std::string& module = plan_.linears[i].shape.module;
      result.emplace_back(module, found.contains(module) ? found[module] : average_);
    }
    return result;
  }

  // What each sparsity of a linear keeps, and the divergence that it is expected to cost.
  std::vector<AllocationOption> options_of(Model& model, const Item& item, const WeightPruner& pruner) {
    CalibrationNeeds needs = pruner.needs(plan_.linears[item.linears.front()]);
    needs.gram = true;  // errors of outputs are measured with it
    const InputStatistics inputs = sensitivity::inputs_of(model.chain, item.op, needs, options_.product, threads_);
    std::vector<AllocationOption> result(2 * kSteps + 1);
    std::vector<double> error(result.size());
    for (std::size_t c = 0; c < result.size(); ++c) {
      const int step = static_cast<int>(c) - kSteps;
      for (std::size_t k = 0; k < item.linears.size(); ++k) {
        check_stop();
        const PlannedLinear& linear = plan_.linears[item.linears[k]];
        SparsityPattern pattern = pruning_of(linear, modifier_)->pattern;
        pattern.sparsity = sparsity_of_step(step);
        const std::vector<float> original = model.weights.read(*item.weights[k], threads_);
        std::vector<float> values = pruner.pruned(linear, pattern, original, inputs);
        error[c] += output_error(original, values, inputs);
        const auto kept =
            static_cast<std::uint64_t>(std::ceil((1 - pattern.sparsity) * static_cast<double>(original.size())));
        result[c].bytes += kept;
        if (step == 0) model.weights.set(*item.weights[k], std::move(values));
      }
      if (step != 0) continue;
      model.chain.weights_changed(item.op);
      double total = 0;
      std::uint64_t predictions = 0;
      for (const double divergence : model.chain.divergence()) total += divergence;
      for (const std::uint64_t count : model.chain.predictions()) predictions += count;
      divergence_ = std::max(0.0, total / static_cast<double>(std::max<std::uint64_t>(predictions, 1)));
      for (const LinearWeight* weight : item.weights) model.weights.drop(weight->tensor);
      model.chain.weights_changed(item.op);
    }
    const double reference = error[kSteps];
    for (std::size_t c = 0; c < result.size(); ++c) {
      result[c].loss = reference > 0 && std::isfinite(error[c]) ? divergence_ * error[c] / reference : 0;
    }
    return result;
  }

  // ||X (W - V)^T||^2 / tokens; without tokens that of independent inputs.
  double output_error(const std::vector<float>& weight, const std::vector<float>& values,
                      const InputStatistics& inputs) const {
    std::vector<float> difference(weight.size());
    for (std::size_t i = 0; i < weight.size(); ++i) difference[i] = weight[i] - values[i];
    const std::uint64_t rows = weight.size() / inputs.cols;
    std::vector<double> forms(rows);
    quadratic_forms(difference, rows, inputs.gram, inputs.cols, forms, threads_);
    double sum = 0;
    for (const double form : forms) sum += std::max(form, 0.0);
    return sum;
  }

  const Plan& plan_;
  std::size_t modifier_;
  const TokenSequences& sequences_;
  const SparsityProfileOptions& options_;
  int threads_ = 1;
  std::vector<std::size_t> mine_;  // linears that the modifier prunes
  double weights_ = 0;
  double average_ = 0;
  double divergence_ = 0;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  std::chrono::steady_clock::time_point told_{};
};

}  // namespace

std::string sparsity_profile(const RecipeModifier& modifier) {
  const auto globally = modifier.parameters.find("apply_globally");
  if (globally != modifier.parameters.end() && globally->second == KwValue(true)) return "global";
  const auto found = modifier.parameters.find("sparsity_profile");
  if (found == modifier.parameters.end()) return {};
  const auto* text = std::get_if<std::string>(&found->second);
  return text == nullptr || *text == "uniform" ? std::string() : *text;
}

bool profile_needs_data(const std::string& profile) { return !profile.empty() && profile != "global"; }

std::vector<ModuleSparsity> resolve_sparsity_profile(const Plan& plan, std::size_t modifier,
                                                     const TokenSequences& sequences,
                                                     const SparsityProfileOptions& options) {
  return Resolver(plan, modifier, sequences, options).resolve();
}

}  // namespace quant
