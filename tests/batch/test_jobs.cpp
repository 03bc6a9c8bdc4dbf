// Job files: what they expand to, and what is wrong with them.
#include <set>

#include "quant/batch_yaml.h"
#include "quant/error.h"
#include "support/catch.h"
#include "support/text.h"

using namespace quant;
using namespace quant::test;

namespace {

JobBatch parsed(const std::string& text) { return parse_batch("version: 1\n" + text, "/b/jobs.yaml"); }

std::string mistakes(const std::string& text) {
  try {
    parse_batch(text, "/b/jobs.yaml");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::recipe);
    return error.what();
  }
  return "";
}

std::string mistakes_of(const std::string& text) { return mistakes("version: 1\n" + text); }

std::vector<std::string> names(const JobBatch& batch) {
  std::vector<std::string> all;
  for (const BatchJob& job : batch.jobs) all.push_back(job.name);
  return all;
}

const std::string kOutput = "output: \"out/{model}-{recipe}\"\n";

}  // namespace

TEST_CASE("a matrix gives every model every recipe, less what is excluded", "[batch]") {
  const JobBatch batch = parsed(kOutput +
                                "matrix:\n"
                                "  models: [models/a, {model: /far/b, name: big, threads: 2}]\n"
                                "  recipes: [w4a16, {recipe: own/r.yaml, layout: gptq, set: {bits: 3}}]\n"
                                "  exclude: [{model: big, recipe: w4a16}]\n");
  CHECK(names(batch) == std::vector<std::string>{"a-w4a16", "a-r", "big-r"});
  CHECK(batch.root == "/b/out");
  CHECK(batch.jobs[0].model == "/b/models/a");
  CHECK(batch.jobs[0].recipe == "w4a16");
  CHECK(batch.jobs[0].output == "/b/out/a-w4a16");
  CHECK(batch.jobs[0].options.empty());
  CHECK(batch.jobs[2].model == "/far/b");
  CHECK(batch.jobs[2].recipe == "/b/own/r.yaml");
  CHECK(batch.jobs[2].options == BatchOptions{{"layout", "gptq"}, {"threads", "2"}});
  CHECK(batch.jobs[2].set == std::map<std::string, std::string>{{"bits", "3"}});
}

TEST_CASE("jobs override the defaults", "[batch]") {
  const JobBatch batch =
      parsed(kOutput +
             "defaults: {memory: 8G, calibration: text.txt, samples: 16, set: {a: 1, b: x}, strict: yes}\n"
             "jobs:\n"
             "  - {model: m, recipe: r}\n"
             "  - {model: m, recipe: r, name: other, output: \"here/{name}\", samples: 4, set: {b: y},\n"
             "     statistics: s.h5, convert: {to: gguf, type: Q4_K}}\n");
  REQUIRE(batch.jobs.size() == 2);
  CHECK(batch.jobs[0].options ==
        BatchOptions{{"memory", "8G"}, {"calibration", "/b/text.txt"}, {"samples", "16"}, {"strict", "true"}});
  CHECK(batch.jobs[1].options ==
        BatchOptions{{"memory", "8G"}, {"statistics", "/b/s.h5"}, {"samples", "4"}, {"strict", "true"}});
  CHECK(batch.jobs[1].set == std::map<std::string, std::string>{{"a", "1"}, {"b", "y"}});
  CHECK(batch.jobs[1].output == "/b/here/other");
  REQUIRE(batch.jobs[1].convert);
  CHECK(batch.jobs[1].convert->to == "gguf");
  CHECK(batch.jobs[1].convert->output == "/b/here/other.gguf");
  CHECK(batch.jobs[1].convert->options == BatchOptions{{"type", "Q4_K"}});
}

TEST_CASE("relative paths are taken from the folder of the job file", "[batch]") {
  const std::string text = "version: 1\noutput: \"out/{model}\"\njobs: [{model: ../m, recipe: r.yaml}]\n";
  const JobBatch below = parse_batch(text, "some/folder/jobs.yaml");
  CHECK(below.root == "some/folder/out");
  CHECK(below.jobs[0].output == "some/folder/out/m");
  CHECK(below.jobs[0].model == "some/m");
  CHECK(below.jobs[0].recipe == "some/folder/r.yaml");
  const JobBatch here = parse_batch("version: 1\noutput: \"{model}\"\njobs: [{model: x/m, recipe: r}]\n", "jobs.yaml");
  CHECK(here.root == ".");
  CHECK(here.jobs[0].output == "m");
}

TEST_CASE("the machine's budget is read", "[batch]") {
  const JobBatch batch = parsed(kOutput +
                                "jobs: [{model: m, recipe: r}]\nmachine: {memory: 1.5 GiB, threads: 8, jobs: 2}\n"
                                "share_statistics: false\n");
  CHECK(batch.machine.memory == "1.5 GiB");
  CHECK(batch.machine.threads == 8);
  CHECK(batch.machine.jobs == 2);
  CHECK_FALSE(batch.share_statistics);
}

TEST_CASE("mistakes of a job file are told with their places", "[batch]") {
  CHECK(has(mistakes(""), "the job file is empty"));
  CHECK(has(mistakes("jobs: [{model: m, recipe: r}]\n"), "'version: 1' is missing"));
  CHECK(has(mistakes("version: 2\n" + kOutput + "jobs: [{model: m, recipe: r}]\n"),
            "/b/jobs.yaml:1:10: version 2 of job files is not known here"));
  CHECK(has(mistakes_of("jobs: [{model: m, recipe: r}]\n"), "'output' is missing"));
  CHECK(has(mistakes_of(kOutput), "there are no jobs"));
  const std::string many = mistakes_of(kOutput +
                                       "matrx: 1\n"
                                       "defaults: {treads: 4, memory: lots, samples: -1, strict: 3}\n"
                                       "jobs:\n"
                                       "  - {model: m, recipe: r, seq_len: long}\n"
                                       "  - {recipe: r}\n"
                                       "  - {model: m, recipe: r, convert: {type: Q4_K}}\n"
                                       "machine: {jobs: 0}\n");
  CHECK(has(many, "/b/jobs.yaml:3:1: unknown field 'matrx' in a job file, did you mean 'matrix'?"));
  CHECK(has(many, "/b/jobs.yaml:4:12: unknown field 'treads' in defaults, did you mean 'threads'?"));
  CHECK(has(many, "/b/jobs.yaml:4:31: memory: expected a size such as 8G, found the text 'lots'"));
  CHECK(has(many, "samples: -1 is below 0"));
  CHECK(has(many, "strict: expected true or false, found the integer 3"));
  CHECK(has(many, "/b/jobs.yaml:6:36: seq_len: expected an integer, found the text 'long'"));
  CHECK(has(many, "/b/jobs.yaml:7:5: jobs: 'model' is missing"));
  CHECK(has(many, "convert: 'to' is missing"));
  CHECK(has(many, "jobs: 0 is not from 1 to 1024"));
  CHECK(has(mistakes_of(kOutput + "jobs: 3\njobs: 4\n"), "the key 'jobs' is there twice"));
  CHECK(has(mistakes_of(kOutput + "matrix: {models: [], recipes: [r]}\n"), "models: expected a list"));
}

TEST_CASE("outputs and names that collide are refused before anything runs", "[batch]") {
  CHECK(has(mistakes_of("output: \"out/{model}\"\nmatrix: {models: [m], recipes: [a, b]}\n"),
            "the output '/b/out/m' of job 'm-b' is that of job 'm-a' (line 3) as well; outputs need {model} and"));
  CHECK(has(mistakes_of("output: out\njobs: [{model: m, recipe: a}, {model: m, recipe: b}]\n"), "is that of job"));
  CHECK(has(mistakes_of(kOutput + "matrix: {models: [x/m, y/m], recipes: [a]}\n"),
            "the model of line 3 has the name 'm' already; give one of them another with 'name'"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a}, {model: n/m, recipe: a}]\n"),
            "has the name 'm-a' already"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, output: o/x}, {model: m, recipe: b, output: "
                                  "o/x/y}]\n"),
            "lies within that of job 'm-a'"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, output: o/x}, {model: m, recipe: b, output: "
                                  "o/x.partial}]\n"),
            "is where another job works before it is done"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, output: m/x}]\n"), "lies in the model '/b/m'"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, output: out}]\n"), "is the folder of all outputs"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, output: out/.quant-batch/x}]\n"),
            "is where the batch keeps its state"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, output: o/x, convert: {to: awq, output: o/x}}]\n"),
            "is that of job 'm-a'"));
}

TEST_CASE("names must be good as names of files", "[batch]") {
  CHECK(has(mistakes_of(kOutput + "matrix: {models: [{model: m, name: org/m}], recipes: [a]}\n"),
            "the name 'org/m' of a model has a slash"));
  CHECK(
      has(mistakes_of(kOutput + "matrix: {models: [{model: m, name: .hidden}], recipes: [a]}\n"), "begins with a dot"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, name: \"a\\tb\"}]\n"), "has control characters"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: m, recipe: a, name: " + std::string(200, 'x') + "}]\n"),
            "has more than 180 bytes"));
  CHECK(has(mistakes_of(kOutput + "jobs: [{model: /, recipe: a}]\n"), "is empty"));
}

TEST_CASE("templates, exclusions and axes say what is wrong", "[batch]") {
  CHECK(has(mistakes_of("output: \"out/{modle}-{recipe}\"\nmatrix: {models: [m], recipes: [a]}\n"),
            "/b/jobs.yaml:2:9: '{modle}' is no placeholder; there are {model}, {name}, {recipe}"));
  CHECK(has(mistakes_of("output: \"out/{model\"\nmatrix: {models: [m], recipes: [a]}\n"), "no placeholder"));
  CHECK(has(mistakes_of(kOutput + "matrix: {models: [m], recipes: [alpha], exclude: [{recipe: alpah}]}\n"),
            "exclude: no recipe is named 'alpah', did you mean 'alpha'?"));
  CHECK(has(mistakes_of(kOutput + "matrix: {models: [m], recipes: [a], exclude: [{}]}\n"), "give 'model'"));
  CHECK(has(mistakes_of(kOutput + "matrix: {models: [{model: m, threads: 1}], recipes: [{recipe: a, threads: "
                                  "2}]}\n"),
            "threads is given here and for the model of line 3"));
}

TEST_CASE("options of jobs are options of the program", "[batch]") {
  // That the program has them is checked in tests/cli/test_batch.cpp; here: no key stands there twice.
  for (const auto* options : {&batch_run_options(), &batch_convert_options()}) {
    std::set<std::string_view> keys;
    for (const BatchOption& option : *options) CHECK(keys.insert(option.key).second);
  }
}
