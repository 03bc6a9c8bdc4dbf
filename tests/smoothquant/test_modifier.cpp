// The modifier: which groups it takes, what it records, and files of factors.
#include <filesystem>
#include <limits>

#include "quant/error.h"
#include "quant/smoothing_factors.h"
#include "quant/smoothquant.h"
#include "smoothquant/sample.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

Sample sample() { return {26, 40, {8, 8}, int_args(8, Strategy::channel)}; }

std::vector<float> run(const Transform& transform, Sample& data, SolveRecord& record) {
  return transform.factors(data.group(), data.inputs, {}, record);
}

std::string read_error(const std::filesystem::path& path) {
  try {
    read_smoothing_factors(path);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("norms by default, other producers on request") {
  Sample data = sample();
  const auto plain = make_smoothquant({});
  const auto all = make_smoothquant({{"producers", std::string("\"all\"")}});
  const auto two = make_smoothquant({{"producers", std::string(R"(["value", "gated_product"])")}});
  for (const auto kind : {ProducerKind::norm, ProducerKind::value, ProducerKind::gated_product, ProducerKind::relu,
                          ProducerKind::linear}) {
    CHECK(plain->wants(data.group(kind)) == (kind == ProducerKind::norm));
    CHECK(all->wants(data.group(kind)));
    CHECK(two->wants(data.group(kind)) == (kind == ProducerKind::value || kind == ProducerKind::gated_product));
  }
  CHECK(plain->role() == Role::transform);
  CHECK(plain->needs().absmax);
  CHECK_FALSE(plain->needs().rows);
  CHECK(make_smoothquant({{"smoothing_strength", std::string("auto")}})->needs().rows);
}

TEST_CASE("mappings choose groups by producer and reader") {
  Sample data = sample();
  const auto wants = [&](const std::string& mappings, ProducerKind kind = ProducerKind::norm) {
    return make_smoothquant({{"mappings", mappings}})->wants(data.group(kind));
  };
  CHECK(wants(R"([[["re:.*1$"], "re:.*input_layernorm"]])"));
  CHECK(wants(R"([["l.0", "model.layers.0.input_layernorm"]])", ProducerKind::value));
  CHECK(wants(R"([["x", "y"], {"balance_layers": ["Linear"], "smooth_layer": "re:.*norm"}])"));
  CHECK_FALSE(wants(R"([[["re:.*1$"], "re:.*post_attention_layernorm"]])"));
  CHECK_FALSE(wants(R"([[["re:.*q_proj"], "re:.*input_layernorm"]])"));
}

TEST_CASE("ignored groups, and groups without a quantized reader, are left alone") {
  Sample data = sample();
  const auto wants = [&](const std::string& ignore) {
    return make_smoothquant({{"ignore", ignore}})->wants(data.group());
  };
  CHECK(wants("[]"));
  CHECK(wants(R"(["lm_head", "l.0"])"));
  CHECK_FALSE(wants(R"(["l.0", "l.1"])"));
  CHECK_FALSE(wants(R"("re:.*layernorm")"));
  data.tasks[0].quantized = false;
  CHECK(wants("[]"));
  data.tasks[1].quantized = false;
  CHECK_FALSE(wants("[]"));
}

TEST_CASE("a reader that stays float does not count, but does not disturb") {
  Sample with = sample();
  Sample without = sample();
  without.tasks.pop_back();
  with.tasks[1].quantized = false;
  with.tasks[1].weight[0] = 1e6F;
  SolveRecord record;
  const auto transform = make_smoothquant({});
  CHECK(run(*transform, with, record) == run(*transform, without, record));
}

TEST_CASE("what was done is on record") {
  Sample data = sample();
  SolveRecord record;
  CHECK(run(*make_smoothquant({{"smoothing_strength", 0.8}}), data, record).size() == 26);
  CHECK(record.notes.at(0) == "smoothing strength 0.8");
  CHECK(record.fallback.empty());
  run(*make_smoothquant({{"smoothing_strength", std::string("auto")}}), data, record);
  CHECK(record.notes.at(1).find("output error") != std::string::npos);
  data.inputs = {};
  data.inputs.cols = 26;
  CHECK(run(*make_smoothquant({}), data, record).empty());
  CHECK(record.fallback == "not smoothed: no calibration token reached it");
}

TEST_CASE("factors survive a file, bit for bit") {
  TempDir dir;
  const std::string folder = (dir / "new" / "factors").string();
  Sample data = sample();
  SolveRecord record;
  const auto written = run(*make_smoothquant({{"export_factors", folder}}), data, record);
  const auto file = read_smoothing_factors(dir / "new" / "factors" / "model.layers.0.input_layernorm.json");
  CHECK(file.factors == written);
  CHECK(file.method == "smoothquant");
  CHECK(file.values.at("alpha") == 0.5);
  const auto importer = make_smoothquant({{"import_factors", folder}, {"smoothing_strength", 0.9}});
  CHECK(run(*importer, data, record) == written);
  SmoothingGroup other = data.group();
  other.smooth_layer = "../elsewhere/x";  // no file of that name: searched, and nothing is read outside of the folder
  CHECK(importer->factors(other, data.inputs, {}, record) != written);
  make_smoothquant({{"export_factors", folder}})->factors(other, data.inputs, {}, record);
  CHECK(std::filesystem::exists(dir / "new" / "factors" / "..%2Felsewhere%2Fx.json"));
}

TEST_CASE("extreme factors survive a file") {
  TempDir dir;
  SmoothingFactors factors{"awq", "a \"quoted\"\n layer", {1e-38F, 3.4028235e38F, 1.0F / 3, 1e-45F}, {{"ratio", 0.1}}};
  write_smoothing_factors(dir / "f.json", factors);
  const auto back = read_smoothing_factors(dir / "f.json");
  CHECK(back.factors == factors.factors);
  CHECK(back.smooth_layer == factors.smooth_layer);
  CHECK(back.values == factors.values);
}

TEST_CASE("hostile files of factors end in an error that names the file") {
  TempDir dir;
  const auto error_of = [&](const std::string& text) {
    write_file(dir / "f.json", text);
    return read_error(dir / "f.json");
  };
  const std::string head = R"({"format": "quant-smoothing-factors", "version": 1, "method": "m", "smooth_layer": "s")";
  CHECK(error_of(head + R"(, "factors": [1, 2]})").empty());
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string(R"({"format": 3})"), head + "}",
        head + R"(, "factors": 3})", head + R"(, "factors": [0]})", head + R"(, "factors": [-1]})",
        head + R"(, "factors": [1e39]})", head + R"(, "factors": [null]})", head + R"(, "factors": [[1]]})",
        std::string(R"({"format": "quant-smoothing-factors", "version": 2})"), std::string(100'000, '[')}) {
    INFO(text.substr(0, 200));
    CHECK(error_of(text).find("f.json") != std::string::npos);
  }
  CHECK(read_error(dir / "missing.json").find("missing.json") != std::string::npos);
  write_file(dir / "model.layers.0.input_layernorm.json",
             R"({"format": "quant-smoothing-factors", "version": 1, "method": "m", "factors": [1, 2],)"
             R"("smooth_layer": "model.layers.0.input_layernorm"})");
  Sample data = sample();
  SolveRecord record;
  CHECK_THROWS_WITH(run(*make_smoothquant({{"import_factors", dir.path().string()}}), data, record),
                    Catch::Contains("2 factors for the 26 columns"));
  CHECK_THROWS_AS(run(*make_smoothquant({{"import_factors", (dir / "nowhere").string()}}), data, record), Error);
}

TEST_CASE("parameters of wrong type or value are refused by name") {
  const auto refuses = [](const Parameters& parameters, const std::string& name) {
    try {
      make_smoothquant(parameters);
    } catch (const Error& error) {
      return error.code() == ErrorCode::recipe && std::string(error.what()).rfind(name, 0) == 0;
    }
    return false;
  };
  CHECK(refuses({{"smoothing_strength", true}}, "smoothing_strength"));
  CHECK(refuses({{"smoothing_strength", std::nan("")}}, "smoothing_strength"));
  CHECK(refuses({{"algorithm", std::string("x")}}, "algorithm"));
  CHECK(refuses({{"activation_range", 1.0}}, "activation_range"));
  CHECK(refuses({{"mappings", std::string("{")}}, "mappings"));
  CHECK(refuses({{"mappings", std::string("[]")}}, "mappings"));
  CHECK(refuses({{"ignore", std::string("[1]")}}, "ignore"));
  CHECK(refuses({{"producers", std::string("[]")}}, "producers"));
}
