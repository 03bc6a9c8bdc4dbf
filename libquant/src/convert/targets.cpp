#include "convert/targets.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <map>
#include <numeric>

#include "convert/unpack_blocks.h"
#include "dense_layout.h"
#include "parallel_tasks.h"
#include "quant/algorithm.h"
#include "quant/error.h"
#include "quant/model.h"

namespace quant::convert {
namespace {

constexpr std::array kPlainTypes = {DType::F32, DType::F16, DType::BF16};
constexpr std::array<int, 8> kBits = {1, 2, 3, 4, 5, 6, 7, 8};

bool is_float(DType type) { return std::find(kPlainTypes.begin(), kPlainTypes.end(), type) != kPlainTypes.end(); }

bool holds_all_of(DType wide, DType narrow) { return wide == narrow || wide == DType::F32; }

/// Which types hold every scale of some linears exactly, whether float16 has each at least nearly, and whether all
/// blocks are codes of one grid.
struct Facts {
  std::atomic<bool> f16 = true, bf16 = true, f16_range = true, grid = true, looked = false;
  bool all_false() const { return !f16 && !bf16 && !f16_range && !grid; }
  bool fits(DType type, DType stored) const {
    if (!is_float(type) || holds_all_of(type, stored)) return true;
    return type == DType::F16 ? f16.load() : bf16.load();
  }
};

void look_at(const QuantizedTensor& slice, Facts& facts) {
  const auto& values = slice.scales.empty() ? slice.codebook : slice.scales;
  const auto exact = [&](DType type) {
    return std::all_of(values.begin(), values.end(), [&](float value) { return is_exact_in(type, value); });
  };
  if (facts.f16 && !exact(DType::F16)) facts.f16 = false;
  if (facts.bf16 && !exact(DType::BF16)) facts.bf16 = false;
  const bool in_range = std::all_of(values.begin(), values.end(), [](float value) {
    const float rounded = round_to_dtype(DType::F16, value);
    return std::isfinite(rounded) && (rounded != 0 || value == 0);
  });
  if (!in_range) facts.f16_range = false;
}

// Linears that shall get the same type of scales, so that they stay one group in config.json.
using Key = std::tuple<std::string, DType, DType>;

class Chooser {
 public:
  Chooser(const LogicalTensors& source, const LayoutConversionOptions& options, std::vector<std::string>& notes)
      : source_(source), options_(options), notes_(notes) {}

  std::vector<Target> choose();

 private:
  Scheme scheme_of(const StoredLinear& linear, const QuantArgs& args, bool inputs) const;
  std::optional<std::string> refusal(const StoredLinear& linear, const QuantArgs& args, bool inputs) const;
  bool keeps_inputs(const StoredLinear& linear) const;
  std::vector<QuantArgs> exact_candidates(const StoredLinear& linear) const;
  Target choose_one(const StoredLinear& linear);
  void choose_scale_type(const StoredLinear& linear, bool inputs, QuantArgs& args, std::string& reason);
  const Facts& facts_of(const StoredLinear& linear);
  void requantize(const StoredLinear& linear, Target& target) const;
  void refuse_inexact(const std::vector<Target>& targets) const;
  void note_inputs(const std::vector<Target>& targets) const;
  void note_zeros(const std::vector<Target>& targets) const;

  const LogicalTensors& source_;
  const LayoutConversionOptions& options_;
  std::vector<std::string>& notes_;
  std::map<Key, Facts> facts_;
};

QuantizedTensor unpacked(const QuantizedTensor& blocks) {
  QuantizedTensor out;
  unpack_blocks(blocks, out);
  return out;
}

// Scales of blocks are float16, whatever the model's own type was.
LinearShape shape_of(const StoredLinear& linear) {
  LinearShape shape = linear.shape;
  if (has_blocks(linear.args)) shape.dtype = DType::F16;
  return shape;
}

// What the codes are moved from: blocks that are a grid count as one.
QuantArgs grid_args(const StoredLinear& linear) {
  return has_blocks(linear.args) ? grid_of_blocks(*linear.args.block).value_or(linear.args) : linear.args;
}

Key key_of(const StoredLinear& linear) { return {describe(linear.args), linear.scale_dtype, linear.shape.dtype}; }

Scheme Chooser::scheme_of(const StoredLinear& linear, const QuantArgs& args, bool inputs) const {
  Scheme scheme;
  scheme.targets = {"Linear"};
  scheme.weights = args;
  if (inputs && linear.input) scheme.input_activations = linear.input->args;
  scheme.format = options_.format;
  return scheme;
}

std::optional<std::string> Chooser::refusal(const StoredLinear& linear, const QuantArgs& args, bool inputs) const {
  Scheme scheme = scheme_of(linear, args, inputs);
  if (scheme.input_activations && scheme.input_activations->dynamic != Dynamic::yes) {
    // The layout asks whether there is a range; it is in the checkpoint.
    scheme.input_activations->observer_kwargs["absmax"] = 1.0;
  }
  return options_.layout->unsupported(scheme, shape_of(linear));
}

// LLM.int8() is a way to multiply, which the weights do not depend on; other inputs are part of what a model computes.
bool Chooser::keeps_inputs(const StoredLinear& linear) const {
  if (!linear.input) return false;
  const bool loose = options_.weights_only || linear.input->args.outlier_threshold > 0;
  return !loose || !refusal(linear, linear.args, true);
}

QuantArgs without_scale_type(QuantArgs args) {
  if (args.type != NumberType::floating) args.scale_dtype.reset();
  return args;
}

// As it is; in a layout without its bits with more of them; and with scales repeated where the layout knows no such
// sharing.
std::vector<QuantArgs> Chooser::exact_candidates(const StoredLinear& linear) const {
  const QuantArgs base = without_scale_type(grid_args(linear));
  std::vector<QuantArgs> list = {base};
  if (has_blocks(linear.args) && !has_blocks(base)) list.insert(list.begin(), linear.args);
  if (base.type != NumberType::integer) return list;
  const auto add_sharings = [&](const QuantArgs& args) {
    list.push_back(args);
    QuantArgs other = args;
    other.block_structure.reset();
    other.strategy = Strategy::channel;
    other.group_size.reset();
    if (args.strategy == Strategy::tensor) list.push_back(other);
    if (args.strategy != Strategy::block) return;
    other.strategy = Strategy::group;
    other.group_size = static_cast<std::int64_t>((*args.block_structure)[1]);
    list.push_back(other);
  };
  for (const int bits : kBits) {
    if (bits < base.num_bits) continue;
    QuantArgs wider = base;
    wider.num_bits = bits;
    add_sharings(wider);
  }
  return list;
}

const Facts& Chooser::facts_of(const StoredLinear& linear) {
  Facts& facts = facts_[key_of(linear)];
  if (facts.looked.exchange(true)) return facts;
  const Layout& layout = *source_.layout();
  for (const StoredLinear& other : source_.linears()) {
    if (key_of(other) != key_of(linear)) continue;
    const LogicalTensor& tensor = *source_.find(other.shape.module + ".weight");
    std::vector<RowBlock> blocks;
    append_blocks(0, tensor.rows, source_.block_rows(tensor), blocks);
    std::vector<std::uint64_t> costs;
    for (const RowBlock& block : blocks) costs.push_back(block.count * tensor.cols);
    ScanOptions scan = options_.scan;
    scan.progress = nullptr;  // the second pass draws
    run_tasks(costs, scan, [&](std::size_t i) {
      if (facts.all_false()) return;
      QuantizedTensor slice;
      layout.read_rows(source_.checkpoint(), other, blocks[i].first, blocks[i].count, slice);
      try {
        look_at(has_blocks(slice.args) ? unpacked(slice) : slice, facts);
      } catch (const Error& error) {
        if (error.kind() != "NotExact") throw;
        facts.grid = false;
      }
    });
    source_.done_reading(tensor);
  }
  return facts;
}

// The layout's own type if it holds all scales, which is what comes back from there; else the one they have.
void Chooser::choose_scale_type(const StoredLinear& linear, bool inputs, QuantArgs& args, std::string& reason) {
  if (args.type == NumberType::floating) return;
  const auto holds = [&](const QuantArgs& trial) {
    if (refusal(linear, trial, inputs)) return false;
    const DType type = options_.layout->scale_dtype(trial, shape_of(linear).dtype);
    return holds_all_of(type, linear.scale_dtype) || facts_of(linear).fits(type, linear.scale_dtype);
  };
  if (holds(args)) return;
  for (const DType type : {linear.scale_dtype, DType::F32}) {
    QuantArgs trial = args;
    trial.scale_dtype = type;
    if (!is_float(type) || !holds(trial)) continue;
    args = trial;
    return;
  }
  reason = fmt::format("scales of {} are no values of {}, in which {} stores them", dtype_name(linear.scale_dtype),
                       dtype_name(options_.layout->scale_dtype(args, shape_of(linear).dtype)), options_.layout->name());
}

Target Chooser::choose_one(const StoredLinear& linear) {
  Target target{options_.layout, {}, shape_of(linear), {}, false};
  if (!options_.layout->omits_zeros()) target.shape.sparsity.reset();
  if (is_plain(linear.args) && !options_.layout->omits_zeros()) {
    target.layout = &dense_layout();
    target.scheme = scheme_of(linear, linear.args, false);
    target.scheme.format.reset();
    return target;
  }
  if (has_blocks(linear.args) && is_embedding(linear.shape.module) && refusal(linear, linear.args, false)) {
    target.layout = &dense_layout();
    target.shape.dtype = DType::F32;
    target.scheme = scheme_of(linear, plain_args(), false);
    target.scheme.format.reset();
    return target;
  }
  const bool inputs = keeps_inputs(linear);
  for (const QuantArgs& args : exact_candidates(linear)) {
    const QuantArgs from = has_blocks(args) ? linear.args : grid_args(linear);
    if (refusal(linear, args, inputs) || why_not_movable(from, args, linear.shape.rows, linear.shape.cols)) {
      continue;
    }
    if (has_blocks(linear.args) && !has_blocks(args) && !facts_of(linear).grid) {
      target.reason = "the minimum of a block is no multiple of its scale";
      break;
    }
    QuantArgs chosen = args;
    choose_scale_type(linear, inputs, chosen, target.reason);
    target.scheme = scheme_of(linear, chosen, inputs);
    // Rounding scales alone costs far less than finding codes again.
    const bool in_range = options_.layout->scale_dtype(chosen, target.shape.dtype) != DType::F16 ||
                          target.reason.empty() || facts_of(linear).f16_range;
    target.only_scales = !target.reason.empty() && !options_.requantized && in_range;
    if (target.reason.empty() || target.only_scales) return target;
    break;
  }
  if (target.reason.empty()) {
    const auto why = refusal(linear, without_scale_type(linear.args), inputs).value_or("it has no such weights");
    target.reason = why.substr(0, why.find(';'));  // what follows is advice to who quantizes
  }
  if (options_.requantizer != nullptr) requantize(linear, target);
  return target;
}

// Sizes of groups, -1 for whole rows: the old one first, and where bits are lost small groups, which make up for some
// of that. Only what divides `common`, so that all linears get the same.
std::vector<std::int64_t> group_sizes(const QuantArgs& from, bool narrower, std::uint64_t common) {
  const bool grouped = from.strategy == Strategy::group || from.strategy == Strategy::flat;
  const std::int64_t old = grouped ? *from.group_size : -1;
  std::vector<std::int64_t> sizes = {old, 128, 64, 32, -1};
  if (narrower && !grouped) sizes = {128, 64, 32, -1};
  std::erase_if(sizes, [&](std::int64_t size) { return size > 0 && common % static_cast<std::uint64_t>(size) != 0; });
  return sizes;
}

// Arguments near the old ones: as many bits or more, else fewer.
std::vector<QuantArgs> rounded_candidates(const QuantArgs& from, std::uint64_t common) {
  const int bits = std::clamp(from.num_bits, 2, 8);
  std::vector<int> widths;
  for (int width = bits; width <= 8; ++width) widths.push_back(width);
  for (int width = bits - 1; width >= 2; --width) widths.push_back(width);
  std::vector<QuantArgs> list;
  for (const int width : widths) {
    for (const std::int64_t size : group_sizes(from, width < bits, common)) {
      for (const bool symmetric : {from.symmetric, !from.symmetric}) {
        QuantArgs args;
        args.num_bits = width;
        args.symmetric = symmetric;
        args.strategy = size > 0 ? Strategy::group : Strategy::channel;
        if (size > 0) args.group_size = size;
        list.push_back(args);
      }
    }
  }
  return list;
}

void Chooser::requantize(const StoredLinear& linear, Target& target) const {
  const bool inputs = keeps_inputs(linear);
  std::uint64_t common = 0;
  for (const StoredLinear& other : source_.linears()) common = std::gcd(common, other.shape.cols);
  std::vector<QuantArgs> candidates = rounded_candidates(linear.args, common);
  if (options_.requantized) candidates = {*options_.requantized};
  for (const QuantArgs& args : candidates) {
    if (needs_whole_tensor(args) || refusal(linear, args, inputs) || options_.requantizer->unsupported(args)) continue;
    target.scheme = scheme_of(linear, args, inputs);
    return;
  }
  const auto why = refusal(linear, candidates.front(), inputs);
  if (inputs && !refusal(linear, candidates.front(), false)) {
    throw Error(ErrorCode::unsupported, fmt::format("{}: {}", linear.shape.module, *why),
                "--weights-only leaves out how inputs are quantized", "NotExact");
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("{} has no place in {} however it is rounded: {}", linear.shape.module,
                          options_.layout->name(), why.value_or("the algorithm makes no such weights")),
              "choose another layout, or another --scheme", "NotExact");
}

void Chooser::refuse_inexact(const std::vector<Target>& targets) const {
  std::map<std::string, std::pair<std::size_t, std::string>> reasons;
  std::size_t count = 0;
  for (const Target& target : targets) {
    if (target.reason.empty()) continue;
    ++count;
    auto& [times, first] = reasons[target.reason];
    if (times++ == 0) first = target.shape.module;
  }
  if (count == 0) return;
  std::string text =
      fmt::format("{} of {} linears have no exact place in {}", count, targets.size(), options_.layout->name());
  for (const auto& [reason, where] : reasons) {
    text += fmt::format("; {}{}: {}", where.second,
                        where.first > 1 ? fmt::format(" and {} more", where.first - 1) : std::string(), reason);
  }
  const bool inputs = text.find("input_activations") != std::string::npos && !options_.weights_only;
  throw Error(ErrorCode::unsupported, text,
              inputs ? "--weights-only leaves out how inputs are quantized"
                     : "--requantize rounds them again and says what that costs; better quantize the original weights",
              "NotExact");
}

void Chooser::note_inputs(const std::vector<Target>& targets) const {
  std::size_t dropped = 0;
  std::string first;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const StoredLinear& linear = source_.linears()[i];
    if (!linear.input || targets[i].scheme.input_activations) continue;
    if (dropped++ == 0) first = describe(linear.input->args);
  }
  if (dropped == 0) return;
  notes_.push_back(fmt::format("inputs of {} linears were quantized ({}) and stay float in {}", dropped, first,
                               options_.layout->name()));
}

void Chooser::note_zeros(const std::vector<Target>& targets) const {
  std::size_t pruned = 0, dense = 0, embeddings = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    pruned += source_.linears()[i].shape.sparsity && !targets[i].shape.sparsity ? 1 : 0;
    if (targets[i].layout == options_.layout) continue;
    (has_blocks(source_.linears()[i].args) ? embeddings : dense) += 1;
  }
  if (embeddings > 0)
    notes_.push_back("the embedding was in blocks and becomes a plain tensor of F32, which holds it exactly");
  if (pruned == 0) return;
  std::string note =
      fmt::format("zeros of {} pruned linears are stored: {} has no place for masks", pruned, options_.layout->name());
  if (dense > 0) note += fmt::format("; {} of them, which are not quantized, become plain tensors", dense);
  notes_.push_back(std::move(note));
}

std::vector<Target> Chooser::choose() {
  std::vector<Target> targets;
  for (const StoredLinear& linear : source_.linears()) targets.push_back(choose_one(linear));
  if (options_.requantizer == nullptr) refuse_inexact(targets);
  note_inputs(targets);
  note_zeros(targets);
  return targets;
}

}  // namespace

std::vector<Target> find_targets(const LogicalTensors& source, const LayoutConversionOptions& options,
                                 std::vector<std::string>& notes) {
  return Chooser(source, options, notes).choose();
}

std::uint64_t rows_at_once(const LogicalTensors& source, const LogicalTensor& tensor, const Target& target) {
  const std::uint64_t most = std::max<std::uint64_t>(tensor.rows, 1);
  std::uint64_t unit = 1;
  for (const std::uint64_t part :
       {source.layout()->read_alignment(*tensor.linear), target.layout->row_alignment(target.scheme),
        scale_row_alignment(tensor.linear->args, tensor.cols),
        scale_row_alignment(*target.scheme.weights, tensor.cols)}) {
    const std::uint64_t step = std::clamp<std::uint64_t>(part, 1, most);
    unit = unit / std::gcd(unit, step) >= most / step + 1 ? most : std::min(most, std::lcm(unit, step));
  }
  return std::min(most, std::max(unit, source.block_rows(tensor) / unit * unit));
}

}  // namespace quant::convert
