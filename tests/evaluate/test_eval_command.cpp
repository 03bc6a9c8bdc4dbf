// The program itself: figures of the example model's README, and wrong usage.
#include <cmath>
#include <span>

#include "cli/run_quant.h"
#include "support/catch.h"
#include "support/sanitized.h"
#include "support/temp_dir.h"
#include "support/text.h"
#include "support/tiny_model.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;

/// Waiting threads sleep: other tests may want the processors.
std::string evaluation_text() { return example_model() + "/evaluation.txt"; }

nlohmann::json eval_json(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "eval");
  arguments.emplace_back("--json");
  const Outcome outcome = quietly(arguments);
  INFO(outcome.err);
  REQUIRE(outcome.code == 0);
  return json_of(outcome);
}

/// The example model quantized with a recipe of these weights.
fs::path quantize(const TempDir& dir, const std::string& name, const std::string& weights) {
  write_file(dir / (name + ".yaml"),
             "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head]\n"
             "      config_groups:\n        group_0:\n          targets: [Linear]\n          weights: {" +
                 weights + "}\n");
  const fs::path output = dir / name;
  const Outcome made = run_quant(
      {"run", (dir / (name + ".yaml")).string(), "--model", example_model(), "--output", output.string(), "--quiet"});
  INFO(made.err);
  REQUIRE(made.code == 0);
  return output;
}

struct Row {
  const char* name;
  const char* weights;
  double increase;  // of the README, on 160 windows, by another implementation
};

// Asymmetric min-max grids unless said, weights of all 42 linear layers.
const std::vector<Row> kRows{
    {"w4-channel", "num_bits: 4, type: int, symmetric: false, strategy: channel", 0.729},
    {"w4-g128", "num_bits: 4, type: int, symmetric: false, strategy: group, group_size: 128", 0.520},
    {"w4-g128-sym", "num_bits: 4, type: int, symmetric: true, strategy: group, group_size: 128", 0.627},
    {"w4-g32-sym", "num_bits: 4, type: int, symmetric: true, strategy: group, group_size: 32", 0.290},
    {"w3-channel", "num_bits: 3, type: int, symmetric: false, strategy: channel", 2.995},
    {"w3-g128", "num_bits: 3, type: int, symmetric: false, strategy: group, group_size: 128", 2.534},
    {"w2-g32", "num_bits: 2, type: int, symmetric: false, strategy: group, group_size: 32", 12.614}};

std::string error_of(std::vector<std::string> arguments, int code) {
  arguments.insert(arguments.begin(), "eval");
  const Outcome outcome = quietly(arguments);
  INFO(outcome.err);
  CHECK(outcome.code == code);
  return outcome.err;
}

}  // namespace

TEST_CASE("round-to-nearest increases the perplexity as an independent implementation says") {
  const TempDir dir;
  const std::vector<std::string> protocol{"--text", evaluation_text(), "--seq-len", "256", "--windows", "160"};
  const auto perplexity = [&](const std::string& model) {
    std::vector<std::string> arguments{model};
    arguments.insert(arguments.end(), protocol.begin(), protocol.end());
    return eval_json(arguments).at("perplexity").at("model").at("perplexity").at("mean").get<double>();
  };
  const double base = perplexity(example_model());
  CHECK(base == Approx(50.234).margin(5e-4));
#ifdef QUANT_TEST_SANITIZED
  const std::size_t measured = 1;  // two minutes each with a sanitizer
#else
  const std::size_t measured = kRows.size();
#endif
  for (const Row& row : std::span(kRows).first(measured)) {
    const double increase = perplexity(quantize(dir, row.name, row.weights).string()) - base;
    INFO(row.name << ": " << increase);
    CHECK(increase == Approx(row.increase).epsilon(0.05));
  }
}

TEST_CASE("8-bit activations per token are quantized as they will be") {
  const TempDir dir;
  const std::string model = (dir / "w8a8").string();
  REQUIRE(run_quant({"run", "w8a8", "--model", example_model(), "--output", model, "--quiet"}).code == 0);
  std::vector<std::string> arguments{model,       "--base", example_model(), "--text", evaluation_text(),
                                     "--seq-len", "256",    "--windows",     "80"};
  const auto json = eval_json(arguments);
  CHECK(json.at("model").at("activations") == "int8 sym token in 42 linears");
  CHECK(json.at("base").at("activations") == "float");
  const auto& perplexity = json.at("perplexity");
  CHECK(perplexity.at("base").at("perplexity").at("mean").get<double>() == Approx(51.427).margin(5e-4));
  CHECK(perplexity.at("increase").at("mean").get<double>() == Approx(0.044).margin(0.02));
  CHECK(perplexity.at("increase").at("standard_error").get<double>() < 0.02);
  CHECK(perplexity.at("kl_divergence").at("mean").get<double>() > 1e-5);
  CHECK(perplexity.at("same_top_token").at("mean").get<double>() < 1);
  arguments.emplace_back("--no-activation-quantization");
  const auto plain = eval_json(arguments);
  CHECK(plain.at("model").at("activations") == "float");
  CHECK(plain.at("perplexity").at("increase").at("mean").get<double>() <
        perplexity.at("increase").at("mean").get<double>());
}

TEST_CASE("a model compared with itself: nothing lost, in text and JSON") {
  const std::vector<std::string> arguments{example_model(), "--base", example_model(), "--text", evaluation_text(),
                                           "--seq-len",     "128",    "--windows",     "3"};
  const auto json = eval_json(arguments);
  const auto& perplexity = json.at("perplexity");
  CHECK(perplexity.at("kl_divergence").at("mean") == 0.0);
  CHECK(perplexity.at("kl_divergence").at("maximum") == 0.0);
  CHECK(perplexity.at("same_top_token").at("mean") == 1.0);
  CHECK(perplexity.at("top5_overlap").at("mean") == 1.0);
  CHECK(perplexity.at("increase").at("mean") == 0.0);
  CHECK(perplexity.at("windows") == 3);
  CHECK(perplexity.at("window_length") == 128);
  CHECK(perplexity.at("first_token").is_null());

  std::vector<std::string> as_text{"eval"};
  as_text.insert(as_text.end(), arguments.begin(), arguments.end());
  const Outcome text = quietly(as_text);
  CHECK(text.code == 0);
  CHECK(text.err.empty());
  CHECK(has(text.out, "3 windows of 128 tokens, not overlapping, no <s>; 127 predictions each, f32 products"));
  CHECK(has(text.out, "same top token: 100.00"));
}

TEST_CASE("one window has no standard errors, and none are printed") {
  const Outcome text = quietly({"eval", example_model(), "--base", example_model(), "--text", evaluation_text(),
                                "--seq-len", "64", "--windows", "1"});
  CHECK(text.code == 0);
  CHECK(has(text.out, "KL divergence: "));
  CHECK_FALSE(has(text.out, "nan"));
  CHECK_FALSE(has(text.out, "±"));
}

TEST_CASE("figures do not depend on threads and memory") {
  std::vector<std::string> arguments{quantized_example().string(),
                                     "--base",
                                     example_model(),
                                     "--text",
                                     evaluation_text(),
                                     "--seq-len",
                                     "64",
                                     "--windows",
                                     "20"};
  auto one = arguments;
  one.insert(one.end(), {"--threads", "1"});
  auto tight = arguments;
  tight.insert(tight.end(), {"--threads", "3", "--memory", "48M"});
  const auto a = eval_json(one);
  const auto b = eval_json(tight);
  CHECK(a.at("run").at("resident") == true);
  CHECK(b.at("run").at("resident") == false);
  CHECK(a.at("perplexity") == b.at("perplexity"));
}

TEST_CASE("--bos begins every window, and helps this model") {
  const std::vector<std::string> arguments{example_model(), "--text", evaluation_text(), "--seq-len", "64",
                                           "--windows",     "10"};
  auto begun = arguments;
  begun.emplace_back("--bos");
  const auto plain = eval_json(arguments);
  const auto bos = eval_json(begun);
  CHECK(bos.at("perplexity").at("first_token") == 0);
  CHECK(bos.at("perplexity").at("predictions") == 630);
  CHECK(bos.at("perplexity").at("hash") != plain.at("perplexity").at("hash"));
}

TEST_CASE("choices and speed are measured too") {
  const TempDir dir;
  write_file(dir / "q.jsonl",
             "{\"prompt\": \"The Martians came from\", \"choices\": [\" Mars\", \" xqzv kjw\"], \"answer\": 0}\n"
             "{\"prompt\": \"He shook his\", \"choices\": [\" zzq pdf\", \" head\"], \"answer\": \" head\"}\n");
  const auto json = eval_json({example_model(), "--choices", (dir / "q.jsonl").string(), "--speed", "--seq-len", "32"});
  CHECK(json.at("choices").at("questions") == 2);
  CHECK(json.at("choices").at("chance") == 0.5);
  CHECK(json.at("choices").at("model").at("accuracy").at("mean") == 1.0);
  CHECK(json.at("choices").at("model").at("chosen") == nlohmann::json({0, 1}));
  CHECK(json.at("speed").at("prompt_tokens") == 32);
  CHECK(json.at("speed").at("decode_tokens_per_second").get<double>() > 0);
  CHECK_FALSE(json.contains("perplexity"));
}

TEST_CASE("wrong usage is told with what to do") {
  const TempDir dir;
  const std::string questions = (dir / "q.jsonl").string();
  write_file(questions,
             "{\"prompt\": \"He shook his\", \"choices\": [\" head\", \" fist\"], \"answer\": 0}\n"
             "{\"prompt\": \"H\", \"choices\": [\"xyz\", \"e\"], \"answer\": 0}\n");
  CHECK(
      has(error_of({example_model(), "--choices", questions}, 2), "q.jsonl: question 2, choice 2: prompt and choice"));
  CHECK(has(error_of({example_model()}, 2), "--text FILE, --choices FILE or --speed"));
  CHECK(has(error_of({example_model(), "--base", example_model(), "--speed"}, 2), "--base is compared"));
  write_file(dir / "short.txt", "Too short.");
  CHECK(has(error_of({example_model(), "--text", (dir / "short.txt").string(), "--seq-len", "256"}, 2),
            "do not fill one sequence of 256 tokens"));
  CHECK(has(error_of({example_model(), "--text", evaluation_text(), "--kv-cache", "int9"}, 2), "--kv-cache int9"));
  CHECK(has(error_of({example_model(), "--text", evaluation_text(), "--memory", "1K"}, 2), "too small"));
  CHECK(has(error_of({example_model(), "--text", (dir / "absent.txt").string()}, 6), "absent.txt"));
  CHECK(has(error_of({example_model(), "--text", evaluation_text(), "--seq-len", "1"}, 2), "--seq-len"));
}

TEST_CASE("a model without tokenizer takes the base's, or ids, or says what is missing") {
  const TempDir dir;
  const fs::path bare = dir / "bare";
  fs::create_directories(bare);
  for (const char* file : {"config.json", "model.safetensors"}) fs::copy(fs::path(example_model()) / file, bare / file);
  const std::vector<std::string> rest{"--text", evaluation_text(), "--seq-len", "64", "--windows", "4"};
  std::vector<std::string> arguments{bare.string()};
  arguments.insert(arguments.end(), rest.begin(), rest.end());
  CHECK(has(error_of(arguments, 6), "has no tokenizer.json"));
  arguments.insert(arguments.end(), {"--base", example_model()});
  CHECK(eval_json(arguments).at("perplexity").at("windows") == 4);
}

TEST_CASE("models that predict no tokens, and vocabularies that differ, are refused") {
  const TempDir dir;
  TinyModelOptions options;
  options.vocabulary = 60;
  write_tiny_model(dir / "other", options);
  write_file(dir / "other/config.json",
             "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64, "
             "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
             "\"num_key_value_heads\": 4, \"vocab_size\": 60, \"tie_word_embeddings\": true, \"rms_norm_eps\": 1e-5}");
  const Outcome outcome = run_quant({"eval", example_model(), "--base", (dir / "other").string(), "--text",
                                     evaluation_text(), "--seq-len", "64", "--windows", "2"});
  CHECK(outcome.code != 0);
  INFO(outcome.err);
  CHECK((has(outcome.err, "vocabulary") || has(outcome.err, "norm")));
}
