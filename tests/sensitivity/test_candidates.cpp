// Short names of schemes, and which linears belong together.
#include "quant/error.h"
#include "quant/sensitivity.h"
#include "support/catch.h"
#include "support/text.h"

using namespace quant;
using quant::test::has;

namespace {

Scheme base() {
  Scheme scheme = *preset_scheme("W4A16");
  scheme.weights->symmetric = false;
  scheme.weights->observer = "mse_search";
  scheme.weights->actorder = ActOrder::group;
  scheme.targets = {"Linear"};
  return scheme;
}

std::string error_of(const std::string& list) {
  try {
    parse_candidates(list);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("short names change bits and groups and nothing else") {
  const Scheme grouped = candidate_scheme(base(), "w3g64");
  CHECK(grouped.weights->num_bits == 3);
  CHECK(grouped.weights->group_size == 64);
  CHECK(grouped.weights->strategy == Strategy::group);
  CHECK_FALSE(grouped.weights->symmetric);
  CHECK(grouped.weights->observer == "mse_search");
  CHECK(grouped.weights->actorder == ActOrder::group);
  const Scheme channel = candidate_scheme(base(), "W8");
  CHECK(channel.weights->num_bits == 8);
  CHECK(channel.weights->strategy == Strategy::channel);
  CHECK_FALSE(channel.weights->group_size);
  CHECK_FALSE(channel.weights->actorder);
  CHECK(candidate_scheme(base(), "base") == base());
  // Searched scales, unless the recipe says otherwise.
  Scheme unnamed = base();
  unnamed.weights->observer.reset();
  CHECK(candidate_scheme(unnamed, "W3G64").weights->observer == "mse_search");
  CHECK(candidate_scheme(unnamed, "base") == unnamed);
  unnamed.weights->observer = "minmax";
  CHECK(candidate_scheme(unnamed, "W3G64").weights->observer == "minmax");
}

TEST_CASE("presets bring their activations, and integers can replace floats") {
  const Scheme fp8 = candidate_scheme(base(), "FP8_DYNAMIC");
  CHECK(fp8.weights->type == NumberType::floating);
  REQUIRE(fp8.input_activations);
  CHECK(fp8.input_activations->dynamic == Dynamic::yes);
  const Scheme integers = candidate_scheme(fp8, "W4G32");
  CHECK(integers.weights->type == NumberType::integer);
  CHECK(integers.weights->num_bits == 4);
  CHECK(integers.weights->symmetric);
}

TEST_CASE("lists of candidates are read strictly") {
  CHECK(parse_candidates(" w2g32, W4 ,w8a16,Base") == std::vector<std::string>{"W2G32", "W4", "W8A16", "base"});
  CHECK(parse_candidates(kDefaultCandidates).size() >= 4);
  CHECK(has(error_of(""), "no candidate"));
  CHECK(has(error_of("W4,,W8"), "unknown candidate scheme ''"));
  CHECK(has(error_of("W4G"), "unknown candidate scheme 'W4G'"));
  CHECK(has(error_of("W4G-1"), "unknown"));
  CHECK(has(error_of("W99999999999999999999"), "unknown"));
  CHECK(has(error_of("FP8_DYNAMC"), "did you mean 'FP8_DYNAMIC'"));
  CHECK(has(error_of("W4G128,w4g128"), "given twice"));
  try {
    candidate_scheme(base(), "W9");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(has(error.what(), "1..8"));
  }
  CHECK(parse_measure("scaled") == SensitivityMeasure::scaled);
  CHECK_THROWS_AS(parse_measure("loss"), Error);
}

TEST_CASE("linears that serving engines fuse are one set") {
  const std::vector<std::string> modules{
      "l.0.attn.q_proj",      "l.0.attn.k_proj",          "l.0.attn.o_proj",      "l.0.mlp.gate_proj",
      "l.0.attn.v_proj",      "l.0.mlp.up_proj",          "l.1.attn.q_proj",      "l.1.mlp.experts.0.up_proj",
      "l.1.mlp.experts.1.w2", "l.1.mlp.shared.gate_proj", "l.1.mlp.experts.0.w1", "lm_head"};
  CHECK(fused_sets(modules, false) == std::vector<int>{0, 0, 1, 2, 0, 2, 3, 4, 4, 5, 4, 6});
  CHECK(fused_sets(modules, true) == std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
}

TEST_CASE("samples are spread over the sequences") {
  TokenSequences all;
  for (int i = 0; i < 10; ++i) all.sequences.push_back({i, i});
  all.sequences.push_back({99});
  const auto firsts = [](const TokenSequences& s) {
    std::vector<int> list;
    for (const auto& sequence : s.sequences) list.push_back(sequence[0]);
    return list;
  };
  CHECK(firsts(spread_sequences(all, 3)) == std::vector<int>{0, 3, 6});
  CHECK(spread_sequences(all, 0).sequences.size() == 10);
  CHECK(spread_sequences(all, 50).sequences.size() == 10);
}
