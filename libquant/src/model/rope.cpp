#include "model/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "quant/error.h"

namespace quant {
namespace {

using Json = nlohmann::json;

// One rotary embedding's settings, wherever config.json has them.
struct RopeSettings {
  Json scaling = Json::object();
  std::string where = "rope_parameters";
  std::string type = "default";
  double theta = 10000;
  double partial = 1;
};

// Transformers 4 has rope_theta and rope_scaling, Transformers 5 rope_parameters with both; either flat, or one object
// per type of layer. Where sliding layers have a base of their own (Gemma 3), rope_scaling means the full ones only.
Json scaling_of(const Family& family, const FamilyConfig& config, std::string_view layer_type, std::string& where) {
  const bool local = !family.keys.rope_theta_local.empty() && layer_type == "sliding_attention";
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* found = config.find(key);
    if (found == nullptr || found->empty()) continue;
    if (!found->is_object()) config.fail(fmt::format("'{}' is no object", key));
    where = key;
    const auto nested = found->find(std::string(layer_type));
    if (nested != found->end()) {
      if (!nested->is_object()) config.fail(fmt::format("'{}.{}' is no object", key, layer_type));
      where += "." + std::string(layer_type);
      return *nested;
    }
    return local ? Json::object() : *found;
  }
  return Json::object();
}

RopeSettings settings_of(const Family& family, const FamilyConfig& config, std::string_view layer_type) {
  RopeSettings settings;
  settings.scaling = scaling_of(family, config, layer_type, settings.where);
  const Json& scaling = settings.scaling;
  for (const char* key : {"type", "rope_type"}) {  // the newer name counts if both are there
    const auto at = scaling.find(key);
    if (at == scaling.end() || at->is_null()) continue;
    if (!at->is_string()) config.fail(fmt::format("'{}.{}' is no string", settings.where, key));
    settings.type = at->get<std::string>();
  }
  for (const RopeAlias& alias : family.rope_aliases) {
    if (settings.type == alias.alias) settings.type = alias.type;
  }
  const bool local = !family.keys.rope_theta_local.empty() && layer_type == "sliding_attention";
  const std::string_view theta_key = local ? family.keys.rope_theta_local : family.keys.rope_theta;
  settings.theta = scaling.contains("rope_theta") ? config.positive_in(scaling, "rope_theta", settings.where)
                                                  : config.optional_positive(theta_key).value_or(10000.0);
  if (!family.keys.rope_partial.empty()) {
    settings.partial = scaling.contains("partial_rotary_factor")
                           ? config.positive_in(scaling, "partial_rotary_factor", settings.where)
                           : config.optional_positive(family.keys.rope_partial).value_or(1.0);
  }
  if (settings.theta <= 1) config.fail(fmt::format("the base of its rotary embedding is {}", settings.theta));
  return settings;
}

double number_or(const FamilyConfig& config, const RopeSettings& settings, const char* key, double absent) {
  const auto at = settings.scaling.find(key);
  const bool there = at != settings.scaling.end() && !at->is_null();
  return there ? config.positive_in(settings.scaling, key, settings.where) : absent;
}

std::vector<double> base_frequencies(double theta, std::uint64_t rotary_dim) {
  std::vector<double> frequencies(rotary_dim / 2);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  }
  return frequencies;
}

// The length that the model was trained for: Phi-3 has it beside the scaling, the others within.
double trained_length(const FamilyConfig& config, const RopeSettings& settings) {
  if (const auto own = config.optional_count("original_max_position_embeddings")) return static_cast<double>(*own);
  const char* const key = "original_max_position_embeddings";
  const auto within = settings.scaling.find(key);
  if (within != settings.scaling.end() && !within->is_null()) {
    return static_cast<double>(config.count_in(settings.scaling, key, settings.where));
  }
  return static_cast<double>(config.optional_count("max_position_embeddings").value_or(2048));
}

void scale_llama3(std::vector<double>& frequencies, const FamilyConfig& config, const RopeSettings& settings) {
  const double factor = config.positive_in(settings.scaling, "factor", settings.where);
  const double low = config.positive_in(settings.scaling, "low_freq_factor", settings.where);
  const double high = config.positive_in(settings.scaling, "high_freq_factor", settings.where);
  const double length = trained_length(config, settings);
  if (high <= low) {
    config.fail(fmt::format("'{}' has high_freq_factor {} <= low_freq_factor {}", settings.where, high, low));
  }
  for (double& frequency : frequencies) {
    const double turns = length * frequency / (2 * std::numbers::pi);  // over the trained length
    const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    frequency = (1 - keep) * frequency / factor + keep * frequency;
  }
}

double yarn_magnitude(const FamilyConfig& config, const RopeSettings& settings, double factor) {
  const auto mscale = [&](double weight) { return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0; };
  const double given = number_or(config, settings, "attention_factor", 0);
  if (given > 0) return given;
  // 0 means "not given", as in Transformers.
  const auto weight = [&](const char* key) {
    const auto at = settings.scaling.find(key);
    const bool zero = at != settings.scaling.end() && at->is_number() && at->get<double>() == 0;
    return zero ? 0.0 : number_or(config, settings, key, 0);
  };
  const double own = weight("mscale");
  const double all = weight("mscale_all_dim");
  return own > 0 && all > 0 ? mscale(own) / mscale(all) : mscale(1);
}

double scale_yarn(std::vector<double>& frequencies, const FamilyConfig& config, const RopeSettings& settings) {
  const double length = trained_length(config, settings);
  const auto all = config.optional_count("max_position_embeddings");
  const double stretch = static_cast<double>(all.value_or(2048)) / length;
  const double factor = number_or(config, settings, "factor", stretch);
  const auto dim = static_cast<double>(2 * frequencies.size());
  // The pair of columns that turns so often over the trained length.
  const auto pair_of = [&](double turns) {
    return dim * std::log(length / (turns * 2 * std::numbers::pi)) / (2 * std::log(settings.theta));
  };
  double low = pair_of(number_or(config, settings, "beta_fast", 32));
  double high = pair_of(number_or(config, settings, "beta_slow", 1));
  const auto truncate = settings.scaling.find("truncate");
  if (truncate == settings.scaling.end() || *truncate != false) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double interpolate = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] *= interpolate / factor + (1 - interpolate);
  }
  return yarn_magnitude(config, settings, factor);
}

// One factor per pair of columns.
std::vector<float> divided(const std::vector<double>& frequencies, const char* key, const FamilyConfig& config,
                           const RopeSettings& settings) {
  const auto list = settings.scaling.find(key);
  const std::size_t pairs = frequencies.size();
  if (list == settings.scaling.end() || !list->is_array() || list->size() != pairs) {
    config.fail(fmt::format("'{}.{}' is no list of {} numbers", settings.where, key, pairs));
  }
  std::vector<float> result(pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    const Json one = {{key, (*list)[i]}};
    result[i] = static_cast<float>(frequencies[i] / config.positive_in(one, key, settings.where));
  }
  return result;
}

// One set of factors up to the trained length, another one beyond it.
void set_longrope(RotaryOp& op, const std::vector<double>& frequencies, const FamilyConfig& config,
                  const RopeSettings& settings) {
  const double length = trained_length(config, settings);
  if (length < 2) config.fail("'original_max_position_embeddings' is 1");
  const auto all = static_cast<double>(config.count("max_position_embeddings"));
  const double factor = number_or(config, settings, "factor", all / length);
  const double suggested = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(length));
  op.magnitude = static_cast<float>(number_or(config, settings, "attention_factor", suggested));
  op.inverse_frequency = divided(frequencies, "short_factor", config, settings);
  op.long_inverse_frequency = divided(frequencies, "long_factor", config, settings);
  op.dynamic_length = static_cast<std::uint64_t>(length);
}

[[noreturn]] void refuse(const Family& family, const FamilyConfig& config, const std::string& type) {
  throw Error(
      ErrorCode::unsupported,
      fmt::format("{} ({}) scales its rotary embedding by '{}', which this version does not know", config.location(),
                  family.model_type, type),
      "Known are default, linear, dynamic, llama3, yarn and longrope. Data-free recipes need no forward pass and work.",
      "UnknownRopeScaling");
}

void set_frequencies(RotaryOp& op, const Family& family, const FamilyConfig& config, const RopeSettings& settings) {
  op.rotary_dim = static_cast<std::uint64_t>(static_cast<double>(op.head_dim) * std::min(settings.partial, 1.0));
  if (op.rotary_dim < 2 || op.rotary_dim % 2 != 0) {
    config.fail(
        fmt::format("its rotary embedding turns {} of {} columns, which are no pairs", op.rotary_dim, op.head_dim));
  }
  std::vector<double> frequencies = base_frequencies(settings.theta, op.rotary_dim);
  if (settings.type == "longrope") return set_longrope(op, frequencies, config, settings);
  if (settings.type == "linear") {
    const double factor = config.positive_in(settings.scaling, "factor", settings.where);
    for (double& frequency : frequencies) frequency /= factor;
  } else if (settings.type == "dynamic") {
    if (op.rotary_dim < 4) config.fail("dynamic scaling of its rotary embedding needs more than one pair of columns");
    op.dynamic_base = settings.theta;
    op.dynamic_factor = config.positive_in(settings.scaling, "factor", settings.where);
    op.dynamic_length = config.count("max_position_embeddings");
  } else if (settings.type == "llama3") {
    scale_llama3(frequencies, config, settings);
  } else if (settings.type == "yarn") {
    op.magnitude = static_cast<float>(scale_yarn(frequencies, config, settings));
  } else if (settings.type != "default") {
    refuse(family, config, settings.type);
  }
  op.inverse_frequency.assign(frequencies.begin(), frequencies.end());
}

}  // namespace

void set_rope(RotaryOp& op, const Family& family, const FamilyConfig& config, std::string_view layer_type) {
  const RopeSettings settings = settings_of(family, config, layer_type);
  set_frequencies(op, family, config, settings);
  const auto finite = [](float value) { return std::isfinite(value); };
  if (!finite(op.magnitude) || !std::all_of(op.inverse_frequency.begin(), op.inverse_frequency.end(), finite) ||
      !std::all_of(op.long_inverse_frequency.begin(), op.long_inverse_frequency.end(), finite)) {
    config.fail(fmt::format("'{}' leads to frequencies that are no numbers", settings.where));
  }
}

}  // namespace quant
