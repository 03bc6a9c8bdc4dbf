// How recipes say how sparse each linear becomes.
#include <limits>

#include "quant/error.h"
#include "quant/magnitude.h"
#include "quant/sparsegpt.h"
#include "quant/wanda.h"
#include "support/catch.h"

using namespace quant;

namespace {

using Made = std::unique_ptr<Sparsifier>;

SparsityPattern pattern_of(const Parameters& parameters, const std::string& module = "model.layers.1.mlp.up_proj") {
  return make_wanda(parameters)->pattern(module);
}

// The sentence with which parameters are refused.
template <class Make>
std::string refusal(const Make& make, const Parameters& parameters) {
  try {
    make(parameters);
    return "accepted";
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    return error.what();
  }
}

}  // namespace

TEST_CASE("sparsity: a number, a list by layers, a mapping by names") {
  CHECK(pattern_of({}).sparsity == 0.5);
  CHECK(pattern_of({{"sparsity", "0.7"}}).sparsity == 0.7);
  CHECK(pattern_of({{"sparsity", "0"}}).sparsity == 0);
  const Parameters list = {{"sparsity", "[0.1, 0.25]"}};
  CHECK(pattern_of(list).sparsity == 0.25);
  CHECK(pattern_of(list, "lm_head").sparsity == 0);
  CHECK(pattern_of(list, "model.layers.0.experts.7.w1").sparsity == 0.1);
  CHECK(refusal([](const Parameters& p) { pattern_of(p, "h.2.fc"); }, list).starts_with("sparsity: the list has 2"));
  const Parameters map = {
      {"sparsity", R"({"Linear": 0.1, "re:.*mlp.*": 0.2, "re:.*up.*": 0.3, "model.layers.2.mlp.up_proj": 0.4})"}};
  CHECK(pattern_of(map, "model.layers.2.mlp.up_proj").sparsity == 0.4);
  CHECK(pattern_of(map, "model.layers.1.mlp.up_proj").sparsity == 0.2);  // the first of two regexes
  CHECK(pattern_of(map, "model.layers.1.up").sparsity == 0.3);
  CHECK(pattern_of(map, "model.layers.1.self_attn.q_proj").sparsity == 0.1);
  CHECK(pattern_of({{"sparsity", R"({"re:.*up.*": 0.3})"}}, "lm_head").sparsity == 0);
}

TEST_CASE("pattern counts what is kept, mask_structure what is removed") {
  CHECK(describe(pattern_of({{"pattern", "1:4"}})) == "1:4");
  CHECK(describe(pattern_of({{"mask_structure", "1:4"}})) == "3:4");
  CHECK(describe(pattern_of({{"mask_structure", "1:4"}, {"pattern", "3:4"}, {"sparsity", "0.25"}})) == "3:4");
  CHECK(describe(pattern_of({{"mask_structure", "0:0"}, {"sparsity", "0.6"}})) == "60 %");
  CHECK(describe(pattern_of({{"pattern", "16x1"}, {"sparsity", "0.6"}})) == "60 % in blocks of 16 x 1");
  CHECK(describe(pattern_of({{"pattern", "2:4"}, {"sparsity", "[0, 0.5]"}})) == "2:4");
  CHECK(describe(pattern_of({{"pattern", "2:4"}, {"sparsity", "[0, 0.5]"}}, "layers.0.q")) == "0 %");
  const auto magnitude = [](const std::string& structure) {
    return describe(make_magnitude({{"mask_structure", structure}, {"sparsity", "0.5"}})->pattern("a"));
  };
  CHECK(magnitude("unstructured") == "50 %");
  CHECK(magnitude("channel") == "50 % in blocks of all rows x 1");
  CHECK(magnitude("filter") == "50 % in blocks of 1 x all columns");
  CHECK(magnitude("block_4,2") == "50 % in blocks of 4 x 2");
}

TEST_CASE("a profile that is not resolved is uniform") {
  for (const char* profile : {"uniform", "owl", "error"}) {
    CHECK(pattern_of({{"sparsity", "0.6"}, {"sparsity_profile", profile}, {"owl_m", std::int64_t{5}}}).sparsity == 0.6);
  }
  CHECK(make_magnitude({{"sparsity", "0.6"}, {"sparsity_profile", "global"}})->pattern("a").sparsity == 0.6);
}

TEST_CASE("profiles are refused where they mean nothing") {
  const auto make = [](const Parameters& parameters) { pattern_of(parameters); };
  CHECK(refusal(make, {{"sparsity_profile", "global"}}).find("global is for magnitudes") != std::string::npos);
  CHECK(refusal(make, {{"pattern", "2:4"}, {"sparsity_profile", "owl"}}).find("same share everywhere") !=
        std::string::npos);
}

TEST_CASE("llm-compressor's fields of magnitude pruning") {
  const auto pattern = [](const Parameters& parameters) { return make_magnitude(parameters)->pattern("a").sparsity; };
  CHECK(pattern({{"init_sparsity", 0.05}, {"final_sparsity", "0.8"}, {"update_scheduler", "cubic"}}) == 0.8);
  CHECK(pattern({{"final_sparsity", "0.8"}, {"sparsity", R"({"a": 0.3})"}}) == 0.3);
  const auto make = [](const Parameters& parameters) { make_magnitude(parameters); };
  CHECK(refusal(make, {{"final_sparsity", "0.8"}, {"sparsity", "0.7"}}).starts_with("final_sparsity: it is 0.8"));
  CHECK(refusal(make, {{"final_sparsity", "1.5"}}).starts_with("final_sparsity must be"));
  CHECK(refusal(make, {{"final_sparsity", "[0.5]"}}).starts_with("final_sparsity must be"));
  CHECK(refusal(make, {{"init_sparsity", -1.0}}).starts_with("init_sparsity must be"));
  CHECK(refusal(make, {{"update_scheduler", "square"}}).starts_with("update_scheduler must be"));
}

TEST_CASE("parameters that are wrong or contradict each other are refused by name") {
  const auto wanda = [](const Parameters& parameters) { make_wanda(parameters); };
  const auto sparsegpt = [](const Parameters& parameters) { make_sparsegpt(parameters); };
  for (const char* text : {"1.5", "-0.1", "true", "[]", "{}", "[0.5, 2]", "[\"a\"]", R"({"a": "b"})", R"({"": 0.5})",
                           R"({"re:": 0.5})", R"({"re:(": 0.5})", "{", "\"half\""}) {
    INFO(text);
    CHECK(refusal(wanda, {{"sparsity", text}}).starts_with("sparsity: "));
  }
  CHECK(
      refusal(wanda, {{"pattern", "2:4"}, {"sparsity", "0.6"}}).starts_with("sparsity: 0.6 is not the share that 2:4"));
  CHECK(refusal(wanda, {{"pattern", "2:4"}, {"sparsity", "[0.5, 0.6]"}}).starts_with("sparsity: 0.6"));
  CHECK(refusal(wanda, {{"pattern", "2:4"}, {"mask_structure", "1:4"}}).starts_with("pattern: 2:4 keeps 2:4"));
  CHECK(refusal(wanda, {{"pattern", "2:4"}, {"mask_structure", "0:0"}}).starts_with("pattern: "));
  CHECK(refusal(wanda, {{"pattern", "4:2"}}).starts_with("pattern: "));
  for (const char* text : {"4:4", "0:4", "channel", "block_1,2", "2x4", "2:"}) {
    CHECK(refusal(sparsegpt, {{"mask_structure", text}}).starts_with("mask_structure: "));
  }
  const auto magnitude = [](const Parameters& parameters) { make_magnitude(parameters); };
  CHECK(refusal(magnitude, {{"mask_structure", "block_0,1"}}).starts_with("mask_structure: "));
  CHECK(refusal(wanda, {{"sparsity_profile", "owls"}}).starts_with("sparsity_profile must be"));
  CHECK(refusal(wanda, {{"owl_m", 0.0}}).starts_with("owl_m must be"));
  CHECK(refusal(wanda, {{"owl_lmbda", 0.7}}).starts_with("owl_lmbda must be"));
  CHECK(refusal(wanda, {{"variant", "columns"}}).starts_with("variant must be"));
  CHECK(refusal(sparsegpt, {{"threshold", "about"}}).starts_with("threshold must be"));
  CHECK(refusal(sparsegpt, {{"mask_search", "best"}}).starts_with("mask_search must be"));
  CHECK(refusal(sparsegpt, {{"block_size", std::int64_t{0}}}).starts_with("block_size must be"));
  CHECK(refusal(sparsegpt, {{"block_size", 1.5}}).starts_with("block_size must be"));
  CHECK(refusal(sparsegpt, {{"dampening_frac", -1.0}}).starts_with("dampening_frac must be"));
}
