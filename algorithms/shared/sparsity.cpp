#include "shared/sparsity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "quant/error.h"

namespace quant::shared {
namespace {

constexpr double kDefaultShare = 0.5;
constexpr std::uint32_t kAll = std::numeric_limits<std::uint32_t>::max();

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::usage, name + ": " + what);
}

// "2:4" of a file that counts what is removed.
std::optional<SparsityPattern> removed_of(const std::string& text) {
  if (text == "0:0") return SparsityPattern();
  unsigned removed = 0, of = 0;
  const char* end = text.data() + text.size();
  const auto middle = std::from_chars(text.data(), end, removed);
  if (middle.ec != std::errc() || middle.ptr == end || *middle.ptr != ':') return std::nullopt;
  const auto last = std::from_chars(middle.ptr + 1, end, of);
  if (last.ec != std::errc() || last.ptr != end || removed == 0 || removed >= of) return std::nullopt;
  return parse_pattern(fmt::format("{}:{}", of - removed, of));
}

std::optional<SparsityPattern> outline_of(const std::string& text) {
  SparsityPattern pattern;
  if (text == "unstructured") return pattern;
  if (text == "channel") {
    pattern.block_rows = kAll;
    return pattern;
  }
  if (text == "filter") {
    pattern.block_cols = kAll;
    return pattern;
  }
  const std::string prefix = "block_";
  const std::size_t comma = text.find(',');
  if (text.rfind(prefix, 0) != 0 || comma == std::string::npos) return std::nullopt;
  return parse_pattern(text.substr(prefix.size(), comma - prefix.size()) + "x" + text.substr(comma + 1));
}

SparsityPattern mask_structure_of(const std::string& text, MaskWords words) {
  const std::string name = "mask_structure";
  const bool outlines = words == MaskWords::outlines;
  try {
    if (auto pattern = removed_of(text)) return *pattern;
    if (auto pattern = outlines ? outline_of(text) : std::nullopt) return *pattern;
  } catch (const Error&) {
    // The sentence below says what would be right.
  }
  refuse(name, fmt::format("'{:.40}' is neither \"0:0\" (unstructured) nor \"N:M\" (N removed of each M){}", text,
                           outlines ? ", unstructured, channel, filter or block_r,c" : ""));
}

SparsityPattern pattern_of(const std::string& text) {
  if (text == "unstructured") return {};
  try {
    return parse_pattern(text);
  } catch (const Error& error) {
    throw Error(ErrorCode::usage, std::string("pattern: ") + error.what(), error.hint());
  }
}

std::optional<std::uint64_t> layer_of(const std::string& module) {
  for (std::size_t begin = 0; begin <= module.size();) {
    const std::size_t end = std::min(module.find('.', begin), module.size());
    std::uint64_t number = 0;
    const auto read = std::from_chars(module.data() + begin, module.data() + end, number);
    if (read.ec == std::errc() && read.ptr == module.data() + end && end > begin) return number;
    begin = end + 1;
  }
  return std::nullopt;
}

double share_in(const nlohmann::ordered_json& json) {
  if (!json.is_number()) {
    refuse("sparsity", "expected a number, a list of numbers or a mapping from modules to numbers");
  }
  const double share = json.get<double>();
  if (!(share >= 0 && share <= 1)) refuse("sparsity", fmt::format("must be from 0 to 1, not {}", share));
  return share;
}

// What the profile means is resolved before the plan, into `sparsity`.
void check_profile(const Parameters& parameters, const SparsityPattern& pattern, MaskWords words) {
  const std::string profile = word_parameter(parameters, "sparsity_profile", "uniform");
  constexpr std::array<std::string_view, 5> kProfiles = {"", "uniform", "owl", "global", "error"};
  require(std::find(kProfiles.begin(), kProfiles.end(), profile) != kProfiles.end(), "sparsity_profile",
          "uniform, owl, global or error, not '" + profile + "'");
  require(profile != "global" || words == MaskWords::outlines, "sparsity_profile",
          "uniform, owl or error: scores of different inputs are not compared, so that global is for magnitudes");
  const bool shared_out = !profile.empty() && profile != "uniform";
  require(!shared_out || !pattern.semi_structured(), "sparsity_profile",
          fmt::format("uniform: {} is the same share everywhere", describe(pattern)));
  require(number_parameter(parameters, "owl_m", 5) > 0, "owl_m", "positive");
  const double lambda = number_parameter(parameters, "owl_lmbda", 0.08);
  require(lambda >= 0 && lambda <= 0.5, "owl_lmbda", "from 0 to 0.5");
}

}  // namespace

SparsityRule::SparsityRule(const Parameters& parameters, MaskWords words) {
  const std::string structure = word_parameter(parameters, "mask_structure", "");
  const std::string text = word_parameter(parameters, "pattern", "");
  if (!structure.empty()) pattern_ = mask_structure_of(structure, words);
  if (!text.empty()) {
    const SparsityPattern given = pattern_of(text);
    if (!structure.empty() && !(given == pattern_)) {
      refuse("pattern", fmt::format("{} keeps {}, mask_structure {} keeps {}; leave one of them out", text,
                                    describe(given), structure, describe(pattern_)));
    }
    pattern_ = given;
  }
  read_shares(parameters);
  check_profile(parameters, pattern_, words);
  corrects_bias_ = boolean_parameter(parameters, "correct_bias", false);
}

void SparsityRule::read_shares(const Parameters& parameters) {
  // Of mappings the order counts.
  const std::string text = word_parameter(parameters, "sparsity", "");
  const nlohmann::ordered_json json =
      text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json::parse(text, nullptr, false);
  if (json.is_discarded()) refuse("sparsity", fmt::format("'{:.60}' is no JSON", text));
  if (json.is_null()) {
    if (!pattern_.semi_structured()) pattern_.sparsity = kDefaultShare;
  } else if (json.is_array()) {
    for (const auto& item : json) layers_.push_back(share_in(item));
    if (layers_.empty()) refuse("sparsity", "an empty list prunes nothing");
  } else if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      if (key.empty() || key == "re:") refuse("sparsity", "an empty pattern matches nothing");
      try {
        named_.emplace_back(NamePattern(key), share_in(value));
      } catch (const Error& error) {
        if (error.code() == ErrorCode::usage) throw;
        refuse("sparsity", error.what());
      }
    }
    if (named_.empty()) refuse("sparsity", "an empty mapping prunes nothing");
  } else {
    const double share = share_in(json);
    check_share(share);
    if (!pattern_.semi_structured()) pattern_.sparsity = share;
  }
  for (const double share : layers_) check_share(share);
  for (const auto& [pattern, share] : named_) check_share(share);
}

// N:M is a share by itself; only "not at all" is another one.
void SparsityRule::check_share(double share) const {
  const bool differs = !layers_.empty() || !named_.empty();
  if (!pattern_.semi_structured() || (differs && share == 0)) return;
  if (std::fabs(share - pattern_.sparsity) < 1e-3) return;
  refuse("sparsity", fmt::format("{} is not the share that {} removes, {:.4g}; leave it out", share, describe(pattern_),
                                 pattern_.sparsity));
}

double SparsityRule::share(const std::string& module) const {
  const auto layer = layer_of(module);
  if (!layers_.empty()) {
    if (!layer) return 0;
    if (*layer < layers_.size()) return layers_[*layer];
    refuse("sparsity", fmt::format("the list has {} numbers, one for each decoder layer; {} is in layer {}",
                                   layers_.size(), module, *layer));
  }
  // Exact names beat regexes, which beat classes; of several of a kind the first one counts.
  std::optional<NamePattern::Kind> best;
  double found = 0;
  for (const auto& [pattern, share] : named_) {
    const auto kind = pattern.match(module, "Linear");
    if (!kind || (best && *best <= *kind)) continue;
    best = kind;
    found = share;
  }
  return found;
}

SparsityPattern SparsityRule::pattern(const std::string& module) const {
  if (layers_.empty() && named_.empty()) return pattern_;
  const double own = share(module);
  if (pattern_.semi_structured()) return own == 0 ? SparsityPattern() : pattern_;
  SparsityPattern pattern = pattern_;
  pattern.sparsity = own;
  return pattern;
}

std::vector<ParameterSpec> sparsity_parameters(MaskWords words) {
  using Type = ParameterSpec::Type;
  const bool outlines = words == MaskWords::outlines;
  return {
      {"sparsity", Type::json, std::string(),
       "share of each weight that becomes 0: a number, a list with one for each decoder layer, or a mapping from "
       "modules (names, re:..., classes) to numbers; 0.5 if neither it nor an N:M pattern is given"},
      {"pattern", Type::text, std::string(), "N:M (N kept of each M in a row), RxC (blocks), or unstructured"},
      {"mask_structure", Type::text, std::string(),
       outlines ? "as llm-compressor means it: unstructured, channel, filter, block_r,c, or N:M, N removed of each M"
                : "as llm-compressor means it: 0:0 (unstructured), or N:M, N removed of each M"},
      {"sparsity_profile", Type::text, std::string("uniform"),
       "how the share is divided among the linears: uniform, owl, global or error"},
      {"owl_m", Type::number, 5.0, "profile owl: an outlier exceeds so many times the mean score"},
      {"owl_lmbda", Type::number, 0.08, "profile owl: how far a layer's share may be from the mean"},
      {"preserve_sparsity_mask", Type::boolean, false, "weights that are 0 already stay so and count"},
      {"correct_bias", Type::boolean, false,
       "biases, where linears have them, make up for the mean of the outputs' error"}};
}

double number_parameter(const Parameters& parameters, const std::string& name, double otherwise) {
  const auto given = parameters.find(name);
  if (given == parameters.end()) return otherwise;
  if (const auto* whole = std::get_if<std::int64_t>(&given->second)) return static_cast<double>(*whole);
  const auto* number = std::get_if<double>(&given->second);
  require(number != nullptr && std::isfinite(*number), name, "a number");
  return *number;
}

bool boolean_parameter(const Parameters& parameters, const std::string& name, bool otherwise) {
  const auto given = parameters.find(name);
  if (given == parameters.end()) return otherwise;
  const auto* truth = std::get_if<bool>(&given->second);
  require(truth != nullptr, name, "true or false");
  return *truth;
}

std::uint64_t count_parameter(const Parameters& parameters, const std::string& name, std::uint64_t otherwise) {
  const auto given = parameters.find(name);
  if (given == parameters.end()) return otherwise;
  const auto* whole = std::get_if<std::int64_t>(&given->second);
  require(whole != nullptr && *whole >= 0, name, "an integer of at least 0");
  return static_cast<std::uint64_t>(*whole);
}

std::string word_parameter(const Parameters& parameters, const std::string& name, const std::string& otherwise) {
  const auto given = parameters.find(name);
  if (given == parameters.end()) return otherwise;
  const auto* text = std::get_if<std::string>(&given->second);
  require(text != nullptr, name, "a text");
  return *text == "null" ? otherwise : *text;
}

void require(bool holds, const std::string& name, const std::string& rule) {
  if (!holds) throw Error(ErrorCode::usage, name + " must be " + rule);
}

}  // namespace quant::shared
