// The program of the example model.
#include <filesystem>

#include "check_program.h"
#include "quant/logical_tensors.h"
#include "quant/model_program.h"
#include "quant/open.h"
#include "quant/registry.h"
#include "support/catch.h"

using namespace quant;

TEST_CASE("the example model becomes embeddings, six blocks and a tied head") {
  Registry registry;
  register_builtin_formats(registry);
  const auto checkpoint = open_checkpoint(std::filesystem::path(QUANT_SOURCE_DIR) / "examples/tiny-llama-novels");
  const LogicalTensors tensors(*checkpoint, registry);
  const ModelProgram model = build_model_program(tensors);
  test::check_model(model);

  CHECK(model.family == "llama");
  CHECK(model.hidden == 256);
  CHECK(model.vocabulary == 4096);
  CHECK(model.max_positions == 0);
  CHECK(model.causal);
  REQUIRE(model.blocks.size() == 6);
  const Program& block = model.blocks[2];
  CHECK(block.name == "model.layers.2");
  using Names = std::vector<std::vector<std::string>>;
  CHECK(test::stage_modules(block) ==
        Names{{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}});

  // Cheap operations are repeated, narrow values are kept.
  const std::vector<Stage> stages = stages_of(block);
  using List = std::vector<std::string>;
  CHECK(test::live_names(block, stages[0]) == List{"residual"});
  CHECK(test::live_names(block, stages[1]) == List{"attention", "residual"});
  CHECK(test::live_names(block, stages[2]) == List{"attention_sum"});
  CHECK(test::live_names(block, stages[3]) == List{"attention_sum", "mlp_mid"});

  const auto& head = std::get<LinearOp>(model.head.ops.back()).weights.front();
  CHECK(head.module == "lm_head");
  CHECK(head.tensor == "model.embed_tokens.weight");
}
