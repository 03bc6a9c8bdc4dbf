// Families whose tensors change their form on the way into GGUF files: names there and back, experts in one tensor,
// rows in another order, transposed matrices, settings that llama.cpp does not follow.
#include <cstring>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/gguf.h"
#include "quant/language_model.h"
#include "quant/open.h"
#include "quant/registry.h"
#include "support/catch.h"
#include "support/memory_checkpoint.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

using Json = nlohmann::json;

const Registry& registry() {
  static const Registry filled = [] {
    Registry made;
    register_builtin_formats(made);
    return made;
  }();
  return filled;
}

// Hidden size 64, 2 heads of 32, one layer.
constexpr std::uint64_t kHidden = 64, kWide = 96, kWords = 40;

class Model {
 public:
  explicit Model(Json config) {
    const Json common = {{"hidden_size", kHidden},       {"intermediate_size", kWide},  {"vocab_size", kWords},
                         {"num_hidden_layers", 1},       {"num_attention_heads", 2},    {"num_key_value_heads", 2},
                         {"max_position_embeddings", 8}, {"tie_word_embeddings", false}};
    Json all = common;
    all.update(config);
    checkpoint.mutable_config() = parse_model_config(all.dump(), "config.json");
  }

  // No two numbers of a model are the same.
  void add(const std::string& name, const Shape& shape) {
    std::vector<float> values(element_count(shape));
    for (float& value : values) value = static_cast<float>(++count_) / 65536.0F - 1;
    checkpoint.set_values(name, DType::F32, shape, values);
  }
  void add_all(const std::string& prefix, const std::vector<std::pair<std::string, Shape>>& tensors) {
    for (const auto& [name, shape] : tensors) add(prefix + name, shape);
  }
  std::vector<float> values(const std::string& name) const {
    const TensorView view = checkpoint.view(*checkpoint.find(name));
    std::vector<float> all(element_count(view.shape));
    read_f32(view, 0, all);
    return all;
  }

  MemoryCheckpoint checkpoint;

 private:
  int count_ = 0;
};

const Shape kSquare{kHidden, kHidden}, kUp{kWide, kHidden}, kDown{kHidden, kWide}, kNorm{kHidden};
const std::vector<std::pair<std::string, Shape>> kAttention = {{"self_attn.q_proj.weight", kSquare},
                                                               {"self_attn.k_proj.weight", kSquare},
                                                               {"self_attn.v_proj.weight", kSquare},
                                                               {"self_attn.o_proj.weight", kSquare}};
const std::vector<std::pair<std::string, Shape>> kMlp = {
    {"mlp.gate_proj.weight", kUp}, {"mlp.up_proj.weight", kUp}, {"mlp.down_proj.weight", kDown}};
const std::vector<std::pair<std::string, Shape>> kNorms = {{"input_layernorm.weight", kNorm},
                                                           {"post_attention_layernorm.weight", kNorm}};
const std::string kLayer = "model.layers.0.";

void add_ends(Model& model, const std::string& prefix = "model.") {
  model.add_all(prefix, {{"embed_tokens.weight", {kWords, kHidden}}, {"norm.weight", kNorm}});
}

Model olmo2(bool tied) {
  Model model({{"model_type", "olmo2"}, {"tie_word_embeddings", tied}});
  add_ends(model);
  if (!tied) model.add("lm_head.weight", {kWords, kHidden});
  model.add_all(kLayer, kAttention);
  model.add_all(kLayer, kMlp);
  model.add_all(kLayer, {{"self_attn.q_norm.weight", kNorm},
                         {"self_attn.k_norm.weight", kNorm},
                         {"post_attention_layernorm.weight", kNorm},
                         {"post_feedforward_layernorm.weight", kNorm}});
  return model;
}

Model stablelm() {
  Model model({{"model_type", "stablelm"}, {"qk_layernorm", true}, {"use_parallel_residual", true}});
  add_ends(model);
  model.add_all("", {{"lm_head.weight", {kWords, kHidden}}, {"model.norm.bias", kNorm}});
  model.add_all(kLayer, kAttention);
  model.add_all(kLayer, kMlp);
  model.add_all(kLayer, {{"input_layernorm.weight", kNorm}, {"input_layernorm.bias", kNorm}});
  for (const std::string which : {"q", "k"}) {
    for (const std::string head : {"0", "1"}) {
      model.add(kLayer + "self_attn." + which + "_layernorm.norms." + head + ".weight", {32});
    }
  }
  return model;
}

Model gemma3(const std::string& prefix, Json config) {
  config.update({{"head_dim", 32}, {"query_pre_attn_scalar", 32}, {"tie_word_embeddings", true}});
  Model model(std::move(config));
  add_ends(model, prefix);
  const std::string layer = prefix + "layers.0.";
  model.add_all(layer, kAttention);
  model.add_all(layer, kMlp);
  model.add_all(layer, kNorms);
  model.add_all(layer, {{"pre_feedforward_layernorm.weight", kNorm},
                        {"post_feedforward_layernorm.weight", kNorm},
                        {"self_attn.q_norm.weight", {32}},
                        {"self_attn.k_norm.weight", {32}}});
  return model;
}

constexpr int kExperts = 12;  // of which 10 and 11 come after 9, not after 1

Model with_experts(const std::string& type, Json config) {
  config["model_type"] = type;
  Model model(std::move(config));
  add_ends(model);
  model.add("lm_head.weight", {kWords, kHidden});
  model.add_all(kLayer, kAttention);
  model.add_all(kLayer, kNorms);
  return model;
}

Model qwen2_moe(Json more = Json::object()) {
  Json config = {{"num_experts", kExperts},        {"num_experts_per_tok", 2},
                 {"moe_intermediate_size", kWide}, {"shared_expert_intermediate_size", kWide},
                 {"norm_topk_prob", false},        {"qkv_bias", false}};
  config.update(more);
  Model model = with_experts("qwen2_moe", config);
  model.add_all(kLayer + "mlp.", {{"gate.weight", {kExperts, kHidden}},
                                  {"shared_expert_gate.weight", {1, kHidden}},
                                  {"shared_expert.gate_proj.weight", kUp},
                                  {"shared_expert.up_proj.weight", kUp},
                                  {"shared_expert.down_proj.weight", kDown}});
  for (int e = kExperts - 1; e >= 0; --e) {  // files need not be in order
    model.add_all(kLayer + "mlp.experts." + std::to_string(e) + ".",
                  {{"gate_proj.weight", kUp}, {"up_proj.weight", kUp}, {"down_proj.weight", kDown}});
  }
  return model;
}

Model mixtral() {
  Model model = with_experts("mixtral", {{"num_local_experts", kExperts}, {"num_experts_per_tok", 2}});
  model.add(kLayer + "block_sparse_moe.gate.weight", {kExperts, kHidden});
  for (int e = 0; e < kExperts; ++e) {
    model.add_all(kLayer + "block_sparse_moe.experts." + std::to_string(e) + ".",
                  {{"w1.weight", kUp}, {"w2.weight", kDown}, {"w3.weight", kUp}});
  }
  return model;
}

Model neox() {
  Model model({{"model_type", "gpt_neox"}, {"hidden_act", "gelu"}, {"rotary_pct", 0.5}});
  model.add_all("", {{"gpt_neox.embed_in.weight", {kWords, kHidden}},
                     {"gpt_neox.final_layer_norm.weight", kNorm},
                     {"gpt_neox.final_layer_norm.bias", kNorm},
                     {"embed_out.weight", {kWords, kHidden}}});
  model.add_all("gpt_neox.layers.0.", {{"input_layernorm.weight", kNorm},
                                       {"input_layernorm.bias", kNorm},
                                       {"post_attention_layernorm.weight", kNorm},
                                       {"post_attention_layernorm.bias", kNorm},
                                       {"attention.query_key_value.weight", {3 * kHidden, kHidden}},
                                       {"attention.query_key_value.bias", {3 * kHidden}},
                                       {"attention.dense.weight", kSquare},
                                       {"attention.dense.bias", kNorm},
                                       {"mlp.dense_h_to_4h.weight", kUp},
                                       {"mlp.dense_h_to_4h.bias", {kWide}},
                                       {"mlp.dense_4h_to_h.weight", kDown},
                                       {"mlp.dense_4h_to_h.bias", kNorm}});
  return model;
}

Model gpt2(const std::string& prefix) {
  Model model(
      {{"model_type", "gpt2"}, {"n_inner", kWide}, {"n_positions", 8}, {"n_head", 2}, {"tie_word_embeddings", true}});
  model.add_all(
      prefix,
      {{"wte.weight", {kWords, kHidden}}, {"wpe.weight", {8, kHidden}}, {"ln_f.weight", kNorm}, {"ln_f.bias", kNorm}});
  model.add_all(prefix + "h.0.", {{"ln_1.weight", kNorm},
                                  {"ln_1.bias", kNorm},
                                  {"ln_2.weight", kNorm},
                                  {"ln_2.bias", kNorm},
                                  {"attn.bias", {1, 1, 8, 8}},
                                  {"attn.c_attn.weight", {kHidden, 3 * kHidden}},
                                  {"attn.c_attn.bias", {3 * kHidden}},
                                  {"attn.c_proj.weight", kSquare},
                                  {"attn.c_proj.bias", kNorm},
                                  {"mlp.c_fc.weight", {kHidden, kWide}},
                                  {"mlp.c_fc.bias", {kWide}},
                                  {"mlp.c_proj.weight", {kWide, kHidden}},
                                  {"mlp.c_proj.bias", kNorm}});
  return model;
}

GgufExportResult to_gguf(const Checkpoint& model, const std::filesystem::path& output,
                         std::optional<BlockType> type = {}) {
  GgufExportOptions options;
  options.output = output;
  options.type = type;
  return export_gguf(model, registry(), options);
}

std::vector<float> values_of(const LogicalTensors& tensors, const LogicalTensor& tensor) {
  std::vector<float> values(tensor.count());
  tensors.read_rows(tensor, 0, tensor.rows, values);
  return values;
}

void check_same(const Checkpoint& a, const Checkpoint& b) {
  const LogicalTensors first(a, registry()), second(b, registry());
  CHECK(first.tensors().size() == second.tensors().size());
  for (const LogicalTensor& tensor : first.tensors()) {
    CAPTURE(tensor.name);
    const LogicalTensor* other = second.find(tensor.name);
    REQUIRE(other != nullptr);
    CHECK(other->shape == tensor.shape);
    CHECK(values_of(first, tensor) == values_of(second, *other));
  }
}

bool has_name(const std::string& file, const std::string& name) {  // a length stands before each
  std::string wanted(8, '\0');
  const std::uint64_t size = name.size();
  std::memcpy(wanted.data(), &size, 8);
  return file.find(wanted + name) != std::string::npos;
}

bool has_numbers(const std::string& file, const std::vector<float>& values) {
  return file.find(std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)) != std::string::npos;
}

std::string refusal(const Checkpoint& model) {
  const TempDir dir;
  try {
    to_gguf(model, dir / "x.gguf");
  } catch (const Error& error) {
    CHECK_FALSE(std::filesystem::exists(dir / "x.gguf"));
    return error.what();
  }
  return "";
}

// Logits of the first words, which need every tensor and setting of the model.
std::vector<float> logits_of(const Checkpoint& checkpoint) {
  const LogicalTensors tensors(checkpoint, registry());
  const ModelWeights weights(tensors);
  LanguageModelOptions options;
  options.threads = 1;
  LanguageModel model(weights, options);
  const std::vector<std::vector<std::int32_t>> sequences{{1, 7, 3, 11, 30}};
  model.run(sequences, {});
  const std::vector<std::uint64_t> rows{0, 1, 2, 3, 4};
  std::vector<float> out(rows.size() * model.vocabulary());
  model.logits(rows, out);
  return out;
}

}  // namespace

TEST_CASE("models come back from GGUF files with names, values and settings") {
  const std::vector<std::pair<Model, std::vector<std::string>>> cases = {
      {olmo2(false), {"blk.0.post_attention_norm.weight", "blk.0.post_ffw_norm.weight", "olmo2.block_count"}},
      {stablelm(), {"blk.0.attn_q_norm.weight", "blk.0.attn_norm.bias", "stablelm.attention.layer_norm_epsilon"}},
      {gemma3("model.", {{"model_type", "gemma3_text"}}),
       {"blk.0.post_ffw_norm.weight", "blk.0.attn_k_norm.weight", "gemma3.rope.freq_base_swa"}},
      {qwen2_moe(), {"blk.0.ffn_gate_inp_shexp.weight", "blk.0.ffn_up_exps.weight", "qwen2moe.expert_count"}},
      {mixtral(), {"blk.0.ffn_gate_inp.weight", "blk.0.ffn_down_exps.weight", "llama.expert_used_count"}},
      {neox(), {"blk.0.attn_qkv.bias", "output.weight", "gptneox.use_parallel_residual"}}};
  for (const auto& [model, names] : cases) {
    CAPTURE(model.checkpoint.config().model_type);
    const TempDir dir;
    to_gguf(model.checkpoint, dir / "m.gguf");
    const std::string bytes = read_file(dir / "m.gguf");
    for (const std::string& name : names) {
      CAPTURE(name);
      CHECK(has_name(bytes, name));
    }
    const auto file = open_checkpoint(dir / "m.gguf");
    CHECK(file->config().model_type == model.checkpoint.config().model_type);
    check_same(model.checkpoint, *file);
    CHECK(logits_of(*file) == logits_of(model.checkpoint));
  }
}

TEST_CASE("a tied head is written where llama.cpp wants one") {
  const TempDir dir;
  const Model model = olmo2(true);
  to_gguf(model.checkpoint, dir / "m.gguf");
  const auto file = open_checkpoint(dir / "m.gguf");
  const LogicalTensors tensors(*file, registry());
  REQUIRE(tensors.find("lm_head.weight") != nullptr);
  CHECK(values_of(tensors, *tensors.find("lm_head.weight")) == model.values("model.embed_tokens.weight"));
}

TEST_CASE("experts lie one after another by number, however the model stores them") {
  const TempDir dir;
  const Model model = qwen2_moe();
  Model fused = qwen2_moe();
  std::vector<float> gate_up, down, ups;
  for (int e = 0; e < kExperts; ++e) {
    const std::string expert = kLayer + "mlp.experts." + std::to_string(e) + ".";
    for (const std::string leaf : {"gate_proj.weight", "up_proj.weight", "down_proj.weight"}) {
      const std::vector<float> values = model.values(expert + leaf);
      std::vector<float>& all = leaf == "down_proj.weight" ? down : gate_up;
      all.insert(all.end(), values.begin(), values.end());
      if (leaf == "up_proj.weight") ups.insert(ups.end(), values.begin(), values.end());
      fused.checkpoint.remove(expert + leaf);
    }
  }
  fused.checkpoint.set_values(kLayer + "mlp.experts.gate_up_proj", DType::F32, {kExperts, 2 * kWide, kHidden}, gate_up);
  fused.checkpoint.set_values(kLayer + "mlp.experts.down_proj", DType::F32, {kExperts, kHidden, kWide}, down);
  to_gguf(model.checkpoint, dir / "a.gguf");
  to_gguf(fused.checkpoint, dir / "b.gguf");
  const std::string bytes = read_file(dir / "a.gguf");
  CHECK(has_numbers(bytes, ups));
  CHECK(has_numbers(bytes, down));
  CHECK((read_file(dir / "b.gguf") == bytes));
}

TEST_CASE("blocks of experts move from file to file") {
  for (const Model& model : {qwen2_moe(), mixtral()}) {
    const TempDir dir;
    const GgufExportResult made = to_gguf(model.checkpoint, dir / "a.gguf", BlockType::q8_0);
    CHECK(made.matrices.size() >= 3 * kExperts + 6);
    for (const GgufMatrix& matrix : made.matrices) CHECK((!matrix.moved && matrix.sums.count > 0));
    const auto a = open_checkpoint(dir / "a.gguf");
    const GgufExportResult moved = to_gguf(*a, dir / "b.gguf");
    CHECK(moved.matrices.size() == made.matrices.size());
    for (const GgufMatrix& matrix : moved.matrices) CHECK(matrix.moved);
    check_same(*a, *open_checkpoint(dir / "b.gguf"));
  }
}

TEST_CASE("q, k and v of GPT-NeoX follow each other in the file, head by head in the model") {
  const TempDir dir;
  const Model model = neox();
  to_gguf(model.checkpoint, dir / "m.gguf");
  const std::string bytes = read_file(dir / "m.gguf");
  // The converter: reshape(heads, 3, head, cols), then all [:, 0], all [:, 1], all [:, 2].
  for (const bool bias : {false, true}) {
    const std::size_t cols = bias ? 1 : kHidden, head = 32, heads = 2;
    const std::vector<float> own =
        model.values(std::string("gpt_neox.layers.0.attention.query_key_value.") + (bias ? "bias" : "weight"));
    std::vector<float> wanted;
    for (std::size_t which = 0; which < 3; ++which) {
      for (std::size_t h = 0; h < heads; ++h) {
        const auto first = own.begin() + static_cast<std::ptrdiff_t>((h * 3 + which) * head * cols);
        wanted.insert(wanted.end(), first, first + static_cast<std::ptrdiff_t>(head * cols));
      }
    }
    CHECK(has_numbers(bytes, wanted));
  }
  // The same rows in blocks, there and back.
  to_gguf(model.checkpoint, dir / "q.gguf", BlockType::q8_0);
  const auto blocks = open_checkpoint(dir / "q.gguf");
  const LogicalTensors tensors(*blocks, registry());
  const std::string name = "gpt_neox.layers.0.attention.query_key_value.weight";
  const std::vector<float> before = model.values(name), after = values_of(tensors, *tensors.find(name));
  REQUIRE(before.size() == after.size());
  for (std::size_t i = 0; i < before.size(); ++i) CHECK(std::abs(before[i] - after[i]) <= 1.0F / 254 + 1e-6F);
}

TEST_CASE("GPT-2's matrices are turned; files give them back as [out, in]") {
  for (const std::string prefix : {"transformer.", ""}) {
    const TempDir dir;
    const Model model = gpt2(prefix);
    to_gguf(model.checkpoint, dir / "m.gguf");
    const std::string bytes = read_file(dir / "m.gguf");
    CHECK(has_name(bytes, "position_embd.weight"));
    CHECK(has_name(bytes, "gpt2.attention.layer_norm_epsilon"));
    const std::vector<float> own = model.values(prefix + "h.0.mlp.c_fc.weight");
    std::vector<float> turned;
    for (std::size_t r = 0; r < kWide; ++r) {
      for (std::size_t c = 0; c < kHidden; ++c) turned.push_back(own[c * kWide + r]);
    }
    CHECK(has_numbers(bytes, turned));
    const auto file = open_checkpoint(dir / "m.gguf");
    const LogicalTensors tensors(*file, registry());
    REQUIRE(tensors.find("transformer.h.0.mlp.c_fc.weight") != nullptr);
    CHECK(tensors.find("transformer.h.0.mlp.c_fc.weight")->shape == kUp);
    CHECK(values_of(tensors, *tensors.find("transformer.h.0.mlp.c_fc.weight")) == turned);
    CHECK(tensors.find("transformer.h.0.attn.bias") == nullptr);
    CHECK(logits_of(*file) == logits_of(model.checkpoint));
    to_gguf(*file, dir / "again.gguf");
    CHECK(has_numbers(read_file(dir / "again.gguf"), turned));
  }
}

TEST_CASE("of a multimodal Gemma 3 the language model is written") {
  const TempDir dir;
  const Model text = gemma3("model.", {{"model_type", "gemma3_text"}});
  Json nested = Json::parse(text.checkpoint.config().text);
  for (const std::string prefix : {"language_model.model.", "model.language_model."}) {
    Model whole = gemma3(prefix, {{"model_type", "gemma3"}, {"text_config", nested}});
    whole.add("vision_tower.vision_model.embeddings.patch_embedding.weight", {8, 3, 2, 2});
    whole.add("model.multi_modal_projector.mm_input_projection_weight", {8, 8});
    const GgufExportResult result = to_gguf(whole.checkpoint, dir / (prefix + "gguf"));
    REQUIRE(result.remarks.size() == 2);  // there is no tokenizer, either
    CHECK(result.remarks.front().find("2 tensors that read images") != std::string::npos);
    check_same(text.checkpoint, *open_checkpoint(dir / (prefix + "gguf")));
  }
  const std::string bytes = read_file(dir / "model.language_model.gguf");
  std::vector<float> norm = text.values("model.norm.weight");
  for (float& value : norm) value += 1;
  CHECK(has_numbers(bytes, norm));
}

TEST_CASE("settings that llama.cpp does not follow are refused by name") {
  CHECK(refusal(qwen2_moe({{"norm_topk_prob", true}}).checkpoint).find("norm_topk_prob = true") != std::string::npos);
  CHECK(refusal(qwen2_moe({{"mlp_only_layers", {0}}}).checkpoint).find("mlp_only_layers") != std::string::npos);
  CHECK(refusal(qwen2_moe({{"num_experts", 13}}).checkpoint).find("has 12 parts") != std::string::npos);
  CHECK(refusal(qwen2_moe({{"head_dim", 16}}).checkpoint).find("heads of 16") != std::string::npos);
  Model missing = mixtral();
  missing.checkpoint.remove(kLayer + "block_sparse_moe.experts.5.w2.weight");
  CHECK(refusal(missing.checkpoint).find("has 11 parts of blk.0.ffn_down_exps.weight") != std::string::npos);
  const Json irregular = {
      {"model_type", "gemma3_text"},
      {"num_hidden_layers", 4},
      {"layer_types", {"sliding_attention", "full_attention", "full_attention", "sliding_attention"}}};
  CHECK(refusal(gemma3("model.", irregular).checkpoint).find("irregular") != std::string::npos);
  Model relu = gpt2("");
  Json config = Json::parse(relu.checkpoint.config().text);
  config["activation_function"] = "relu";
  relu.checkpoint.mutable_config() = parse_model_config(config.dump(), "config.json");
  CHECK(refusal(relu.checkpoint).find("activation_function = \"relu\"") != std::string::npos);
}

TEST_CASE("files whose experts contradict their keys are refused") {
  const TempDir dir(memory_folder());
  const Model model = mixtral();
  to_gguf(model.checkpoint, dir / "m.gguf");
  const std::string good = read_file(dir / "m.gguf");
  const std::string key = "llama.expert_count";
  const std::size_t at = good.find(key) + key.size() + 4;  // after the kind of the value
  for (const char count : {1, 11, 13}) {
    std::string bad = good;
    bad[at] = count;
    write_file(dir / "bad.gguf", bad);
    CHECK_THROWS_AS(open_checkpoint(dir / "bad.gguf"), Error);
  }
  std::uint64_t all = 0;
  for (const TensorInfo& info : model.checkpoint.tensors()) all += element_count(info.shape);
  // Any byte of the header may be anything; what opens can be read.
  for (std::size_t place = 24; place < 3000; place += 59) {
    std::string bad = good;
    bad[place] = static_cast<char>(bad[place] ^ 0x41);
    write_file(dir / "bad.gguf", bad);
    try {
      const auto file = open_checkpoint(dir / "bad.gguf");
      const LogicalTensors tensors(*file, registry());
      std::uint64_t weights = 0;  // whatever they are called now, none is lost
      for (const LogicalTensor& tensor : tensors.tensors()) weights += values_of(tensors, tensor).size();
      CHECK(weights == all);
    } catch (const Error& error) {
      CHECK((error.code() == ErrorCode::corrupt_file || error.code() == ErrorCode::unsupported));
    }
  }
}
