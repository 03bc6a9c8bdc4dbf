#include "fixture.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using quant::test::builtin_registry;
using quant::test::model_files;
using quant::test::recipe_of;
using quant::test::TempDir;

namespace {

constexpr const char* kFields = "{scheme: W8A16, ignore: [lm_head]}";

struct Prepared {
  TempDir dir;
  std::unique_ptr<Checkpoint> checkpoint;
  Plan plan;
  Prepared() {
    test::write_tiny_model(dir / "model", {.layers = 3, .hidden = 128, .intermediate = 256});
    checkpoint = open_checkpoint(dir / "model");
    PlanOptions options;
    options.shard_bytes = 100'000;
    plan = make_plan(*checkpoint, recipe_of(kFields), builtin_registry(), options);
  }
  RunReport run(const std::string& name, bool resume = false, const std::atomic<bool>* stop = nullptr) {
    RunOptions options;
    options.output = dir / name;
    options.resume = resume;
    options.stop = stop;
    return run_plan(plan, options);
  }
};

// Runs with the stop flag set, so that at least the directory and the journal are there.
void interrupt(Prepared& p, const std::string& name) {
  const std::atomic<bool> stop{true};
  try {
    p.run(name, false, &stop);
    FAIL("not interrupted");
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::interrupted);
  }
}

}  // namespace

TEST_CASE("an interrupted run is completed to the same bytes") {
  Prepared p;
  const RunReport whole = p.run("whole");
  interrupt(p, "out");
  CHECK_FALSE(std::filesystem::exists(p.dir / "out"));
  REQUIRE(std::filesystem::exists(p.dir / "out.partial"));
  const RunReport resumed = p.run("out", true);
  CHECK(model_files(p.dir / "out") == model_files(p.dir / "whole"));
  REQUIRE(resumed.layers.size() == whole.layers.size());
  for (std::size_t i = 0; i < whole.layers.size(); ++i) {
    CHECK(resumed.layers[i].sums.noise == whole.layers[i].sums.noise);
    CHECK(resumed.layers[i].row_nmse == whole.layers[i].row_nmse);
  }
}

TEST_CASE("a partial directory is neither overwritten nor resumed unasked") {
  Prepared p;
  interrupt(p, "out");
  CHECK_THROWS_AS(p.run("out"), Error);
  RunOptions options;
  options.output = p.dir / "out";
  options.overwrite_partial = true;
  run_plan(p.plan, options);
  CHECK(std::filesystem::exists(p.dir / "out" / "report.json"));
}

TEST_CASE("resume refuses another recipe, other options and changed inputs") {
  Prepared p;
  interrupt(p, "out");
  RunOptions options;
  options.output = p.dir / "out";
  options.resume = true;
  const Plan other =
      make_plan(*p.checkpoint, recipe_of("{scheme: W8A8, ignore: [lm_head]}"), builtin_registry(), p.plan.options);
  CHECK_THROWS_AS(run_plan(other, options), Error);
  const auto weights = p.dir / "model" / "model.safetensors";
  std::filesystem::last_write_time(weights, std::filesystem::last_write_time(weights) + std::chrono::seconds(5));
  const auto changed = open_checkpoint(p.dir / "model");
  const Plan same = make_plan(*changed, recipe_of(kFields), builtin_registry(), p.plan.options);
  CHECK_THROWS_AS(run_plan(same, options), Error);
}

TEST_CASE("a journal cut at any byte is resumed to the same output") {
  Prepared p;
  p.run("whole");
  const auto expected = model_files(p.dir / "whole");
  // A finished partial directory with its journal, as a kill just before the end leaves it: stop after everything is
  // done.
  std::atomic<bool> stop{false};
  RunOptions options;
  options.output = p.dir / "base";
  options.stop = &stop;
  options.progress = [&](const RunProgress& progress) { stop = progress.bytes_done == progress.bytes_total; };
  CHECK_THROWS_AS(run_plan(p.plan, options), Error);
  const auto partial = p.dir / "base.partial";
  const std::string journal = test::read_file(partial / ".quant-journal.jsonl");
  REQUIRE(std::count(journal.begin(), journal.end(), '\n') > 10);
  int n = 0;
  for (std::size_t cut = 0; cut <= journal.size(); cut += journal.size() / 40 + 1) {
    const std::string name = "cut" + std::to_string(n++);
    std::filesystem::copy(partial, p.dir / (name + ".partial"), std::filesystem::copy_options::recursive);
    test::write_file(p.dir / (name + ".partial") / ".quant-journal.jsonl", journal.substr(0, cut));
    p.run(name, true);
    CHECK(model_files(p.dir / name) == expected);
  }
}

TEST_CASE("everything but the rename is done: resume only renames") {
  Prepared p;
  p.run("out");
  const auto expected = model_files(p.dir / "out");
  std::filesystem::rename(p.dir / "out", p.dir / "out.partial");
  p.run("out", true);
  CHECK(model_files(p.dir / "out") == expected);
}

TEST_CASE("a kill between the last steps loses nothing") {
  Prepared p;
  p.run("whole");
  const auto expected = model_files(p.dir / "whole");
  // Everything is written, the journal's lines are gone, its arrays are not yet.
  std::filesystem::copy(p.dir / "whole", p.dir / "late.partial", std::filesystem::copy_options::recursive);
  test::write_file(p.dir / "late.partial" / ".quant-journal.f32", "1234");
  p.run("late", true);
  CHECK(model_files(p.dir / "late") == expected);
  // The directory is there and nothing in it yet.
  std::filesystem::create_directories(p.dir / "early.partial");
  p.run("early", true);
  CHECK(model_files(p.dir / "early") == expected);
}

TEST_CASE("files that no run has made are not deleted by resume") {
  Prepared p;
  std::filesystem::create_directories(p.dir / "out.partial");
  test::write_file(p.dir / "out.partial" / "mine.txt", "mine");
  CHECK_THROWS_AS(p.run("out", true), Error);
  CHECK(test::read_file(p.dir / "out.partial" / "mine.txt") == "mine");
  CHECK_FALSE(std::filesystem::exists(p.dir / "out"));
}

TEST_CASE("a finished partial directory of another plan or other inputs is not taken for this one") {
  Prepared p;
  p.run("out");
  std::filesystem::rename(p.dir / "out", p.dir / "out.partial");
  RunOptions options;
  options.output = p.dir / "out";
  options.resume = true;
  const Plan other =
      make_plan(*p.checkpoint, recipe_of("{scheme: W8A8, ignore: [lm_head]}"), builtin_registry(), p.plan.options);
  CHECK_THROWS_AS(run_plan(other, options), Error);
  const auto weights = p.dir / "model" / "model.safetensors";
  std::filesystem::last_write_time(weights, std::filesystem::last_write_time(weights) + std::chrono::seconds(5));
  const auto changed = open_checkpoint(p.dir / "model");
  CHECK_THROWS_AS(run_plan(make_plan(*changed, recipe_of(kFields), builtin_registry(), p.plan.options), options),
                  Error);
  CHECK_FALSE(std::filesystem::exists(p.dir / "out"));
}

TEST_CASE("an output that appears while the run works is not replaced") {
  Prepared p;
  RunOptions options;
  options.output = p.dir / "out";
  options.progress = [&](const RunProgress&) { std::filesystem::create_directories(p.dir / "out"); };
  CHECK_THROWS_AS(run_plan(p.plan, options), Error);
  CHECK(std::filesystem::is_empty(p.dir / "out"));
}

TEST_CASE("two processes cannot work on one output") {
  Prepared p;
  RunOptions inner;
  inner.output = p.dir / "out";
  inner.resume = GENERATE(true, false);
  inner.overwrite_partial = !inner.resume;
  bool refused = false;
  RunOptions outer;
  outer.output = p.dir / "out";
  outer.progress = [&](const RunProgress&) {
    if (refused) return;
    try {
      run_plan(p.plan, inner);
    } catch (const Error& error) {
      refused = std::string(error.what()).find("another process") != std::string::npos;
    }
  };
  run_plan(p.plan, outer);
  CHECK(refused);
  CHECK(open_checkpoint(p.dir / "out")->tensors().size() > 0);
}

TEST_CASE("a damaged journal is an error, not a wrong file") {
  Prepared p;
  interrupt(p, "out");
  const auto path = p.dir / "out.partial" / ".quant-journal.jsonl";
  const std::string header = test::read_file(path);
  for (const std::string line :
       {"{}", "not json", R"({"shard": 0, "item": 0, "sums": [1]})",
        R"({"shard":0,"item":99999999,"sums":[1,1,1,1,1,1,1,1],"scale_min":0,"scale_max":0,"seconds":0,)"
        R"("at":0,"rows":0,"groups":0})",
        R"({"shard":-1,"item":0,"sums":[1,1,1,1,1,1,1,1],"scale_min":0,"scale_max":0,"seconds":0,)"
        R"("at":0,"rows":0,"groups":0})",
        R"({"shard":0,"item":0,"sums":[1,1,1,1,1,1,1,1],"scale_min":0,"scale_max":0,"seconds":0,)"
        R"("at":0,"rows":1000000,"groups":18446744073709551615})"}) {
    test::write_file(path, header + line + "\n");
    try {
      p.run("out", true);
      FAIL("accepted: " << line);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::corrupt_file);
    }
  }
}
