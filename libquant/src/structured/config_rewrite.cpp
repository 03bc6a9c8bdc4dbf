#include "structured/config_rewrite.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "quant/error.h"

namespace quant::structured {
namespace {

using Json = nlohmann::ordered_json;

// Families whose configuration class in Transformers 5.23 refuses a hidden size that is no multiple of the number of
// heads (validate_architecture), though head_dim says how wide heads are.
constexpr std::string_view kDividing[] = {"llama", "gemma2", "gemma3", "gemma3_text", "gpt_neox"};

bool has_biases(const ModelAxes& axes) {
  for (const BlockAxes& block : axes.blocks) {
    for (const Op& op : block.program->ops) {
      const auto* linear = std::get_if<LinearOp>(&op);
      if (linear == nullptr) continue;
      for (const LinearWeight& weight : linear->weights) {
        if (!weight.bias.empty()) return true;
      }
    }
  }
  return false;
}

// A Llama without biases is a Mistral without a window, whose configuration class does not ask for that.
void make_mistral(Json& json, const ProgramModel& model) {
  // Settings that may be absent, and then mean another number there.
  const auto state = [&](const char* key, Json value) {
    if (!json.contains(key) || json[key].is_null()) json[key] = std::move(value);
  };
  for (const char* key : {"rms_norm_eps", "hidden_act", "max_position_embeddings", "tie_word_embeddings"}) {
    if (const nlohmann::json* value = model.config.find(key)) state(key, Json::parse(value->dump()));
  }
  state("num_key_value_heads", json["num_attention_heads"]);
  json["head_dim"] = model.head_dim;
  json["sliding_window"] = nullptr;
  json["model_type"] = "mistral";
  for (const char* key : {"attention_bias", "mlp_bias", "pretraining_tp"}) json.erase(key);
  const auto architectures = json.find("architectures");
  if (architectures == json.end() || !architectures->is_array()) return;
  for (Json& name : *architectures) {
    if (!name.is_string()) continue;
    const std::string text = name.get<std::string>();
    if (text.starts_with("Llama")) name = "Mistral" + text.substr(5);
  }
}

class Rewriter {
 public:
  Rewriter(Json& object, const ModelAxes& axes, const ProgramModel& model, const KeptUnits& kept)
      : json_(object), axes_(axes), model_(model), keys_(model.family.keys), kept_(kept) {}

  void rewrite() {
    set_hidden();
    set_heads();
    for (std::size_t b = 0; b < axes_.blocks.size(); ++b) set_block(axes_.blocks[b], kept_.of_layer[b]);
    if (kept_.layers.size() != axes_.blocks.size()) set_layers();
  }

 private:
  /// The first of "a|b" that is there, else the first.
  void set(std::string_view keys, std::uint64_t value) {
    if (keys.empty()) return;
    std::string_view rest = keys;
    while (!rest.empty()) {
      const std::size_t bar = rest.find('|');
      const std::string key(rest.substr(0, bar));
      if (json_.contains(key)) {
        json_[key] = value;
        return;
      }
      rest = bar == std::string_view::npos ? std::string_view() : rest.substr(bar + 1);
    }
    json_[std::string(keys.substr(0, keys.find('|')))] = value;
  }

  void set_hidden() {
    if (kept_.hidden.size() == model_.hidden) return;
    set(keys_.hidden, kept_.hidden.size());
    if (!keys_.embedding_width.empty() && model_.embedding_width == model_.hidden) {
      set(keys_.embedding_width, kept_.hidden.size());
    }
    // The head size would else follow from the new width, the width of the MLP as well.
    set(keys_.head_dim, model_.head_dim);
    if (model_.family.intermediate_factor > 0) set(keys_.intermediate, model_.intermediate);
  }

  void set_heads() {
    for (std::size_t b = 0; b < axes_.blocks.size(); ++b) {
      const auto& attention = axes_.blocks[b].attention;
      const LayerUnits& units = kept_.of_layer[b];
      if (!attention || units.heads.size() == attention->heads) continue;
      set(keys_.heads, units.heads.size());
      set(keys_.kv_heads, units.groups.size());
      set(keys_.head_dim, model_.head_dim);
    }
  }

  void set_block(const BlockAxes& block, const LayerUnits& units) {
    for (std::size_t f = 0; f < block.ffn.size(); ++f) {
      const FfnAxis& ffn = block.ffn[f];
      if (units.ffn[f].front().size() != ffn.width) set(ffn.key, units.ffn[f].front().size());
    }
    if (block.experts && units.experts.size() != block.experts->count) set(keys_.experts, units.experts.size());
  }

  void set_layers() {
    set(keys_.layers, kept_.layers.size());
    bool sliding = false;
    for (std::size_t layer = 0; layer < axes_.blocks.size(); ++layer) {
      sliding = sliding || layer_type(model_, layer).name != "full_attention";
    }
    Json types = Json::array();
    for (const std::uint32_t layer : kept_.layers) types.push_back(layer_type(model_, layer).name);
    // By number of layer they would mean others.
    if (sliding || json_.contains("layer_types")) json_["layer_types"] = std::move(types);
    const nlohmann::json* bound = model_.config.find("max_window_layers");
    if (bound != nullptr && bound->is_number_unsigned()) {
      const auto below = std::count_if(kept_.layers.begin(), kept_.layers.end(),
                                       [&](std::uint32_t layer) { return layer < bound->get<std::uint64_t>(); });
      const bool all = below == static_cast<std::ptrdiff_t>(kept_.layers.size());
      if (json_.contains("max_window_layers") || !all) json_["max_window_layers"] = below;
    }
    if (!model_.family.names.routers.empty()) set_dense_layers();
  }

  void set_dense_layers() {
    Json dense = Json::array();
    for (std::size_t place = 0; place < kept_.layers.size(); ++place) {
      if (!has_experts(model_, kept_.layers[place])) dense.push_back(place);
    }
    if (dense.empty() && !json_.contains("mlp_only_layers")) return;
    json_["mlp_only_layers"] = std::move(dense);
    json_["decoder_sparse_step"] = 1;
  }

  Json& json_;
  const ModelAxes& axes_;
  const ProgramModel& model_;
  const FamilyKeys& keys_;
  const KeptUnits& kept_;
};

// Says another family where the model's own class would refuse the number of heads.
void allow_heads(Json& json, const ModelAxes& axes, const ProgramModel& model, const KeptUnits& kept,
                 const std::vector<std::string>& bias) {
  if (heads_divide(model, kept)) return;
  if (model.family.model_type == "llama" && bias.empty() && !has_biases(axes)) return make_mistral(json, model);
  throw Error(ErrorCode::unsupported,
              fmt::format("{} heads beside a hidden size of {}: the configuration class of '{}' in Transformers wants "
                          "a number of heads that divides it",
                          kept.of_layer.front().heads.size(), kept.hidden.size(), model.family.model_type),
              "remove another number of heads", "HeadsDoNotDivide");
}

// What an operation does beside the sizes of its tensors.
bool same_meaning(const Op& a, const Op& b) {
  if (a.index() != b.index()) return false;
  if (const auto* norm = std::get_if<NormOp>(&a)) {
    const auto& other = std::get<NormOp>(b);
    return norm->kind == other.kind && norm->epsilon == other.epsilon && norm->plus_one == other.plus_one &&
           norm->group == other.group;
  }
  if (const auto* rotary = std::get_if<RotaryOp>(&a)) {
    const auto& other = std::get<RotaryOp>(b);
    return rotary->head_dim == other.head_dim && rotary->rotary_dim == other.rotary_dim &&
           rotary->inverse_frequency == other.inverse_frequency && rotary->magnitude == other.magnitude &&
           rotary->long_inverse_frequency == other.long_inverse_frequency;
  }
  if (const auto* attention = std::get_if<AttentionOp>(&a)) {
    const auto& other = std::get<AttentionOp>(b);
    return attention->head_dim == other.head_dim && attention->scale == other.scale &&
           attention->softcap == other.softcap && attention->window == other.window &&
           attention->causal == other.causal;
  }
  if (const auto* activation = std::get_if<ActivationOp>(&a)) {
    return activation->function == std::get<ActivationOp>(b).function;
  }
  if (const auto* scale = std::get_if<ScaleOp>(&a)) return scale->factor == std::get<ScaleOp>(b).factor;
  if (const auto* cap = std::get_if<SoftcapOp>(&a)) return cap->cap == std::get<SoftcapOp>(b).cap;
  if (const auto* route = std::get_if<RouteOp>(&a)) {
    const auto& other = std::get<RouteOp>(b);
    return route->top_k == other.top_k && route->softmax_first == other.softmax_first &&
           route->normalize == other.normalize && route->factor == other.factor;
  }
  if (const auto* table = std::get_if<EmbeddingOp>(&a)) {
    const auto& other = std::get<EmbeddingOp>(b);
    return table->index == other.index && table->offset == other.offset && table->factor == other.factor;
  }
  return true;
}

const char* part_of(const Op& op) {
  if (std::holds_alternative<AttentionOp>(op)) return "its attention";
  if (std::holds_alternative<RotaryOp>(op)) return "its rotary embeddings";
  if (std::holds_alternative<EmbeddingOp>(op)) return "the factor of its embeddings";
  if (std::holds_alternative<RouteOp>(op)) return "its router";
  return "one of its operations";
}

void compare(const Program& before, const Program& after, const std::string& family) {
  const std::size_t count = std::min(before.ops.size(), after.ops.size());
  for (std::size_t i = 0; i < count; ++i) {
    if (same_meaning(before.ops[i], after.ops[i])) continue;
    throw Error(ErrorCode::unsupported,
                fmt::format("'{}' would compute something else: the config.json of '{}' cannot say {} as it is beside "
                            "the new sizes",
                            before.name, family, part_of(before.ops[i])),
                "leave one of the axes out of the recipe");
  }
  if (before.ops.size() == after.ops.size()) return;
  throw Error(ErrorCode::unsupported, fmt::format("'{}' would have other operations than before", before.name),
              "leave one of the axes out of the recipe");
}

}  // namespace

bool heads_divide(const ProgramModel& model, const KeptUnits& kept) {
  const bool asked =
      std::find(std::begin(kDividing), std::end(kDividing), model.family.model_type) != std::end(kDividing);
  return !asked || kept.of_layer.empty() || kept.hidden.size() % kept.of_layer.front().heads.size() == 0;
}

std::string rewrite_config(const std::string& text, const ModelAxes& axes, const ProgramModel& model,
                           const KeptUnits& kept, const std::vector<std::string>& bias) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) throw Error(ErrorCode::corrupt_file, "config.json is no JSON object");
  Json* own = &json;
  if (!model.family.nested.empty()) {
    const auto nested = json.find(std::string(model.family.nested));
    if (nested != json.end() && nested->is_object()) own = &*nested;
  }
  const Json unchanged = *own;
  Rewriter(*own, axes, model, kept).rewrite();
  for (const std::string& key : bias) (*own)[key] = true;
  if (*own == unchanged) return text;
  allow_heads(*own, axes, model, kept, bias);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void check_meaning(const ModelProgram& before, const ModelProgram& after, const KeptUnits& kept,
                   const std::string& family) {
  compare(before.embeddings, after.embeddings, family);
  for (std::size_t place = 0; place < kept.layers.size() && place < after.blocks.size(); ++place) {
    compare(before.blocks[kept.layers[place]], after.blocks[place], family);
  }
  compare(before.head, after.head, family);
}

}  // namespace quant::structured
