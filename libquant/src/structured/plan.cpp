// What structured pruning will do to a model, before any weight is read.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <thread>

#include "hash.h"
#include "quant/error.h"
#include "quant/names.h"
#include "quant/version.h"
#include "structured/config_rewrite.h"
#include "structured/output_model.h"
#include "structured/work.h"

namespace quant {
namespace structured {
namespace {

constexpr std::uint64_t kChunkTokens = 2048;
constexpr std::uint64_t kActivationBytes = 1ULL << 30U;

const Family& family_named(const std::string& name) {
  const auto& all = families();
  return *std::find_if(all.begin(), all.end(), [&](const Family& family) { return family.model_type == name; });
}

/// Masks and constants that old checkpoints store; they have no channels that are cut.
bool is_buffer(const std::string& name) {
  static constexpr std::string_view kEnds[] = {".inv_freq",    ".attn.bias",    ".attn.masked_bias", ".attention.bias",
                                               ".masked_bias", ".position_ids", ".token_type_ids",   ".inv_freq_long"};
  return std::any_of(std::begin(kEnds), std::end(kEnds), [&](std::string_view end) { return name.ends_with(end); });
}

bool is_plain_float(DType type) {
  return type == DType::F32 || type == DType::F16 || type == DType::BF16 || type == DType::F64;
}

/// "model.layers.*.mlp.up_proj.weight".
std::string without_numbers(const std::string& name) {
  std::string result;
  bool piece_is_number = false;
  std::size_t begin = 0;
  while (begin <= name.size()) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string piece = name.substr(begin, end - begin);
    piece_is_number = !piece.empty() && piece.find_first_not_of("0123456789") == std::string::npos;
    result += (begin == 0 ? "" : ".") + (piece_is_number ? std::string("*") : piece);
    begin = end + 1;
  }
  return result;
}

class Planner {
 public:
  explicit Planner(StructuredPlan& plan) : plan_(plan) {}

  void make() {
    for (const TensorInfo& tensor : plan_.checkpoint->tensors()) {
      plan_.bytes_before += tensor.bytes;
      plan_.parameters_before += element_count(tensor.shape);
    }
    check_report_path();
    if (!any_axis()) problem("the recipe removes nothing: give heads, ffn, hidden, layers or experts");
    if (!open_model()) return;
    request_scores();
    find_ignored_layers();
    count_units(plan_);
    if (plan_.options.heads.any() && plan_.work->model->family.qk_norm == QkNorm::whole_row) {
      plan_.warnings.push_back(
          fmt::format("'{}' normalizes queries and keys over all heads together: those that stay "
                      "are normalized over fewer",
                      plan_.family));
    }
    plan_biases();
    read_data();
    if (!plan_.problems.empty()) return;
    size_up();
    estimate_memory(plan_);
    if (plan_.resources.memory_bytes != 0 && plan_.peak_memory > plan_.resources.memory_bytes) {
      problem(fmt::format("it takes {} MB of memory, more than the {} MB of --memory", plan_.peak_memory / 1000000,
                          plan_.resources.memory_bytes / 1000000));
    }
    plan_.identity = hash_hex(identity_text());
  }

 private:
  void problem(std::string text) { plan_.problems.push_back(std::move(text)); }
  void problem(const Error& error) {
    problem(error.what() + (error.hint().empty() ? std::string() : " (" + error.hint() + ")"));
  }

  // The run would find out at its end.
  void check_report_path() {
    if (plan_.options.report_path.empty()) return;
    const std::filesystem::path path = plan_.options.report_path;
    const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
    std::error_code failed;
    if (!std::filesystem::is_directory(folder, failed)) {
      problem(fmt::format("report_path: {} is no folder that is there", folder.string()));
    } else if (std::filesystem::is_directory(path, failed)) {
      problem(fmt::format("report_path: {} is a folder; give the name of a file", path.string()));
    }
  }

  bool any_axis() const {
    const StructuredOptions& o = plan_.options;
    return o.heads.any() || o.ffn.any() || o.hidden.any() || o.layers.any() || o.experts.any();
  }

  bool open_model() {
    try {
      const ModelConfig& config = plan_.checkpoint->config();
      if (!config.quantization_config.empty()) {
        problem(
            fmt::format("{} is quantized ({}): structured pruning needs float weights; prune the original, then "
                        "quantize the result",
                        plan_.checkpoint->location().string(), quantization_method(config)));
        return false;
      }
      plan_.work = std::make_shared<Work>(*plan_.checkpoint, *plan_.registry);
      CalibrationWork& calibration = plan_.work->calibration;
      calibration.program = build_model_program(calibration.tensors);
      plan_.family = calibration.program.family;
      plan_.work->model.emplace(family_named(plan_.family), calibration.tensors);
      plan_.work->axes.emplace(calibration.program, *plan_.work->model);
      return true;
    } catch (const Error& error) {
      // The hint of the forward pass speaks of quantization.
      if (error.kind() == "UnknownModelType") {
        std::string known;
        for (const std::string& name : known_model_types()) known += (known.empty() ? "" : ", ") + name;
        problem(fmt::format("'{}' is a model_type whose structure this version does not know; it knows {}",
                            plan_.checkpoint->config().model_type.substr(0, 60), known));
      } else {
        problem(error);
      }
      return false;
    }
  }

  void request_scores() {
    const StructuredOptions& o = plan_.options;
    ScoreRequest& request = plan_.work->request;
    request = {o.heads.any(), o.ffn.any(), o.hidden.any(), o.layers.any(), o.experts.any(), o.importance};
    const bool magnitude = o.importance == UnitImportance::magnitude;
    request.layer = o.layer_importance;
    if (request.layer == LayerImportance::automatic) {
      request.layer = magnitude ? LayerImportance::magnitude : LayerImportance::cosine;
    }
    request.expert = o.expert_importance;
    if (request.expert == ExpertImportance::automatic) {
      request.expert = magnitude ? ExpertImportance::magnitude : ExpertImportance::router;
    }
  }

  void find_ignored_layers() {
    const auto& blocks = plan_.work->calibration.program.blocks;
    plan_.work->stays.assign(blocks.size(), false);
    for (const Pattern& ignored : plan_.options.ignore) {
      const NamePattern pattern(ignored.text);
      for (std::size_t b = 0; b < blocks.size(); ++b) {
        if (pattern.match(blocks[b].name, "DecoderLayer")) plan_.work->stays[b] = true;
      }
    }
  }

  void check_ignored(const CutList& cuts) {
    for (const Pattern& ignored : plan_.options.ignore) {
      const NamePattern pattern(ignored.text);
      const auto hit = std::find_if(cuts.tensors.begin(), cuts.tensors.end(), [&](const TensorCut& cut) {
        if (cut.parts.empty()) return false;
        const std::string module = cut.source->name.substr(0, cut.source->name.rfind('.'));
        return pattern.match(module, "Linear").has_value();
      });
      if (hit == cuts.tensors.end()) continue;
      problem(
          fmt::format("{}: ignoring '{}' would leave '{}' its shape while others change, which the config.json of "
                      "'{}' cannot say",
                      ignored.where.to_string(), ignored.text, hit->source->name, plan_.family));
    }
  }

  // Linears that are fitted and could have a bias but have none.
  void plan_biases() {
    if (!plan_.options.add_bias) return;
    if (plan_.options.compensation == Compensation::none) return problem("add_bias has no use without 'compensate'");
    Work& work = *plan_.work;
    const FamilyKeys& keys = work.model->family.keys;
    for (const BlockAxes& block : work.axes->blocks) {
      if (block.attention && plan_.options.heads.any()) add_bias(block, block.attention->reader, keys.o_bias);
      for (const FfnAxis& ffn : block.ffn) {
        if (plan_.options.ffn.any()) add_bias(block, ffn.reader, ffn.experts > 1 ? std::string_view() : keys.mlp_bias);
      }
    }
  }

  void add_bias(const BlockAxes& block, std::size_t reader, std::string_view key) {
    Work& work = *plan_.work;
    const auto& linear = std::get<LinearOp>(block.program->ops[reader]);
    if (!linear.weights.front().bias.empty()) return;
    if (key.empty()) {
      const std::string text = fmt::format("add_bias: the config.json of '{}' cannot say that {} has a bias",
                                           plan_.family, without_numbers(linear.weights.front().module));
      if (std::find(plan_.problems.begin(), plan_.problems.end(), text) == plan_.problems.end()) problem(text);
      return;
    }
    if (std::find(work.bias_keys.begin(), work.bias_keys.end(), key) == work.bias_keys.end()) {
      work.bias_keys.emplace_back(key);
    }
    // The key gives a bias to all linears of its kind.
    const FamilyKeys& keys = work.model->family.keys;
    for (const Op& op : block.program->ops) {
      const auto* other = std::get_if<LinearOp>(&op);
      if (other == nullptr || other->routing >= 0) continue;
      const bool attention = is_attention(block, *other);
      const bool output = other == &linear;
      const bool same = output || (attention ? keys.qkv_bias == key && key == keys.o_bias : keys.mlp_bias == key);
      const LinearWeight& weight = other->weights.front();
      if (!same || !weight.bias.empty() || seen_.contains(weight.module)) continue;
      seen_.insert(weight.module);
      work.biases.push_back({weight.module, weight.rows, plan_.checkpoint->find(weight.tensor)->dtype});
    }
  }

  static bool is_attention(const BlockAxes& block, const LinearOp& linear) {
    if (!block.attention) return false;
    const AttentionAxis& axis = *block.attention;
    const auto same = [&](ValueId value) {
      return block.channels.channel(value, 0) == block.channels.channel(linear.out, 0);
    };
    const auto& out = std::get<LinearOp>(block.program->ops[axis.reader]);
    return same(axis.q) || same(axis.k) || same(axis.v) || &out == &linear;
  }

  bool needs_data() const {
    return plan_.work->request.needs_data() || plan_.options.compensation != Compensation::none;
  }

  void read_data() {
    if (!needs_data()) return;
    if (plan_.resources.calibration.file.empty()) {
      problem(
          fmt::format("{} looks at what the model computes of a text: give --calibration FILE (text, JSON lines, or "
                      "token ids)",
                      plan_.options.compensation != Compensation::none ? "'compensate'" : "this importance"));
      return;
    }
    if (!plan_.resources.calibration.statistics.empty()) problem("structured pruning cannot use --statistics");
    CalibrationWork& work = plan_.work->calibration;
    Plan reader;
    reader.checkpoint = plan_.checkpoint;
    reader.options = plan_.resources;
    const bool read = plan_detail::read_data(reader, work, true);
    plan_.problems.insert(plan_.problems.end(), reader.problems.begin(), reader.problems.end());
    plan_.warnings.insert(plan_.warnings.end(), reader.warnings.begin(), reader.warnings.end());
    plan_.input_error = reader.input_error;
    if (!read) return;
    work.chunks = plan_detail::divide(work.data, kChunkTokens);
    CalibrationPlan summary;
    summary.family = plan_.family;
    summary.blocks = work.program.blocks.size();
    summary.source = work.data.source;
    summary.hash = work.data.hash;
    summary.sequences = work.data.sequences.size();
    summary.tokens = work.data.tokens();
    for (const auto& sequence : work.data.sequences) {
      summary.longest = std::max<std::uint64_t>(summary.longest, sequence.size());
    }
    summary.product = plan_.resources.calibration.product.value_or(fastest_product_type());
    summary.second_stream =
        plan_.options.compensation == Compensation::least_squares && plan_.options.target == CompensationTarget::model;
    summary.chunk_tokens = kChunkTokens;
    const std::uint64_t given = plan_.resources.calibration.activation_bytes;
    summary.activation_bytes = given != 0 ? given : kActivationBytes;
    plan_.calibration = summary;
    warn_of_few_tokens();
  }

  void warn_of_few_tokens() {
    if (plan_.options.compensation != Compensation::least_squares) return;
    std::uint64_t widest = 0;
    for (const BlockAxes& block : plan_.work->axes->blocks) {
      if (block.attention) widest = std::max(widest, block.attention->heads * block.attention->value_dim);
      for (const FfnAxis& ffn : block.ffn) widest = std::max(widest, ffn.width);
    }
    const std::uint64_t tokens = plan_.calibration->tokens;
    if (tokens >= 4 * widest) return;
    plan_.warnings.push_back(
        fmt::format("calibration data: {} tokens for up to {} inputs; least squares then fit the text rather than the "
                    "model: take several times as many tokens as inputs",
                    tokens, widest));
  }

  // With the first units of each axis in the place of those that scores will choose.
  void size_up() {
    try {
      const KeptUnits kept = choose_units(*plan_.work, {});
      const SmallerModel smaller = make_smaller(plan_, kept);
      // Which layers go is not known yet: their numbers must not matter.
      KeptUnits others = kept;
      for (std::uint32_t& layer : others.layers) {
        layer += static_cast<std::uint32_t>(kept.of_layer.size() - kept.layers.size());
      }
      if (plan_.options.layers.any()) make_smaller(plan_, others);
      check_tensors(smaller.cuts);
      check_ignored(smaller.cuts);
      describe(smaller.cuts);
      plan_.config_json = smaller.config;
      if (!heads_divide(*plan_.work->model, kept)) {
        plan_.warnings.push_back(
            fmt::format("config.json will say 'mistral', whose computation without a window is the same: Transformers "
                        "refuses a '{}' whose hidden size {} is no multiple of its {} heads",
                        plan_.family, kept.hidden.size(), kept.of_layer.front().heads.size()));
      }
      const Container& container = *plan_.registry->container(plan_.resources.container);
      const OutputLayout layout = lay_out(*plan_.checkpoint, smaller.cuts, container, plan_.resources.shard_bytes);
      plan_.bytes_after = layout.tensor_bytes;
      plan_.output_bytes = layout.file_bytes + plan_.config_json.size();
      for (const auto& companion : plan_.checkpoint->companions()) {
        std::error_code failed;
        const auto size = std::filesystem::file_size(companion, failed);
        if (!failed) plan_.output_bytes += size;
      }
    } catch (const Error& error) {
      problem(error);
    }
  }

  void check_tensors(const CutList& cuts) {
    for (const TensorCut& cut : cuts.tensors) {
      if (cut.parts.empty() || is_plain_float(cut.dtype)) continue;
      problem(fmt::format("'{}' is of type {}, which cannot be cut", cut.source->name, dtype_name(cut.dtype)));
    }
    const StructuredOptions& o = plan_.options;
    const std::string layers = plan_.work->model->prefix + std::string(plan_.work->model->family.names.layers) + ".";
    for (const std::string& name : cuts.untouched) {
      const bool of_layer = name.starts_with(layers);
      const bool cut = o.hidden.any() || (of_layer && (o.heads.any() || o.ffn.any() || o.experts.any()));
      if (!cut || is_buffer(name)) continue;
      problem(
          fmt::format("'{}' is read by no operation that this version knows of '{}': what of it belongs to the "
                      "removed units is not known",
                      name, plan_.family));
    }
  }

  void describe(const CutList& cuts) {
    std::map<std::string, std::size_t> places;
    std::set<Shape> layer_shapes;
    for (const TensorCut& cut : cuts.tensors) {
      plan_.parameters_after += element_count(cut.shape);
      if (cut.whole()) continue;
      const Shape before = cut.source == nullptr ? Shape{0} : cut.source->shape;
      const std::string name = without_numbers(cut.name);
      const auto [at, added] = places.try_emplace(name, plan_.tensors.size());
      if (added) plan_.tensors.push_back({name, 0, before, cut.shape});
      ++plan_.tensors[at->second].count;
    }
    plan_.sizes_exact = !plan_.options.layers.any() || layers_are_alike();
    if (!plan_.sizes_exact) {
      plan_.warnings.emplace_back("layers differ in size: the output's size depends on which of them go");
    }
  }

  bool layers_are_alike() const {
    std::set<std::uint64_t> sizes;
    for (const Program& block : plan_.work->calibration.program.blocks) {
      std::uint64_t count = 0;
      for (const Op& op : block.ops) {
        if (const auto* linear = std::get_if<LinearOp>(&op)) {
          for (const LinearWeight& weight : linear->weights) count += weight.rows * weight.cols;
        }
      }
      sizes.insert(count);
    }
    return sizes.size() == 1;
  }

  std::string identity_text() const {
    const StructuredOptions& o = plan_.options;
    std::string text = fmt::format("structured {}\n{}\n", version(), plan_.recipe.text);
    for (const CutAmount* amount : {&o.heads, &o.ffn, &o.hidden, &o.layers, &o.experts}) {
      text += fmt::format("{} ", amount->value);
    }
    text += fmt::format("{} {} {} {} {} {} {} {} {} {} {}\n", static_cast<int>(o.head_unit), o.ffn_divisor,
                        o.hidden_divisor, o.expert_divisor, static_cast<int>(o.importance),
                        static_cast<int>(o.layer_importance), static_cast<int>(o.expert_importance),
                        static_cast<int>(o.compensation), static_cast<int>(o.target), o.damping, o.add_bias);
    for (const Pattern& pattern : o.ignore) text += fmt::format("ignore {}\n", pattern.text);
    text += fmt::format("{} {}\n", plan_.resources.container, plan_.resources.shard_bytes);
    for (const TensorInfo& tensor : plan_.checkpoint->tensors()) {
      text += fmt::format("{} {} {}\n", tensor.name, dtype_name(tensor.dtype), to_string(tensor.shape));
    }
    if (plan_.calibration) {
      text += fmt::format("{} {} {}\n", plan_.calibration->hash, plan_.calibration->chunk_tokens,
                          static_cast<int>(plan_.calibration->product));
    }
    return text + plan_.checkpoint->config().text;
  }

  StructuredPlan& plan_;
  std::set<std::string> seen_;  // modules that get a bias
};

}  // namespace

SmallerModel make_smaller(const StructuredPlan& plan, const KeptUnits& kept) {
  const Work& work = *plan.work;
  SmallerModel smaller;
  smaller.cuts = make_cuts(*plan.checkpoint, *work.axes, *work.model, kept, work.biases);
  smaller.config = rewrite_config(plan.checkpoint->config().text, *work.axes, *work.model, kept, work.bias_keys);
  const CutCheckpoint after(*plan.checkpoint, smaller.cuts, smaller.config);
  const LogicalTensors tensors(after, *plan.registry);
  try {
    check_meaning(work.calibration.program, build_model_program(tensors), kept, plan.family);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::unsupported) throw;
    throw Error(ErrorCode::unsupported,
                fmt::format("the config.json of '{}' cannot describe the smaller model: {}", plan.family, error.what()),
                "leave one of the axes out of the recipe", "UnspeakableShapes");
  }
  return smaller;
}

namespace {

// Floats per token that are kept between the sweeps of a block.
std::uint64_t kept_width(const Program& program) {
  const auto width = [&](ValueId id) {
    const ProgramValue& value = program.values[static_cast<std::size_t>(id)];
    return value.width * value.rows_per_token;
  };
  std::uint64_t most = program.input < 0 ? 0 : width(program.input);
  for (const Stage& stage : stages_of(program)) {
    std::uint64_t live = 0;
    for (const ValueId id : stage.live) live += width(id);
    most = std::max(most, live);
  }
  return most;
}

// Activations of all tokens in memory, and what does not fit there on disk: where sweeps stop within a block, in an old
// and a new place.
void place_activations(StructuredPlan& plan, std::uint64_t streams) {
  const bool sweeps = plan.options.compensation != Compensation::none;
  std::uint64_t width = plan.work->model->hidden;
  for (const Program& program : plan.work->calibration.program.blocks) {
    if (sweeps) width = std::max(width, kept_width(program));
  }
  const std::uint64_t stored = plan.calibration->tokens * width * sizeof(float) * streams;
  const std::uint64_t memory = std::min(stored, plan.calibration->activation_bytes);
  plan.calibration->disk_bytes = (sweeps ? 2 : 1) * (stored - memory);
  plan.peak_memory += memory;
}

}  // namespace

void estimate_memory(StructuredPlan& plan) {
  const Work& work = *plan.work;
  const auto bytes_of = [](const Program& program, std::uint64_t& largest, std::uint64_t& widest) {
    std::uint64_t all = 0;
    for (const Op& op : program.ops) {
      const auto* linear = std::get_if<LinearOp>(&op);
      if (linear == nullptr) continue;
      for (const LinearWeight& weight : linear->weights) {
        all += weight.rows * weight.cols * sizeof(float);
        largest = std::max(largest, weight.rows * weight.cols * sizeof(float));
        widest = std::max(widest, weight.cols + 1);
      }
    }
    return all;
  };
  std::uint64_t block = 0, largest = 0, widest = 0, values = 0;
  for (const Program& program : work.calibration.program.blocks) {
    block = std::max(block, bytes_of(program, largest, widest));
    std::uint64_t width = 0;
    for (const ProgramValue& value : program.values) width += value.width * value.rows_per_token;
    values = std::max(values, width * sizeof(float));
  }
  constexpr std::uint64_t kFixed = 64ULL << 20U;  // libraries, headers, buffers of the writers
  const std::uint64_t threads = static_cast<std::uint64_t>(std::max(1, plan.resources.threads));
  plan.peak_memory = kFixed + threads * (8ULL << 20U) + 2 * largest;
  if (!plan.calibration) return;
  const std::uint64_t streams = plan.calibration->second_stream ? 2 : 1;
  std::uint64_t chunk = 0;
  for (const TokenChunk& part : work.calibration.chunks) chunk = std::max(chunk, part.tokens);
  place_activations(plan, streams);
  plan.peak_memory += streams * (block + chunk * values);
  if (plan.options.compensation == Compensation::none) return;
  // Own weights as floats; of the solve: H, the cross matrix, the factor, and what the targets are made of.
  const std::uint64_t embeddings =
      plan.options.hidden.any() ? work.model->vocabulary * work.model->hidden * sizeof(float) : 0;
  plan.peak_memory += std::max(block, embeddings) + 5 * widest * widest * sizeof(float) + 4 * largest;
}

}  // namespace structured

StructuredPlan plan_structured(const Checkpoint& checkpoint, const Recipe& recipe, const Registry& registry,
                               const StructuredOptions& options, const PlanOptions& resources) {
  StructuredPlan plan;
  plan.options = options;
  plan.recipe = recipe;
  plan.resources = resources;
  plan.checkpoint = &checkpoint;
  plan.registry = &registry;
  if (plan.resources.threads <= 0) {
    plan.resources.threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  structured::Planner(plan).make();
  return plan;
}

}  // namespace quant
