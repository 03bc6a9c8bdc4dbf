// tokenizer.json as the keys that llama.cpp reads. Source: llama.cpp's converter and llama-vocab.cpp.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "containers/gguf/export_parts.h"
#include "containers/io/file_io.h"
#include "containers/io/text.h"
#include "quant/error.h"
#include "quant/tokenizer.h"

namespace quant::gguf {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::uint64_t kMaxTokenizerBytes = 256ULL * 1024 * 1024;
enum TokenKind : std::int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// How known tokenizers split text before merging, and llama.cpp's name for that.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kSplits = {{
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "llama-bpe"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "qwen2"},
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "tekken"},
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "gpt-2"},
}};

[[noreturn]] void refuse(const fs::path& file, const std::string& problem) {
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: {}, which llama.cpp has no tokenizer for.", file.string(), problem),
              "Give llama.cpp's name of a split with --pre-tokenizer, or convert without a tokenizer: remove the file.",
              "UnsupportedTokenizer");
}

Json read_json(const fs::path& file) {
  const std::string text = io::read_text_file(file, kMaxTokenizerBytes, "InvalidTokenizer");
  Json json = io::json_objection(text) ? Json() : Json::parse(text, nullptr, false);
  if (json.is_object()) return json;
  throw Error(ErrorCode::corrupt_file, fmt::format("{} is no JSON object.", file.string()), "Fetch the file again.",
              "InvalidTokenizer");
}

const Json& at(const Json& json, const char* key) {
  static const Json nothing;
  const auto found = json.is_object() ? json.find(key) : json.end();
  return json.is_object() && found != json.end() ? *found : nothing;
}

std::string text_at(const Json& json, const char* key) {
  const Json& value = at(json, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

// The parts of a sequence, or the one part.
std::vector<Json> parts_of(const Json& json, const char* list) {
  if (json.is_null()) return {};
  if (text_at(json, "type") != "Sequence") return {json};
  const Json& parts = at(json, list);
  return parts.is_array() ? parts.get<std::vector<Json>>() : std::vector<Json>{};
}

class TokenizerKeys {
 public:
  TokenizerKeys(fs::path file, std::uint64_t rows) : file_(std::move(file)), json_(read_json(file_)), rows_(rows) {
    const Json& model = at(json_, "model");
    if (text_at(model, "type") != "BPE") refuse(file_, fmt::format("its model is '{}'", text_at(model, "type")));
    sentencepiece_ = at(model, "byte_fallback") == true;
    read_tokens(at(model, "vocab"));
    read_merges(at(model, "merges"));
    read_added();
  }

  Metadata metadata(const std::string& pre) const {
    Metadata out;
    out.emplace_back("tokenizer.ggml.model", text_value(sentencepiece_ ? "llama" : "gpt2"));
    const std::string split = !pre.empty() ? pre : sentencepiece_ ? "default" : find_split();
    out.emplace_back("tokenizer.ggml.pre", text_value(split));
    out.emplace_back("tokenizer.ggml.tokens", texts_value(tokens_));
    if (sentencepiece_) out.emplace_back("tokenizer.ggml.scores", f32s_value(scores_));
    out.emplace_back("tokenizer.ggml.token_type", i32s_value(kinds_));
    if (sentencepiece_) {
      out.emplace_back("tokenizer.ggml.add_space_prefix", bool_value(prepends_space()));
    } else {
      out.emplace_back("tokenizer.ggml.merges", texts_value(merges_));
    }
    if (unknown_) out.emplace_back("tokenizer.ggml.unknown_token_id", u32_value(*unknown_));
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(ErrorCode::corrupt_file, fmt::format("{}: {}.", file_.string(), problem), "Fetch the file again.",
                "InvalidTokenizer");
  }

  void read_tokens(const Json& vocabulary) {
    if (!vocabulary.is_object()) fail("its vocabulary is no object");
    for (std::uint64_t i = 0; i < rows_; ++i) tokens_.push_back(fmt::format("[PAD{}]", i));
    kinds_.assign(rows_, kUnused);
    scores_.assign(rows_, -10000.0F);
    for (const auto& [piece, id] : vocabulary.items()) {
      const std::uint64_t place = id.is_number_unsigned() ? id.get<std::uint64_t>() : UINT64_MAX;
      if (place >= rows_) fail(fmt::format("the id of {} is not below {}", io::in_quotes(piece), rows_));
      const bool byte = sentencepiece_ && piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with(">");
      tokens_[place] = piece;
      kinds_[place] = byte ? kByte : kNormal;
      scores_[place] = 0;
      ids_[piece] = place;
    }
    const std::string unknown = text_at(at(json_, "model"), "unk_token");
    if (const auto found = ids_.find(unknown); !unknown.empty() && found != ids_.end()) {
      kinds_[found->second] = kUnknown;
      unknown_ = found->second;
    }
  }

  // A piece that the n-th merge makes scores -n: earlier merges come first.
  void read_merges(const Json& merges) {
    if (!merges.is_array()) fail("it has no list of merges");
    float rank = 0;
    for (const Json& merge : merges) {
      std::string left, right;
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else if (merge.is_string()) {
        const std::string text = merge.get<std::string>();
        const std::size_t space = text.find(' ', 1);
        if (space == std::string::npos) fail("a merge is no pair");
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else {
        fail("a merge is no pair");
      }
      rank -= 1;
      const auto made = ids_.find(left + right);
      if (made != ids_.end() && scores_[made->second] == 0) scores_[made->second] = rank;
      if (!sentencepiece_) merges_.push_back(left + " " + right);
    }
  }

  void read_added() {
    const Json& added = at(json_, "added_tokens");
    for (const Json& token : added.is_array() ? added : Json::array()) {
      const Json& id = at(token, "id");
      const std::uint64_t place = id.is_number_unsigned() ? id.get<std::uint64_t>() : UINT64_MAX;
      if (place >= rows_) continue;  // beyond the embedding: no row of the model belongs to it
      tokens_[place] = text_at(token, "content");
      if (kinds_[place] == kUnknown) continue;
      kinds_[place] = at(token, "special") == true ? kControl : kUserDefined;
      if (sentencepiece_) scores_[place] = -1000.0F;
    }
  }

  bool prepends_space() const {
    for (const Json& part : parts_of(at(json_, "normalizer"), "normalizers")) {
      if (text_at(part, "type") == "Prepend") return true;
    }
    for (const Json& part : parts_of(at(json_, "pre_tokenizer"), "pretokenizers")) {
      if (text_at(part, "type") == "Metaspace")
        return text_at(part, "prepend_scheme") != "never" && at(part, "add_prefix_space") != false;
    }
    return false;
  }

  std::string find_split() const {
    bool digits = false, byte_level = false;
    std::string found;
    for (const Json& part : parts_of(at(json_, "pre_tokenizer"), "pretokenizers")) {
      const std::string type = text_at(part, "type");
      if (type == "ByteLevel") {
        byte_level = true;
        if (at(part, "use_regex") != false && found.empty()) found = digits ? "smollm" : "gpt-2";
      } else if (type == "Digits" && at(part, "individual_digits") == true) {
        digits = true;
      } else if (type == "Split" && found.empty()) {
        found = split_name(text_at(at(part, "pattern"), "Regex"));
      } else {
        refuse(file_, fmt::format("it splits text by '{}'", type));
      }
    }
    if (!byte_level || found.empty()) refuse(file_, "it does not split text into bytes as GPT-2 does");
    return found;
  }

  std::string split_name(const std::string& regex) const {
    const auto known =
        std::ranges::find(kSplits, std::string_view(regex), &std::pair<std::string_view, std::string_view>::first);
    if (known == kSplits.end())
      refuse(file_, fmt::format("it splits text by the unknown expression {}", io::in_quotes(regex)));
    return std::string(known->second);
  }

  fs::path file_;
  Json json_;
  std::uint64_t rows_;
  bool sentencepiece_ = false;
  std::optional<std::uint64_t> unknown_;
  std::vector<std::string> tokens_, merges_;
  std::vector<float> scores_;
  std::vector<std::int32_t> kinds_;
  std::map<std::string, std::uint64_t, std::less<>> ids_;
};

std::optional<fs::path> companion(const Checkpoint& checkpoint, std::string_view name) {
  for (const fs::path& path : checkpoint.companions()) {
    if (path.filename() == name) return path;
  }
  return std::nullopt;
}

// Beginning and end of sequences, and whether the tokenizer puts them around text.
void add_ends(const fs::path& directory, Metadata& out) {
  const Tokenizer tokenizer = Tokenizer::open(directory);
  const std::vector<std::int32_t> ids = tokenizer.encode("a", true);
  const auto add = [&](const char* name, const std::optional<std::int32_t>& id, bool there) {
    if (!id || *id < 0) return;
    out.emplace_back(fmt::format("tokenizer.ggml.{}_token_id", name), u32_value(static_cast<std::uint64_t>(*id)));
    out.emplace_back(fmt::format("tokenizer.ggml.add_{}_token", name), bool_value(there));
  };
  add("bos", tokenizer.bos(), !ids.empty() && tokenizer.bos() == ids.front());
  add("eos", tokenizer.eos(), ids.size() > 1 && tokenizer.eos() == ids.back());
}

void add_chat_template(const Checkpoint& checkpoint, Metadata& out) {
  if (const auto file = companion(checkpoint, "chat_template.jinja")) {
    out.emplace_back("tokenizer.chat_template", text_value(io::read_text_file(*file, 1U << 24U, "InvalidTokenizer")));
  } else if (const auto config = companion(checkpoint, "tokenizer_config.json")) {
    const std::string text = text_at(read_json(*config), "chat_template");
    if (!text.empty()) out.emplace_back("tokenizer.chat_template", text_value(text));
  }
}

}  // namespace

Metadata tokenizer_metadata(const Checkpoint& checkpoint, std::uint64_t rows, const std::string& pre,
                            std::vector<std::string>& remarks) {
  const auto file = companion(checkpoint, "tokenizer.json");
  if (!file) {
    remarks.push_back("there is no tokenizer.json: the file has no tokenizer, and llama.cpp takes token ids only");
    return {{"tokenizer.ggml.model", text_value("none")}};
  }
  Metadata out = TokenizerKeys(*file, rows).metadata(pre);
  add_ends(file->parent_path(), out);
  add_chat_template(checkpoint, out);
  return out;
}

}  // namespace quant::gguf
