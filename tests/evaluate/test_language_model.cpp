// The example model against the figures of its README, which another implementation measured (float32, PyTorch).
#include <cmath>

#include "evaluate/fake_model.h"
#include "quant/error.h"
#include "quant/evaluate.h"
#include "quant/open.h"
#include "quant/packed_linear.h"
#include "quant/pipeline.h"
#include "quant/plan.h"
#include "quant/recipe_yaml.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

using namespace quant;

namespace {

std::string example() { return std::string(QUANT_SOURCE_DIR) + "/examples/tiny-llama-novels"; }

const Registry& registry() {
  static const Registry filled = [] {
    Registry r;
    register_builtin_formats(r);
    return r;
  }();
  return filled;
}

struct Opened {
  explicit Opened(const std::string& path, const LanguageModelOptions& options = {})
      : checkpoint(open_checkpoint(path)),
        tensors(*checkpoint, registry()),
        weights(tensors),
        model(weights, options) {}
  std::unique_ptr<Checkpoint> checkpoint;
  LogicalTensors tensors;
  ModelWeights weights;
  LanguageModel model;
};

const EvalWindows& windows() {
  static const Tokenizer tokenizer = Tokenizer::open(example());
  static const EvalWindows read =
      read_windows(example() + "/evaluation.txt", &tokenizer, {.length = 256, .count = 160, .first = std::nullopt});
  return read;
}

std::vector<std::vector<std::int32_t>> first_windows(std::size_t count) {
  return {windows().windows.begin(), windows().windows.begin() + static_cast<std::ptrdiff_t>(count)};
}

std::string rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

/// The logits of every token of some sequences.
std::vector<float> all_logits(LanguageModel& model, const std::vector<std::vector<std::int32_t>>& sequences) {
  model.run(sequences, {});
  std::vector<std::uint64_t> rows;
  for (const auto& sequence : sequences) {
    for (std::size_t i = 0; i < sequence.size(); ++i) rows.push_back(rows.size());
  }
  std::vector<float> logits(rows.size() * model.vocabulary());
  model.logits(rows, logits);
  return logits;
}

}  // namespace

TEST_CASE("the example model has the perplexity of its README") {
  Opened opened(example());
  const EvalResult result = evaluate_perplexity(opened.model, nullptr, windows().windows, {});
  CHECK(result.windows == 160);
  CHECK(result.predictions == 160 * 255);
  CHECK(rounded(result.perplexity.mean) == "50.234");
  // The mean over the first half of the windows.
  double nats = 0;
  for (std::size_t w = 0; w < 80; ++w) nats += result.window_nats[w] / 80;
  CHECK(rounded(std::exp(nats)) == "51.427");
  CHECK(result.perplexity.error > 0.5);
  CHECK(result.perplexity.error < 2);
}

TEST_CASE("the windows of a text are its tokens in order, and its bytes are known") {
  CHECK(windows().windows.size() == 160);
  CHECK(windows().tokens == 160 * 256);
  const Tokenizer tokenizer = Tokenizer::open(example());
  const auto all = tokenizer.encode(test::read_file(example() + "/evaluation.txt"), false);
  CHECK(all.size() == 93718);
  for (const std::size_t w : {0U, 7U, 159U}) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(256 * w);
    CHECK(windows().windows[w] == std::vector<std::int32_t>(begin, begin + 256));
  }
  CHECK(windows().bytes > 3 * windows().tokens);
  CHECK(windows().bytes < 5 * windows().tokens);
  const double bits = windows().bits_per_byte(std::log(50.0));
  CHECK(bits == Approx(std::log2(50.0) * static_cast<double>(windows().tokens) / static_cast<double>(windows().bytes)));
  const EvalWindows begun =
      read_windows(example() + "/evaluation.txt", &tokenizer, {.length = 64, .count = 3, .first = 0});
  CHECK(begun.windows[1][0] == 0);
  CHECK(begun.windows[1].size() == 64);
  CHECK(begun.windows[1][1] == all[63]);
  CHECK(begun.tokens == 3 * 63);
}

TEST_CASE("results have the same bits for any memory budget and any number of threads") {
  const auto some = first_windows(12);
  Opened plain(example(), {.threads = 1});
  const EvalResult expected = evaluate_perplexity(plain.model, nullptr, some, {.threads = 1});
  CHECK(plain.model.fit(256, 12 * 256).resident);
  const std::uint64_t everything = plain.model.memory_plan().bytes;

  LanguageModelOptions options;
  options.threads = 3;
  options.memory = everything * 3 / 4;
  Opened tight(example(), options);
  const MemoryPlan plan = tight.model.fit(256, 12 * 256);
  CHECK_FALSE(plan.resident);
  CHECK(plan.bytes <= options.memory);
  const EvalResult result = evaluate_perplexity(tight.model, nullptr, some, {.threads = 2});
  CHECK(result.window_nats == expected.window_nats);
  CHECK(result.perplexity.mean == expected.perplexity.mean);
}

TEST_CASE("quantized weights are planned as they stay in memory: packed") {
  const test::TempDir dir;
  Registry all;
  register_builtin_formats(all);
  register_builtin_algorithms(all);
  {
    const auto checkpoint = open_checkpoint(example());
    const Recipe recipe = load_recipe(std::filesystem::path(QUANT_SOURCE_DIR) / "recipes" / "w4a16.yaml", {}, all);
    const Plan plan = make_plan(*checkpoint, recipe, all, {});
    REQUIRE(plan.problems.empty());
    RunOptions run;
    run.output = dir / "packed";
    run_plan(plan, run);
  }
  Opened original(example(), {.threads = 1});
  Opened opened((dir / "packed").string(), {.threads = 1});
  const MemoryPlan whole = original.model.fit(256, 4 * 256);
  const MemoryPlan plan = opened.model.fit(256, 4 * 256);
  std::uint64_t packed = 0;
  std::uint64_t floats = 0;
  std::uint64_t stored = 0;
  const auto count = [&](const Program& program) {
    for (const Op& op : program.ops) {
      const auto* linear = std::get_if<LinearOp>(&op);
      if (linear == nullptr) continue;
      for (const LinearWeight& weight : linear->weights) {
        const auto matrix = opened.weights.read_quantized(weight, 1);
        CHECK(matrix.has_value() == (opened.weights.stored_linear(weight) != nullptr));
        if (matrix) packed += PackedLinear(*matrix).bytes();
        (matrix ? stored : floats) += weight.rows * weight.cols;
      }
    }
  };
  const ModelProgram& program = opened.model.program();
  for (const Program& block : program.blocks) count(block);
  count(program.head);
  CHECK(whole.weight_bytes == 4 * (floats + stored));
  CHECK(plan.weight_bytes >= packed + 4 * floats);
  CHECK(plan.weight_bytes <= packed + 4 * floats + stored / 8);
  // A budget that floats would not fit.
  const std::uint64_t budget = plan.bytes + stored / 2;
  REQUIRE(budget < whole.bytes);
  Opened tight((dir / "packed").string(), {.threads = 1, .memory = budget});
  CHECK(tight.model.fit(256, 4 * 256).resident);
}

TEST_CASE("a budget that is too small says how much is needed, and that much is enough") {
  Opened opened(example(), {.threads = 1, .memory = 1000});
  try {
    opened.model.fit(256, 1024);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    CHECK(error.kind() == "MemoryTooSmall");
    const std::string text = error.what();
    const std::string mark = "at least ";
    const double megabytes = std::stod(text.substr(text.find(mark) + mark.size()));
    Opened enough(example(), {.threads = 1, .memory = static_cast<std::uint64_t>(megabytes * 1e6)});
    CHECK_FALSE(enough.model.fit(256, 1024).resident);
  }
}

TEST_CASE("decoding token by token gives the logits of the whole sequence") {
  Opened opened(example(), {.threads = 2});
  std::vector<std::int32_t> ids = windows().windows[3];
  ids.resize(40);
  const auto whole = all_logits(opened.model, {ids});
  const std::uint64_t vocabulary = opened.model.vocabulary();
  Decoder decoder(opened.model);
  decoder.feed(std::span(ids).first(25));
  for (std::size_t t = 25; t < 40; ++t) {
    const auto logits = decoder.feed(std::span(ids).subspan(t, 1));
    REQUIRE(logits.size() == vocabulary);
    double worst = 0;
    for (std::size_t i = 0; i < vocabulary; ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(logits[i]) - whole[t * vocabulary + i]));
    }
    CHECK(worst < 2e-4);
  }
  CHECK(decoder.length() == 40);
}

TEST_CASE("replaced weights count once prepared ones are forgotten") {
  Opened opened(example(), {.threads = 2});
  const auto some = first_windows(2);
  const double before = evaluate_perplexity(opened.model, nullptr, some, {}).nats.mean;
  const std::string name = "model.layers.2.mlp.down_proj.weight";
  std::vector<float> weight = opened.weights.read(name, 1);
  for (float& value : weight) value = 0;
  opened.weights.set(name, std::move(weight));
  CHECK(evaluate_perplexity(opened.model, nullptr, some, {}).nats.mean == before);
  opened.model.forget_weights();
  CHECK(evaluate_perplexity(opened.model, nullptr, some, {}).nats.mean > before + 0.01);
  opened.weights.drop(name);
  opened.model.forget_weights();
  CHECK(evaluate_perplexity(opened.model, nullptr, some, {}).nats.mean == before);
}

TEST_CASE("a coarser cache of keys and values loses more") {
  const auto some = first_windows(6);
  Opened base(example());
  double last = -1e-3;
  for (const int bits : {8, 4, 2}) {
    LanguageModelOptions options;
    options.kv_cache = KvQuantizer{};
    options.kv_cache->bits = bits;
    options.kv_cache->keys = KvQuantizer::Scale::channel;
    options.kv_cache->group = 32;
    Opened opened(example(), options);
    const EvalResult result = evaluate_perplexity(opened.model, &base.model, some, {});
    INFO(bits << " bits: " << result.base->increase.mean);
    CHECK(result.base->divergence.mean.mean > last);
    last = result.base->divergence.mean.mean;
  }
  CHECK(last > 1e-3);
}

TEST_CASE("the speed of decoding is measured with all weights in memory only") {
  Opened opened(example(), {.threads = 2});
  const SpeedResult speed = measure_speed(opened.model, std::span(windows().windows[0]).first(32), {.new_tokens = 4});
  CHECK(speed.prompt_tokens == 32);
  CHECK(speed.first_token_seconds > 0);
  CHECK(speed.prefill_tokens_per_second > 0);
  CHECK(speed.decode_tokens_per_second > 0);
  CHECK_THROWS_AS(measure_speed(opened.model, {}, {}), Error);
}

TEST_CASE("positions come from whatever name config.json has for them") {
  const auto positions = [](const std::string& text) {
    ModelConfig config;
    config.text = text;
    return trained_positions(config);
  };
  CHECK(positions(R"({"max_position_embeddings": 512})") == 512);
  CHECK(positions(R"({"n_positions": 1024})") == 1024);
  CHECK(positions(R"({"text_config": {"max_position_embeddings": 8}})") == 8);
  CHECK(positions(R"({"max_position_embeddings": -3})") == 0);
  CHECK(positions("[]") == 0);
}
