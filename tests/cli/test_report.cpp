#include <sstream>

#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant::test;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::size_t lines(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("report shows and converts", "[report]") {
  TempDir dir;
  const std::string output = quantized_example().string();
  const Outcome text = run_quant({"report", output});
  CHECK(text.code == 0);
  CHECK(contains(text.out, "model.layers.0.self_attn.q_proj"));
  CHECK(contains(text.out, "SQNR"));
  const auto json = json_of(run_quant({"report", output, "--json"}));
  CHECK(json.at("layers").size() == 42);
  CHECK(run_quant({"report", output, "--format", "json"}).out == run_quant({"report", output, "--json"}).out);
  CHECK(run_quant({"report", output + "/report.json"}).out == text.out);
  CHECK(run_quant({"report", output, "--json"}).out == read_file(quantized_example() / "report.json"));
  CHECK(lines(run_quant({"report", output, "--format", "csv"}).out) == 43);
  CHECK(contains(run_quant({"report", output, "--format", "html"}).out, "<html"));
  const std::string h5 = (dir / "a.h5").string();
  CHECK(run_quant({"report", output, "--format", "h5", "--output", h5}).code == 0);
  CHECK(read_file(h5).substr(1, 3) == "HDF");
  const std::string csv = (dir / "a.csv").string();
  CHECK(run_quant({"report", output, "--format", "csv", "--output", csv}).out.empty());
  CHECK(lines(read_file(csv)) == 43);
}

TEST_CASE("report sorts and cuts", "[report]") {
  const std::string output = quantized_example().string();
  const auto worst_first = run_quant({"report", output, "--format", "csv", "--sort", "sqnr"}).out;
  const auto top = run_quant({"report", output, "--format", "csv", "--sort", "nmse", "--top", "3"}).out;
  CHECK(lines(top) == 4);
  CHECK(worst_first.starts_with(top));
  const auto json = json_of(run_quant({"report", output, "--json", "--sort", "name"}));
  std::string last;
  for (const auto& layer : json.at("layers")) {
    const std::string module = layer.at("module");
    CHECK(last <= module);
    last = module;
  }
  const Outcome text = run_quant({"report", output, "--top", "2"});
  CHECK(contains(text.out, "42 compressed"));
  CHECK(lines(text.out) + 40 == lines(run_quant({"report", output}).out));
}

TEST_CASE("report refuses what makes no sense", "[report]") {
  TempDir dir;
  const std::string output = quantized_example().string();
  CHECK(run_quant({"report", output, "--format", "h5"}).code == 2);
  CHECK(run_quant({"report", output, "--format", "html", "--top", "3"}).code == 2);
  CHECK(run_quant({"report", output, "--format", "html", "--json"}).code == 2);
  CHECK(run_quant({"report", output, "--top", "0"}).code == 2);
  CHECK(run_quant({"report", example_model()}).code == 6);
  CHECK(run_quant({"report", output, "--format", "csv", "--output", (dir / "no" / "a.csv").string()}).code == 6);
  write_file(dir / "report.json", "{\"schema_version\": \"x\"}");
  CHECK(run_quant({"report", dir.path().string()}).code == 5);
}
