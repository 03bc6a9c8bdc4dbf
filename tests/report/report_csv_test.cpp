#include <algorithm>

#include "quant/report.h"
#include "sample_reports.h"
#include "support/catch.h"

using namespace quant;

namespace {

// A reader of RFC 4180, to test the writer with: records of fields.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> records{{""}};
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string& field = records.back().back();
    if (quoted && text[i] == '"' && i + 1 < text.size() && text[i + 1] == '"') {
      field += text[i++];
    } else if (text[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && text[i] == ',') {
      records.back().emplace_back();
    } else if (!quoted && text[i] == '\n') {
      records.push_back({""});
    } else {
      field += text[i];
    }
  }
  records.pop_back();
  return records;
}

}  // namespace

TEST_CASE("CSV has one record per layer", "[report][csv]") {
  const RunReport report = test::small_report();
  const std::string text = report_to_csv(report);
  const auto records = parse_csv(text);
  REQUIRE(records.size() == 3);
  REQUIRE(records[0].size() == 31);
  for (const auto& record : records) CHECK(record.size() == records[0].size());
  CHECK(
      text.substr(text.find('\n') + 1) ==
      "model.layers.0.q_proj,2x4,F16,Linear,QuantizationModifier,rtn,int4 sym channel,pack-quantized,6,16,6,8,0.01,20,"
      "0.995,0.3535533905932738,0.5,0.125,0.25,0.25,0.5,0.125,row 1 is all zero,,,,,,,,\n"
      "model.layers.0.k_proj,2x4,F16,Linear,QuantizationModifier,rtn,int4 sym channel,pack-quantized,6,16,6,8,0,inf,1,"
      "0,0,0,0,0.25,0.5,0.125,,,,,,,,,\n");
}

TEST_CASE("CSV of a calibrated run", "[report][csv]") {
  const auto records = parse_csv(report_to_csv(test::calibrated_report()));
  REQUIRE(records.size() == 3);
  const std::vector<std::string> header(records[0].begin() + 23, records[0].end());
  CHECK(header == std::vector<std::string>{"tokens", "damping", "fallback", "output_error", "output_sqnr_db",
                                           "output_cosine", "sparsity", "violations"});
  const std::vector<std::string> first(records[1].begin() + 23, records[1].end());
  CHECK(first == std::vector<std::string>{"4096", "0.01", "", "0.01", "20", "0.995", "", ""});
  const std::vector<std::string> second(records[2].begin() + 23, records[2].end());
  CHECK(second == std::vector<std::string>{"3", "0", "plain rounding: 3 tokens, \"too few\"", "", "", "", "", ""});
}

TEST_CASE("CSV says how a layer was pruned", "[report][csv]") {
  RunReport report = test::small_report();
  report.layers[1].sparsity = SparsityRecord{"WandaPruningModifier", "2:4", 2, 4, 1};
  const auto records = parse_csv(report_to_csv(report));
  CHECK(records[1][29].empty());
  CHECK(records[2][29] == "2:4");
  CHECK(records[2][30] == "1");
}

TEST_CASE("CSV quotes what needs it", "[report][csv]") {
  RunReport report = test::small_report();
  report.layers.resize(1);
  report.layers[0].module = "a,\"b\"\nc";
  report.layers[0].rule = "re:.*(q|k)_proj,x";
  report.layers[0].notes = {"one", "two, three"};
  const auto records = parse_csv(report_to_csv(report));
  REQUIRE(records.size() == 2);
  CHECK(records[1][0] == "a,\"b\"\nc");
  CHECK(records[1][3] == "re:.*(q|k)_proj,x");
  CHECK(records[1][22] == "one; two, three");
}

TEST_CASE("CSV of no layers is the header", "[report][csv]") {
  const std::string text = report_to_csv({});
  CHECK(std::count(text.begin(), text.end(), '\n') == 1);
  CHECK(text.rfind("module,shape,", 0) == 0);
}
