// Configurations and checkpoints that do not describe a model: precise errors, no crash, no huge allocation.
#include <functional>

#include "check_program.h"
#include "golden_model.h"
#include "quant/error.h"
#include "quant/logical_tensors.h"
#include "quant/registry.h"

using namespace quant;
using namespace quant::test;
using nlohmann::json;

namespace {

const Registry& formats() {
  static const Registry* registry = [] {
    auto* made = new Registry;
    register_builtin_formats(*made);
    return made;
  }();
  return *registry;
}

ModelProgram build(const GoldenModel& golden) {
  return build_model_program(LogicalTensors(golden.checkpoint, formats()));
}

// The error that a changed model ends in; code `internal` and no text if there is none.
Error error_of(const GoldenModel& golden) {
  try {
    build(golden);
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::internal, "");
}

Error error_with(const std::string& name, const std::function<void(json&)>& change) {
  const auto golden = golden_model(name);
  json config = golden->config();
  change(config);
  golden->set_config(config);
  return error_of(*golden);
}

bool says(const Error& error, std::initializer_list<const char*> words) {
  for (const char* word : words) {
    if (std::string(error.what()).find(word) == std::string::npos) {
      WARN("'" << word << "' is not in: " << error.what());
      return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("an unknown model_type names itself, the known ones, and what still works") {
  const Error error = error_with("llama", [](json& c) { c["model_type"] = "mamba9"; });
  CHECK(error.code() == ErrorCode::unsupported);
  CHECK(says(error, {"mamba9", "forward pass"}));
  CHECK(error.hint().find("llama") != std::string::npos);
  CHECK(error.hint().find("ata-free recipes") != std::string::npos);

  const auto golden = golden_model("llama");
  golden->checkpoint.mutable_config() = {};
  CHECK(error_of(*golden).code() == ErrorCode::unsupported);
  CHECK(says(error_of(*golden), {"no config.json"}));
}

TEST_CASE("a missing or misshapen tensor is named with what was expected") {
  const auto golden = golden_model("llama");
  golden->checkpoint.remove("model.layers.1.self_attn.k_proj.weight");
  Error error = error_of(*golden);
  CHECK(error.code() == ErrorCode::corrupt_file);
  CHECK(says(error, {"in-memory", "model.layers.1.self_attn.k_proj.weight", "[16, 32]"}));
  CHECK(error.kind() == "MissingTensor");
  CHECK_FALSE(error.hint().empty());

  golden->checkpoint.set_values("model.layers.1.self_attn.k_proj.weight", DType::F32, {32, 16},
                                std::vector<float>(512));
  error = error_of(*golden);
  CHECK(error.kind() == "WrongShape");
  CHECK(says(error, {"model.layers.1.self_attn.k_proj.weight", "[32, 16]", "[16, 32]"}));

  golden->checkpoint.set_values("model.layers.1.self_attn.k_proj.weight", DType::BOOL, {16, 32},
                                std::vector<std::uint8_t>(512));
  CHECK(error_of(*golden).kind() == "NotNumeric");
}

TEST_CASE("every tensor that a program reads is required") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    const auto golden = golden_model(name);
    const ModelProgram model = build(*golden);
    std::set<std::string> read;
    std::vector<Program> programs = model.blocks;
    programs.push_back(model.embeddings);
    programs.push_back(model.head);
    for (const Program& program : programs) {
      for (const Op& op : program.ops) {
        if (const auto* norm = std::get_if<NormOp>(&op)) {
          read.insert({norm->weight, norm->bias});
          read.insert(norm->group_weights.begin(), norm->group_weights.end());
        } else if (const auto* linear = std::get_if<LinearOp>(&op)) {
          for (const LinearWeight& weight : linear->weights) read.insert({weight.tensor, weight.bias});
        } else if (const auto* embedding = std::get_if<EmbeddingOp>(&op)) {
          read.insert(embedding->weight);
        }
      }
    }
    read.erase("");
    for (const TensorInfo& info : golden->checkpoint.tensors()) {
      const bool other = info.name.find("vision") != std::string::npos || info.name.find("multi_modal") == 0 ||
                         info.name.find(".pooler.") != std::string::npos || info.name.find("pooler.") == 0 ||
                         info.name.find("cls.") == 0 || info.name.find("model.multi_modal") == 0;
      INFO(info.name);
      CHECK(read.contains(info.name) != other);
    }
    for (const std::string& tensor : read) {
      INFO(tensor);
      const TensorInfo info = *golden->checkpoint.find(tensor);
      const auto bytes = golden->checkpoint.bytes(tensor);
      golden->checkpoint.remove(tensor);
      const bool optional = info.shape.size() == 1 && tensor.ends_with(".bias") &&
                            error_of(*golden).code() == ErrorCode::internal;  // biases that config.json leaves open
      if (!optional && error_of(*golden).code() != ErrorCode::corrupt_file) {
        CHECK(tensor == "lm_head.weight");  // then the head is tied, where config.json does not say that it is not
      }
      golden->checkpoint.set(tensor, info.dtype, info.shape, bytes);
    }
  }
}

TEST_CASE("settings out of range are errors that name them") {
  const json wrong = {0,      -1, 1e300, 2.5, "x", true, json::array(), json::object(), 1000000000000ULL, -9000000000LL,
                      nullptr};
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
                          "intermediate_size", "vocab_size", "rms_norm_eps", "rope_theta", "hidden_act"}) {
    for (const json& value : wrong) {
      const std::string name = key;
      const bool may_be_null = name == "num_key_value_heads" || name == "head_dim" || name == "rope_theta";
      const bool number = name == "rms_norm_eps" || name == "rope_theta";
      if ((value.is_null() && may_be_null) || (value.is_string() && name == "hidden_act")) continue;
      if (number && value.is_number() && value > 0 && value < 1e13) continue;
      const Error error = error_with("llama_linear", [&](json& c) { c[key] = value; });
      INFO(key << " = " << value.dump() << ": " << error.what());
      CHECK(error.code() == ErrorCode::corrupt_file);
      CHECK(says(error, {key}));
    }
  }
}

TEST_CASE("counts that do not fit each other") {
  CHECK(says(error_with("llama", [](json& c) { c["num_attention_heads"] = 5; }), {"num_attention_heads", "5", "32"}));
  CHECK(says(error_with("llama", [](json& c) { c["num_key_value_heads"] = 3; }), {"num_key_value_heads", "3"}));
  CHECK(error_with("llama", [](json& c) { c["num_hidden_layers"] = 1000000000; }).kind() == "MissingTensor");
  CHECK(error_with("llama", [](json& c) { c["head_dim"] = 2000000000; }).kind() == "WrongShape");
  CHECK(error_with("llama", [](json& c) { c["num_attention_heads"] = c["head_dim"] = 2147483647; }).code() ==
        ErrorCode::corrupt_file);
  CHECK(error_with("mixtral", [](json& c) { c["num_local_experts"] = 2147483647; }).code() == ErrorCode::corrupt_file);
  CHECK(error_with("mixtral_fused", [](json& c) { c["num_local_experts"] = 2147483647; }).kind() == "WrongShape");
  CHECK(says(error_with("mixtral", [](json& c) { c["num_experts_per_tok"] = 5; }), {"5", "4"}));
  CHECK(error_with("qwen2_moe", [](json& c) { c["mlp_only_layers"] = 3; }).code() == ErrorCode::corrupt_file);
  CHECK(error_with("qwen2_moe", [](json& c) { c["decoder_sparse_step"] = 0; }).code() == ErrorCode::corrupt_file);
  CHECK(error_with("gemma2", [](json& c) { c["layer_types"] = {"full_attention"}; }).code() == ErrorCode::corrupt_file);
  CHECK(error_with("gemma2", [](json& c) { c["sliding_window"] = -3; }).code() == ErrorCode::corrupt_file);
  CHECK(error_with("opt", [](json& c) { c["max_position_embeddings"] = 2147483647; }).kind() == "WrongShape");
  CHECK(error_with("opt_post_norm", [](json& c) { c["word_embed_proj_dim"] = 25; }).kind() == "WrongShape");
}

TEST_CASE("rotary settings out of range") {
  const auto scaled = [](const json& scaling) {
    return error_with("llama_linear", [&](json& c) { c["rope_scaling"] = scaling; });
  };
  for (const json& scaling :
       {json{{"type", "linear"}}, json{{"type", "linear"}, {"factor", 0}}, json{{"type", "linear"}, {"factor", "many"}},
        json{{"type", 7}}, json{"linear"}, json{{"type", "linear"}, {"factor", 1e-40}},
        json{{"type", "llama3"}, {"factor", 2}},
        json{{"type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 4}},
        json{{"type", "yarn"}, {"factor", -1}},
        json{{"type", "yarn"}, {"factor", 2}, {"original_max_position_embeddings", 1e30}}, json{{"type", "dynamic"}},
        json{{"type", "longrope"}, {"short_factor", {1, 2}}}, json{{"full_attention", 5}}}) {
    const Error error = scaled(scaling);
    INFO(scaling.dump() << ": " << error.what());
    CHECK(error.code() == ErrorCode::corrupt_file);
  }
  const Error unknown = scaled({{"rope_type", "spiral"}});
  CHECK(unknown.code() == ErrorCode::unsupported);
  CHECK(says(unknown, {"spiral"}));
  CHECK(error_with("stablelm", [](json& c) { c["partial_rotary_factor"] = 0.05; }).code() == ErrorCode::corrupt_file);
  CHECK(error_with("stablelm", [](json& c) { c["partial_rotary_factor"] = 0.45; }).code() == ErrorCode::corrupt_file);
  CHECK(error_with("llama", [](json& c) { c["rope_parameters"]["rope_theta"] = 1.0; }).code() ==
        ErrorCode::corrupt_file);
}

TEST_CASE("what this version does not run is refused by name") {
  Error error = error_with("llama", [](json& c) { c["hidden_act"] = "xielu"; });
  CHECK(error.code() == ErrorCode::unsupported);
  CHECK(says(error, {"xielu"}));
  error = error_with("gemma3_text", [](json& c) { c["use_bidirectional_attention"] = true; });
  CHECK(error.code() == ErrorCode::unsupported);
  CHECK(says(error, {"use_bidirectional_attention"}));
  error = error_with("bert", [](json& c) { c["position_embedding_type"] = "relative_key"; });
  CHECK(error.code() == ErrorCode::unsupported);
  error = error_with("gemma2", [](json& c) { c["layer_types"] = {"full_attention", "chunked_attention", "x"}; });
  CHECK(error.code() == ErrorCode::unsupported);
  CHECK(says(error, {"chunked_attention"}));
}

TEST_CASE("configurations that are no JSON objects") {
  const auto golden = golden_model("llama");
  for (const char* text : {"", "[]", "{", "{\"hidden_size\": 1e999}", "7"}) {
    golden->checkpoint.mutable_config().text = text;
    CHECK(error_of(*golden).code() == ErrorCode::corrupt_file);
  }
}

TEST_CASE("biases follow config.json, or else the checkpoint") {
  const auto golden = golden_model("llama_tied_biases");
  const auto bias = [&] {
    const Program block = build(*golden).blocks[0];
    return std::get<LinearOp>(block.ops[stages_of(block)[0].linears]).weights[0].bias;
  };
  CHECK(bias() == "model.layers.0.self_attn.q_proj.bias");
  json config = golden->config();
  config["attention_bias"] = false;
  golden->set_config(config);
  CHECK(bias().empty());
  config.erase("attention_bias");
  golden->set_config(config);
  CHECK(bias() == "model.layers.0.self_attn.q_proj.bias");
  golden->checkpoint.remove("model.layers.0.self_attn.q_proj.bias");
  CHECK(bias().empty());
  config["attention_bias"] = true;
  golden->set_config(config);
  CHECK(error_of(*golden).kind() == "MissingTensor");
}

TEST_CASE("norms may have the names of BERT's first checkpoints") {
  const auto golden = golden_model("bert");
  const std::string module = "encoder.layer.0.output.LayerNorm";
  golden->checkpoint.remove(module + ".weight");
  golden->checkpoint.remove(module + ".bias");
  golden->checkpoint.set_values(module + ".gamma", DType::F32, {32}, std::vector<float>(32));
  CHECK(says(error_of(*golden), {"LayerNorm.beta"}));
  golden->checkpoint.set_values(module + ".beta", DType::F32, {32}, std::vector<float>(32));
  const auto norm = std::get<NormOp>(build(*golden).blocks[0].ops.back());
  CHECK(norm.weight == module + ".gamma");
  CHECK(norm.bias == module + ".beta");
}

TEST_CASE("the head is its own tensor, the embedding, or missing") {
  const auto golden = golden_model("llama");
  const auto head = [&] { return std::get<LinearOp>(build(*golden).head.ops.back()).weights[0].tensor; };
  CHECK(head() == "lm_head.weight");
  golden->checkpoint.remove("lm_head.weight");
  CHECK(says(error_of(*golden), {"lm_head.weight"}));  // config.json says that it is not tied
  json config = golden->config();
  config["tie_word_embeddings"] = true;
  golden->set_config(config);
  CHECK(head() == "model.embed_tokens.weight");
}
