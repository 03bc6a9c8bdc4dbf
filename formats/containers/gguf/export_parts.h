// Keys of exported GGUF files: hyperparameters and tokenizer.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "containers/gguf/architectures.h"
#include "containers/gguf/metadata.h"
#include "quant/checkpoint.h"

namespace quant::gguf {

/// What config.json says, checked where it is used.
class ModelFacts {
 public:
  /// Throws Error{unsupported} for families that llama.cpp's converter names otherwise, Error{corrupt_file}.
  explicit ModelFacts(const Checkpoint& checkpoint);

  const Architecture& architecture() const { return *architecture_; }
  std::uint64_t query_heads() const { return natural("num_attention_heads"); }
  std::uint64_t key_heads() const;
  std::uint64_t head_size() const;
  std::uint64_t experts() const {
    return natural(member("num_experts") != nullptr ? "num_experts" : "num_local_experts");
  }
  bool tied() const { return tied_; }

  /// general.* and <architecture>.* keys, but general.file_type.
  Metadata metadata() const;
  /// Factors of the rotary frequencies, [head size / 2], where the model has them (rope_type llama3).
  std::vector<float> rope_factors() const;

 private:
  std::uint64_t natural(const char* key) const;
  double number(const char* key, double otherwise) const;
  const nlohmann::json* member(const char* key) const;
  nlohmann::json rope() const;
  void read_settings(const std::string& text);
  void add_defaults();
  void check_settings() const;
  [[noreturn]] void refuse(const std::string& setting, const std::string& wanted) const;
  void check_attention_scale(std::uint64_t layers) const;
  void add_norms(Metadata& out, const std::string& prefix) const;
  void add_heads(Metadata& out, const std::string& prefix) const;
  void add_windows(Metadata& out, const std::string& prefix) const;
  void add_local_layers(Metadata& out, const std::string& prefix) const;
  void add_experts(Metadata& out, const std::string& prefix) const;
  std::vector<bool> sliding_layers() const;
  void add_rope(Metadata& out, const std::string& prefix) const;

  nlohmann::json config_;
  std::string where_, model_name_;
  const Architecture* architecture_ = nullptr;
  bool tied_ = false;
};

/// Divisors of the rotary frequencies of a head of `head` numbers, [head / 2], of rope_type llama3.
struct Llama3Rope {
  double factor = 8, low = 1, high = 4, context = 8192, base = 500000;
};
std::vector<float> llama3_factors(const Llama3Rope& rope, std::uint64_t head);

/// The tokenizer beside the checkpoint as tokenizer.ggml.* keys; `rows`: of the embedding. `pre`: llama.cpp's name for
/// how text is split, or empty. Adds a remark where there is no tokenizer. Throws Error{unsupported} for tokenizers
/// that llama.cpp does not have.
Metadata tokenizer_metadata(const Checkpoint& checkpoint, std::uint64_t rows, const std::string& pre,
                            std::vector<std::string>& remarks);

}  // namespace quant::gguf
