// Runs that keep their statistics, and runs that use kept ones.
#include <cmath>
#include <limits>

#include "calibrated_fixture.h"
#include "pipeline/statistics_keeper.h"
#include "quant/error.h"
#include "quant/statistics_file.h"
#include "support/catch.h"
#include "support/text.h"

using namespace quant;
using namespace quant::test;

namespace {

/// The Error of a call; one of code internal if there is none.
template <class Call>
Error error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::internal, "nothing was thrown");
}

void poke(const CalibratedModel& model, const std::string& tensor, std::uint64_t index, float value) {
  std::fstream file(model.dir / "model" / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
  const std::uint16_t half = f32_to_f16(value);
  file.seekp(static_cast<std::streamoff>(model.checkpoint->find(tensor)->offset + 2 * index));
  file.write(reinterpret_cast<const char*>(&half), 2);
}

/// As a file from elsewhere, which says nothing of the model.
void use_statistics(CalibratedModel& model, std::map<std::string, InputStatistics> all) {
  write_statistics(model.dir / "elsewhere.h5", {}, all);
  model.options.calibration.file.clear();
  model.options.calibration.save_statistics.clear();
  model.options.calibration.statistics = model.dir / "elsewhere.h5";
}

}  // namespace

TEST_CASE("algorithms see what they ask for, the file has what other recipes want") {
  CalibratedModel model;
  Seen::instance() = {};
  model.run(probe("ProbeRange"), "plain");
  const Seen plain = Seen::instance();
  Seen::instance() = {};
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  model.run(probe("ProbeRange"), "out");
  const auto kept = read_statistics(model.dir / "kept.h5");
  REQUIRE(Seen::instance().inputs.size() == 14);
  REQUIRE(kept.size() == 14);
  for (const auto& [module, seen] : Seen::instance().inputs) {
    INFO(module);
    CHECK(seen.gram.empty());
    CHECK(seen.mean_abs.empty());
    CHECK(seen.absmax == plain.inputs.at(module).absmax);
    const InputStatistics& in_file = kept.at(module);
    CHECK(in_file.gram.size() == seen.cols * seen.cols);
    CHECK(in_file.mean_abs.size() == seen.cols);
    CHECK(in_file.absmax == seen.absmax);
  }
  CHECK(model_files(model.dir / "out") == model_files(model.dir / "plain"));
}

TEST_CASE("what needs both models is used, and not kept") {
  CalibratedModel model;
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  for (const char* name : {"ProbeCross", "ProbeResidual"}) {
    INFO(name);
    Seen::instance() = {};
    model.run(probe(name), name);
    const InputStatistics& seen = Seen::instance().inputs.at("model.layers.1.mlp.down_proj");
    CHECK((seen.cross_gram.size() + seen.residual.size()) > 0);
    const auto kept = read_statistics(model.dir / "kept.h5");
    REQUIRE(kept.size() == 14);
    for (const auto& [module, statistics] : kept) CHECK(statistics.cross_gram.empty());
    CHECK(kept.at("model.layers.1.mlp.down_proj").gram == seen.gram);
  }
}

TEST_CASE("a place that statistics cannot be saved in ends the run before it begins") {
  CalibratedModel model;
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  std::filesystem::create_directories(model.dir / "kept.h5.partial");  // no file can be written there
  Seen::instance() = {};
  const Error error = error_of([&] { model.run(probe("ProbeAll"), "out"); });
  CHECK(error.code() == ErrorCode::io);
  CHECK(has(error.what(), "kept.h5.partial"));
  CHECK(Seen::instance().order.empty());
  CHECK_FALSE(std::filesystem::exists(model.dir / "out.partial"));
  std::filesystem::remove(model.dir / "kept.h5.partial");
  model.run(probe("ProbeAll"), "out");
  CHECK(std::filesystem::exists(model.dir / "kept.h5"));
}

TEST_CASE("folders that a place for statistics needs are made when they are needed") {
  CalibratedModel model;
  const auto folder = model.dir / "some";
  model.options.calibration.save_statistics = folder / "where" / "kept.h5";
  Plan plan = model.plan(probe("ProbeAll"));
  StatisticsKeeper(plan, model.dir.path()).require_place(false);
  CHECK_FALSE(std::filesystem::exists(folder));
  plan.output_bytes = std::uint64_t{1} << 60U;
  CHECK(error_of([&] { StatisticsKeeper(plan, model.dir.path()).require_place(false); }).code() == ErrorCode::io);
  CHECK_FALSE(std::filesystem::exists(folder));
  model.run(probe("ProbeAll"), "out");
  CHECK(std::filesystem::is_regular_file(folder / "where" / "kept.h5"));
  // A name that is taken by a file is no folder.
  write_file(model.dir / "taken", "");
  plan.options.calibration.save_statistics = model.dir / "taken" / "kept.h5";
  const Error error = error_of([&] { StatisticsKeeper(plan, model.dir.path()).require_place(false); });
  CHECK(error.code() == ErrorCode::io);
  CHECK(has(error.what(), "taken"));
}

// Inputs of layer 0's down_proj whose squares no float holds, in a channel that the layer itself does not read.
TEST_CASE("statistics that are not finite are left out of the file, with a warning") {
  TinyLlama sizes;
  sizes.dtype = DType::F32;
  CalibratedModel model(sizes);
  const auto poke_floats = [&](const std::string& tensor, std::uint64_t first, std::uint64_t step, std::uint64_t count,
                               float value) {
    std::fstream file(model.dir / "model" / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
    for (std::uint64_t i = 0; i < count; ++i) {
      file.seekp(static_cast<std::streamoff>(model.checkpoint->find(tensor)->offset + 4 * (first + i * step)));
      file.write(reinterpret_cast<const char*>(&value), 4);
    }
  };
  poke_floats("model.layers.0.mlp.up_proj.weight", 3 * sizes.hidden, 1, sizes.hidden, 1e24F);
  poke_floats("model.layers.0.mlp.down_proj.weight", 3, sizes.intermediate, sizes.hidden, 0.0F);
  model.checkpoint = open_checkpoint(model.dir / "model");
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  Seen::instance() = {};
  const RunReport report = model.run(probe("ProbeAll"), "out");
  const std::string module = "model.layers.0.mlp.down_proj";
  const std::vector<float>& gram = Seen::instance().inputs.at(module).gram;
  REQUIRE_FALSE(std::all_of(gram.begin(), gram.end(), [](float value) { return std::isfinite(value); }));
  const auto kept = read_statistics(model.dir / "kept.h5");
  CHECK(kept.size() == 13);
  CHECK_FALSE(kept.contains(module));
  CHECK(std::count_if(report.warnings.begin(), report.warnings.end(), [&](const std::string& warning) {
          return has(warning, "kept.h5 lacks the statistics of 1 linear, which are not finite: " + module);
        }) == 1);
  model.options.calibration.save_statistics.clear();
  model.options.calibration.file.clear();
  model.options.calibration.statistics = model.dir / "kept.h5";
  const Plan plan = model.plan(probe("ProbeAll"));
  REQUIRE(plan.problems.size() == 1);
  CHECK(has(plan.problems.front(), "has none of " + module));
}

TEST_CASE("room for statistics is looked for beside the room for the output") {
  CalibratedModel model;
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  const std::uint64_t without = [&] {
    CalibratedModel plain;
    return plain.plan(probe("ProbeAll")).calibration->disk_bytes;
  }();
  Plan plan = model.plan(probe("ProbeAll"));
  REQUIRE(plan.problems.empty());
  // The blocks' files, until the one that is joined from them is complete.
  const std::uint64_t copy = plan.calibration->disk_bytes - without;
  std::uint64_t least = 0;
  for (const std::uint64_t cols : {32, 32, 32, 48}) least += 2 * cols * (cols + 1) / 2 * sizeof(float);
  CHECK(copy > least);
  const StatisticsKeeper keeper(plan, model.dir.path());
  keeper.require_place(false);
  CHECK_FALSE(std::filesystem::exists(model.dir / "kept.h5.partial"));
  plan.output_bytes = std::uint64_t{1} << 60U;
  const Error error = error_of([&] { keeper.require_place(false); });
  CHECK(error.code() == ErrorCode::io);
  CHECK(has(error.what(), "statistics and output need up to "));
  keeper.require_place(true);  // a run that goes on has written a part of it already
}

TEST_CASE("the file fits the room that the plan has for it") {
  CalibratedModel model;
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  const std::uint64_t planned = model.plan(probe("ProbeAll")).calibration->disk_bytes;
  model.run(probe("ProbeAll"), "out");
  CHECK(std::filesystem::file_size(model.dir / "kept.h5") <= planned);
}

TEST_CASE("with statistics from a file only weights that are coded must be finite") {
  CalibratedModel model;
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  model.run(probe("ProbeAll"), "first");
  use_statistics(model, read_statistics(model.dir / "kept.h5"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  poke(model, "model.embed_tokens.weight", 5, nan);
  poke(model, "model.layers.0.input_layernorm.weight", 3, nan);
  model.checkpoint = open_checkpoint(model.dir / "model");
  CHECK(model.run(probe("ProbeAll"), "second").layers.size() == 14);
  // A linear that is ignored is not coded either.
  poke(model, "model.layers.1.mlp.down_proj.weight", 7, HUGE_VALF);
  CHECK(model.run(probe("ProbeAll", 3, "", "lm_head, 're:.*layers.1.mlp.down_proj'"), "third").layers.size() == 13);
  const Error error = error_of([&] { model.run(probe("ProbeAll"), "fourth"); });
  INFO(error.what());
  CHECK(error.code() == ErrorCode::numerical);
  CHECK(has(error.what(), "model.layers.1.mlp.down_proj.weight"));
  CHECK_FALSE(has(error.what(), "embed_tokens"));
  CHECK_FALSE(has(error.what(), "layernorm"));
  CHECK(has(error.hint(), "ignore"));
}

TEST_CASE("only parts that a recipe needs are read, and a file that is gone is no damaged one") {
  CalibratedModel model;
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  model.run(probe("ProbeAll"), "first");
  auto all = read_statistics(model.dir / "kept.h5");
  const auto absmax = all.at("model.layers.1.mlp.down_proj").absmax;
  all.at("model.layers.1.mlp.down_proj").gram[0] = -1;
  use_statistics(model, all);
  Seen::instance() = {};
  model.run(probe("ProbeRange"), "out");
  const InputStatistics& seen = Seen::instance().inputs.at("model.layers.1.mlp.down_proj");
  CHECK(seen.absmax == absmax);
  CHECK(seen.gram.empty());
  CHECK(seen.mean_abs.empty());
  const Plan plan = model.plan(probe("ProbeRange"));
  const auto run_to = [&](const char* name) {
    RunOptions options;
    options.output = model.dir / name;
    run_plan(plan, options);
  };
  std::filesystem::remove(model.dir / "elsewhere.h5");
  const Error gone = error_of([&] { run_to("gone"); });
  INFO(gone.what());
  CHECK(gone.code() == ErrorCode::io);
  CHECK(has(gone.what(), "elsewhere.h5: cannot be opened"));
  CHECK_FALSE(has(gone.hint(), "anew"));
  // Another file in its place.
  all.at("model.layers.0.mlp.down_proj").absmax.clear();
  all.at("model.layers.0.mlp.down_proj").minimum.clear();
  write_statistics(model.dir / "elsewhere.h5", {}, all);
  const Error other = error_of([&] { run_to("other"); });
  INFO(other.what());
  CHECK(other.code() == ErrorCode::corrupt_file);
  CHECK(has(other.what(), "elsewhere.h5: the statistics of model.layers.0.mlp.down_proj changed"));
}

TEST_CASE("all statistics that cannot be used are named before anything is coded") {
  CalibratedModel model;
  model.options.calibration.save_statistics = model.dir / "kept.h5";
  model.run(probe("ProbeAll"), "first");
  auto all = read_statistics(model.dir / "kept.h5");
  all.at("model.layers.0.mlp.down_proj").mean_abs[5] = std::numeric_limits<float>::quiet_NaN();
  all.at("model.layers.1.self_attn.o_proj").absmax[2] = -1;
  all.at("model.layers.1.mlp.down_proj").gram[0] = -1;
  use_statistics(model, all);
  Seen::instance() = {};
  const Error error = error_of([&] { model.run(probe("ProbeAll"), "out"); });
  const std::string text = error.what();
  INFO(text);
  CHECK(error.code() == ErrorCode::corrupt_file);
  CHECK(has(text, "model.layers.0.mlp.down_proj/mean_abs' has a value that is not finite, at 5"));
  CHECK(has(text, "model.layers.1.self_attn.o_proj' has a negative absmax, at 2"));
  CHECK(has(text, "model.layers.1.mlp.down_proj' has a Gram matrix with a negative diagonal"));
  CHECK(std::count(text.begin(), text.end(), '\n') == 2);
  CHECK(Seen::instance().order.empty());
}
