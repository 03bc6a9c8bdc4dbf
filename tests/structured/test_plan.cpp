// What plans say: sizes, problems, refusals.
#include "quant/error.h"
#include "quant/recipe_yaml.h"
#include "structured/pruned.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

Recipe recipe_with(const std::string& modifiers) {
  return parse_recipe("s_stage:\n  s_modifiers:\n" + modifiers, "r.yaml", {}, everything_built_in());
}

bool mentions(const std::vector<std::string>& problems, const std::string& what) {
  return std::any_of(problems.begin(), problems.end(),
                     [&](const std::string& problem) { return problem.find(what) != std::string::npos; });
}

}  // namespace

TEST_CASE("amounts are fractions below one and units from one on") {
  CHECK(CutAmount{0.25}.of(48) == 12);
  CHECK(CutAmount{0.1}.of(30) == 3);
  CHECK(CutAmount{0.1}.of(29) == 2);
  CHECK(CutAmount{3}.of(48) == 3);
  CHECK(CutAmount{99}.of(48) == 48);
  CHECK(CutAmount{}.of(48) == 0);
}

TEST_CASE("the plan counts activations in memory and on disk; the place of the report is checked before the run") {
  Pruning pruning("llama");
  pruning.options.ffn = {0.25};
  pruning.options.importance = UnitImportance::flap;
  pruning.give_data();
  const StructuredPlan roomy = pruning.plan();
  REQUIRE(roomy.problems.empty());
  REQUIRE(roomy.calibration);
  CHECK(roomy.calibration->disk_bytes == 0);
  // Residual streams of 12 x 24 tokens of 32 channels.
  constexpr std::uint64_t kStream = 12ULL * 24 * 32 * 4;
  pruning.resources.calibration.activation_bytes = 4096;
  StructuredPlan tight = pruning.plan();
  CHECK(tight.calibration->disk_bytes == kStream - 4096);
  CHECK(roomy.peak_memory - tight.peak_memory == tight.calibration->disk_bytes);
  // Fitting keeps what the last linears of both models read as well: 32 + 48 channels, in an old and a new place.
  pruning.options.compensation = Compensation::least_squares;
  tight = pruning.plan();
  CHECK(tight.calibration->disk_bytes == 2 * (2 * (12ULL * 24 * (32 + 48) * 4) - 4096));

  pruning.options.report_path = (pruning.dir / "nowhere" / "kept.json").string();
  CHECK(mentions(pruning.plan().problems, "nowhere is no folder that is there"));
  pruning.options.report_path = pruning.dir.path().string();
  CHECK(mentions(pruning.plan().problems, "is a folder; give the name of a file"));
  pruning.options.report_path = (pruning.dir / "kept.json").string();
  CHECK(pruning.plan().problems.empty());
}

TEST_CASE("which layers are ignored is a part of the plan's identity, where the report goes is not") {
  Pruning pruning("llama");
  pruning.options.layers = {1};
  const std::string identity = pruning.plan().identity;
  pruning.options.report_path = (pruning.dir / "kept.json").string();
  CHECK(pruning.plan().identity == identity);
  pruning.options.ignore.push_back({"model.layers.0", {}});
  CHECK(pruning.plan().identity != identity);
}

TEST_CASE("a recipe's fields arrive as options") {
  const Recipe recipe = recipe_with(
      "    StructuredPruningModifier:\n      heads: 0.25\n      ffn: 128\n      hidden: 0.1\n      layers: 1\n"
      "      experts: 0.5\n      head_unit: group\n      ffn_divisor: 64\n      importance: flap\n"
      "      compensate: true\n      target: block\n      damping: 0.05\n      add_bias: true\n"
      "      layer_importance: cosine\n      expert_importance: norm\n      report_path: kept.json\n");
  REQUIRE(is_restructuring(recipe, everything_built_in()));
  const StructuredOptions options = structured_options(recipe, everything_built_in());
  CHECK(options.heads.value == 0.25);
  CHECK(options.ffn.value == 128);
  CHECK(options.hidden.value == 0.1);
  CHECK(options.layers.value == 1);
  CHECK(options.experts.value == 0.5);
  CHECK(options.head_unit == HeadUnit::group);
  CHECK(options.ffn_divisor == 64);
  CHECK(options.importance == UnitImportance::flap);
  CHECK(options.compensation == Compensation::least_squares);
  CHECK(options.target == CompensationTarget::block);
  CHECK(options.damping == 0.05);
  CHECK(options.add_bias);
  CHECK(options.layer_importance == LayerImportance::cosine);
  CHECK(options.expert_importance == ExpertImportance::norm);
  CHECK(options.report_path == "kept.json");
  const Recipe reap = recipe_with("    REAPPruningModifier: {sparsity: 0.25}\n");
  const StructuredOptions experts = structured_options(reap, everything_built_in());
  CHECK(experts.experts.value == 0.25);
  CHECK(experts.expert_importance == ExpertImportance::router);
  CHECK_FALSE(is_restructuring(recipe_with("    QuantizationModifier: {targets: [Linear], scheme: W4A16}\n"),
                               everything_built_in()));
}

TEST_CASE("mistakes in a recipe name their field") {
  const auto refused = [](const std::string& fields, const std::string& what) {
    INFO(fields);
    try {
      recipe_with("    StructuredPruningModifier: {" + fields + "}\n");
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(std::string(error.what()).find(what) != std::string::npos);
    }
  };
  refused("ffn: -0.1", "ffn: -0.1 is neither a fraction");
  refused("ffn: 1.5", "ffn: 1.5 is neither a fraction");
  refused("heads: .nan", "heads");
  refused("ffn: 0.2, importance: taylor", "there is no 'taylor'; known are magnitude, activation, flap");
  refused("ffn: 0.2, compensate: maybe", "there is no 'maybe'");
  refused("ffn: 0.2, damping: 2", "damping: 2 is not between 0 and 1");
  refused("ffn: 0.2, head_unit: pair", "there is no 'pair'");
  refused("fnn: 0.2", "did you mean 'ffn'");
  CHECK_THROWS_AS(recipe_with("    REAPPruningModifier: {sparsity: 1.0}\n"), Error);
}

TEST_CASE("other modifiers beside it are refused with a way out") {
  const Recipe recipe = recipe_with(
      "    StructuredPruningModifier: {ffn: 0.25}\n"
      "    QuantizationModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head]}\n");
  try {
    structured_options(recipe, everything_built_in());
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("r.yaml:3:") != std::string::npos);
    CHECK(error.hint().find("run it on the result") != std::string::npos);
  }
}

TEST_CASE("a plan of quantization says that it does not change shapes") {
  const auto golden = golden_model("llama");
  const Plan plan = make_plan(golden->checkpoint, recipe_with("    StructuredPruningModifier: {ffn: 0.25}\n"),
                              everything_built_in(), {});
  CHECK(mentions(plan.problems, "r.yaml:3:5: StructuredPruningModifier changes the model's shapes"));
}

TEST_CASE("the plan says sizes before anything is read") {
  Pruning pruning("llama");
  pruning.options.heads = {0.5};
  pruning.options.ffn = {0.25};
  pruning.options.layers = {1};
  const StructuredPlan plan = pruning.plan();
  CHECK(plan.problems.empty());
  CHECK(plan.family == "llama");
  REQUIRE(plan.axes.size() == 3);
  CHECK(plan.axes[0].key == "num_hidden_layers");
  CHECK(plan.axes[1].after == 2);
  CHECK(plan.axes[2].after == 36);
  // Embeddings and head 64 x 32 each, a final norm, one layer: q 16, k and v 16 x 32 each, o, three of 36, two norms.
  const std::uint64_t expected = 2 * 64 * 32 + 32 + (16 + 16 + 16 + 16) * 32 + 3 * 36 * 32 + 2 * 32;
  CHECK(plan.parameters_after == expected);
  CHECK(plan.bytes_after == 4 * expected);
  CHECK(plan.peak_memory > 0);
  CHECK_FALSE(plan.identity.empty());
  pruning.options.ffn = {0.5};
  CHECK(pruning.plan().identity != plan.identity);
}

TEST_CASE("all problems at once, each with its reason") {
  Pruning pruning("mixtral");
  pruning.options.heads = {0.1};
  pruning.options.ffn = {0.001};
  pruning.options.layers = {2};
  pruning.options.experts = {0.75};
  pruning.options.importance = UnitImportance::flap;
  const StructuredPlan plan = pruning.plan();
  CHECK(mentions(plan.problems, "heads: 10 % of 4 heads"));
  CHECK(mentions(plan.problems, "ffn: 0.1 % of 48 channels of an MLP removes nothing"));
  CHECK(mentions(plan.problems, "layers: 2 of 2 layers leaves none"));
  CHECK(mentions(plan.problems, "each token chooses 2"));
  CHECK(mentions(plan.problems, "--calibration"));
  CHECK(plan.problems.size() == 5);
  CHECK_THROWS_AS(run_structured(plan, {}), Error);
}

TEST_CASE("single problems") {
  Pruning pruning("llama");
  CHECK(mentions(pruning.plan().problems, "removes nothing"));
  pruning.options.experts = {1};
  CHECK(mentions(pruning.plan().problems, "no mixture of experts"));
  pruning.options = {};
  pruning.options.ffn = {0.25};
  pruning.options.add_bias = true;
  CHECK(mentions(pruning.plan().problems, "add_bias"));
  pruning.options.compensation = Compensation::least_squares;
  CHECK(mentions(pruning.plan().problems, "--calibration"));
  pruning.resources.calibration.file = pruning.dir / "nowhere.npy";
  const StructuredPlan unread = pruning.plan();
  REQUIRE(unread.input_error != nullptr);
  CHECK(unread.input_error->code() == ErrorCode::io);
  pruning.options = {};
  pruning.options.ffn = {0.25};
  pruning.resources.memory_bytes = 1000;
  CHECK(mentions(pruning.plan().problems, "--memory"));
}

TEST_CASE("biases that config.json cannot name are refused") {
  Pruning pruning("qwen2");
  pruning.give_data();
  pruning.options.ffn = {0.25};
  pruning.options.compensation = Compensation::least_squares;
  pruning.options.add_bias = true;
  CHECK(mentions(pruning.plan().problems, "cannot say that model.layers.*.mlp.down_proj has a bias"));
}

TEST_CASE("unknown, quantized and foreign models are refused") {
  Pruning pruning("llama");
  pruning.options.ffn = {0.25};
  auto config = pruning.golden->config();
  config["model_type"] = "mamba";
  pruning.golden->set_config(config);
  CHECK(mentions(pruning.plan().problems, "'mamba' is a model_type whose structure this version does not know"));
  config["model_type"] = "llama";
  config["quantization_config"] = {{"quant_method", "bitsandbytes"}};
  pruning.golden->set_config(config);
  CHECK(mentions(pruning.plan().problems, "is quantized (bitsandbytes)"));
  config.erase("quantization_config");
  config["num_hidden_layers"] = 3;
  pruning.golden->set_config(config);
  CHECK(mentions(pruning.plan().problems, "model.layers.2"));
  config["num_hidden_layers"] = 2;
  pruning.golden->set_config(config);
  pruning.golden->checkpoint.set_values("model.layers.0.mlp.extra", DType::F32, {48}, std::vector<float>(48));
  CHECK(mentions(pruning.plan().problems, "'model.layers.0.mlp.extra' is read by no operation"));
  pruning.golden->checkpoint.remove("model.layers.0.mlp.extra");
  pruning.golden->checkpoint.set_values("model.layers.0.self_attn.rotary_emb.inv_freq", DType::F32, {4},
                                        std::vector<float>(4));
  CHECK(pruning.plan().problems.empty());
}

TEST_CASE("weights of a type without rows of bytes are refused") {
  Pruning pruning("llama");
  pruning.options.ffn = {0.25};
  pruning.golden->checkpoint.set_values("model.layers.0.mlp.down_proj.weight", DType::F8_E4M3, {32, 48},
                                        std::vector<std::uint8_t>(32 * 48));
  CHECK(mentions(pruning.plan().problems, "of type F8_E4M3, which cannot be cut"));
}

TEST_CASE("ignored layers stay; ignoring what other axes cut is refused") {
  Pruning pruning("gemma3");
  pruning.options.layers = {1};
  pruning.run("any");
  const auto structure = nlohmann::json::parse(read_file(pruning.dir / "any" / "structure.json"));
  std::size_t lowest = 0;
  for (std::size_t layer = 0; layer < 3; ++layer) {
    if (structure.at("layers").at(layer).at("becomes").is_null()) lowest = layer;
  }
  const Axes found(pruning.golden->checkpoint);
  pruning.options.ignore = {{found.program.blocks[lowest].name, {}}};
  pruning.run("ignored");
  const auto other = nlohmann::json::parse(read_file(pruning.dir / "ignored" / "structure.json"));
  CHECK_FALSE(other.at("layers").at(lowest).at("becomes").is_null());
  pruning.options.ignore = {{"re:.*layers.[0-2]$", {}}};
  CHECK(mentions(pruning.plan().problems, "'ignore' names 3"));
  pruning.options = {};
  pruning.options.ffn = {0.25};
  pruning.options.ignore = {{"lm_head", {}}};
  CHECK(pruning.plan().problems.empty());
  pruning.options.ignore = {{"re:.*layers.0.mlp", {}}};
  CHECK(mentions(pruning.plan().problems, "would leave"));
}

TEST_CASE("layers keep their meaning when others go") {
  // Windows by the number of a layer, dense layers among mixtures.
  for (const char* name : {"qwen2_window", "gemma3_text", "gemma2", "qwen2_moe_window", "qwen3_moe"}) {
    INFO(name);
    Pruning pruning(name);
    const Axes before(pruning.golden->checkpoint);
    pruning.options.layers = {1};
    pruning.run();
    const auto structure = nlohmann::json::parse(read_file(pruning.dir / "out" / "structure.json"));
    const auto opened = pruning.opened();
    const Axes after(*opened);
    for (std::size_t b = 0; b < before.axes.blocks.size(); ++b) {
      const auto& becomes = structure.at("layers").at(b).at("becomes");
      if (becomes.is_null()) continue;
      const auto& old = std::get<AttentionOp>(before.program.blocks[b].ops[before.axes.blocks[b].attention->op]);
      const auto place = becomes.get<std::size_t>();
      const auto& own = std::get<AttentionOp>(after.program.blocks[place].ops[after.axes.blocks[place].attention->op]);
      CHECK(old.window == own.window);
      CHECK(before.program.blocks[b].ops.size() == after.program.blocks[place].ops.size());
    }
  }
}

TEST_CASE("a hidden width that scales embeddings cannot be said") {
  Pruning pruning("gemma2");
  pruning.options.hidden = {0.25};
  REQUIRE(pruning.plan().problems.size() == 1);
  CHECK(mentions(pruning.plan().problems, "the factor of its embeddings"));
}
