// Reports as files, recipes with other schemes, and what does not fit together.
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "sensitivity/support.h"
#include "support/catch.h"
#include "support/text.h"

using namespace quant;
using namespace quant::test;

namespace {

/// A report of the whole example model with made-up losses.
SensitivityReport made_up(const Plan& plan, bool independent = false) {
  SensitivityReport report;
  report.model = example();
  report.model_hash = model_fingerprint(*plan.checkpoint);
  report.recipe = "test";
  report.layout = plan.options.layout;
  report.independent = independent;
  report.source = "text.txt";
  report.hash = "00";
  report.candidates = parse_candidates("W2G32,W3G128,W4G128,W8");
  std::vector<std::string> modules;
  for (const PlannedLinear& linear : plan.linears) modules.push_back(linear.shape.module);
  const auto sets = fused_sets(modules, independent);
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    const LinearShape& shape = plan.linears[i].shape;
    LinearSensitivity linear{shape.module, shape.rows, shape.cols, sets[i], {}};
    for (const std::string& name : report.candidates) {
      const Scheme scheme = candidate_scheme(plan.groups[0].scheme, name);
      CandidateLoss loss;
      loss.scheme = describe(*scheme.weights);
      for (const StoredTensor& tensor : plan.layout->stored(scheme, shape)) loss.bytes += tensor.bytes();
      const double bits = scheme.weights->num_bits;
      loss.loss = (1 + static_cast<double>(i * 37 % 11)) / std::exp2(2 * bits);
      loss.weight_nmse = 0.1 / bits;
      linear.losses.push_back(loss);
    }
    report.linears.push_back(linear);
  }
  return report;
}

std::string parse_error(const std::string& text) {
  try {
    parse_sensitivity(text, "s.json");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::corrupt_file);
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("a report is read back as it was written") {
  const ExamplePlan base(recipe_text("Linear", 4, 128));
  SensitivityReport report = made_up(base.plan);
  report.linears[2].losses[1] = {false, "int3 sym group 128", 0, 0, 0, 0, 0};
  report.linears[3].losses[0].loss = 1.0 / 3;
  const SensitivityReport again = parse_sensitivity(sensitivity_json(report), "s.json");
  CHECK(sensitivity_json(again) == sensitivity_json(report));
  CHECK(again.linears[3].losses[0].loss == 1.0 / 3);
  CHECK_FALSE(again.linears[2].losses[1].possible);
  CHECK(again.linears.size() == 42);
  CHECK(again.model_hash == report.model_hash);
  check_sensitivity(again, base.plan);
}

TEST_CASE("broken reports are refused by name") {
  const ExamplePlan base(recipe_text("Linear", 4, 128));
  const auto good = nlohmann::json::parse(sensitivity_json(made_up(base.plan)));
  CHECK(has(parse_error("{"), "s.json: this is no JSON"));
  CHECK(has(parse_error("[1]"), "is no object"));
  CHECK(has(parse_error("{}"), "format is missing"));
  const auto with = [&](const char* pointer, const nlohmann::json& value) {
    auto changed = good;
    changed[nlohmann::json::json_pointer(pointer)] = value;
    return parse_error(changed.dump());
  };
  CHECK(has(with("/version", 1), "version is 1"));
  CHECK(has(with("/measure", "gut"), "no measure 'gut'"));
  CHECK(has(with("/candidates/1", "W3G"), "unknown candidate"));
  CHECK(has(with("/candidates", nlohmann::json::array()), "no candidate"));
  CHECK(has(with("/linears", nlohmann::json::array()), "linears is empty"));
  CHECK(has(with("/linears/1/set", 42), "linears[1].set is 42, more than 41"));
  CHECK(has(with("/linears/1/set", -1), "linears[1].set is no whole number"));
  CHECK(has(with("/linears/5/rows", 0), "linears[5] has no weights"));
  CHECK(has(with("/linears/5/rows", 1ULL << 40U), "linears[5].rows"));
  CHECK(has(with("/linears/0/losses/1/loss", -1.0), "linears[0].losses[1].loss is -1"));
  CHECK(has(with("/linears/0/losses/1/loss", nullptr), "linears[0].losses[1].loss is no number"));
  CHECK(has(with("/linears/0/losses/1/candidate", "W8"), "is not 'W3G128'"));
  CHECK(has(with("/linears/0/losses", nlohmann::json::array()), "has 0 members for 4 candidates"));
  CHECK(has(with("/linears/0/set", 27), "linears has no member of set"));
}

TEST_CASE("a report of another model, recipe or scheme is refused") {
  const ExamplePlan base(recipe_text("Linear", 4, 128));
  const SensitivityReport report = made_up(base.plan);
  const auto error_of = [&](const SensitivityReport& changed, const Plan& plan) -> std::string {
    try {
      check_sensitivity(changed, plan);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      return error.what();
    }
    return {};
  };
  CHECK(error_of(report, base.plan).empty());
  SensitivityReport elsewhere = report;
  elsewhere.model = "/models/tuned";
  elsewhere.model_hash = "0123";
  const std::string both = error_of(elsewhere, base.plan);
  CHECK(has(both, "is of another model: it was measured on /models/tuned (fingerprint 0123), this is " + example()));
  const ExamplePlan fewer(recipe_text("\"re:.*mlp.*\"", 4, 128));
  CHECK(has(error_of(report, fewer.plan), "it has 42 linears, the recipe quantizes 18"));
  SensitivityReport renamed = report;
  renamed.linears[7].module = "other";
  CHECK(has(error_of(renamed, base.plan), "'other'"));
  SensitivityReport other = report;
  other.linears[1].losses[2].bytes += 1;
  CHECK(has(error_of(other, base.plan), "W4G128 of"));
  std::string asymmetric = recipe_text("Linear", 4, 128);
  asymmetric.replace(asymmetric.find("symmetric: true"), 15, "symmetric: false");
  CHECK(has(error_of(report, ExamplePlan(asymmetric).plan), "int2"));
}

TEST_CASE("fused linears get one scheme, within every budget, and more bits lose less") {
  const ExamplePlan base(recipe_text("Linear", 4, 128));
  const SensitivityReport report = made_up(base.plan);
  double before = 1e9;
  std::uint64_t weights = 0;
  for (const PlannedLinear& linear : base.plan.linears) weights += linear.shape.rows * linear.shape.cols;
  for (const double bits : {2.6, 3.0, 3.125, 3.5, 4.0, 4.3, 6.0, 9.0}) {
    const Allocation allocation = allocate_schemes(report, budget_of_bits(bits, weights));
    CHECK(allocation.bytes >= smallest_allocation(report));
    CHECK(allocation.bits_per_weight() <= bits);
    CHECK(allocation.loss <= before);
    before = allocation.loss;
    const Plan plan = [&] {
      const auto schemes = mixed_schemes(report, allocation, base.plan);
      const std::string text = with_schemes(base.plan.recipe, 0, schemes, "mixed", full_registry());
      return make_plan(*base.checkpoint, parse_recipe(text, "mixed.yaml", {}, full_registry()), full_registry(), {});
    }();
    REQUIRE(plan.problems.empty());
    CHECK(plan.warnings.empty());
    CHECK(plan.bits_per_weight == Approx(allocation.bits_per_weight()).epsilon(1e-12));
    CHECK(plan.loading_bytes + 700'000 < plan.output_bytes);  // readme and texts beside the model
    std::map<int, std::string> of_set;
    for (std::size_t i = 0; i < plan.linears.size(); ++i) {
      const std::string scheme = describe(*plan.groups[plan.linears[i].scheme].scheme.weights);
      CHECK(scheme == report.linears[i].losses[allocation.choice[i]].scheme);
      CHECK(of_set.try_emplace(report.linears[i].set, scheme).first->second == scheme);
    }
  }
}

TEST_CASE("schemes of a recipe are replaced, and everything else stays") {
  const std::string text = R"(args: {bits: 3}
first_stage:
  scale_modifiers:
    SmoothQuantModifier: {smoothing_strength: 0.5, ignore: ["re:.*q_proj$"]}
second_stage:
  quant_modifiers:
    GPTQModifier:
      dampening_frac: 0.02
      ignore: [lm_head, "re:.*\\.0\\..*"]
      weight_observer: mse_search
      targets: Linear
      scheme: W8A8
)";
  const Registry& registry = full_registry();
  const Recipe base = parse_recipe(text, "base.yaml", {}, registry);
  REQUIRE(base.modifiers.size() == 2);
  std::vector<RecipeScheme> schemes(2, base.modifiers[1].schemes[0]);
  schemes[0].name = "low";
  schemes[0].targets = {{"a.b", {}}};
  schemes[0].scheme = candidate_scheme(schemes[0].scheme, "W3G64");
  schemes[0].scheme.weights->observer_kwargs = {{"norm", 2.0}, {"grid", std::int64_t{50}}};
  schemes[0].scheme.weights->actorder = ActOrder::weight;
  schemes[1].name = "high";
  schemes[1].targets = {{"a.c", {}}, {"a.d: #x", {}}};
  const std::string mixed_text = with_schemes(base, 1, schemes, "first\nsecond", registry);
  CHECK(has(mixed_text, "# first\n# second\n"));
  const Recipe mixed = parse_recipe(mixed_text, "mixed.yaml", {}, registry);
  REQUIRE(mixed.modifiers.size() == 2);
  CHECK(mixed.modifiers[0].parameters == base.modifiers[0].parameters);
  CHECK(mixed.modifiers[0].stage == "first_stage");
  const RecipeModifier& modifier = mixed.modifiers[1];
  CHECK(modifier.type == "GPTQModifier");
  CHECK(modifier.parameters == base.modifiers[1].parameters);
  REQUIRE(modifier.ignore.size() == 2);
  CHECK(modifier.ignore[1].text == "re:.*\\.0\\..*");
  REQUIRE(modifier.schemes.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(modifier.schemes[i].name == schemes[i].name);
    CHECK(modifier.schemes[i].scheme.weights == schemes[i].scheme.weights);
    CHECK(modifier.schemes[i].scheme.input_activations == schemes[i].scheme.input_activations);
  }
  CHECK(modifier.schemes[1].targets[1].text == "a.d: #x");
  // What is read is written the same again.
  CHECK(with_schemes(mixed, 1, modifier.schemes, "first\nsecond", registry) == mixed_text);
}

TEST_CASE("fields that only this library has survive when schemes are replaced") {
  const std::string text = R"(a_stage:
  quant_modifiers:
    CodebookModifier:
      config_groups:
        g: {targets: [Linear], weights: {num_bits: 4, type: codebook, codebook: nf4, strategy: flat, group_size: 64,
            double_quant: true, outlier_percent: 0.45, sensitive_percent: 0.05}}
    LLMInt8Modifier:
      config_groups:
        g: {targets: [lm_head], weights: {strategy: channel, observer_kwargs: {symmetric_range: restricted}},
            input_activations: {strategy: token, dynamic: true, outlier_threshold: 5.5}}
)";
  const Registry& registry = full_registry();
  const Recipe base = parse_recipe(text, "base.yaml", {}, registry);
  REQUIRE(base.modifiers.size() == 2);
  CHECK(base.modifiers[1].schemes[0].scheme.input_activations->outlier_threshold == 5.5);
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    const auto& schemes = base.modifiers[i].schemes;
    const Recipe again = parse_recipe(with_schemes(base, i, schemes, "", registry), "again.yaml", {}, registry);
    REQUIRE(again.modifiers[i].schemes.size() == 1);
    CHECK(again.modifiers[i].schemes[0].scheme.weights == schemes[0].scheme.weights);
    CHECK(again.modifiers[i].schemes[0].scheme.input_activations == schemes[0].scheme.input_activations);
  }
}
