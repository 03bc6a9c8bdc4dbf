#include "model/program_model.h"

#include <fmt/format.h>

#include <array>

#include "quant/error.h"

namespace quant {

ProgramModel::ProgramModel(const Family& table, const LogicalTensors& all)
    : family(table),
      config(table, all.checkpoint().config(), all.checkpoint().location().string()),
      tensors(all, table.model_type) {
  read_sizes();
  find_prefix();
  const auto number = family.keys.epsilon.empty() ? std::optional<double>() : config.positive(family.keys.epsilon);
  epsilon = static_cast<float>(number.value_or(1e-5));
  activation = activation_named(config.text(family.keys.activation), *this);
  norm_first = config.flag(family.keys.norm_first, true);
  parallel = config.flag(family.keys.parallel, false);
  affine = config.flag(family.keys.norm_affine, true);
}

void ProgramModel::read_sizes() {
  const FamilyKeys& keys = family.keys;
  hidden = config.count(keys.hidden);
  layers = config.count(keys.layers);
  heads = config.count(keys.heads);
  kv_heads = config.optional_count(keys.kv_heads).value_or(heads);
  vocabulary = config.count("vocab_size");
  embedding_width = config.optional_count(keys.embedding_width).value_or(hidden);
  intermediate = config.optional_count(keys.intermediate).value_or(hidden * family.intermediate_factor);
  if (intermediate == 0) config.fail(fmt::format("'{}' is missing", keys.intermediate));
  const auto own_head_dim = config.optional_count(keys.head_dim);
  if (!own_head_dim && hidden % heads != 0) {
    config.fail(fmt::format("{} = {} is no multiple of {} = {}", keys.hidden, hidden, keys.heads, heads));
  }
  head_dim = own_head_dim.value_or(hidden / heads);
  if (heads % kv_heads != 0) {
    config.fail(fmt::format("{} = {} is no multiple of {} = {}", keys.heads, heads, keys.kv_heads, kv_heads));
  }
  checked_mul(heads, head_dim, "the width of attention");
}

// The first prefix under which the token embeddings lie; the family's first one if there are none, for the message.
void ProgramModel::find_prefix() {
  prefix = family.names.prefixes.front();
  for (const std::string_view candidate : family.names.prefixes) {
    if (!tensors.has(std::string(candidate) + std::string(family.names.tokens) + ".weight")) continue;
    prefix = candidate;
    return;
  }
}

LinearWeight ProgramModel::linear(const std::string& module, std::uint64_t rows, std::uint64_t cols,
                                  std::string_view bias_key, bool has_bias) const {
  LinearWeight weight;
  weight.module = module;
  weight.rows = rows;
  weight.cols = cols;
  // Quantized matrices are [out, in] in every layout, of such families, too.
  const LogicalTensor* stored = tensors.all().find(module + ".weight");
  weight.transposed = family.transposed && (stored == nullptr || stored->linear == nullptr);
  weight.tensor = tensors.require(module + ".weight", weight.transposed ? Shape{cols, rows} : Shape{rows, cols});
  const std::string bias = module + ".bias";
  const bool decided = config.stated(bias_key);
  if (decided ? config.flag(bias_key, false) : config.flag(bias_key, has_bias) || tensors.has(bias)) {
    weight.bias = tensors.require(bias, {rows});
  }
  return weight;
}

NormOp ProgramModel::norm(ValueId in, const std::string& module, std::uint64_t width) const {
  NormOp op;
  op.in = in;
  op.module = module;
  op.kind = family.norm;
  op.epsilon = epsilon;
  op.plus_one = family.norm_plus_one;
  if (!affine) return op;
  // BERT's first checkpoints have TensorFlow's names.
  const bool old_names = !tensors.has(module + ".weight") && tensors.has(module + ".gamma");
  op.weight = tensors.require(module + (old_names ? ".gamma" : ".weight"), {width});
  const std::string bias = module + (old_names ? ".beta" : ".bias");
  if (family.norm == NormKind::layer) op.bias = tensors.require(bias, {width});
  return op;
}

Activation activation_named(const std::string& name, const ProgramModel& model) {
  struct Name {
    std::string_view name;
    Activation function;
  };
  static constexpr std::array<Name, 14> kNames{{{"silu", Activation::silu},
                                                {"swish", Activation::silu},
                                                {"gelu", Activation::gelu},
                                                {"gelu_python", Activation::gelu},
                                                {"gelu_new", Activation::gelu_tanh},
                                                {"gelu_fast", Activation::gelu_tanh},
                                                {"gelu_accurate", Activation::gelu_tanh},
                                                {"gelu_pytorch_tanh", Activation::gelu_tanh},
                                                {"gelu_python_tanh", Activation::gelu_tanh},
                                                {"quick_gelu", Activation::quick_gelu},
                                                {"relu", Activation::relu},
                                                {"relu2", Activation::relu2},
                                                {"tanh", Activation::tanh},
                                                {"sigmoid", Activation::sigmoid}}};
  for (const Name& known : kNames) {
    if (known.name == name) return known.function;
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("{} has the activation '{}', which this version does not know", model.config.location(),
                          name.substr(0, 60)),
              "Data-free recipes need no forward pass and work.", "UnknownActivation");
}

LayerType layer_type(const ProgramModel& model, std::uint64_t layer) {
  const Family& family = model.family;
  LayerType type;
  const bool used = model.config.flag(family.keys.use_window, true);
  // Transformers writes 0 for "none" in places.
  const nlohmann::json* stated = model.config.find(family.keys.window);
  const bool none = !used || (stated != nullptr && *stated == 0);
  const auto window = none ? std::nullopt : model.config.optional_count(family.keys.window);
  bool sliding = false;
  const nlohmann::json* types = family.windows == Windows::every_layer || family.windows == Windows::none
                                    ? nullptr
                                    : model.config.find("layer_types");
  if (types != nullptr) {
    if (!types->is_array() || types->size() <= layer || !(*types)[layer].is_string()) {
      model.config.fail(fmt::format("'layer_types' has no name for layer {}", layer));
    }
    type.name = (*types)[layer].get<std::string>();
    if (type.name != "full_attention" && type.name != "sliding_attention") {
      throw Error(ErrorCode::unsupported,
                  fmt::format("{} has layers of type '{}', which this version does not know", model.config.location(),
                              type.name.substr(0, 60)),
                  "Data-free recipes need no forward pass and work.", "UnknownLayerType");
    }
    sliding = type.name == "sliding_attention";
  } else if (family.windows == Windows::every_layer) {
    sliding = true;
  } else if (family.windows == Windows::by_layer_type) {
    const auto pattern = model.config.optional_count(family.keys.window_pattern).value_or(family.full_every);
    sliding = (layer + 1) % pattern != 0;
  } else if (family.windows == Windows::from_layer || family.windows == Windows::odd_layers_below) {
    // Qwen 2 and 3: the upper layers; Qwen 2 MoE: every other one of the lower layers.
    const nlohmann::json* bound = model.config.find("max_window_layers");
    const bool number = bound != nullptr && bound->is_number_unsigned();
    if (!number) model.config.fail("'max_window_layers' is no count of layers");
    const bool above = layer >= bound->get<std::uint64_t>();
    sliding = window.has_value() && (family.windows == Windows::from_layer ? above : !above && layer % 2 == 0);
  }
  if (sliding && family.windows != Windows::every_layer) type.name = "sliding_attention";
  if (sliding && window) type.window = *window;
  return type;
}

}  // namespace quant
