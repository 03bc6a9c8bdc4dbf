// Pruning in plans and runs: exact zeros, alone and before a quantizer, without data and with it, dense and compact.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "calibrated_fixture.h"
#include "quant/error.h"
#include "quant/logical_tensors.h"
#include "quant/sparsity_profile.h"
#include "quant/statistics_file.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

Recipe recipe_with(const std::string& modifiers) {
  return parse_recipe("s_stage:\n  s_modifiers:\n" + modifiers, "test.yaml", {}, builtin_registry());
}

constexpr const char* kMagnitude = "    MagnitudePruningModifier: {sparsity: 0.5}\n";
constexpr const char* kMagnitude24 = "    MagnitudePruningModifier: {pattern: \"2:4\"}\n";
constexpr const char* kWanda = "    WandaPruningModifier: {sparsity: 0.5}\n";
constexpr const char* kSparseGpt24 = "    SparseGPTModifier: {pattern: \"2:4\"}\n";
constexpr const char* kRounding = "    QuantizationModifier: {targets: Linear, scheme: W4A16, ignore: [lm_head]}\n";
constexpr const char* kGptq =
    "    GPTQModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: 4, strategy: channel, symmetric: "
    "false}}}, ignore: [lm_head]}\n";

class Fixture {
 public:
  Fixture() {
    write_tiny_llama(dir_.path() / "model", {.hidden = 128, .intermediate = 128});
    write_ids(dir_.path() / "ids.npy", 6, 40, 50);
    model_ = open_checkpoint(dir_.path() / "model");
  }

  PlanOptions options(const std::string& layout = std::string(kAutomaticLayout), int threads = 2) const {
    PlanOptions options;
    options.layout = layout;
    options.threads = threads;
    options.calibration.file = dir_.path() / "ids.npy";
    options.calibration.data.seq_len = 40;
    return options;
  }
  Plan plan(const std::string& modifiers, const std::string& layout = std::string(kAutomaticLayout),
            int threads = 2) const {
    return make_plan(*model_, recipe_with(modifiers), builtin_registry(), options(layout, threads));
  }
  RunReport run(const std::string& modifiers, const std::string& name,
                const std::string& layout = std::string(kAutomaticLayout), int threads = 2) const {
    const Plan made = plan(modifiers, layout, threads);
    INFO((made.problems.empty() ? std::string() : made.problems.front()));
    REQUIRE(made.problems.empty());
    RunOptions options;
    options.output = path(name);
    return run_plan(made, options);
  }
  std::filesystem::path path(const std::string& name) const { return dir_.path() / name; }
  const Checkpoint& model() const { return *model_; }

  static std::vector<float> values(const std::filesystem::path& directory, const std::string& tensor) {
    const auto checkpoint = open_checkpoint(directory);
    const LogicalTensors tensors(*checkpoint, builtin_registry());
    const LogicalTensor* found = tensors.find(tensor);
    REQUIRE(found != nullptr);
    std::vector<float> out(found->count());
    tensors.read_rows(*found, 0, found->rows, out);
    return out;
  }

 private:
  TempDir dir_;
  std::unique_ptr<Checkpoint> model_;
};

// Removes every other column of what reads activations, and can stop the run from within.
class HalfPruner final : public Sparsifier {
 public:
  static inline std::atomic<bool> stop{false};
  static inline std::atomic<int> stop_after{0};
  static inline std::atomic<int> calls{0};

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.square = true;
    return needs;
  }
  SparsityPattern pattern(const std::string& /*module*/) const override { return parse_pattern("1:2"); }
  std::optional<std::uint64_t> kept(const SparsityPattern& /*pattern*/, std::uint64_t rows,
                                    std::uint64_t cols) const override {
    return rows * cols / 2;
  }
  void prune(std::span<PruneTask> group, const InputStatistics& inputs, const RunContext& /*context*/) const override {
    CHECK(inputs.square.size() == group.front().cols);
    for (PruneTask& task : group) {
      for (std::size_t i = 0; i < task.weight.size(); i += 2) task.weight[i] = 0, task.mask[i] = 0;
      if (stop_after > 0 && ++calls >= stop_after) stop = true;
    }
  }
};

// As a refit on bad data might: weights beyond what F16 holds.
class BlowUp final : public Sparsifier {
 public:
  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.square = true;
    return needs;
  }
  SparsityPattern pattern(const std::string& /*module*/) const override { return {}; }
  std::optional<std::uint64_t> kept(const SparsityPattern&, std::uint64_t, std::uint64_t) const override {
    return std::nullopt;
  }
  void prune(std::span<PruneTask> group, const InputStatistics&, const RunContext&) const override {
    for (PruneTask& task : group) {
      task.weight[0] = 0, task.mask[0] = 0;
      task.weight[1] = 1e6F, task.weight[3] = -70000, task.weight[5] = 65510;  // which rounds to 65504
    }
  }
};

std::size_t zeros(const std::vector<float>& values) {
  return static_cast<std::size_t>(std::count(values.begin(), values.end(), 0.0F));
}

constexpr const char* kUp = "model.layers.1.mlp.up_proj.weight";

}  // namespace

TEST_CASE("pruning alone sets the smallest weights to zero and changes nothing else of the checkpoint") {
  const Fixture fixture;
  const RunReport report = fixture.run(kMagnitude, "out");
  CHECK(read_file(fixture.path("out") / "config.json") == read_file(fixture.path("model") / "config.json"));
  const std::vector<float> before = Fixture::values(fixture.path("model"), kUp);
  const std::vector<float> after = Fixture::values(fixture.path("out"), kUp);
  CHECK(zeros(after) == after.size() / 2);
  float largest_removed = 0, smallest_kept = 1e9F;
  for (std::size_t i = 0; i < after.size(); ++i) {
    if (after[i] == 0) {
      largest_removed = std::max(largest_removed, std::fabs(before[i]));
    } else {
      CHECK(after[i] == before[i]);
      smallest_kept = std::min(smallest_kept, std::fabs(before[i]));
    }
  }
  CHECK(largest_removed <= smallest_kept);
  // The head and the embeddings lie outside of the layers.
  for (const char* tensor : {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"}) {
    CHECK(Fixture::values(fixture.path("out"), tensor) == Fixture::values(fixture.path("model"), tensor));
  }
  REQUIRE(report.layers.size() == 14);
  for (const LayerReport& layer : report.layers) {
    INFO(layer.module);
    REQUIRE(layer.sparsity);
    CHECK(layer.sparsity->modifiers == "MagnitudePruningModifier");
    CHECK(layer.sparsity->pattern == "50 %");
    CHECK(layer.sums.zeros == layer.sums.count / 2);
    CHECK(layer.bits_per_weight == 16);
    CHECK(layer.sums.noise > 0);
  }
}

TEST_CASE("the head is pruned where a target names it") {
  const Fixture fixture;
  const Plan plan = fixture.plan("    MagnitudePruningModifier: {sparsity: 0.5, targets: [Linear, lm_head]}\n");
  REQUIRE(plan.problems.empty());
  CHECK(plan.linears.size() == 15);
  const Plan ignoring = fixture.plan("    MagnitudePruningModifier: {sparsity: 0.5, ignore: ['re:.*mlp.*']}\n");
  CHECK(ignoring.linears.size() == 8);
}

TEST_CASE("quantizers leave removed weights at zero, in the layouts of others and in the compact one") {
  const Fixture fixture;
  for (const char* pruning : {kMagnitude, kMagnitude24, kWanda, kSparseGpt24}) {
    for (const char* quantizer : {kRounding, kGptq}) {
      INFO(pruning << quantizer);
      const std::string name = "out" + std::to_string(std::hash<std::string>()(std::string(pruning) + quantizer));
      const RunReport report = fixture.run(std::string(pruning) + quantizer, name);
      fixture.run(std::string(pruning) + quantizer, name + "c", "libquant");
      for (const LayerReport& layer : report.layers) {
        REQUIRE(layer.sparsity);
        CHECK(layer.sums.zeros >= layer.sums.count / 2);
        CHECK(layer.sparsity->violations == 0);
        const std::vector<float> dense = Fixture::values(fixture.path(name), layer.module + ".weight");
        CHECK(zeros(dense) == layer.sums.zeros);
        CHECK(dense == Fixture::values(fixture.path(name + "c"), layer.module + ".weight"));
      }
    }
  }
}

TEST_CASE("compact outputs are smaller, and their bits are counted with masks and scales") {
  const Fixture fixture;
  const RunReport dense = fixture.run(kMagnitude24, "dense");
  const RunReport compact = fixture.run(kMagnitude24, "compact", "libquant");
  CHECK(dense.bits_per_weight == 16);
  CHECK(compact.bits_per_weight == 8.75);  // half of 16, and three bits for each four weights
  CHECK(Fixture::values(fixture.path("dense"), kUp) == Fixture::values(fixture.path("compact"), kUp));
  const RunReport unstructured = fixture.run(kMagnitude, "unstructured", "libquant");
  CHECK(unstructured.bits_per_weight > 9);
  CHECK(unstructured.bits_per_weight < 9.3);  // a bit per weight, and where rows begin
}

TEST_CASE("Wanda removes the same number in each row") {
  const Fixture fixture;
  fixture.run(kWanda, "out");
  const std::vector<float> after = Fixture::values(fixture.path("out"), kUp);
  for (std::size_t row = 0; row < 128; ++row) {
    CHECK(std::count(after.begin() + static_cast<std::ptrdiff_t>(row * 128),
                     after.begin() + static_cast<std::ptrdiff_t>((row + 1) * 128), 0.0F) == 64);
  }
}

TEST_CASE("threads change no byte of a pruned checkpoint") {
  const Fixture fixture;
  for (const std::string& recipe : {std::string(kSparseGpt24) + kGptq, std::string(kMagnitude) + kRounding}) {
    const std::string name = recipe.substr(4, 5);
    fixture.run(recipe, name + "1", "libquant", 1);
    fixture.run(recipe, name + "3", "libquant", 3);
    CHECK(model_files(fixture.path(name + "1")) == model_files(fixture.path(name + "3")));
  }
}

TEST_CASE("a pruning run that was stopped goes on to the same bytes and the same report") {
  Registry registry;
  register_builtin_algorithms(registry);
  register_builtin_formats(registry);
  AlgorithmEntry entry;
  entry.name = "half";
  entry.modifier = "HalfModifier";
  entry.create = [](const Parameters&) { return std::make_unique<HalfPruner>(); };
  registry.add(std::move(entry));
  const Fixture fixture;
  const Recipe recipe = parse_recipe("s_stage:\n  s_modifiers:\n    HalfModifier: {}\n", "half.yaml", {}, registry);
  const Plan plan = make_plan(fixture.model(), recipe, registry, fixture.options());
  REQUIRE(plan.problems.empty());
  RunOptions options;
  options.output = fixture.path("whole");
  HalfPruner::stop_after = 0;
  const RunReport whole = run_plan(plan, options);
  options.output = fixture.path("stopped");
  options.stop = &HalfPruner::stop;
  HalfPruner::stop_after = 9;  // within the second block
  CHECK_THROWS_AS(run_plan(plan, options), Error);
  CHECK(!std::filesystem::exists(options.output));
  HalfPruner::stop = false;
  HalfPruner::stop_after = 0;
  options.resume = true;
  const RunReport resumed = run_plan(plan, options);
  CHECK(model_files(fixture.path("whole")) == model_files(fixture.path("stopped")));
  REQUIRE(resumed.layers.size() == whole.layers.size());
  for (std::size_t i = 0; i < whole.layers.size(); ++i) {
    CHECK(resumed.layers[i].sums.zeros == whole.layers[i].sums.zeros);
    REQUIRE(resumed.layers[i].sparsity);
    CHECK(resumed.layers[i].sparsity->violations == 0);
  }
}

TEST_CASE("what cannot be pruned so is said before anything runs") {
  const Fixture fixture;
  const auto problems = [&](const std::string& modifiers) {
    std::string text;
    for (const std::string& problem : fixture.plan(modifiers).problems) text += problem + "\n";
    return text;
  };
  CHECK(problems("    MagnitudePruningModifier: {pattern: \"5:24\"}\n").find("24") != std::string::npos);
  CHECK(problems("    MagnitudePruningModifier: {sparsity: [0.5]}\n").find("layer") != std::string::npos);
  CHECK(problems("    MagnitudePruningModifier: {sparsity: 0.5, targets: [nothing]}\n").find("match no weight") !=
        std::string::npos);
  CHECK_THROWS_AS(recipe_with("    MagnitudePruningModifier: {sparsity: 1.5}\n"), Error);
  CHECK_THROWS_AS(recipe_with("    MagnitudePruningModifier: {sparsty: 0.5}\n"), Error);
}

TEST_CASE("profiles give each linear its share, and the average is what the recipe says") {
  const Fixture fixture;
  TokenSequences data;
  std::minstd_rand random(5);
  for (int s = 0; s < 4; ++s) {
    data.sequences.emplace_back();
    for (int t = 0; t < 32; ++t) data.sequences.back().push_back(static_cast<std::int32_t>(random() % 50));
  }
  for (const std::string profile : {"global", "owl", "error"}) {
    INFO(profile);
    const std::string modifier = profile == "global" ? "MagnitudePruningModifier" : "WandaPruningModifier";
    const Plan plan = fixture.plan("    " + modifier + ": {sparsity: 0.4, sparsity_profile: " + profile + "}\n");
    REQUIRE(plan.problems.empty());
    RunOptions options;
    options.output = fixture.path("never");
    CHECK_THROWS_AS(run_plan(plan, options), Error);
    const auto shares = resolve_sparsity_profile(plan, 0, data, {});
    REQUIRE(shares.size() == plan.linears.size());
    double removed = 0, weights = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      CHECK(shares[i].first == plan.linears[i].shape.module);
      CHECK((shares[i].second >= 0 && shares[i].second <= 1));
      const auto count = static_cast<double>(plan.linears[i].shape.rows * plan.linears[i].shape.cols);
      removed += shares[i].second * count;
      weights += count;
    }
    // The profile by errors never removes less than asked for, and at most one step of one linear more.
    CHECK(removed / weights >= 0.4 - 1e-4);
    CHECK(removed / weights <= 0.4 + (profile == "error" ? 0.02 : 1e-4));
    CHECK(shares == resolve_sparsity_profile(plan, 0, data, {.threads = 1}));
    const std::string text = with_sparsities(plan.recipe, 0, shares, "resolved", builtin_registry());
    const Plan resolved = make_plan(fixture.model(), parse_recipe(text, "resolved.yaml", {}, builtin_registry()),
                                    builtin_registry(), fixture.options());
    REQUIRE(resolved.problems.empty());
    for (std::size_t i = 0; i < shares.size(); ++i) {
      CHECK(resolved.linears[i].pruning.front().pattern.sparsity == Approx(shares[i].second));
    }
  }
}

TEST_CASE("profiles keep within a memory limit, or say what they need; the result is the same") {
  const Fixture fixture;
  TokenSequences data;
  std::minstd_rand random(5);
  for (int s = 0; s < 4; ++s) {
    data.sequences.emplace_back();
    for (int t = 0; t < 32; ++t) data.sequences.back().push_back(static_cast<std::int32_t>(random() % 50));
  }
  for (const std::string profile : {"owl", "error"}) {
    INFO(profile);
    const Plan plan = fixture.plan("    WandaPruningModifier: {sparsity: 0.4, sparsity_profile: " + profile + "}\n");
    std::string text;
    try {
      resolve_sparsity_profile(plan, 0, data, {.threads = 2, .memory = 1'000'000});
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      text = error.what();
    }
    const std::size_t at = text.find("at least ");
    REQUIRE(at != std::string::npos);
    const auto needed = static_cast<std::uint64_t>(std::stod(text.substr(at + 9)) * 1e6);
    CHECK_THROWS_AS(resolve_sparsity_profile(plan, 0, data, {.threads = 2, .memory = needed - 200'000}), Error);
    // The original's logits do not fit, and are computed again.
    CHECK(resolve_sparsity_profile(plan, 0, data, {.threads = 2, .memory = needed}) ==
          resolve_sparsity_profile(plan, 0, data, {.threads = 2}));
  }
}

TEST_CASE("refits after an earlier modifier aim at the weights before it") {
  const Fixture fixture;
  const auto error_of = [&](const std::string& modifiers, const std::string& name) {
    const RunReport report = fixture.run(modifiers, name);
    double noise = 0;
    for (const LayerReport& layer : report.layers) {
      REQUIRE(layer.calibration);
      REQUIRE(layer.calibration->output);
      // Of the first block: later ones read what differs.
      if (layer.module.find("layers.0.") != std::string::npos) noise += layer.calibration->output->noise;
    }
    return noise;
  };
  // The second modifier keeps the first one's zeros and has nothing to remove: what is refitted is the first's mask.
  const std::string refit = "    SparseGPTModifier: {sparsity: 0.5, refit: exact, preserve_sparsity_mask: true}\n";
  const double alone = error_of("    MagnitudePruningModifier: {sparsity: 0.5, refit: exact}\n", "alone");
  const double after = error_of(std::string(kMagnitude) + refit, "after");
  CHECK(after == Approx(alone).epsilon(0.02));
}

TEST_CASE("what is too large for the stored type becomes its largest number, and a note says so") {
  Registry registry;
  register_builtin_algorithms(registry);
  register_builtin_formats(registry);
  AlgorithmEntry entry;
  entry.name = "blow_up";
  entry.modifier = "BlowUpModifier";
  entry.create = [](const Parameters&) { return std::make_unique<BlowUp>(); };
  registry.add(std::move(entry));
  const Fixture fixture;
  const Recipe recipe =
      parse_recipe("s_stage:\n  s_modifiers:\n    BlowUpModifier: {targets: ['re:.*layers.1.mlp.down_proj']}\n",
                   "blow.yaml", {}, registry);
  const Plan plan = make_plan(fixture.model(), recipe, registry, fixture.options());
  REQUIRE(plan.problems.empty());
  RunOptions options;
  options.output = fixture.path("out");
  const RunReport report = run_plan(plan, options);
  REQUIRE(report.layers.size() == 1);
  REQUIRE(report.layers.front().notes.size() == 1);
  CHECK(report.layers.front().notes.front().find("2 of 16384 weights were too large for F16") == 0);
  const std::vector<float> values = Fixture::values(fixture.path("out"), "model.layers.1.mlp.down_proj.weight");
  CHECK(values[1] == 65504);
  CHECK(values[3] == -65504);
  CHECK(values[5] == 65504);
}

TEST_CASE("the plan says why a tied head is not pruned") {
  TempDir dir;
  write_tiny_model(dir / "model", {.tied = true});
  const auto model = open_checkpoint(dir / "model");
  const Plan plan =
      make_plan(*model, recipe_with("    MagnitudePruningModifier: {sparsity: 0.5, targets: [Linear, lm_head]}\n"),
                builtin_registry(), {});
  const auto head = std::find_if(plan.copies.begin(), plan.copies.end(),
                                 [](const PlannedCopy& copy) { return copy.module == "lm_head"; });
  REQUIRE(head != plan.copies.end());
  CHECK(head->reason == "tied to the embedding, which is not pruned");
}

TEST_CASE("statistics without mean squares serve Wanda: the Gram matrix has them as its diagonal") {
  const Fixture fixture;
  const auto run_with = [&](const PlanOptions& options, const std::string& name) {
    const Plan plan = make_plan(fixture.model(), recipe_with(kWanda), builtin_registry(), options);
    INFO((plan.problems.empty() ? std::string() : plan.problems.front()));
    REQUIRE(plan.problems.empty());
    RunOptions run_options;
    run_options.output = fixture.path(name);
    run_plan(plan, run_options);
  };
  PlanOptions options = fixture.options();
  options.calibration.product = ProductType::f32;  // else the Gram matrix is of rounded inputs
  options.calibration.save_statistics = fixture.path("kept.h5");
  run_with(options, "direct");
  auto all = read_statistics(fixture.path("kept.h5"));
  REQUIRE(all.size() == 14);
  for (auto& [module, statistics] : all) {
    CHECK(statistics.square.size() == statistics.cols);
    statistics.square.clear();
  }
  write_statistics(fixture.path("without.h5"), {}, all);
  PlanOptions imported = fixture.options();
  imported.calibration.file.clear();
  imported.calibration.statistics = fixture.path("without.h5");
  run_with(imported, "imported");
  const bool same = model_files(fixture.path("direct")).at("model.safetensors") ==
                    model_files(fixture.path("imported")).at("model.safetensors");
  CHECK(same);
}

TEST_CASE("the global profile removes the smallest weights of all linears together") {
  const Fixture fixture;
  const Plan plan = fixture.plan("    MagnitudePruningModifier: {sparsity: 0.3, sparsity_profile: global}\n");
  const auto shares = resolve_sparsity_profile(plan, 0, {}, {});
  std::vector<float> all;
  std::vector<std::vector<float>> each;
  for (const PlannedLinear& linear : plan.linears) {
    each.push_back(Fixture::values(fixture.path("model"), linear.weight->name));
    for (float& value : each.back()) value = std::fabs(value);
    all.insert(all.end(), each.back().begin(), each.back().end());
  }
  std::sort(all.begin(), all.end());
  const float threshold = all[static_cast<std::size_t>(0.3 * static_cast<double>(all.size()))];
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const auto below = std::count_if(each[i].begin(), each[i].end(), [&](float v) { return v < threshold; });
    const auto up_to = std::count_if(each[i].begin(), each[i].end(), [&](float v) { return v <= threshold; });
    const double removed = shares[i].second * static_cast<double>(each[i].size());
    CHECK(removed >= static_cast<double>(below) - 0.5);
    CHECK(removed <= static_cast<double>(up_to) + 0.5);
  }
}

TEST_CASE("a modifier that gives every linear a share of 0 is warned of") {
  const Fixture f;
  const auto warned = [&](const std::string& sparsity) {
    const Plan plan = f.plan("    MagnitudePruningModifier: {sparsity: " + sparsity + "}\n");
    return std::any_of(plan.warnings.begin(), plan.warnings.end(),
                       [](const std::string& text) { return text.find("prunes nothing") != std::string::npos; });
  };
  CHECK(warned("{\"re:.*nothing\": 0.3}"));
  CHECK_FALSE(warned("{\"re:.*nothing\": 0.3, \"re:.*down_proj$\": 0.3}"));
}
