// Targets and ignore entries, nearest names, places in files.
#include <string>

#include "quant/error.h"
#include "quant/names.h"
#include "quant/recipe.h"
#include "support/catch.h"

using namespace quant;
using Kind = NamePattern::Kind;

namespace {

std::optional<Kind> match(const char* pattern, std::string_view name, std::string_view class_name = "Linear") {
  return NamePattern(pattern).match(name, class_name);
}

std::string error_of(const std::string& pattern) {
  try {
    const NamePattern compiled(pattern);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::recipe);
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("names match exactly, classes by their name") {
  CHECK(match("lm_head", "lm_head") == Kind::exact);
  CHECK_FALSE(match("lm_head", "lm_head2"));
  CHECK_FALSE(match("lm_head", "model.lm_head"));
  CHECK(match("Linear", "model.layers.0.mlp.up_proj") == Kind::class_name);
  CHECK(match("LinearBase", "x") == Kind::class_name);
  CHECK(match("Linear", "x", "LinearBase") == Kind::class_name);
  CHECK(match("Embedding", "model.embed_tokens", "Embedding") == Kind::class_name);
  CHECK_FALSE(match("Embedding", "x"));
  CHECK_FALSE(match("linear", "x"));
  CHECK(match("Linear", "Linear") == Kind::exact);  // the name is nearer than the class
  CHECK_FALSE(match("", "x", ""));
}

TEST_CASE("regexes match from the start of the name, as Python's re.match") {
  CHECK(match("re:.*q_proj", "model.layers.0.self_attn.q_proj") == Kind::regex);
  CHECK(match("re:.*q_proj", "model.q_proj_x") == Kind::regex);
  CHECK_FALSE(match("re:.*q_proj$", "model.q_proj_x"));
  CHECK(match("re:.*q_proj$", "model.q_proj") == Kind::regex);
  CHECK_FALSE(match("re:q_proj", "model.q_proj"));
  CHECK(match("re:a|b", "bc") == Kind::regex);
  CHECK_FALSE(match("re:a|b", "cb"));
  CHECK(match("re:(?i)LAYER", "layer") == Kind::regex);
  CHECK(match("re:(?:x|y)+\\.\\d{2,3}$", "xyx.123") == Kind::regex);
  CHECK(match("re:", "anything") == Kind::regex);
  CHECK(match("re:é.$", "éü") == Kind::regex);                                 // characters, not bytes
  CHECK(match("re:.*end$", std::string("\xFF\xFE") + "end") == std::nullopt);  // '.' does not match broken UTF-8
}

TEST_CASE("a regex that does not compile says where") {
  CHECK(error_of("re:(a").find("regex '(a': missing closing parenthesis at offset 2") == 0);
  CHECK(error_of("re:*a").find("offset 0") != std::string::npos);
  CHECK(error_of("re:a\\Cb").find("regex 'a\\Cb'") == 0);
  CHECK(error_of("re:" + std::string(5000, 'a')).find("longer than the limit") != std::string::npos);
  CHECK(error_of("re:" + std::string(300, '(') + std::string(300, ')')).find("nested") != std::string::npos);
  CHECK(error_of("(a").empty());  // a name, not a regex
}

TEST_CASE("catastrophic backtracking ends in an error") {
  const NamePattern pattern("re:(a+)+$");
  CHECK(pattern.match("aaaa", "") == Kind::regex);
  CHECK_THROWS_AS(pattern.match(std::string(200, 'a') + "b", ""), Error);
  const NamePattern deep("re:(?:(a)|b|(?1))*c");
  CHECK_THROWS_AS(deep.match(std::string(100'000, 'a'), ""), Error);
  CHECK_THROWS_AS(NamePattern("re:(*LIMIT_MATCH=4000000000)(a+)+$").match(std::string(200, 'a') + "b", ""), Error);
}

TEST_CASE("patterns can be moved") {
  NamePattern a("re:x");
  NamePattern b("Linear");
  b = std::move(a);
  CHECK(b.text() == "re:x");
  CHECK(b.match("xy", "") == Kind::regex);
  const NamePattern c(std::move(b));
  CHECK(c.match("xy", "") == Kind::regex);
}

TEST_CASE("nearest names") {
  const std::vector<std::string> fields = {"num_bits", "type", "symmetric", "strategy", "group_size"};
  CHECK(nearest_name("num_bit", fields) == "num_bits");
  CHECK(nearest_name("nmu_bits", fields) == "num_bits");  // a swap is one edit
  CHECK(nearest_name("NUM_BITS", fields) == "num_bits");
  CHECK(nearest_name("strateg", fields) == "strategy");
  CHECK(nearest_name("groupsize", fields) == "group_size");
  CHECK(nearest_name("learning_rate", fields).empty());
  CHECK(nearest_name("", fields).empty());
  CHECK(nearest_name("x", {}).empty());
  CHECK(nearest_name("x", {"y"}).empty());  // nothing of the name is left
  CHECK(nearest_name("W4A61", {"W4A8", "W4A16", "W8A16"}) == "W4A16");
  CHECK(nearest_name("ab", {"ac", "ad"}) == "ac");  // of equals the first
  CHECK(nearest_name(std::string(100'000, 'a'), {std::string(100'000, 'a')}).empty());
}

TEST_CASE("places in files") {
  CHECK(SourceLocation{"w4.yaml", 3, 7}.to_string() == "w4.yaml:3:7");
  CHECK(SourceLocation{"w4.yaml", 3, 0}.to_string() == "w4.yaml:3");
  CHECK(SourceLocation{"w4.yaml", 0, 0}.to_string() == "w4.yaml");
}
