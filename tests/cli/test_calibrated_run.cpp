// What `quant run` says of calibrated recipes: orders of columns, errors of outputs, fallbacks, blocks, memory, hints.
#include <fmt/format.h>

#include <cmath>

#include "quant/open.h"
#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Outcome quietly(const Arguments& arguments) { return run_quant(arguments, {"OMP_WAIT_POLICY=passive"}); }

Arguments with(Arguments arguments, const Arguments& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

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

nlohmann::json report_of(const fs::path& output) { return nlohmann::json::parse(read_file(output / "report.json")); }

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
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CAPTURE(planned, measured.at("peak_memory_measured").get<double>());
    CHECK(measured.at("peak_memory_measured").get<double>() <= planned);
    CHECK(planned <= 1.6 * measured.at("peak_memory_measured").get<double>());
#endif
  }
}
