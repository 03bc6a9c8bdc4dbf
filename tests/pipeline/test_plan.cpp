#include <algorithm>

#include "fixture.h"
#include "quant/plan.h"
#include "support/catch.h"

using namespace quant;
using quant::test::recipe_of;
using quant::test::TempDir;

namespace {

struct Planned {
  TempDir dir;
  std::unique_ptr<Checkpoint> checkpoint;
  Plan plan;
  explicit Planned(const std::string& fields, test::TinyModelOptions model = {}, PlanOptions options = {}) {
    test::write_tiny_model(dir.path(), model);
    checkpoint = open_checkpoint(dir.path());
    plan = make_plan(*checkpoint, recipe_of(fields), test::builtin_registry(), options);
  }
};

const PlannedLinear* find_linear(const Plan& plan, const std::string& module) {
  const auto found = std::find_if(plan.linears.begin(), plan.linears.end(),
                                  [&](const PlannedLinear& l) { return l.shape.module == module; });
  return found == plan.linears.end() ? nullptr : &*found;
}

std::string reason_of(const Plan& plan, const std::string& module) {
  for (const PlannedCopy& copy : plan.copies) {
    if (copy.module == module) return copy.reason;
  }
  return "";
}

bool mentions(const std::vector<std::string>& lines, const std::string& text) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

}  // namespace

TEST_CASE("a plan says which rule chose every linear and why the rest stays") {
  const Planned p("{scheme: W4A16, targets: [Linear, 're:.*down_proj'], ignore: ['re:.*layers\\.1\\..*', lm_head]}",
                  {.hidden = 128, .intermediate = 256});
  REQUIRE(p.plan.problems.empty());
  CHECK(p.plan.warnings.empty());
  CHECK(p.plan.linears.size() == 7);
  CHECK(find_linear(p.plan, "model.layers.0.mlp.up_proj")->rule == "Linear");
  CHECK(find_linear(p.plan, "model.layers.0.mlp.down_proj")->rule == "re:.*down_proj");
  CHECK(reason_of(p.plan, "model.layers.1.mlp.up_proj") == "ignored by 're:.*layers\\.1\\..*'");
  CHECK(reason_of(p.plan, "lm_head") == "ignored by 'lm_head'");
  CHECK(reason_of(p.plan, "model.embed_tokens") == "no target matches");
  CHECK(reason_of(p.plan, "model.layers.0.input_layernorm") == "a norm");
  const auto& ignored = p.plan.ignored_modules;
  CHECK(std::count(ignored.begin(), ignored.end(), "lm_head") == 1);
  CHECK(ignored.size() == 8);
}

TEST_CASE("bits and bytes follow from the layout") {
  const Planned p("{scheme: W4A16, ignore: [lm_head]}", {.hidden = 128, .intermediate = 256});
  REQUIRE(p.plan.problems.empty());
  const PlannedLinear& up = *find_linear(p.plan, "model.layers.0.mlp.up_proj");
  // 4 bits, an F16 scale for 128 weights, and two 64-bit sizes.
  CHECK(up.stored_bytes == 256 * 128 / 2 + 256 * 2 + 16);
  CHECK(up.bits_per_weight == Approx(4.0 + 16.0 / 128 + 128.0 / (256 * 128)));
  std::uint64_t total = 0;
  for (const PlannedShard& shard : p.plan.shards) {
    for (const StoredTensor& tensor : shard.tensors) total += tensor.bytes();
  }
  CHECK(p.plan.bytes_after == total);
  CHECK(p.plan.output_bytes > total);
}

TEST_CASE("stored tensors are aligned to their element size and found at their places") {
  const Planned p("{scheme: W4A16_ASYM, ignore: [lm_head]}", {.hidden = 128, .intermediate = 256});
  REQUIRE(p.plan.shards.size() == 1);
  const PlannedShard& shard = p.plan.shards.front();
  std::uint64_t offset = 0;
  for (const StoredTensor& tensor : shard.tensors) {
    CHECK(offset % std::max(1U, dtype_bits(tensor.dtype) / 8) == 0);
    offset += tensor.bytes();
  }
  for (const PlannedItem& item : shard.items) {
    if (!item.quantized) continue;
    const PlannedLinear& linear = p.plan.linears[item.index];
    REQUIRE(item.places.size() == linear.stored.size());
    for (std::size_t t = 0; t < linear.stored.size(); ++t) CHECK(shard.tensors[item.places[t]] == linear.stored[t]);
  }
}

TEST_CASE("shards keep a linear's tensors together and below the limit") {
  PlanOptions options;
  options.shard_bytes = 40'000;
  const Planned p("{scheme: W8A16, ignore: [lm_head]}", {.layers = 4, .hidden = 128, .intermediate = 256}, options);
  REQUIRE(p.plan.shards.size() > 1);
  CHECK(p.plan.shards.front().file == "model-00001-of-" +
                                          std::string(5 - std::to_string(p.plan.shards.size()).size(), '0') +
                                          std::to_string(p.plan.shards.size()) + ".safetensors");
  CHECK_FALSE(p.plan.index_json.empty());
  for (const PlannedShard& shard : p.plan.shards) {
    std::uint64_t bytes = 0;
    for (const StoredTensor& tensor : shard.tensors) bytes += tensor.bytes();
    CHECK((bytes <= options.shard_bytes || shard.items.size() == 1));
  }
}

TEST_CASE("all problems are reported at once") {
  PlanOptions options;
  options.layout = "nonsense";
  const Planned layout("{scheme: W4A16}", {}, options);
  CHECK(mentions(layout.plan.problems, "no layout named 'nonsense'"));

  const Planned p(
      "{config_groups: {a: {targets: ['re:.*gate_proj'], weights: {num_bits: 4, group_size: 48}}, "
      "b: {targets: ['re:.*up_proj'], weights: {num_bits: 4, strategy: group, group_size: 40}}}}");
  CHECK(p.plan.problems.size() == 2);
  CHECK(mentions(p.plan.problems, "64 columns are no multiple of group_size 48"));
  CHECK(mentions(p.plan.problems, "64 columns are no multiple of group_size 40"));
  CHECK(mentions(p.plan.problems, "model.layers.0.mlp.gate_proj, model.layers.1.mlp.gate_proj:"));
}

TEST_CASE("patterns that match nothing are warnings with a suggestion") {
  const Planned p("{scheme: W8A8, ignore: [lm_haed, 're:.*router']}");
  CHECK(p.plan.problems.empty());
  REQUIRE(p.plan.warnings.size() == 2);
  CHECK(mentions(p.plan.warnings, "did you mean 'lm_head'?"));
  CHECK(mentions(p.plan.warnings, "test.yaml:4"));
}

TEST_CASE("two modifiers cannot quantize one linear") {
  TempDir dir;
  test::write_tiny_model(dir.path());
  const auto checkpoint = open_checkpoint(dir.path());
  const Recipe recipe = parse_recipe(
      "s_stage:\n  a_modifiers:\n    QuantizationModifier: {scheme: W8A8}\n  b_modifiers:\n    QuantizationModifier: "
      "{scheme: "
      "W8A16, targets: ['re:.*q_proj'], bypass_divisibility_checks: true}\n",
      "two.yaml", {}, test::builtin_registry());
  const Plan plan = make_plan(*checkpoint, recipe, test::builtin_registry(), {});
  CHECK(mentions(plan.problems, "is quantized twice"));
}

TEST_CASE("an already quantized model, an empty match and a tied head are told") {
  TempDir dir;
  test::write_tiny_model(dir.path());
  test::write_file(dir / "config.json", R"({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}})");
  const auto checkpoint = open_checkpoint(dir.path());
  CHECK(mentions(make_plan(*checkpoint, recipe_of("{scheme: W8A8}"), test::builtin_registry(), {}).problems,
                 "quantized already"));

  const Planned none("{scheme: W8A8, targets: ['re:nothing']}");
  CHECK(mentions(none.plan.problems, "nothing would be changed"));

  const Planned tied("{scheme: W8A8}");
  CHECK(tied.plan.problems.empty());
  CHECK(reason_of(tied.plan, "lm_head") == "tied to the embedding");
}

TEST_CASE("fused linears share a set only under NVFP4") {
  const Planned fp4("{scheme: NVFP4A16, ignore: [lm_head]}");
  REQUIRE(fp4.plan.problems.empty());
  const auto set = [&](const Plan& plan, const std::string& name) {
    return find_linear(plan, "model.layers." + name)->fused_set;
  };
  CHECK(set(fp4.plan, "0.self_attn.q_proj") >= 0);
  CHECK(set(fp4.plan, "0.self_attn.q_proj") == set(fp4.plan, "0.self_attn.v_proj"));
  CHECK(set(fp4.plan, "0.self_attn.q_proj") != set(fp4.plan, "1.self_attn.q_proj"));
  CHECK(set(fp4.plan, "0.mlp.gate_proj") == set(fp4.plan, "0.mlp.up_proj"));
  CHECK(set(fp4.plan, "0.mlp.down_proj") == -1);
  const Planned int8("{scheme: W8A8, ignore: [lm_head]}");
  CHECK(set(int8.plan, "0.self_attn.q_proj") == -1);
}

TEST_CASE("a memory limit shrinks the work or is refused") {
  const Planned free("{scheme: W8A8}", {.hidden = 512, .intermediate = 4096});
  PlanOptions options;
  options.threads = 2;
  options.memory_bytes = free.plan.peak_memory - (1U << 20U);
  const Planned limited("{scheme: W8A8}", {.hidden = 512, .intermediate = 4096}, options);
  CHECK(limited.plan.problems.empty());
  CHECK(limited.plan.peak_memory <= options.memory_bytes);
  options.memory_bytes = 1U << 20U;
  const Planned refused("{scheme: W8A8}", {}, options);
  CHECK(mentions(refused.plan.problems, "too small"));
}

TEST_CASE("the identity depends on what decides the bytes and on nothing else") {
  PlanOptions threads;
  threads.threads = 7;
  PlanOptions shards;
  shards.shard_bytes = 30'000;
  const std::string base = Planned("{scheme: W8A8}").plan.identity;
  CHECK(base == Planned("{scheme: W8A8}", {}, threads).plan.identity);
  CHECK(base != Planned("{scheme: W8A8}", {}, shards).plan.identity);
  CHECK(base != Planned("{scheme: W8A8, ignore: ['re:.*q_proj']}").plan.identity);
  CHECK(base != Planned("{scheme: W8A8}", {.layers = 3}).plan.identity);
}

TEST_CASE("groups that do not divide the columns need leave, and give one warning per scheme group") {
  const std::string groups =
      "{config_groups: {a: {targets: ['re:.*self_attn.*'], weights: {num_bits: 4, group_size: 48}}, "
      "b: {targets: ['re:.*down_proj'], weights: {num_bits: 4, group_size: 40}}, "
      "c: {targets: ['re:.*gate_proj'], weights: {num_bits: 4, group_size: 32}}}";
  const Planned refused(groups + "}");
  CHECK(mentions(refused.plan.problems, "bypass_divisibility_checks"));
  CHECK(refused.plan.warnings.empty());

  const Planned allowed(groups + ", bypass_divisibility_checks: true}");
  CHECK(allowed.plan.problems.empty());
  REQUIRE(allowed.plan.warnings.size() == 2);
  CHECK(mentions(allowed.plan.warnings, "a: 8 linears with a last group shorter than 48"));
  CHECK(mentions(allowed.plan.warnings, "b: 2 linears with a last group shorter than 40"));
  CHECK(mentions(allowed.plan.warnings,
                 "other readers of compressed-tensors refuse groups that do not divide the columns"));
  // 64 columns in groups of 48: two scales a row.
  const PlannedLinear& q = *find_linear(allowed.plan, "model.layers.0.self_attn.q_proj");
  CHECK(q.stored_bytes == 64 * 64 / 2 + 64 * 2 * 2 + 16);

  // NVFP4 has whole groups only: no leave helps, and none is advised.
  const Planned nvfp4("{scheme: NVFP4A16}", {.hidden = 72});
  CHECK(mentions(nvfp4.plan.problems, "72 columns are no multiple of group_size 16"));
  CHECK_FALSE(mentions(nvfp4.plan.problems, "bypass_divisibility_checks"));
  const Planned forced("{scheme: NVFP4A16, bypass_divisibility_checks: true}", {.hidden = 72});
  CHECK(mentions(forced.plan.problems, "whole groups only"));
}

TEST_CASE("a tensor that has the name of a stored part is told as what it is") {
  TempDir dir;
  test::write_tiny_model(dir.path());
  test::write_random_file(
      dir / "model.safetensors",
      {{"a.weight", DType::F16, {64, 64}}, {"a.weight_scale", DType::F16, {64}}, {"b.weight", DType::F16, {64, 64}}},
      1);
  const auto checkpoint = open_checkpoint(dir.path());
  for (const std::uint64_t shard_bytes : {std::uint64_t{1}, std::uint64_t{1} << 30U}) {  // in two shards and in one
    PlanOptions options;
    options.shard_bytes = shard_bytes;
    const Plan plan = make_plan(*checkpoint, recipe_of("{scheme: W8A8}"), test::builtin_registry(), options);
    REQUIRE(plan.problems.size() == 1);
    CHECK(mentions(plan.problems, "two output tensors would be named 'a.weight_scale'"));
    CHECK(mentions(plan.problems, "ignore list"));
    const Plan ignored =
        make_plan(*checkpoint, recipe_of("{scheme: W8A8, ignore: [a]}"), test::builtin_registry(), options);
    CHECK(ignored.problems.empty());
  }
}
