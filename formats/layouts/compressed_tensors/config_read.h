// quantization_config of a model that was compressed by somebody else.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "quant/checkpoint.h"
#include "quant/names.h"
#include "quant/scheme.h"

namespace quant::compressed_tensors {

/// True if quant_method says compressed-tensors. Never throws.
bool says_compressed_tensors(const ModelConfig& model);

/// kv_cache_scheme of the config, or nothing. Throws Error{corrupt_file} naming the key that is wrong.
std::optional<QuantArgs> kv_cache_scheme(const ModelConfig& model);

/// The schemes of a config, found by module name. Throws Error{corrupt_file} naming the key that is wrong.
class SchemeTable {
 public:
  explicit SchemeTable(const ModelConfig& model);

  /// The scheme of a module whose class is not known; null if no target matches and there are several schemes.
  const Scheme* find(const std::string& module) const;
  /// The scheme's own format, or the model's ("" if neither says).
  std::string declared_format(const Scheme& scheme) const { return scheme.format.value_or(format_); }
  /// True if a word of fewer bits than 32 may be left unused: versions before 0.18, and files without a version.
  bool old_version() const { return old_version_; }

 private:
  void add(Scheme scheme);
  const Scheme* find_class(std::string_view class_name) const;

  std::vector<std::unique_ptr<Scheme>> schemes_;
  std::unordered_map<std::string, const Scheme*> names_;         // exact names and classes
  std::vector<std::pair<NamePattern, const Scheme*>> patterns_;  // in alphabetical order
  std::string format_;
  bool old_version_ = true;
};

}  // namespace quant::compressed_tensors
