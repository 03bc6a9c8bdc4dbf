// --save-statistics and --statistics: what one pass learnt, used by another run.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <map>

#include "quant/open.h"
#include "quant/statistics_file.h"
#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"

using namespace quant::test;

namespace {

namespace fs = std::filesystem;

Arguments text() {
  return {"--calibration", example_model() + "/calibration.txt", "--samples", "4", "--seq-len", "64"};
}

Arguments run_of(const fs::path& recipe, const fs::path& output, const Arguments& more,
                 const std::string& model = example_model()) {
  return with({"run", recipe.string(), "--model", model, "--output", output.string(), "--quiet"}, more);
}

std::string gptq(const std::string& more = "") {
  return "s_stage:\n  m_modifiers:\n    GPTQModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head], "
         "asymmetric: 0" +
         more + "}\n";
}

std::string static_int8() {
  return "s_stage:\n  m_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head]\n      config_groups:\n        "
         "g:\n"
         "          targets: [Linear]\n          weights: {num_bits: 8, strategy: channel}\n"
         "          input_activations: {num_bits: 8, strategy: tensor, dynamic: false}\n";
}

/// The bytes of all tensors whose names begin with `prefix`.
std::map<std::string, std::string> tensors_of(const fs::path& model, const std::string& prefix) {
  const auto checkpoint = quant::open_checkpoint(model);
  std::map<std::string, std::string> found;
  for (const quant::TensorInfo& tensor : checkpoint->tensors()) {
    if (!tensor.name.starts_with(prefix)) continue;
    const auto bytes = checkpoint->view(tensor).bytes;
    found[tensor.name] = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return found;
}

/// A run with text whose statistics were kept; made once.
struct Kept {
  TempDir dir;
  fs::path recipe = dir / "gptq.yaml";
  fs::path output = dir / "text";
  fs::path file = dir / "made" / "below" / "statistics.h5";  // folders that are not there yet

  Kept() {
    write_file(recipe, gptq());
    const Outcome made = quietly(run_of(recipe, output, with(text(), {"--save-statistics", file.string()})));
    if (made.code != 0) throw std::runtime_error(made.err);
  }
};

const Kept& kept() {
  static const Kept instance;
  return instance;
}

}  // namespace

TEST_CASE("a run with kept statistics makes the bytes of the run that kept them", "[statistics]") {
  const TempDir dir;
  const quant::StatisticsFileReader file(kept().file);
  CHECK(file.modules().size() == 42);
  CHECK(file.origin().data == "calibration.txt");
  CHECK_FALSE(file.origin().model_hash.empty());
  const quant::InputStatistics inputs = file.read("model.layers.5.mlp.down_proj");
  CHECK(inputs.tokens == 256);
  CHECK(inputs.cols == 512);
  CHECK(inputs.gram.size() == 512 * 512);
  CHECK(inputs.absmax.size() == 512);
  CHECK(inputs.mean_abs.size() == 512);

  const fs::path output = dir / "again";
  const Outcome run = quietly(run_of(kept().recipe, output, {"--statistics", kept().file.string()}));
  INFO(run.err);
  REQUIRE(run.code == 0);
  CHECK(read_file(output / "model.safetensors") == read_file(kept().output / "model.safetensors"));
  CHECK(quietly({"verify", output.string()}).code == 0);
  const auto first = nlohmann::json::parse(read_file(kept().output / "report.json"));
  const auto second = nlohmann::json::parse(read_file(output / "report.json"));
  CHECK(first.at("layers") == second.at("layers"));
  CHECK(first.at("plan_identity") != second.at("plan_identity"));
  const auto& calibration = second.at("calibration");
  CHECK(calibration.at("source") == "statistics.h5");
  CHECK(calibration.at("tokens") == 256);
  CHECK(calibration.at("sequences") == 0);
  CHECK(calibration.at("statistics").at("data") == "calibration.txt");
  CHECK(calibration.at("statistics").at("data_hash") == first.at("calibration").at("hash"));
  CHECK(has(read_file(output / "report.html"), "imported from statistics.h5"));
}

TEST_CASE("keeping statistics changes no byte of the output", "[statistics]") {
  const TempDir dir;
  REQUIRE(quietly(run_of(kept().recipe, dir / "plain", text())).code == 0);
  CHECK(read_file(dir / "plain/model.safetensors") == read_file(kept().output / "model.safetensors"));
  for (const auto& entry : fs::directory_iterator(kept().output)) {
    CHECK_FALSE(entry.path().filename().string().starts_with("."));
  }
}

TEST_CASE("another recipe uses the same statistics", "[statistics]") {
  const TempDir dir;
  write_file(dir / "damped.yaml", gptq(", dampening_frac: 0.05"));
  write_file(dir / "static.yaml", static_int8());
  for (const std::string recipe : {"damped", "static"}) {
    CAPTURE(recipe);
    const fs::path file = dir / (recipe + ".yaml"), used = dir / recipe, own = dir / (recipe + "_own");
    const Outcome run = quietly(run_of(file, used, {"--statistics", kept().file.string()}));
    INFO(run.err);
    REQUIRE(run.code == 0);
    CHECK(quietly({"verify", used.string()}).code == 0);
    // Nothing is quantized before the first linears: they are those of a pass of this recipe, and not of the first one.
    REQUIRE(quietly(run_of(file, own, text())).code == 0);
    const auto linear = [](const fs::path& output, const std::string& module) {
      return tensors_of(output, "model.layers." + module);
    };
    for (const char* module : {"0.self_attn.q_proj.", "0.self_attn.k_proj.", "0.self_attn.v_proj."}) {
      CAPTURE(module);
      CHECK(linear(used, module) == linear(own, module));
      CHECK(linear(used, module) != linear(kept().output, module));
    }
    CHECK(linear(used, "5.mlp.down_proj.") != linear(own, "5.mlp.down_proj."));
  }
}

TEST_CASE("magnitudes alone, or ranges alone, are enough for static scales", "[statistics]") {
  const TempDir dir;
  write_file(dir / "static.yaml", static_int8());
  const auto run = [&](const std::string& name, auto strip) {
    auto all = quant::read_statistics(kept().file);
    for (auto& [module, statistics] : all) {
      strip(statistics);
      statistics.gram.clear();
      statistics.mean_abs.clear();
    }
    quant::write_statistics(dir / (name + ".h5"), {}, all);
    const Outcome outcome =
        quietly(run_of(dir / "static.yaml", dir / name, {"--statistics", (dir / (name + ".h5")).string()}));
    INFO(outcome.err);
    REQUIRE(outcome.code == 0);
    return read_file(dir / name / "model.safetensors");
  };
  const std::string both = run("both", [](quant::InputStatistics&) {});
  CHECK(run("magnitudes", [](quant::InputStatistics& s) { s.minimum.clear(), s.maximum.clear(); }) == both);
  CHECK(run("ranges", [](quant::InputStatistics& s) { s.absmax.clear(); }) == both);
  CHECK(run("halved", [](quant::InputStatistics& s) {
          s.minimum.clear(), s.maximum.clear();
          for (float& value : s.absmax) value /= 2;
        }) != both);
  CHECK(tensors_of(dir / "magnitudes", "model.layers.5.mlp.down_proj.input_scale").size() == 1);
}

TEST_CASE("statistics that cannot be used are named before the run begins", "[statistics]") {
  const TempDir dir;
  auto all = quant::read_statistics(kept().file);
  all.at("model.layers.0.mlp.down_proj").gram[3] = std::nanf("");
  all.at("model.layers.3.self_attn.o_proj").gram[0] = -1;
  all.at("model.layers.2.self_attn.o_proj").absmax[2] = -1;  // which the recipe does not need
  quant::write_statistics(dir / "s.h5", {}, all);
  const Outcome run = quietly(run_of(kept().recipe, dir / "out", {"--statistics", (dir / "s.h5").string()}));
  INFO(run.err);
  CHECK(run.code == 5);
  CHECK(has(run.err, "model.layers.0.mlp.down_proj"));
  CHECK(has(run.err, "not finite"));
  CHECK(has(run.err, "model.layers.3.self_attn.o_proj' has a Gram matrix with a negative diagonal"));
  CHECK_FALSE(has(run.err, "absmax"));
  CHECK_FALSE(fs::exists(dir / "out"));
}

TEST_CASE("a place that cannot be written ends the run before it begins", "[statistics]") {
  const TempDir dir;
  fs::create_directories(dir / "s.h5.partial");
  const Outcome run =
      quietly(run_of(kept().recipe, dir / "out", with(text(), {"--save-statistics", (dir / "s.h5").string()})));
  INFO(run.err);
  CHECK(run.code == 6);
  CHECK(has(run.err, "statistics cannot be saved"));
  CHECK_FALSE(fs::exists(dir / "out.partial"));
}

TEST_CASE("schemes are not shared out by statistics alone", "[statistics]") {
  const TempDir dir;
  const Outcome run =
      quietly(run_of(kept().recipe, dir / "out", {"--statistics", kept().file.string(), "--target-bits", "4.25"}));
  CHECK(run.code == 2);
  CHECK(has(run.err, "a file of statistics holds none"));
  CHECK(has(run.err, "--sensitivity FILE"));
}

TEST_CASE("statistics that do not fit are problems of the plan", "[statistics]") {
  const TempDir dir;
  const auto refused = [&](const Arguments& arguments, int code, const std::string& part) {
    const Outcome outcome = quietly(arguments);
    CAPTURE(part, outcome.err);
    CHECK(outcome.code == code);
    CHECK(has(outcome.err, part));
  };
  const fs::path out = dir / "out";
  const Arguments use{"--statistics", kept().file.string()};
  refused(run_of(kept().recipe, out, with(text(), use)), 2, "excludes");
  refused(run_of(kept().recipe, out, {"--statistics", "/no/such.h5"}), 6, "/no/such.h5");
  write_file(dir / "text.h5", "no HDF5");
  refused(run_of(kept().recipe, out, {"--statistics", (dir / "text.h5").string()}), 5, "text.h5: is no HDF5 file");
  const std::string whole = read_file(kept().file);
  write_file(dir / "cut.h5", whole.substr(0, whole.size() / 2));
  refused(run_of(kept().recipe, out, {"--statistics", (dir / "cut.h5").string()}), 5,
          "cut.h5: is damaged or truncated (HDF5: ");

  write_file(dir / "asymmetric.yaml",
             gptq(", actorder: static").replace(gptq().find("asymmetric: 0"), 13, "asymmetric: 0.5"));
  refused(run_of(dir / "asymmetric.yaml", out, use), 3, "asymmetric calibration");
  write_file(dir / "smooth.yaml",
             "a_stage:\n  a_modifiers:\n    SmoothQuantModifier: {}\nb_stage:\n  b_modifiers:\n    "
             "QuantizationModifier: {targets: [Linear], scheme: W8A8, ignore: [lm_head]}\n");
  refused(run_of(dir / "smooth.yaml", out, use), 3, "rescales channels");
  refused(run_of(dir / "smooth.yaml", out, with(text(), {"--save-statistics", (dir / "s.h5").string()})), 3,
          "--save-statistics works");
  refused(run_of("fp8_kv_cache", out, use), 3, "kv_cache_scheme");

  refused(run_of(kept().recipe, out, with(text(), {"--save-statistics", (dir / "text.h5/below/s.h5").string()})), 3,
          "text.h5 is no directory");
  refused(run_of("w4a16", out, {"--save-statistics", (dir / "s.h5").string()}), 3, "no statistics can be saved");
  refused(run_of(kept().recipe, out, with(use, {"--save-statistics", (dir / "s.h5").string()})), 3, "saved again");

  // Parts of another model, of some modules, or without what the recipe needs.
  auto all = quant::read_statistics(kept().file);
  quant::StatisticsOrigin origin;
  origin.model = "other";
  origin.model_hash = "0123";
  quant::write_statistics(dir / "other.h5", origin, all);
  refused(run_of(kept().recipe, out, {"--statistics", (dir / "other.h5").string()}), 3,
          "of another model (other), not of " + example_model());
  all.at("model.layers.1.mlp.down_proj").gram.clear();
  all.erase("model.layers.2.self_attn.q_proj");
  quant::InputStatistics narrow;
  narrow.tokens = 1;
  narrow.cols = 4;
  narrow.gram.assign(16, 1.0F);
  all["model.layers.3.self_attn.o_proj"] = narrow;
  quant::write_statistics(dir / "partial.h5", {}, all);
  const Arguments partial = run_of(kept().recipe, out, {"--statistics", (dir / "partial.h5").string()});
  refused(partial, 3, "partial.h5 lacks a Gram matrix of model.layers.1.mlp.down_proj");
  refused(partial, 3, "partial.h5 has none of model.layers.2.self_attn.q_proj");
  refused(partial, 3,
          "model.layers.3.self_attn.o_proj has 4 columns in " + (dir / "partial.h5").string() + ", 256 in the model");
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("files from elsewhere need no fingerprint, and their content is part of the identity", "[statistics]") {
  const TempDir dir;
  auto all = quant::read_statistics(kept().file);
  quant::write_statistics(dir / "a.h5", {}, all);
  const auto identity = [&] {
    const auto plan = json_of(quietly({"plan", kept().recipe.string(), "--model", example_model(), "--statistics",
                                       (dir / "a.h5").string(), "--json"}));
    CHECK(has(plan.at("warnings").dump(), "does not say which model"));
    return plan.at("identity").get<std::string>();
  };
  const std::string before = identity();
  CHECK(identity() == before);
  all.at("model.layers.0.mlp.down_proj").gram[0] *= 2;
  quant::write_statistics(dir / "a.h5", {}, all);
  CHECK(identity() != before);
}

namespace {

// Ends the run as soon as its first block's statistics are there; false if it was faster.
bool kill_after_first_block(const Arguments& arguments, const fs::path& output) {
  const fs::path first = output.string() + ".partial/.quant-statistics.1.h5";
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    setenv("OMP_WAIT_POLICY", "passive", 1);
    std::vector<char*> argv{const_cast<char*>("quant")};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(QUANT_EXECUTABLE, argv.data());
    _exit(126);
  }
  while (!fs::exists(first) && waitpid(child, nullptr, WNOHANG) == 0) usleep(200);
  // Stopped, so that the kill falls into the middle however slow this process is.
  kill(child, SIGSTOP);
  const bool unfinished = fs::exists(output.string() + ".partial") && !fs::exists(output);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return unfinished;
}

}  // namespace

TEST_CASE("a killed run keeps the statistics of its finished blocks", "[statistics]") {
  const TempDir dir;
  const fs::path output = dir / "out";
  const fs::path file = dir / "s.h5";
  const Arguments arguments = run_of(kept().recipe, output, with(text(), {"--save-statistics", file.string()}));
  bool killed = false;
  for (int attempt = 0; attempt < 5 && !killed; ++attempt) {
    for (const fs::path& old : {output, fs::path(output.string() + ".partial"), file}) fs::remove_all(old);
    killed = kill_after_first_block(arguments, output);
  }
  REQUIRE(killed);
  std::size_t blocks = 0;
  for (const auto& entry : fs::directory_iterator(output.string() + ".partial")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".quant-statistics.") && name.ends_with(".h5")) ++blocks;
  }
  CHECK(blocks >= 1);
  CHECK_FALSE(fs::exists(file));
  const Outcome dropped = quietly(with(run_of(kept().recipe, output, text()), {"--resume"}));
  CHECK(dropped.code == 6);
  CHECK(has(dropped.err, "was begun with --save-statistics"));
  CHECK(has(dropped.err, "give --save-statistics FILE again"));
  const Outcome resumed = quietly(with(arguments, {"--resume"}));
  INFO(resumed.err);
  REQUIRE(resumed.code == 0);
  CHECK(read_file(file) == read_file(kept().file));
  CHECK(read_file(output / "model.safetensors") == read_file(kept().output / "model.safetensors"));
}

TEST_CASE("unquantized inputs do not depend on the recipe", "[statistics]") {
  const TempDir dir;
  write_file(dir / "gptq.yaml", gptq());
  write_file(dir / "static.yaml", static_int8());
  const auto pass = [&](const std::string& recipe, const Arguments& more) {
    const fs::path file = dir / (recipe + std::to_string(more.size()) + ".h5");
    const fs::path output = dir / (recipe + std::to_string(more.size()));
    const Outcome run = quietly(
        run_of(dir / (recipe + ".yaml"), output, with(with(text(), {"--save-statistics", file.string()}), more)));
    INFO(run.err);
    REQUIRE(run.code == 0);
    return quant::read_statistics(file);
  };
  const auto four_bits = pass("gptq", {"--unquantized-inputs"});
  const auto eight_bits = pass("static", {"--unquantized-inputs"});
  const auto sequential = pass("gptq", {});
  REQUIRE(four_bits.size() == 42);
  REQUIRE(eight_bits.size() == 42);
  for (const auto& [module, statistics] : four_bits) {
    CAPTURE(module);
    CHECK(statistics.gram == eight_bits.at(module).gram);
    CHECK(statistics.absmax == eight_bits.at(module).absmax);
    CHECK(statistics.mean_abs == eight_bits.at(module).mean_abs);
    // Nothing lies before the first linears; all others see quantized ones in a pass of their own recipe.
    const bool first = module == "model.layers.0.self_attn.q_proj" || module == "model.layers.0.self_attn.k_proj" ||
                       module == "model.layers.0.self_attn.v_proj";
    CHECK((statistics.gram == sequential.at(module).gram) == first);
  }
  const Outcome refused =
      run_quant(run_of(dir / "gptq.yaml", dir / "refused", with(text(), {"--unquantized-inputs", "--block-errors"})));
  CHECK(refused.code == 3);
  CHECK(has(refused.err, "here there is no other"));
}
