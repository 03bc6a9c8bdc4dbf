// What `quant run` says of calibrated recipes: orders of columns, errors of outputs, fallbacks, blocks, memory, hints.
#include <fmt/format.h>

#include <cmath>

#include "quant/open.h"
#include "run_quant.h"
#include "support/catch.h"
#include "support/sanitized.h"
#include "support/temp_dir.h"
#include "support/text.h"
#include "support/tiny_model.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;

Arguments text(const std::string& samples = "2", const std::string& length = "64") {
  return {"--calibration", example_model() + "/calibration.txt", "--samples", samples, "--seq-len", length};
}

Arguments run_of(const fs::path& recipe, const fs::path& output, const Arguments& more) {
  return with({"run", recipe.string(), "--model", example_model(), "--output", output.string()}, more);
}

/// GPTQ of two linears, so that it takes no time. `own`: fields of the modifier; `args`: of its scheme's weights.
std::string two_linears(const std::string& own, const std::string& args = "") {
  return "s_stage:\n  m_modifiers:\n    GPTQModifier:\n      ignore: ['re:.*layers.[1-5].*']\n" + own +
         "      config_groups:\n        g:\n          targets: ['re:.*q_proj', 're:.*down_proj']\n"
         "          weights: {num_bits: 4, strategy: group, group_size: 128" +
         args + "}\n";
}

std::string config_order(const fs::path& output) {
  const auto config = nlohmann::json::parse(read_file(output / "config.json"));
  return config.at("quantization_config").at("config_groups").begin()->at("weights").at("actorder").dump();
}

}  // namespace

TEST_CASE("an order of columns may stand in the modifier or in the scheme", "[gptq]") {
  const TempDir dir;
  const fs::path statistics = dir / "s.h5";
  struct Order {
    const char* modifier;
    const char* scheme;  ///< nothing: schemes have no word for it
    const char* config;
    bool indexed;
  };
  const Order orders[] = {{"none", "false", "null", false},
                          {"static", "static", "\"static\"", false},
                          {"group", "group", "\"group\"", true},
                          {"group_aware", nullptr, "null", false}};
  write_file(dir / "first.yaml", two_linears(""));
  REQUIRE(quietly(run_of(dir / "first.yaml", dir / "first", with(text(), {"--save-statistics", statistics.string()})))
              .code == 0);
  for (const Order& order : orders) {
    CAPTURE(order.modifier);
    write_file(dir / "m.yaml", two_linears(fmt::format("      actorder: {}\n", order.modifier)));
    std::string bytes;
    for (const Arguments& data : {text(), Arguments{"--statistics", statistics.string()}}) {
      fs::remove_all(dir / "m");
      const Outcome run = quietly(run_of(dir / "m.yaml", dir / "m", with(data, {"--quiet"})));
      INFO(run.err);
      REQUIRE(run.code == 0);
      CHECK(config_order(dir / "m") == order.config);
      const auto checkpoint = quant::open_checkpoint(dir / "m");
      const bool indexed = std::any_of(checkpoint->tensors().begin(), checkpoint->tensors().end(),
                                       [](const auto& tensor) { return tensor.name.ends_with("q_proj.weight_g_idx"); });
      CHECK(indexed == order.indexed);
      CHECK(quietly({"verify", (dir / "m").string()}).code == 0);
      bytes = read_file(dir / "m/model.safetensors");
    }
    if (order.scheme == nullptr) continue;
    fs::remove_all(dir / "s");
    write_file(dir / "s.yaml", two_linears("", fmt::format(", actorder: {}", order.scheme)));
    REQUIRE(quietly(run_of(dir / "s.yaml", dir / "s", with(text(), {"--quiet"}))).code == 0);
    // Both were coded after the same text; statistics give the same codes only of what comes first in the model.
    fs::remove_all(dir / "m");
    REQUIRE(quietly(run_of(dir / "m.yaml", dir / "m", with(text(), {"--quiet"}))).code == 0);
    CHECK(read_file(dir / "s/model.safetensors") == read_file(dir / "m/model.safetensors"));
  }
}

TEST_CASE("two different orders in one modifier are a mistake of the recipe", "[gptq]") {
  const TempDir dir;
  const auto check = [&](const std::string& own, const std::string& args) {
    write_file(dir / "r.yaml", two_linears(own, args));
    return quietly({"recipes", "check", (dir / "r.yaml").string()});
  };
  const Outcome wrong = check("      actorder: group\n", ", actorder: static");
  CHECK(wrong.code == 3);
  CHECK(has(wrong.err + wrong.out, "r.yaml:5:17: actorder: the modifier says group, its scheme's weights say static"));
  CHECK(check("      actorder: static\n", ", actorder: group").code == 3);
  CHECK(check("      actorder: group_aware\n", ", actorder: static").code == 3);
  CHECK(check("      actorder: group\n", ", actorder: group").code == 0);
  CHECK(check("      actorder: none\n", ", actorder: false").code == 0);
  // The default contradicts nothing.
  CHECK(check("", ", actorder: group").code == 0);
  CHECK(check("", ", actorder: false").code == 0);
}

TEST_CASE("the summary of a calibrated run tells the errors of outputs and ranks by them", "[run]") {
  const TempDir dir;
  write_file(dir / "r.yaml", two_linears(""));
  const auto json = json_of(quietly(run_of(dir / "r.yaml", dir / "a", with(text(), {"--json"}))));
  const auto report = report_of(dir / "a");
  double sum = 0;
  double largest = 0;
  std::string worst;
  for (const auto& layer : report.at("layers")) {
    const auto& output = layer.at("calibration").at("output");
    const double error = output.at("noise").get<double>() / output.at("signal").get<double>();
    sum += error;
    if (error > largest) worst = layer.at("module");
    largest = std::max(largest, error);
  }
  const auto& outputs = json.at("output_error");
  CHECK(outputs.at("layers") == 2);
  CHECK(std::abs(outputs.at("relative_error").get<double>() - sum / 2) < 1e-12);
  CHECK(std::abs(outputs.at("sqnr_db").get<double>() + 10 * std::log10(sum / 2)) < 1e-9);
  CHECK(json.at("worst").at(0).at("module") == worst);
  CHECK(std::abs(json.at("worst").at(0).at("output_error").at("relative_error").get<double>() - largest) < 1e-12);
  CHECK(json.at("fallbacks") == 0);
  const Outcome shown = quietly(run_of(dir / "r.yaml", dir / "b", text()));
  CHECK(has(shown.out, "output error"));
  CHECK(has(shown.out, "weight error"));
}

TEST_CASE("report of a calibrated run tells what run told, and sorts by the errors of outputs", "[report]") {
  const TempDir dir;
  write_file(dir / "r.yaml", two_linears(""));
  const Outcome run = quietly(run_of(dir / "r.yaml", dir / "a", text()));
  const Outcome report = run_quant({"report", (dir / "a").string(), "--sort", "output", "--top", "2"});
  for (const std::string field : {"weight error: ", "output error: "}) {
    const std::size_t at = run.out.find(field);
    REQUIRE(at != std::string::npos);
    CHECK(has(report.out, run.out.substr(at, run.out.find('\n', at) - at)));
  }
  const auto json = json_of(run_quant({"report", (dir / "a").string(), "--sort", "output", "--json"}));
  const auto error = [&](std::size_t i) {
    return json.at("layers")[i].at("calibration").at("output").at("relative_error").get<double>();
  };
  CHECK(error(0) >= error(1));
}

TEST_CASE("linears that fell back are told in the summary and in a warning", "[run]") {
  const TempDir dir;
  write_file(dir / "r.yaml", two_linears("      fallback_threshold: 1000\n"));
  const Outcome run = quietly(run_of(dir / "r.yaml", dir / "a", text()));
  CAPTURE(run.err, run.out);
  REQUIRE(run.code == 0);
  CHECK(has(run.out, "2 linears fell back, 2 for lack of calibration tokens: model.layers.0."));
  CHECK(has(run.err, "warning: 2 linears fell back"));
  CHECK(has(report_of(dir / "a").at("warnings").dump(), "2 linears fell back"));
  const auto json = json_of(quietly(run_of(dir / "r.yaml", dir / "b", with(text(), {"--json"}))));
  CHECK(json.at("fallbacks") == 2);
}

TEST_CASE("errors of blocks are measured where the unquantized model runs beside", "[run]") {
  const TempDir dir;
  const std::string scheme = "      targets: [Linear]\n      scheme: W4A16\n";
  const auto recipe = [&](const std::string& own) {
    return "s_stage:\n  m_modifiers:\n    GPTQModifier:\n      ignore: [lm_head]\n" + own + scheme;
  };
  const auto errors_of = [&](const std::string& name, const std::string& own, const Arguments& more) {
    write_file(dir / (name + ".yaml"), recipe(own));
    const Outcome run = quietly(run_of(dir / (name + ".yaml"), dir / name, with(text(), more)));
    INFO(run.err);
    REQUIRE(run.code == 0);
    std::vector<double> errors;
    const auto report = report_of(dir / name);
    for (const auto& block : report.at("calibration").at("blocks")) {
      if (block.contains("output")) errors.push_back(block.at("output").at("relative_error"));
    }
    return errors;
  };
  CHECK(errors_of("plain", "", {"--quiet"}).empty());
  const auto asked = errors_of("asked", "", {"--quiet", "--block-errors"});
  REQUIRE(asked.size() == 6);
  for (const double error : asked) CHECK((error > 0 && error < 1));
  CHECK(read_file(dir / "asked/model.safetensors") == read_file(dir / "plain/model.safetensors"));
  CHECK(errors_of("asymmetric", "      asymmetric: 0.5\n", {"--quiet"}).size() == 6);
}

TEST_CASE("the plan's memory under a limit is what a run takes", "[run][memory]") {
  const TempDir dir;
  write_file(dir / "r.yaml", two_linears(""));
  for (const std::string limit : {"45M", "60M"}) {
    CAPTURE(limit);
    const Outcome run =
        quietly(run_of(dir / "r.yaml", dir / limit,
                       with(text("64", "256"), {"--memory", limit, "--threads", "2", "--product", "f32", "--quiet"})));
    INFO(run.err);
    REQUIRE(run.code == 0);
    const auto measured = report_of(dir / limit).at("run");
    const double planned = measured.at("peak_memory_planned");
    CHECK(planned <= std::stod(limit) * 1e6);
#ifndef QUANT_TEST_SANITIZED  // sanitizers need memory of their own
    CAPTURE(planned, measured.at("peak_memory_measured").get<double>());
    CHECK(measured.at("peak_memory_measured").get<double>() <= planned);
    CHECK(planned <= 1.6 * measured.at("peak_memory_measured").get<double>());
#endif
  }
}

TEST_CASE("files that cannot be read have the same code in plan, run and eval", "[run]") {
  const TempDir dir;
  write_file(dir / "r.yaml", two_linears(""));
  write_file(dir / "empty.txt", "");
  const auto outcome = [&](const std::string& file) {
    return quietly(run_of(dir / "r.yaml", dir / "out", {"--calibration", file}));
  };
  const auto eval = [&](const std::string& file) {
    return quietly({"eval", example_model(), "--text", file, "--seq-len", "64"});
  };
  const std::string absent = (dir / "absent.txt").string(), empty = (dir / "empty.txt").string();
  CHECK(outcome(absent).code == 6);
  CHECK(quietly({"plan", (dir / "r.yaml").string(), "--model", example_model(), "--calibration", absent}).code == 6);
  CHECK(eval(absent).code == 6);
  CHECK(outcome(empty).code == 5);
  CHECK(eval(empty).code == 5);
  CHECK(has(outcome(absent).err, "absent.txt"));
  CHECK_FALSE(has(outcome(absent).err, "quant plan"));
  // The hint stays where the plan shows more: targets and schemes.
  const Outcome small = quietly(run_of(dir / "r.yaml", dir / "out", with(text(), {"--memory", "5M"})));
  CHECK(small.code == 3);
  CHECK(has(small.err, "too small"));
  CHECK_FALSE(has(small.err, "quant plan"));
  write_file(dir / "none.yaml", "s_stage: {m_modifiers: {GPTQModifier: {targets: ['re:nothing'], scheme: W4A16}}}\n");
  CHECK(has(quietly(run_of(dir / "none.yaml", dir / "out", text())).err, "'quant plan' shows"));
}

TEST_CASE("sequences beyond the model's positions are a warning with both numbers", "[run]") {
  const TempDir dir;
  write_file(dir / "r.yaml", two_linears(""));
  const auto config = nlohmann::json::parse(read_file(example_model() + "/config.json"));
  const std::uint64_t positions = config.at("max_position_embeddings");
  const std::string longer = std::to_string(positions + 8);
  const auto plan = json_of(
      quietly(with({"plan", (dir / "r.yaml").string(), "--model", example_model(), "--json"}, text("1", longer))));
  CHECK(has(plan.at("warnings").dump(),
            fmt::format("sequences of {} tokens, but the model was made for {} positions", longer, positions)));
  const Outcome eval = quietly(
      {"eval", example_model(), "--text", example_model() + "/evaluation.txt", "--seq-len", longer, "--windows", "1"});
  CHECK(eval.code == 0);
  CHECK(has(eval.err, fmt::format("windows of {} tokens, but the model was made for {} positions", longer, positions)));
}

TEST_CASE("fewer tokens than inputs are a warning that names the widest linear", "[run]") {
  const TempDir dir;
  write_file(dir / "r.yaml", two_linears(""));
  const auto warnings = [&](const std::string& samples) {
    return json_of(quietly(with({"plan", (dir / "r.yaml").string(), "--model", example_model(), "--json"},
                                text(samples, "64"))))
        .at("warnings")
        .dump();
  };
  CHECK(has(warnings("7"), "448 tokens for 512 inputs (model.layers.0.mlp.down_proj)"));
  CHECK_FALSE(has(warnings("8"), "tokens for 512 inputs"));
}

TEST_CASE("a limit that two models share is named as it was given", "[eval]") {
  const Outcome eval = quietly({"eval", example_model(), "--base", example_model(), "--text",
                                example_model() + "/evaluation.txt", "--seq-len", "256", "--memory", "20M"});
  INFO(eval.err);
  CHECK(eval.code == 2);
  CHECK(has(eval.err, "a memory limit of 20.0 MB for 2 models is too small"));
}

TEST_CASE("a run of caches alone names no error of weights", "[run]") {
  const TempDir dir;
  write_file(dir / "r.yaml",
             "s_stage:\n  m_modifiers:\n    QuantizationModifier:\n      kv_cache_scheme: {num_bits: 8, type: float, "
             "strategy: tensor, dynamic: false, symmetric: true}\n");
  const Outcome run = quietly(run_of(dir / "r.yaml", dir / "a", text()));
  INFO(run.err);
  REQUIRE(run.code == 0);
  CHECK(has(run.out, "no weights were changed"));
  CHECK_FALSE(has(run.out, "per quantized weight"));
  CHECK_FALSE(has(run.out, "exact"));
}
