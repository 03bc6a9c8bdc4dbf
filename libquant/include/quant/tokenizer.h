// Text to token ids, as tokenizer.json of a Hugging Face model says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quant {

/// Immutable; usable by several threads at once.
class Tokenizer {
 public:
  /// Reads <directory>/tokenizer.json (and tokenizer_config.json for the names of special tokens). Throws Error{io} if
  /// it is missing, Error{corrupt_file} if it breaks a rule, Error{unsupported} naming the part this version does not
  /// know.
  static Tokenizer open(const std::filesystem::path& directory);
  /// The text of a tokenizer.json; `source` names it in errors.
  static Tokenizer parse(std::string_view json, const std::string& source);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  std::uint32_t size() const;  ///< one more than the largest id
  /// Token ids of UTF-8 text (invalid bytes are read as U+FFFD, as Python's replacement does). `special`: adds what the
  /// post-processor adds (<s>, [CLS] ... [SEP]). Added tokens within the text are recognized, as in the reference.
  std::vector<std::int32_t> encode(std::string_view text, bool special) const;
  /// The text of ids; unknown ids are left out.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const;
  std::optional<std::int32_t> id_of(std::string_view token) const;
  std::optional<std::int32_t> bos() const;  ///< beginning of sequence, if the tokenizer's configuration names one
  std::optional<std::int32_t> eos() const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quant
