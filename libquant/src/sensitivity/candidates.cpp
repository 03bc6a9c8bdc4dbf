// Short names of schemes.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>

#include "quant/error.h"
#include "quant/names.h"
#include "quant/sensitivity.h"
#include "sensitivity/pruning.h"

namespace quant {
namespace {

constexpr std::string_view kHint =
    "candidates are W<bits> (per channel), W<bits>G<group size>, S<percent of zeros>, S<N>:<M>, 'base' or presets";

std::string upper(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return std::toupper(c); });
  return result;
}

/// "W3G128" in numbers; group 0: none.
struct ShortName {
  int bits = 0;
  std::int64_t group = 0;
};

bool read_number(std::string_view& text, std::int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value <= 0) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

std::optional<ShortName> short_name(std::string_view text) {
  if (!text.starts_with('W')) return std::nullopt;
  text.remove_prefix(1);
  std::int64_t bits = 0;
  ShortName name;
  if (!read_number(text, bits) || bits > 64) return std::nullopt;
  name.bits = static_cast<int>(bits);
  if (text.empty()) return name;
  if (!text.starts_with('G')) return std::nullopt;
  text.remove_prefix(1);
  if (!read_number(text, name.group) || !text.empty()) return std::nullopt;
  return name;
}

bool is_known(const std::string& name) {
  return name == "base" || short_name(name).has_value() || sensitivity::candidate_pattern(name).has_value() ||
         preset_scheme(name).has_value();
}

[[noreturn]] void throw_unknown(std::string_view name) {
  std::vector<std::string> presets;
  for (const auto preset : preset_names()) presets.emplace_back(preset);
  const std::string near = nearest_name(upper(name), presets);
  throw Error(ErrorCode::usage,
              fmt::format("unknown candidate scheme '{}'{}", name,
                          near.empty() ? "" : fmt::format(", did you mean '{}'?", near)),
              std::string(kHint), "UnknownCandidate");
}

/// Ranges that are searched for the least error, where nobody asked for others: of the candidates below 4 bits, min-max
/// ranges lose so much that a mixture of them is worse than one scheme with searched ones.
void search_ranges(QuantArgs& args) {
  if (args.observer) return;
  QuantArgs searched = args;
  searched.observer = "mse_search";
  if (complete_and_check(searched, true).empty()) args = std::move(searched);
}

/// The integers of a short name in place of the base's numbers.
QuantArgs renumbered(const QuantArgs& base, const ShortName& name, std::string_view text) {
  QuantArgs args = base;
  if (base.type != NumberType::integer) {
    args = {};
    args.observer = base.observer;
  }
  args.num_bits = name.bits;
  args.block_structure.reset();
  args.group_size.reset();
  args.strategy = name.group > 0 ? Strategy::group : Strategy::channel;
  if (name.group > 0) args.group_size = name.group;
  // Columns in order of activation share scales by group only.
  if (name.group == 0 && args.actorder == ActOrder::group) args.actorder.reset();
  const auto problems = complete_and_check(args, true);
  search_ranges(args);
  if (problems.empty()) return args;
  throw Error(ErrorCode::usage, fmt::format("candidate scheme {}: {}", text, problems.front()), std::string(kHint),
              "BadCandidate");
}

}  // namespace

Scheme candidate_scheme(const Scheme& base, std::string_view name) {
  if (upper(name) == "BASE") return base;
  if (sensitivity::candidate_pattern(name)) {
    Scheme scheme = base;
    scheme.input_activations.reset();
    scheme.format.reset();
    scheme.weights = plain_args();
    return scheme;
  }
  if (const auto wanted = short_name(upper(name))) {
    if (!base.weights) throw Error(ErrorCode::internal, "candidates of a scheme that leaves weights as they are");
    Scheme scheme = base;
    scheme.format.reset();
    scheme.weights = renumbered(*base.weights, *wanted, name);
    return scheme;
  }
  auto preset = preset_scheme(name);
  if (!preset || !preset->weights) throw_unknown(name);
  preset->targets = base.targets;
  complete_and_check(*preset->weights, true);
  if (preset->input_activations) complete_and_check(*preset->input_activations, true);
  // The rule that chooses ranges is the recipe's, where the preset has none of its own.
  const bool same_type = base.weights && base.weights->type == preset->weights->type;
  if (same_type && base.weights->observer && preset_scheme(name)->weights->observer == std::nullopt) {
    preset->weights->observer = base.weights->observer;
    preset->weights->observer_kwargs = base.weights->observer_kwargs;
  }
  return *preset;
}

std::vector<std::string> parse_candidates(std::string_view list) {
  std::vector<std::string> names;
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    std::string_view part = list.substr(0, comma);
    list.remove_prefix(std::min(list.size(), comma + 1));
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    const std::string name = upper(part) == "BASE" ? "base" : upper(part);
    if (!is_known(name)) throw_unknown(part);
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      throw Error(ErrorCode::usage, fmt::format("the candidate scheme {} is given twice", name), std::string(kHint));
    }
    names.push_back(name);
  }
  if (names.empty()) throw Error(ErrorCode::usage, "no candidate schemes are given", std::string(kHint));
  return names;
}

std::string_view to_string(SensitivityMeasure measure) {
  switch (measure) {
    case SensitivityMeasure::kl:
      return "kl";
    case SensitivityMeasure::scaled:
      return "scaled";
    case SensitivityMeasure::output:
      return "output";
  }
  return "kl";
}

SensitivityMeasure parse_measure(std::string_view name) {
  for (const auto measure : {SensitivityMeasure::kl, SensitivityMeasure::scaled, SensitivityMeasure::output}) {
    if (name == to_string(measure)) return measure;
  }
  throw Error(ErrorCode::usage, fmt::format("there is no measure '{}' of sensitivity", name),
              "the measures are kl, scaled and output", "UnknownMeasure");
}

}  // namespace quant
