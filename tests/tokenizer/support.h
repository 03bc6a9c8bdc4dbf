// Small tokenizer.json files for tests.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/error.h"
#include "quant/tokenizer.h"

namespace quant::test {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

/// A BPE model of the tokens, whose ids are their places, and of merges "a b".
inline json bpe_model(const std::vector<std::string>& tokens, const std::vector<std::string>& merges = {}) {
  json vocab = json::object();
  for (std::size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
  return {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}};
}

inline json tokenizer_json(json model) {
  return {{"version", "1.0"},         {"added_tokens", json::array()}, {"normalizer", nullptr},
          {"pre_tokenizer", nullptr}, {"post_processor", nullptr},     {"decoder", {{"type", "Fuse"}}},
          {"model", std::move(model)}};
}

inline Tokenizer make(const json& document) { return Tokenizer::parse(document.dump(), "test.json"); }

/// The tokens of a text as texts.
inline std::vector<std::string> pieces(const json& document, const std::string& text) {
  const Tokenizer tokenizer = make(document);
  std::vector<std::string> result;
  for (const std::int32_t id : tokenizer.encode(text, false))
    result.push_back(tokenizer.decode(std::span(&id, 1), false));
  return result;
}

/// The Error that `call` throws; fails the test if there is none.
template <class Call>
Error error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::internal, "nothing was thrown");
}

}  // namespace quant::test
