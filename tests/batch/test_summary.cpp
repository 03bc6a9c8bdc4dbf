// What came of jobs, side by side.
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "quant/batch.h"
#include "quant/claims.h"
#include "quant/error.h"
#include "support/catch.h"
#include "support/temp_dir.h"
#include "support/text.h"

using namespace quant;
using namespace quant::test;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
using Points = std::vector<std::pair<double, double>>;

// The definition, pair by pair.
std::vector<bool> plain_front(const Points& points) {
  std::vector<bool> front;
  for (const auto& a : points) {
    bool on = std::isfinite(a.first) && std::isfinite(a.second);
    for (const auto& b : points) {
      if (!std::isfinite(b.first) || !std::isfinite(b.second)) continue;
      on = on && !(b.first <= a.first && b.second <= a.second && b != a);
    }
    front.push_back(on);
  }
  return front;
}

JobBatch batch_of(const TempDir& dir, std::size_t jobs) {
  JobBatch batch;
  batch.file = "jobs & <more>.yaml";
  batch.root = dir.path();
  for (std::size_t i = 0; i < jobs; ++i) {
    BatchJob job;
    job.name = "job" + std::to_string(i);
    job.model_name = i < 3 ? "small" : "big";
    job.recipe_name = "r<" + std::to_string(i) + ">";
    job.output = (dir / job.name).string();
    batch.jobs.push_back(job);
  }
  return batch;
}

JobOutcome complete(const std::string& name, std::uint64_t bytes, double nmse, double perplexity = kNan) {
  JobOutcome outcome;
  outcome.job = name;
  outcome.fingerprint = "f";
  outcome.state = JobState::complete;
  JobFigures figures;
  figures.bytes_after = bytes;
  figures.nmse = nmse;
  figures.output_error = kNan;
  figures.perplexity = perplexity;
  figures.base_perplexity = figures.divergence = kNan;
  outcome.figures = figures;
  outcome.seconds = 3.5;
  outcome.peak_memory = 1'000'000;
  return outcome;
}

}  // namespace

TEST_CASE("the Pareto front is what no other point beats", "[batch]") {
  CHECK(pareto_front({}).empty());
  CHECK(pareto_front({{1, 5}, {2, 4}, {3, 4}, {2, 6}}) == std::vector<bool>{true, true, false, false});
  CHECK(pareto_front({{1, 1}, {1, 1}}) == std::vector<bool>{true, true});
  CHECK(pareto_front({{1, kNan}, {2, 2}}) == std::vector<bool>{false, true});
  CHECK(pareto_front({{1, 2}, {1, 1}}) == std::vector<bool>{false, true});
  std::minstd_rand random(7);
  for (int round = 0; round < 200; ++round) {
    Points points;
    for (std::size_t i = 0; i < 1 + random() % 12; ++i) {
      points.emplace_back(static_cast<double>(random() % 6),
                          random() % 9 == 0 ? kNan : static_cast<double>(random() % 6));
    }
    CHECK(pareto_front(points) == plain_front(points));
  }
}

TEST_CASE("quality is the best measure that all jobs have", "[batch]") {
  JobFigures one;
  JobFigures two;
  one.nmse = two.nmse = 0.1;
  one.output_error = two.output_error = kNan;
  one.perplexity = 5;
  two.perplexity = kNan;
  CHECK(common_quality({&one}) == Quality::perplexity);
  CHECK(common_quality({&one, &two}) == Quality::weight_error);
  two.nmse = kNan;
  CHECK(common_quality({&one, &two}) == Quality::none);
  CHECK(common_quality({}) == Quality::none);
}

TEST_CASE("an outcome is read as it was written", "[batch]") {
  const TempDir dir;
  const BatchPaths paths(dir.path());
  make_batch_folders(paths);
  CHECK_FALSE(read_outcome(paths, "job"));
  JobOutcome outcome = complete("job", 100, 0.25, 9.5);
  outcome.state = JobState::failed;
  outcome.error = "a\nb \xFF";
  outcome.hint = "do this";
  outcome.exit_code = 7;
  outcome.attempt = "x";
  outcome.shared_statistics = true;
  write_outcome(paths, outcome);
  const auto read = read_outcome(paths, "job");
  REQUIRE(read);
  CHECK(read->state == JobState::failed);
  CHECK(read->error == "a\nb \xEF\xBF\xBD");
  CHECK(read->exit_code == 7);
  CHECK(read->attempt == "x");
  CHECK(read->shared_statistics);
  REQUIRE(read->figures);
  CHECK(read->figures->bytes_after == 100);
  CHECK(read->figures->perplexity == 9.5);
  CHECK(std::isnan(read->figures->output_error));
  for (const char* bad : {"", "[]", "{}", R"({"job": 3})"}) {
    write_file(paths.outcome("job"), bad);
    CHECK_THROWS_AS(read_outcome(paths, "job"), Error);
  }
}

TEST_CASE("a summary marks the front of each model and tells what failed", "[batch]") {
  const TempDir dir;
  const BatchPaths paths(dir.path());
  make_batch_folders(paths);
  const JobBatch batch = batch_of(dir, 7);
  const Claims claims(paths.state);
  write_outcome(paths, complete("job0", 100, 0.2));
  write_outcome(paths, complete("job1", 200, 0.1));
  write_outcome(paths, complete("job2", 200, 0.3));
  write_outcome(paths, complete("job3", 1000, 0.3));  // of another model: nothing beats it there
  JobOutcome running;
  running.job = "job4";
  running.state = JobState::running;
  write_outcome(paths, running);
  const BatchSummary summary = summarize_batch(batch, {{"job5", "no <model>"}}, claims);
  CHECK(summary.rows[0].on_front);
  CHECK(summary.rows[1].on_front);
  CHECK_FALSE(summary.rows[2].on_front);
  CHECK(summary.rows[3].on_front);
  CHECK(summary.rows[4].outcome.state == JobState::interrupted);  // nobody claims it
  CHECK(summary.rows[5].outcome.state == JobState::refused);
  CHECK(summary.rows[6].outcome.state == JobState::waiting);
  CHECK(summary.count(JobState::complete) == 4);
  CHECK_FALSE(summary.all_complete());

  write_summary(paths, summary);
  const auto json = nlohmann::json::parse(read_file(paths.json));
  CHECK(json["schema_version"] == kBatchSummaryVersion);
  CHECK(json["counts"]["complete"] == 4);
  CHECK(json["jobs"].size() == 7);
  CHECK(json["jobs"][1]["figures"]["nmse"] == 0.1);
  CHECK(json["jobs"][1]["figures"]["perplexity"].is_null());
  CHECK(json["jobs"][2]["pareto"] == false);
  CHECK(json["jobs"][5]["error"] == "no <model>");

  const std::string html = read_file(paths.html);
  CHECK(has(html, "jobs &amp; &lt;more&gt;.yaml"));
  CHECK(has(html, "no &lt;model&gt;"));
  CHECK(has(html, "4 of 7 jobs complete, 1 refused, 1 interrupted, 1 waiting."));
  CHECK(has(html, "<svg viewBox"));
  CHECK(has(html, "NMSE of weights"));
  CHECK_FALSE(has(html, "http://"));
  CHECK_FALSE(has(html, "https://"));
  CHECK_FALSE(has(html, "nan"));
}

TEST_CASE("a folder that cannot be written is refused", "[batch]") {
  const TempDir dir;
  write_file(dir / "file", "");
  CHECK_THROWS_AS(make_batch_folders(BatchPaths(dir / "file")), Error);
}

TEST_CASE("a fingerprint changes with what decides the output, and with nothing else", "[batch]") {
  const TempDir dir;
  std::filesystem::create_directories(dir / "model");
  write_file(dir / "model" / "config.json", "{}");
  write_file(dir / "recipe.yaml", "a");
  BatchJob job;
  job.model = (dir / "model").string();
  job.output = "out";
  job.options = {{"layout", "gptq"}};
  const std::string before = job_fingerprint(job, dir / "recipe.yaml");
  BatchJob same = job;
  same.name = "other";
  same.options["threads"] = "3";
  same.options["memory"] = "3G";
  CHECK(job_fingerprint(same, dir / "recipe.yaml") == before);
  BatchJob other = job;
  other.options["layout"] = "awq";
  CHECK(job_fingerprint(other, dir / "recipe.yaml") != before);
  other = job;
  other.set["a"] = "1";
  CHECK(job_fingerprint(other, dir / "recipe.yaml") != before);
  write_file(dir / "recipe.yaml", "b");
  const std::string recipe = job_fingerprint(job, dir / "recipe.yaml");
  CHECK(recipe != before);
  write_file(dir / "model" / "config.json", "{} ");
  const std::string model = job_fingerprint(job, dir / "recipe.yaml");
  CHECK(model != recipe);
  std::filesystem::remove_all(dir / "model");
  CHECK(job_fingerprint(job, dir / "recipe.yaml") != model);
}
