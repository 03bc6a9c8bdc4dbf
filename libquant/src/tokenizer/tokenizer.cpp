#include "quant/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "output/files.h"
#include "quant/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/unicode.h"

namespace quant {

namespace {

using nlohmann::json;
using tok::JsonPart;

json parse_json(std::string_view text, const std::string& source) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    throw Error(ErrorCode::corrupt_file, source + ": is not JSON: " + error.what(), "Fetch the file again.",
                "InvalidTokenizer");
  }
}

template <class Read>
auto read_optional(const JsonPart& root, const char* key, Read read) -> decltype(read(root)) {
  const auto part = root.find(key);
  return part ? read(*part) : decltype(read(root)){};
}

}  // namespace

struct Tokenizer::State {
  State(const json& document, const std::string& source) : State(JsonPart(document, source, "tokenizer")) {}

  explicit State(const JsonPart& root)
      : normalizer(read_optional(root, "normalizer", tok::read_normalizer)),
        pre_tokenizer(read_optional(root, "pre_tokenizer", tok::read_pre_tokenizer)),
        model(tok::read_model(root.at("model"))),
        post_processor(read_optional(root, "post_processor", tok::read_post_processor)),
        decoder(read_optional(root, "decoder", tok::read_decoder)),
        added(root.at("added_tokens"), model->vocabulary(), [this](std::string& text) { normalize_alone(text); }) {}

  void normalize_alone(std::string& text) const {
    if (!normalizer) return;
    tok::Matcher matcher;
    matcher.set_text_size(text.size());
    normalizer->apply(text, matcher);
  }

  std::unique_ptr<tok::Scratch> borrow() const {
    const std::lock_guard lock(mutex);
    if (free_scratch.empty()) return std::make_unique<tok::Scratch>();
    auto scratch = std::move(free_scratch.back());
    free_scratch.pop_back();
    return scratch;
  }
  void give_back(std::unique_ptr<tok::Scratch> scratch) const {
    const std::lock_guard lock(mutex);
    free_scratch.push_back(std::move(scratch));
  }

  void encode_text(std::string_view text, tok::Scratch& scratch, std::vector<std::int32_t>& ids) const;
  void encode_section(std::string text, bool at_start, tok::Scratch& scratch, std::vector<std::int32_t>& ids) const;
  std::optional<std::string> token_text(std::int32_t id) const;

  std::unique_ptr<tok::Normalizer> normalizer;
  std::unique_ptr<tok::PreTokenizer> pre_tokenizer;
  std::unique_ptr<tok::Model> model;
  tok::PostProcessor post_processor;
  std::unique_ptr<tok::Decoder> decoder;
  tok::AddedTokens added;
  std::optional<std::int32_t> bos;
  std::optional<std::int32_t> eos;
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<tok::Scratch>> free_scratch;  // caches live on from call to call
};

// Tokens that are not normalized are found first; what lies between is normalized and searched for the others.
void Tokenizer::State::encode_text(std::string_view text, tok::Scratch& scratch, std::vector<std::int32_t>& ids) const {
  std::vector<tok::AddedTokens::Section> outer;
  std::vector<tok::AddedTokens::Section> inner;
  added.find(text, false, outer);
  for (const auto& section : outer) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    std::string part(text.substr(section.span.begin, section.span.end - section.span.begin));
    if (normalizer) normalizer->apply(part, scratch.matcher);
    added.find(part, true, inner);
    for (const auto& piece : inner) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        continue;
      }
      encode_section(part.substr(piece.span.begin, piece.span.end - piece.span.begin),
                     section.span.begin == 0 && piece.span.begin == 0, scratch, ids);
    }
  }
}

void Tokenizer::State::encode_section(std::string text, bool at_start, tok::Scratch& scratch,
                                      std::vector<std::int32_t>& ids) const {
  tok::Pieces pieces{std::move(text), {}, at_start};
  pieces.spans.push_back({0, pieces.text.size()});
  if (pre_tokenizer) pre_tokenizer->apply(pieces, scratch.matcher);
  for (const tok::Span& span : pieces.spans) model->encode(pieces.view(span), scratch, ids);
}

std::optional<std::string> Tokenizer::State::token_text(std::int32_t id) const {
  if (const tok::AddedToken* token = added.token(id)) return token->text;
  const auto text = model->vocabulary().text(id);
  return text ? std::optional<std::string>(*text) : std::nullopt;
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::parse(std::string_view text, const std::string& source) {
  const json document = parse_json(text, source);
  return Tokenizer(std::make_unique<State>(document, source));
}

Tokenizer Tokenizer::open(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "tokenizer.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    throw Error(ErrorCode::io, directory.string() + ": has no tokenizer.json",
                "Give the model's whole directory, or calibrate with token ids (.npy or .h5).");
  }
  Tokenizer tokenizer = parse(read_text_file(file), file.string());
  const std::filesystem::path settings = directory / "tokenizer_config.json";
  if (!std::filesystem::exists(settings, ignored)) return tokenizer;
  const json document = parse_json(read_text_file(settings), settings.string());
  const JsonPart root(document, settings.string(), "tokenizer_config");
  if (!root.is_object()) root.corrupt("is not an object");
  const auto named = [&](const char* key) -> std::optional<std::int32_t> {
    const auto part = root.find(key);
    if (!part) return std::nullopt;
    return tokenizer.id_of(part->is_object() ? part->text("content") : part->as_text());
  };
  tokenizer.state_->bos = named("bos_token");
  tokenizer.state_->eos = named("eos_token");
  return tokenizer;
}

std::uint32_t Tokenizer::size() const { return static_cast<std::uint32_t>(state_->added.end_id()); }

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool special) const {
  std::vector<std::int32_t> ids;
  if (special) ids = state_->post_processor.before;
  auto scratch = state_->borrow();
  std::string repaired;
  if (!tok::is_valid_utf8(text)) {
    repaired = tok::replace_invalid_utf8(text);
    text = repaired;
  }
  scratch->matcher.set_text_size(text.size());
  state_->encode_text(text, *scratch, ids);
  state_->give_back(std::move(scratch));
  if (special) ids.insert(ids.end(), state_->post_processor.after.begin(), state_->post_processor.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  std::size_t bytes = 0;
  for (const std::int32_t id : ids) {
    std::optional<std::string> token = state_->token_text(id);
    if (!token || (skip_special && state_->added.is_special(*token))) continue;
    bytes += token->size();
    tokens.push_back(*std::move(token));
  }
  if (state_->decoder) {
    tok::Matcher matcher;
    matcher.set_text_size(bytes);
    state_->decoder->apply(tokens, matcher);
  }
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && !state_->decoder) text += ' ';
    text += tokens[i];
  }
  return text;
}

std::optional<std::int32_t> Tokenizer::id_of(std::string_view token) const {
  const std::int32_t added = state_->added.id(token);
  const std::int32_t id = added >= 0 ? added : state_->model->vocabulary().id(token);
  return id >= 0 ? std::optional(id) : std::nullopt;
}

std::optional<std::int32_t> Tokenizer::bos() const { return state_->bos; }
std::optional<std::int32_t> Tokenizer::eos() const { return state_->eos; }

}  // namespace quant
