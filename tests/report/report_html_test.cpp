#include <cmath>
#include <limits>

#include "quant/report.h"
#include "report/html/parts.h"
#include "sample_reports.h"
#include "support/catch.h"

using namespace quant;

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

RunReport many_layers(std::size_t layers) {
  RunReport report = test::small_report();
  const LayerReport layer = report.layers[0];
  report.layers.clear();
  for (std::size_t i = 0; i < layers; ++i) {
    report.layers.push_back(layer);
    report.layers.back().module = "model.layers." + std::to_string(i / 7) + ".part" + std::to_string(i % 7);
    report.layers.back().sums.noise = 1 + static_cast<double>(i) / static_cast<double>(layers);
  }
  return report;
}

}  // namespace

TEST_CASE("the page says how big, how good, what is worst and what was kept", "[report][html]") {
  const RunReport report = test::llama_report(4);
  const std::string page = report_to_html(report);
  CHECK(page.rfind("<!DOCTYPE html>", 0) == 0);
  CHECK(contains(page, "Llama-3.1-8B"));
  CHECK(contains(page, "4.125"));
  CHECK(contains(page, "\xC3\x97 smaller"));
  CHECK(contains(page, "id=\"sqnr-t\""));
  CHECK(contains(page, "id=\"hist-t\""));
  CHECK(contains(page, "class=\"heat\""));
  CHECK(contains(page, "<wbr>down_<wbr>proj"));
  CHECK(contains(page, "ignored by &#39;lm_head&#39;"));
  CHECK(contains(page, "ignore entry &#39;re:.*router&#39; matches nothing"));
  CHECK(contains(page, "3 rows have no non-zero weight"));
  CHECK(contains(page, "scheme: W4A16"));
  CHECK(contains(page, "9f2c41d07be35a68"));
  CHECK(count(page, "<tr id=\"l") == report.layers.size());
}

TEST_CASE("the page of a calibrated run has the errors of outputs", "[report][html]") {
  const std::string page = report_to_html(test::calibrated_report());
  CHECK(page.find("data-key=\"output\"") != std::string::npos);
  CHECK(page.find("text.jsonl") != std::string::npos);
  CHECK(page.find("plain rounding: 3 tokens, &quot;too few&quot;") != std::string::npos);
  CHECK(page.find("was not measured") == std::string::npos);
  CHECK(report_to_html(test::small_report()).find("data-key=\"output\"") == std::string::npos);
}

TEST_CASE("the page of a pruned run has patterns and violations; errors of outputs that nobody measured say so",
          "[report][html]") {
  RunReport report = test::calibrated_report();
  REQUIRE(report.layers.size() >= 2);
  REQUIRE(report.layers[1].calibration);
  report.layers[1].calibration->output.reset();
  CHECK_FALSE(contains(report_to_html(report), "data-key=\"violations\""));
  report.layers[0].sparsity = SparsityRecord{"SparseGPTModifier", "2:4", 2, 4, 3};
  report.layers[1].sparsity = SparsityRecord{"WandaPruningModifier", "50 %", 0, 0, 0};
  const std::string page = report_to_html(report);
  CHECK(contains(page, "data-key=\"pattern\""));
  CHECK(contains(page, ">2:4</td><td class=\"n\" data-v=\"3\">3</td>"));
  CHECK(contains(page, ">50 %</td><td class=\"n\" data-v=\"-1\"></td>"));
  CHECK(contains(page, "data-v=\"NaN\">not measured</td>"));
}

TEST_CASE("the page of an evaluated run has perplexity and divergence", "[report][html]") {
  const std::string page = report_to_html(test::evaluated_report());
  for (const char* part : {"id=\"evaluation\"", "7.500", "4.500", "+3.000", "+66.67 %", "3 windows of 8 tokens",
                           "int8 sym token in 2 linears", "6.25e-2", "75.00", "87.50 %"}) {
    CAPTURE(part);
    CHECK(contains(page, part));
  }
  CHECK_FALSE(contains(page, "was not measured"));
  CHECK_FALSE(contains(page, "nan"));
  CHECK_FALSE(contains(report_to_html(test::small_report()), "id=\"evaluation\""));
  RunReport alone = test::evaluated_report();
  alone.evaluation->base.reset();
  alone.evaluation->result.base.reset();
  CHECK_FALSE(contains(report_to_html(alone), "KL divergence"));
}

TEST_CASE("the page loads nothing and runs one known script", "[report][html]") {
  const std::string page = report_to_html(test::llama_report(2));
  CHECK_FALSE(contains(page, "http://"));
  CHECK_FALSE(contains(page, "https://"));
  CHECK_FALSE(contains(page, "src="));
  CHECK_FALSE(contains(page, "@import"));
  CHECK_FALSE(contains(page, "url("));
  CHECK(count(page, "<script") == 1);
  CHECK(contains(page, "default-src 'none'"));
  CHECK(contains(page, "sha256-" + std::string(report::page_script_hash())));
}

TEST_CASE("no text of a report becomes markup", "[report][html]") {
  const std::string page = report_to_html(test::hostile_report());
  CHECK(count(page, "<script") == 1);
  CHECK(count(page, "</script") == 1);
  CHECK_FALSE(contains(page, "<img"));
  CHECK_FALSE(contains(page, "\x01"));
  CHECK_FALSE(contains(page, "\xE2\x80\xAE"));
  CHECK(contains(page, "&lt;/script&gt;"));
}

TEST_CASE("pages of few layers", "[report][html]") {
  const std::string empty = report_to_html({});
  CHECK(contains(empty, "No layer was quantized"));
  CHECK_FALSE(contains(empty, "nan"));
  CHECK_FALSE(contains(empty, "class=\"heat\""));
  CHECK_FALSE(contains(empty, "id=\"layers\""));

  const std::string one = report_to_html(test::llama_report(1));
  CHECK(count(one, "<tr id=\"l") == 7);
  CHECK_FALSE(contains(one, "nan"));
}

TEST_CASE("exact, infinite and undefined errors have a place on the page", "[report][html]") {
  RunReport report = test::small_report();
  for (LayerReport& layer : report.layers) layer.sums = {4, 0, 4, 4, 0, 8, 0, 0};
  CHECK(contains(report_to_html(report), "Every quantized weight is reproduced exactly."));

  report.layers[0].sums = {0, 1, 0, 1, 1, 8, 0, 0};
  const std::string infinite = report_to_html(report);
  CHECK(contains(infinite, "data-v=\"-Infinity\">none"));
  CHECK(contains(infinite, "data-v=\"Infinity\">exact"));

  report.layers[0].sums = {1, std::numeric_limits<double>::quiet_NaN(), 0, 1, 1, 8, 0, 0};
  const std::string undefined = report_to_html(report);
  CHECK(contains(undefined, "not a finite number"));
  CHECK(contains(undefined, "data-v=\"NaN\""));
  report.layers[0].row_nmse = {0.0F, INFINITY, NAN, 0.01F};
  CHECK(contains(report_to_html(report), "2 rows without a finite NMSE"));
}

TEST_CASE("the verdict names rounding that is about as good", "[report][html]") {
  RunReport report = test::small_report();
  report.layers.resize(1);
  const auto verdict_at = [&](double sqnr) {
    report.layers[0].sums = {1, std::pow(10, -sqnr / 10), 1, 1, 0.1, 8, 0, 0};
    return report_to_html(report);
  };
  CHECK(contains(verdict_at(60), "finer than 8-bit rounding"));
  CHECK(contains(verdict_at(43), "plain 8-bit rounding"));
  CHECK(contains(verdict_at(20), "plain 4-bit rounding"));
  CHECK(contains(verdict_at(13), "plain 3-bit rounding"));
  CHECK(contains(verdict_at(1), "worse than plain 2-bit rounding"));
  CHECK(contains(verdict_at(20), "was not measured"));
}

TEST_CASE("large models keep the page small", "[report][html]") {
  const std::string two_thousand = report_to_html(many_layers(2000));
  CHECK(count(two_thousand, "<tr id=\"l") == 2000);
  CHECK(two_thousand.size() < 3'000'000);

  const std::string capped = report_to_html(many_layers(20000));
  CHECK(count(capped, "<tr id=\"l") == report::kMaxListed);
  CHECK(contains(capped, "The 3,000 worst of 20,000 layers"));
  CHECK(capped.size() < 5'000'000);
  // The worst layer is the last one here; it must be among those listed.
  CHECK(contains(capped, "<tr id=\"l19999\""));
}

TEST_CASE("a model of which every layer is a kind of its own keeps the page small", "[report][html]") {
  RunReport report = many_layers(3000);
  for (std::size_t i = 0; i < report.layers.size(); ++i) {
    report.layers[i].module = "k" + std::to_string(i) + "x";
    report.layers[i].notes = {"note " + std::to_string(i)};
    report.skipped.push_back({"t" + std::to_string(i), {1}, "F16", 2, "reason " + std::to_string(i)});
  }
  const std::string page = report_to_html(report);
  CHECK(page.size() < 5'000'000);
  CHECK(contains(page, "more kinds"));
  CHECK(contains(page, "more reasons are in report.json"));
}
