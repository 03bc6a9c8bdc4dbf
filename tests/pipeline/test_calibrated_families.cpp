// Smoothing sites, folding and stages of every family of models.
#include <cmath>
#include <set>

#include "../model/golden_model.h"
#include "naive_statistics.h"
#include "pipeline/fold.h"
#include "plan/smoothing_sites.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

std::vector<float> block_outputs(const Program& program, const ModelWeights& weights, const std::vector<float>& input,
                                 std::uint64_t tokens) {
  ProgramRunner runner(program, weights, {});
  Values values(program);
  values.at(program.input) = input;
  Batch batch;
  batch.lengths = {tokens};
  runner.run(0, program.ops.size(), batch, values, {});
  return values.at(program.output);
}

std::vector<float> factors_of(const SmoothingSite& site, std::uint64_t cols) {
  std::vector<float> s(cols);
  for (std::size_t c = 0; c < s.size(); ++c) {
    const std::size_t channel = site.rows.empty() ? c : site.rows[c];
    s[c] = 0.4F + 0.3F * static_cast<float>((channel * 7 + 3) % 11);
  }
  return s;
}

const char* name_of(ProducerKind kind) {
  const char* names[] = {"norm", "value", "gated_product", "relu", "linear"};
  return names[static_cast<int>(kind)];
}

std::set<std::string> kinds_of(const std::string& golden) {
  const auto model = golden_model(golden);
  const LogicalTensors tensors(model->checkpoint, builtin_registry());
  std::set<std::string> kinds;
  for (const Program& block : build_model_program(tensors).blocks) {
    for (const SmoothingSite& site : find_smoothing_sites(block)) kinds.insert(name_of(site.kind));
  }
  return kinds;
}

}  // namespace

TEST_CASE("folding leaves every block of every family as it was") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    const auto model = golden_model(name);
    const LogicalTensors tensors(model->checkpoint, builtin_registry());
    const ModelProgram program = build_model_program(tensors);
    for (const Program& block : program.blocks) {
      INFO(block.name);
      constexpr std::uint64_t kTokens = 9;
      std::minstd_rand random(5);
      std::normal_distribution<float> normal;
      std::vector<float> input(kTokens * program.hidden);
      for (float& x : input) x = normal(random);
      ModelWeights weights(tensors);
      ModelWeights reference(tensors);
      const std::vector<float> before = block_outputs(block, weights, input, kTokens);
      const std::set<std::string> quantized;
      std::set<std::string> changed;
      const FoldTarget target{&block, &weights, &reference, &quantized, &changed, 2};
      for (const SmoothingSite& site : find_smoothing_sites(block)) {
        INFO(site.smooth_layer << " " << name_of(site.kind));
        const std::uint64_t cols = block.values[static_cast<std::size_t>(site.value)].width;
        const auto size = changed.size();
        CHECK_FALSE(fold(target, site, factors_of(site, cols)).empty());
        CHECK(changed.size() > size - (site.expert > 0 ? 1 : 0));
        for (const LinearPlace& reader : site.readers) CHECK(changed.contains(weight_at(block, reader).tensor));
        CHECK(relative_error(block_outputs(block, weights, input, kTokens), before) < 3e-5);
        CHECK(relative_error(block_outputs(block, reference, input, kTokens), before) < 3e-5);
      }
    }
  }
}

TEST_CASE("folding keeps the zeros of pruned weights") {
  const auto zeros = [](const std::vector<float>& values) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < values.size(); i += 3) count += values[i] == 0 ? 1 : 0;
    return count;
  };
  for (const std::string& name : golden_names()) {
    INFO(name);
    const auto model = golden_model(name);
    const LogicalTensors tensors(model->checkpoint, builtin_registry());
    for (const Program& block : build_model_program(tensors).blocks) {
      ModelWeights weights(tensors);
      const std::vector<SmoothingSite> sites = find_smoothing_sites(block);
      for (const SmoothingSite& site : sites) {
        for (const LinearPlace& reader : site.readers) {
          std::vector<float> values = weights.read(weight_at(block, reader), 1);
          for (std::size_t i = 0; i < values.size(); i += 3) values[i] = 0;
          weights.set(weight_at(block, reader), std::move(values));
        }
      }
      const std::set<std::string> quantized;
      std::set<std::string> changed;
      const FoldTarget target{&block, &weights, nullptr, &quantized, &changed, 2};
      for (const SmoothingSite& site : sites) {
        fold(target, site, factors_of(site, block.values[static_cast<std::size_t>(site.value)].width));
      }
      CHECK(changed.empty() == sites.empty());
      for (const SmoothingSite& site : sites) {
        for (const LinearPlace& reader : site.readers) {
          const std::vector<float> values = weights.read(weight_at(block, reader), 1);
          CHECK(zeros(values) == (values.size() + 2) / 3);
        }
      }
    }
  }
}

TEST_CASE("factors that a type cannot hold change nothing") {
  const auto model = golden_model("llama");
  const LogicalTensors tensors(model->checkpoint, builtin_registry());
  const ModelProgram program = build_model_program(tensors);
  const Program& block = program.blocks.front();
  ModelWeights weights(tensors);
  const std::set<std::string> quantized;
  std::set<std::string> changed;
  const FoldTarget target{&block, &weights, nullptr, &quantized, &changed, 1};
  const SmoothingSite site = find_smoothing_sites(block).front();
  const std::uint64_t cols = block.values[static_cast<std::size_t>(site.value)].width;
  CHECK(fold(target, site, std::vector<float>(cols, 1e-39F)).empty());
  CHECK(changed.empty());
}

namespace {

// The first norm of a family's tiny model, stored as `dtype`; one channel's factor takes its weight to 0.
void check_lost_channel(const std::string& family, DType dtype, float factor) {
  INFO(family << " " << dtype_name(dtype));
  const auto model = golden_model(family);
  const auto first_norm = [](const Program& block) {
    const auto sites = find_smoothing_sites(block);
    return *std::find_if(sites.begin(), sites.end(),
                         [](const SmoothingSite& site) { return site.kind == ProducerKind::norm; });
  };
  std::string norm;
  {
    const LogicalTensors tensors(model->checkpoint, builtin_registry());
    const Program block = build_model_program(tensors).blocks.front();
    norm = std::get<NormOp>(block.ops[first_norm(block).norm]).weight;
    const std::vector<float> values = ModelWeights(tensors).read(norm, 1);
    std::vector<std::byte> bytes(byte_count(dtype, {values.size()}));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint16_t half = dtype == DType::F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      if (dtype == DType::F32) {
        std::memcpy(bytes.data() + 4 * i, &values[i], 4);
      } else {
        std::memcpy(bytes.data() + 2 * i, &half, 2);
      }
    }
    model->checkpoint.set(norm, dtype, {values.size()}, bytes);
  }
  const LogicalTensors tensors(model->checkpoint, builtin_registry());
  const ModelProgram program = build_model_program(tensors);
  const Program& block = program.blocks.front();
  std::minstd_rand random(5);
  std::normal_distribution<float> normal;
  std::vector<float> input(9 * program.hidden);
  for (float& x : input) x = normal(random);
  ModelWeights weights(tensors);
  const std::vector<float> before = block_outputs(block, weights, input, 9);
  const std::set<std::string> quantized;
  std::set<std::string> changed;
  const FoldTarget target{&block, &weights, nullptr, &quantized, &changed, 1};
  const std::vector<float> stored = weights.read(norm, 1);
  std::vector<float> factors(stored.size(), 2.0F);
  factors[3] = factor;
  const std::vector<float> real = fold(target, first_norm(block), factors);
  REQUIRE(real.size() == factors.size());
  CHECK(real[3] == 1.0F);
  CHECK(real[4] == Approx(2.0F).epsilon(0.02));
  CHECK(weights.read(norm, 1)[3] == stored[3]);
  CHECK(weights.read(norm, 1)[4] != stored[4]);
  CHECK(relative_error(block_outputs(block, weights, input, 9), before) < 3e-5);
}

}  // namespace

TEST_CASE("a norm's weight that would be stored as 0 stays, and the model's function with it") {
  check_lost_channel("llama", DType::F16, 1e9F);  // 1e-9 is 0
  // Beside the 1 that Gemma adds, 0.0005 - 1 is -1 in BF16, and 2e-9 - 1 in FP32.
  check_lost_channel("gemma2", DType::BF16, 4000.0F);
  check_lost_channel("gemma2", DType::F32, 1e9F);
}

TEST_CASE("sites of the families") {
  using Kinds = std::set<std::string>;
  CHECK(kinds_of("llama") == Kinds{"norm", "value", "gated_product"});
  CHECK(kinds_of("phi3") == Kinds{"norm", "value", "gated_product"});  // slices of fused linears
  CHECK(kinds_of("gemma2") == Kinds{"norm", "value", "gated_product"});
  CHECK(kinds_of("opt") == Kinds{"norm", "value", "relu"});
  CHECK(kinds_of("gpt_neox") == Kinds{"norm", "value"});  // GELU lets no factor through
  CHECK(kinds_of("mixtral") == Kinds{"norm", "value", "gated_product"});
  // A norm behind the sum is what the residual stream reads too.
  CHECK_FALSE(kinds_of("bert").contains("norm"));
}

TEST_CASE("every family's linears are coded with the inputs of the finished model") {
  for (const char* name :
       {"llama_tied_biases", "gemma2", "opt", "gpt_neox", "stablelm_parallel", "mixtral", "phi3", "qwen2_moe", "qwen3",
        "olmo2", "bert", "bert_masked_lm", "llama_headless", "gemma3", "opt_post_norm"}) {
    INFO(name);
    const auto model = golden_model(name);
    TempDir dir;
    write_ids(dir / "ids.npy", 7, 8, 24);
    for (const bool transformed : {false, true}) {
      PlanOptions options;
      options.threads = 2;
      options.calibration.file = dir / "ids.npy";
      options.calibration.product = ProductType::f32;
      options.calibration.data.seq_len = 8;
      // The program ends with the last block: what an encoder has behind it stays as it is.
      const std::string recipe =
          (transformed ? "    ProbeTransformModifier: {}\n" : "") +
          probe("ProbeAll", 4, "", "lm_head, pooler.dense, 're:cls.*', 're:vision.*', 're:multi.*', 're:.*project_in'");
      const Plan plan = make_plan(model->checkpoint, probe_recipe(recipe), probe_registry(), options);
      for (const std::string& problem : plan.problems) UNSCOPED_INFO(problem);
      REQUIRE(plan.problems.empty());
      Seen::instance() = {};
      RunOptions run;
      run.output = dir / (transformed ? "transformed" : "plain");
      run_plan(plan, run);
      const auto naive =
          naive_statistics(run.output, read_sequences(dir / "ids.npy", nullptr, options.calibration.data).sequences);
      std::size_t compared = 0;
      for (const auto& [module, inputs] : Seen::instance().inputs) {
        const auto expected = naive.find(module);
        if (expected == naive.end()) continue;  // a producer that a transform saw
        INFO(module);
        if (transformed && inputs.gram.empty()) continue;
        CHECK(inputs.tokens == expected->second.tokens);
        if (inputs.tokens == 0) continue;
        check_near(inputs.gram, expected->second.gram, static_cast<double>(inputs.tokens), 1e-4);
        ++compared;
      }
      CHECK(compared >= 8);
    }
  }
}

TEST_CASE("the plan says where errors of the residual stream cannot be compensated") {
  const auto warning_of = [](const std::string& name) {
    const auto model = golden_model(name);
    const TempDir dir;
    write_ids(dir / "ids.npy", 4, 8, 24);
    PlanOptions options;
    options.calibration.file = dir / "ids.npy";
    options.calibration.data.seq_len = 8;
    const Plan plan = make_plan(
        model->checkpoint,
        probe_recipe(probe("ProbeResidual", 4, "", "lm_head, 're:.*project_in', 're:vision.*', 're:multi.*'")),
        probe_registry(), options);
    for (const std::string& problem : plan.problems) UNSCOPED_INFO(name << ": " << problem);
    REQUIRE(plan.problems.empty());
    std::string text;
    for (const std::string& warning : plan.warnings) {
      if (warning.find("residual stream") != std::string::npos) text += warning;
    }
    return text;
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  for (const char* name : {"llama", "qwen3", "opt", "phi3"}) {
    INFO(name);
    CHECK(warning_of(name).empty());
  }
  for (const char* name : {"gemma2", "gemma3", "olmo2"}) {
    INFO(warning_of(name));
    CHECK(has(warning_of(name), "in no linears: the outputs of "));
    CHECK(has(warning_of(name), "are normalized before they are added"));
  }
  INFO(warning_of("mixtral"));
  CHECK(has(warning_of("mixtral"), " linears only: "));
  CHECK(has(warning_of("mixtral"), "are experts"));
}

TEST_CASE("parallel branches are added to the block's input") {
  for (const std::string name : {"gpt_neox", "stablelm_parallel"}) {
    INFO(name);
    const auto model = golden_model(name);
    const TempDir dir;
    write_ids(dir / "ids.npy", 4, 16, 24);
    PlanOptions options;
    options.calibration.file = dir / "ids.npy";
    options.calibration.data.seq_len = 16;
    options.calibration.product = ProductType::f32;
    const Plan plan = make_plan(model->checkpoint, probe_recipe(probe("ProbeResidual", 3, "", "lm_head, embed_out")),
                                probe_registry(), options);
    REQUIRE(plan.problems.empty());
    Seen::instance() = {};
    RunOptions run;
    run.output = dir / "out";
    run_plan(plan, run);
    const auto output = open_checkpoint(dir / "out");
    std::size_t compared = 0;
    for (const auto& [module, inputs] : Seen::instance().inputs) {
      INFO(module);
      const bool adds = module.ends_with("attention.dense") || module.ends_with("dense_4h_to_h") ||
                        module.ends_with("o_proj") || module.ends_with("down_proj");
      CHECK(inputs.residual.empty() != adds);
      // Nothing is quantized before the first block's input.
      if (!adds || module.find("layers.0.") != std::string::npos) continue;
      check_near(inputs.residual, naive_residual(*output, model->checkpoint, dir / "ids.npy", module, true), 4 * 16,
                 1e-4);
      ++compared;
    }
    CHECK(compared >= 2);
  }
}

TEST_CASE("all experts see all tokens if asked to") {
  const auto model = golden_model("mixtral");
  TempDir dir;
  write_ids(dir / "ids.npy", 4, 8, 24);
  PlanOptions options;
  options.calibration.file = dir / "ids.npy";
  options.calibration.all_experts = true;
  options.calibration.data.seq_len = 8;
  const Plan plan = make_plan(model->checkpoint, probe_recipe(probe("ProbeAll", 4)), probe_registry(), options);
  REQUIRE(plan.problems.empty());
  Seen::instance() = {};
  RunOptions run;
  run.output = dir / "out";
  run_plan(plan, run);
  std::size_t experts = 0;
  for (const auto& [module, inputs] : Seen::instance().inputs) {
    if (module.find("experts") == std::string::npos) continue;
    INFO(module);
    CHECK(inputs.tokens == 32);
    ++experts;
  }
  CHECK(experts > 0);
}

TEST_CASE("linears that no layout has a place for are named in a warning") {
  const auto warnings_of = [](const std::string& name, const std::string& ignore) {
    const auto model = golden_model(name);
    const std::string recipe = "    QuantizationModifier:\n      ignore: [lm_head, " + ignore +
                               "]\n      config_groups:\n        a:\n          targets: [Linear, Embedding]\n"
                               "          weights: {num_bits: 8, symmetric: true, strategy: channel}\n";
    std::string text;
    for (const std::string& warning :
         make_plan(model->checkpoint, probe_recipe(recipe), probe_registry(), {}).warnings) {
      if (warning.find("copied as they are") != std::string::npos) text += warning + "\n";
    }
    return text;
  };
  CHECK(warnings_of("gpt2", "'re:.*wpe'") ==
        "transformer.h.0.attn.c_attn, transformer.h.0.attn.c_proj, transformer.h.0.mlp.c_fc and 5 more: weights stored "
        "as [in, out] (Conv1D) are copied as they are: no layout has a place for transposed linears\n");
  CHECK(warnings_of("gpt2", "'re:.*c_(attn|proj|fc)'").empty());
  for (const char* name : {"mixtral_fused", "qwen2_moe_fused", "qwen3_moe_fused"}) {
    INFO(name);
    const std::string text = warnings_of(name, "'re:.*router'");
    CHECK(text.find("experts.down_proj, ") != std::string::npos);
    CHECK(text.find(" and 1 more: tensors of three dimensions (fused experts)") != std::string::npos);
    CHECK(warnings_of(name, "'re:.*experts.*'").empty());
  }
  for (const char* name : {"llama", "mixtral", "qwen3_moe", "bert"}) CHECK(warnings_of(name, "none").empty());
}
