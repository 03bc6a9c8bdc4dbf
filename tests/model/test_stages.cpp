// Where programs are cut, family by family.
#include "check_program.h"
#include "golden_model.h"
#include "quant/logical_tensors.h"
#include "quant/registry.h"

using namespace quant;
using namespace quant::test;

namespace {

using Names = std::vector<std::string>;
using Lists = std::vector<Names>;

ModelProgram program_of(const std::string& name) {
  Registry registry;
  register_builtin_formats(registry);
  const auto golden = golden_model(name);
  return build_model_program(LogicalTensors(golden->checkpoint, registry));
}

Lists live_of(const Program& program) {
  Lists lists;
  for (const Stage& stage : stages_of(program)) lists.push_back(live_names(program, stage));
  return lists;
}

}  // namespace

TEST_CASE("linears with independent inputs form one stage") {
  const Lists separate = {{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}};
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "stablelm"}) {
    INFO(name);
    CHECK(stage_modules(program_of(name).blocks[0]) == separate);
  }
  CHECK(stage_modules(program_of("phi3").blocks[0]) ==
        Lists{{"qkv_proj"}, {"o_proj"}, {"gate_up_proj"}, {"down_proj"}});
  CHECK(stage_modules(program_of("gpt2").blocks[0]) == Lists{{"c_attn"}, {"c_proj"}, {"c_fc"}, {"c_proj"}});
  CHECK(stage_modules(program_of("opt").blocks[0]) ==
        Lists{{"q_proj", "k_proj", "v_proj"}, {"out_proj"}, {"fc1"}, {"fc2"}});
  CHECK(stage_modules(program_of("bert").blocks[0]) ==
        Lists{{"query", "key", "value"}, {"dense"}, {"dense"}, {"dense"}});
}

TEST_CASE("parallel branches share stages") {
  CHECK(stage_modules(program_of("gpt_neox").blocks[0]) ==
        Lists{{"query_key_value", "dense_h_to_4h"}, {"dense", "dense_4h_to_h"}});
  CHECK(stage_modules(program_of("gpt_neox_sequential").blocks[0]) ==
        Lists{{"query_key_value"}, {"dense"}, {"dense_h_to_4h"}, {"dense_4h_to_h"}});
  const Program block = program_of("stablelm_parallel").blocks[0];
  CHECK(stage_modules(block) == Lists{{"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}, {"o_proj", "down_proj"}});
  CHECK(live_of(block) == Lists{{"residual"}, {"attention", "mlp_mid", "residual"}});
}

TEST_CASE("the router is a stage before its experts") {
  const Program mixtral = program_of("mixtral").blocks[0];
  CHECK(stage_modules(mixtral) == Lists{{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate"}, {"w1", "w3"}, {"w2"}});
  CHECK(live_of(mixtral)[3] == Names{"attention_sum", "mlp_in", "routing"});
  CHECK(live_of(mixtral)[4] == Names{"attention_sum", "expert_mid", "routing"});

  const Program qwen = program_of("qwen2_moe").blocks[3];
  CHECK(stage_modules(qwen) == Lists{{"q_proj", "k_proj", "v_proj"},
                                     {"o_proj"},
                                     {"gate", "gate_proj", "up_proj", "shared_expert_gate"},
                                     {"gate_proj", "up_proj", "down_proj"},
                                     {"down_proj"}});
  CHECK(live_of(qwen)[3] == Names{"attention_sum", "mlp_in", "routing", "shared_logit", "shared_mid"});

  // Router and gather read one value, so that whoever rescales it sees all readers.
  for (const char* name : {"mixtral", "mixtral_fused", "qwen2_moe_fused", "qwen3_moe"}) {
    ValueId router = -1;
    ValueId gathered = -1;
    const Program block = program_of(name).blocks[0];
    for (const Op& op : block.ops) {
      if (const auto* gather = std::get_if<GatherOp>(&op)) gathered = gather->in;
      const auto* linear = std::get_if<LinearOp>(&op);
      if (linear != nullptr && linear->weights[0].module.ends_with(".gate")) router = linear->in;
    }
    INFO(name);
    CHECK(router >= 0);
    CHECK(router == gathered);
  }
}

TEST_CASE("experts of one tensor are slices of it") {
  const Program block = program_of("qwen3_moe_fused").blocks[1];
  const auto stages = stages_of(block);
  const auto& op = std::get<LinearOp>(block.ops[stages[3].linears]);
  REQUIRE(op.weights.size() == 4);
  CHECK(op.weights[2].module == "model.layers.1.mlp.experts.gate_up_proj#2");
  CHECK(op.weights[2].tensor == "model.layers.1.mlp.experts.gate_up_proj");
  CHECK(op.weights[2].slice == 2);
  CHECK(op.weights[2].rows == 48);
  CHECK(op.weights[2].cols == 32);
  CHECK(op.routing >= 0);
}

TEST_CASE("dense layers among layers with experts") {
  const ModelProgram model = program_of("qwen2_moe");  // every second layer, but not layer 1
  const auto dense = [&](std::size_t layer) { return stage_modules(model.blocks[layer]).size() == 4; };
  CHECK(dense(0));
  CHECK(dense(1));
  CHECK(dense(2));
  CHECK_FALSE(dense(3));
}

TEST_CASE("cuts lie where the fewest values live, and late among equals") {
  Program program;
  program.name = "made up";
  for (const std::uint64_t width : {8, 8, 32, 32, 4, 4, 4, 8}) {
    program.values.push_back({"v" + std::to_string(program.values.size()), width, 1});
  }
  const auto linear = [](ValueId in, ValueId out) { return LinearOp{in, out, {LinearWeight{}}, -1}; };
  program.input = 0;
  program.ops = {ScaleOp{0, 1}, linear(1, 2), ActivationOp{2, 3, Activation::relu}, SliceOp{3, 4, 0, 4}, ScaleOp{4, 5},
                 linear(5, 6),  ScaleOp{6, 7}};
  program.output = 7;
  const auto stages = stages_of(program);
  REQUIRE(stages.size() == 2);
  CHECK(stages[0].begin == 0);
  CHECK(stages[0].linears == 1);
  CHECK(stages[0].end == 5);  // after the last of the narrow values
  CHECK(stages[1].linears == 5);
  CHECK(stages[1].end == 7);
  CHECK(stages[0].live == std::vector<ValueId>{0});
  CHECK(stages[1].live == std::vector<ValueId>{5});

  // A value with several rows per token counts as often.
  program.values[5].rows_per_token = 2;
  CHECK(stages_of(program)[0].end == 4);
  // A program without linears has no stages.
  program.ops.resize(1);
  program.output = 1;
  CHECK(stages_of(program).empty());
}

TEST_CASE("all that must be known of a model without a head") {
  const ModelProgram bert = program_of("bert");
  CHECK_FALSE(bert.causal);
  CHECK(bert.max_positions == 64);
  CHECK(bert.head.ops.empty());
  CHECK(bert.head.output == bert.head.input);
  const ModelProgram llama = program_of("llama_headless");
  REQUIRE(llama.head.ops.size() == 1);
  CHECK(std::holds_alternative<NormOp>(llama.head.ops[0]));
}
