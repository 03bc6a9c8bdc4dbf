#include "report/report_summary.h"

#include <limits>

#include "report/html/axis.h"
#include "report/html/text.h"
#include "sample_reports.h"
#include "support/catch.h"

using namespace quant;

namespace {

std::vector<std::string> labels(const std::vector<std::string>& modules) {
  RunReport report;
  for (const std::string& module : modules) {
    report.layers.emplace_back();
    report.layers.back().module = module;
  }
  const report::Grouping grouping = report::group_layers(report);
  std::vector<std::string> result;
  for (const report::Place& place : grouping.places) result.push_back(grouping.kinds[place.kind].label);
  return result;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("kinds are the shortest ends of names that differ", "[report]") {
  CHECK(labels({"model.layers.0.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "lm_head"}) ==
        Names{"q_proj", "q_proj", "lm_head"});
  CHECK(labels({"e.layer.0.attention.output.dense", "e.layer.0.intermediate.dense", "e.layer.0.output.dense"}) ==
        Names{"attention.output.dense", "intermediate.dense", "layer.output.dense"});
  CHECK(labels({"m.0.mlp.experts.5.up", "m.0.mlp.experts.6.up", "m.0.mlp.shared.up"}) ==
        Names{"experts.up", "experts.up", "shared.up"});
  CHECK(labels({"dense", "output.dense"}) == Names{"dense", "output.dense"});
  CHECK(labels({"", "7", "a..b"}) == Names{"(unnamed)", "(unnamed)", "b"});
}

TEST_CASE("the block is the first number of a name", "[report]") {
  RunReport report;
  for (const char* module : {"model.layers.12.mlp.experts.3.up", "lm_head", "a.99999999999999999999999.b", "x.0"}) {
    report.layers.emplace_back();
    report.layers.back().module = module;
  }
  const auto places = report::group_layers(report).places;
  CHECK(places[0].block == 12);
  CHECK_FALSE(places[1].block.has_value());
  CHECK_FALSE(places[2].block.has_value());  // too large to be a number: part of the kind
  CHECK(places[3].block == 0);
}

TEST_CASE("a name of very many parts is grouped in bounded work", "[report]") {
  std::string long_name;
  for (int i = 0; i < 50000; ++i) long_name += "a.";
  const auto found = labels({long_name, long_name + "b"});
  CHECK(found[1] == "b");
  CHECK(found[0] == "(unnamed)");
}

TEST_CASE("totals and worst layers", "[report]") {
  RunReport report = test::small_report();
  const ErrorSums total = total_errors(report);
  CHECK(total.signal == 164);
  CHECK(total.noise == 1);
  CHECK(total.count == 16);
  CHECK(report::worst_layers(report, 10) == std::vector<std::size_t>{0});  // the exact layer is not among them

  LayerReport broken = report.layers[1];
  broken.sums.noise = std::numeric_limits<double>::quiet_NaN();
  report.layers.push_back(broken);
  CHECK(report::worst_layers(report, 10) == std::vector<std::size_t>{2, 0});
  CHECK(report::worst_layers(report, 1) == std::vector<std::size_t>{2});

  const report::Grouping grouping = report::group_layers(report);
  REQUIRE(grouping.kinds.size() == 2);
  CHECK(grouping.kinds[1].layers == 2);
  CHECK(grouping.kinds[1].worst == 2);
  CHECK(grouping.kinds[1].bytes_before == 32);
  CHECK(grouping.kinds[1].bytes_after == 12);
}

TEST_CASE("text is safe in HTML", "[report]") {
  CHECK(report::escape_html("<a href=\"x\">&'") == "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  CHECK(report::escape_html("tab\t\nnew") == "tab\t\nnew");
  CHECK(report::escape_html(std::string("nul\0!", 5)) == "nul\xEF\xBF\xBD!");
  CHECK(report::escape_html("a\xE2\x80\xAE"
                            "b\xE2\x81\xA6"
                            "c") ==
        "a\xEF\xBF\xBD"
        "b\xEF\xBF\xBD"
        "c");
  CHECK(report::escape_html("caf\xC3\xA9 \xE2\x80\x93") == "caf\xC3\xA9 \xE2\x80\x93");
}

TEST_CASE("numbers as the page shows them", "[report]") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(report::format_bytes(0) == "0 B");
  CHECK(report::format_bytes(999) == "999 B");
  CHECK(report::format_bytes(1000) == "1.00 kB");
  CHECK(report::format_bytes(16.06e9) == "16.1 GB");
  CHECK(report::format_bytes(999.6e6) == "1.00 GB");
  CHECK(report::format_bytes(123.4e6) == "123 MB");
  CHECK(report::format_count(0) == "0");
  CHECK(report::format_count(999) == "999");
  CHECK(report::format_count(6738415616) == "6,738,415,616");
  CHECK(report::format_plural(1, "layer") == "1 layer");
  CHECK(report::format_plural(1200, "layer") == "1,200 layers");
  CHECK(report::format_large(6.738e9) == "6.74 billion");
  CHECK(report::format_large(1.5e6) == "1.5 million");
  CHECK(report::format_large(1234) == "1,234");
  CHECK(report::format_db(19.84) == "19.8");
  CHECK(report::format_db(infinity) == "exact");
  CHECK(report::format_db(-infinity) == "none");
  CHECK(report::format_small(0.0109) == "1.09e-2");
  CHECK(report::format_small(1.5e-12) == "1.50e-12");
  CHECK(report::format_small(123) == "1.23e2");
  CHECK(report::format_small(1) == "1.00e0");
  CHECK(report::format_small(0) == "0");
  CHECK(report::format_bits(4.125) == "4.125");
  CHECK(report::format_bits(6) == "6.00");
  CHECK(report::format_bits(infinity) == "none");
  CHECK(report::format_percent(0) == "0 %");
  CHECK(report::format_percent(1e-6) == "<0.01 %");
  CHECK(report::format_percent(0.0123) == "1.23 %");
  CHECK(report::format_percent(0.123) == "12.3 %");
  CHECK(report::format_percent(1) == "100 %");
  CHECK(report::format_seconds(4.21) == "4.2 s");
  CHECK(report::format_seconds(185) == "3 min 5 s");
  CHECK(report::format_seconds(4320) == "1 h 12 min");
  CHECK(report::format_seconds(infinity) == "unknown");
  CHECK(report::format_shape({4096, 11008}) == "4096 \xC3\x97 11008");
  CHECK(report::format_shape({}) == "scalar");
}

TEST_CASE("ticks of axes", "[report]") {
  CHECK(report::linear_ticks(14, 22, 5) == std::vector<double>{14, 16, 18, 20, 22});
  CHECK(report::linear_ticks(-1, 1, 4) == std::vector<double>{-1, -0.5, 0, 0.5, 1});
  CHECK(report::log_ticks(-3, -1).size() == 3);
  CHECK(report::log_ticks(-2.1, -1.6).size() >= 3);
  CHECK(report::nice_step(0, 5) == 1);
}
