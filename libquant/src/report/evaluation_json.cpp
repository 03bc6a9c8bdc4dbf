#include "report/evaluation_json.h"

#include <cmath>
#include <limits>
#include <numbers>

namespace quant {

double EvaluationReport::bits_per_byte(double nats) const {
  if (text_bytes == 0) return std::numeric_limits<double>::quiet_NaN();
  const std::uint64_t taken = result.tokens - (first_token ? result.windows : 0);
  return nats / std::numbers::ln2 * static_cast<double>(taken) / static_cast<double>(text_bytes);
}

}  // namespace quant

namespace quant::report {
namespace {

json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json estimate_json(const Estimate& estimate) {
  return {{"mean", number(estimate.mean)}, {"standard_error", number(estimate.error)}};
}

json model_json(const EvaluationReport& evaluation, const EvaluatedAs& as, const Estimate& perplexity,
                const Estimate& nats) {
  return {{"weights", as.weights},
          {"activations", as.activations},
          {"kv_cache", as.kv_cache},
          {"perplexity", estimate_json(perplexity)},
          {"nats_per_token", estimate_json(nats)},
          {"bits_per_byte", number(evaluation.bits_per_byte(nats.mean))}};
}

json divergence_json(const Divergence& d) {
  json entry = estimate_json(d.mean);
  entry["median"] = number(d.median);
  entry["percent_90"] = number(d.percent90);
  entry["percent_99"] = number(d.percent99);
  entry["percent_99_9"] = number(d.percent999);
  entry["maximum"] = number(d.maximum);
  return entry;
}

constexpr double kAny = std::numeric_limits<double>::infinity();

// A finite mean in [least, most], and an error that is null (not known) or not negative.
Estimate read_members(Object& object, const std::string& source, double least, double most) {
  Estimate estimate;
  estimate.mean = object.finite("mean");
  if (estimate.mean < least || estimate.mean > most) {
    fail(source, object.place("mean") + " is " + json(estimate.mean).dump() + ", which no evaluation gives");
  }
  if (object.is_null("standard_error")) return estimate;
  estimate.error = object.finite("standard_error");
  if (estimate.error < 0) fail(source, object.place("standard_error") + " is negative");
  return estimate;
}

Estimate read_estimate(Object object, const std::string& source, double least, double most) {
  const Estimate estimate = read_members(object, source, least, most);
  object.finish();
  return estimate;
}

Divergence read_divergence(Object object, const std::string& source) {
  Divergence d;
  d.mean = read_members(object, source, 0, kAny);
  d.median = object.finite("median");
  d.percent90 = object.finite("percent_90");
  d.percent99 = object.finite("percent_99");
  d.percent999 = object.finite("percent_99_9");
  d.maximum = object.finite("maximum");
  object.finish();
  return d;
}

EvaluatedAs read_model(Object object, const std::string& source, Estimate& perplexity, Estimate& nats) {
  EvaluatedAs as{object.text("weights"), object.text("activations"), object.text("kv_cache")};
  perplexity = read_estimate(object.object("perplexity"), source, 0, kAny);
  nats = read_estimate(object.object("nats_per_token"), source, 0, kAny);
  object.skip("bits_per_byte");
  object.finish();
  return as;
}

BaseComparison read_base(Object& object, const std::string& source, std::optional<EvaluatedAs>& as) {
  BaseComparison base;
  as = read_model(object.object("base"), source, base.perplexity, base.nats);
  base.increase = read_estimate(object.object("increase"), source, -kAny, kAny);
  base.nats_increase = read_estimate(object.object("nats_increase"), source, -kAny, kAny);
  base.divergence = read_divergence(object.object("kl_divergence"), source);
  base.same_top = read_estimate(object.object("same_top_token"), source, 0, 1);
  base.top5 = read_estimate(object.object("top5_overlap"), source, 0, 1);
  return base;
}

std::optional<std::int32_t> read_first_token(Object& object, const std::string& source) {
  if (object.is_null("first_token")) return std::nullopt;
  const std::uint64_t id = object.whole("first_token");
  if (id > static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
    fail(source, object.place("first_token") + " is " + std::to_string(id) + ", which is no token id");
  }
  return static_cast<std::int32_t>(id);
}

// Counts follow from the windows; what contradicts them was changed.
void read_counts(Object& object, const std::string& source, EvaluationReport& evaluation) {
  EvalResult& result = evaluation.result;
  result.windows = object.whole("windows");
  evaluation.window_length = object.whole("window_length");
  result.predictions = object.whole("predictions");
  result.window_nats = object.reals("window_nats");
  if (result.windows == 0 || result.window_nats.size() != result.windows) {
    fail(source, object.place("window_nats") + " has " + std::to_string(result.window_nats.size()) + " entries for " +
                     std::to_string(result.windows) + " windows");
  }
  const bool fits = evaluation.window_length >= 2 && result.predictions % result.windows == 0 &&
                    result.predictions / result.windows == evaluation.window_length - 1;
  if (!fits) {
    fail(source, object.place("predictions") + " is " + std::to_string(result.predictions) + " for " +
                     std::to_string(result.windows) + " windows of " + std::to_string(evaluation.window_length) +
                     " tokens");
  }
  if (result.predictions > std::numeric_limits<std::uint64_t>::max() - result.windows) {
    fail(source, object.place("predictions") + " is too large");
  }
  result.tokens = result.predictions + result.windows;
}

}  // namespace

json evaluation_json(const EvaluationReport& evaluation) {
  const EvalResult& result = evaluation.result;
  json nats = json::array();
  for (const double value : result.window_nats) nats.push_back(number(value));
  json entry = {{"source", evaluation.source},
                {"hash", evaluation.hash},
                {"windows", result.windows},
                {"window_length", evaluation.window_length},
                {"first_token", evaluation.first_token ? json(*evaluation.first_token) : json(nullptr)},
                {"predictions", result.predictions},
                {"text_bytes", evaluation.text_bytes},
                {"product", evaluation.product},
                {"model", model_json(evaluation, evaluation.model, result.perplexity, result.nats)},
                {"window_nats", std::move(nats)}};
  if (!result.base) return entry;
  const BaseComparison& base = *result.base;
  entry["base"] = model_json(evaluation, evaluation.base.value_or(EvaluatedAs{}), base.perplexity, base.nats);
  entry["increase"] = estimate_json(base.increase);
  entry["nats_increase"] = estimate_json(base.nats_increase);
  entry["kl_divergence"] = divergence_json(base.divergence);
  entry["same_top_token"] = estimate_json(base.same_top);
  entry["top5_overlap"] = estimate_json(base.top5);
  return entry;
}

json evaluation_run_json(const EvaluationReport& evaluation) {
  json entry = {{"seconds", number(evaluation.seconds)},
                {"peak_memory_planned", evaluation.peak_memory_planned},
                {"peak_memory_measured", evaluation.peak_memory_measured}};
  if (evaluation.peak_resident_memory != 0) entry["peak_resident_memory"] = evaluation.peak_resident_memory;
  return entry;
}

EvaluationReport read_evaluation(Object object, const std::string& source) {
  EvaluationReport evaluation;
  evaluation.source = object.text("source");
  evaluation.hash = object.text("hash");
  evaluation.first_token = read_first_token(object, source);
  evaluation.text_bytes = object.whole("text_bytes");
  evaluation.product = object.text("product");
  read_counts(object, source, evaluation);
  EvalResult& result = evaluation.result;
  evaluation.model = read_model(object.object("model"), source, result.perplexity, result.nats);
  if (object.has("base")) result.base = read_base(object, source, evaluation.base);
  object.finish();
  return evaluation;
}

void read_evaluation_run(Object object, EvaluationReport& evaluation) {
  evaluation.seconds = object.real("seconds");
  evaluation.peak_memory_planned = object.whole("peak_memory_planned");
  evaluation.peak_memory_measured = object.whole("peak_memory_measured");
  if (object.has("peak_resident_memory")) evaluation.peak_resident_memory = object.whole("peak_resident_memory");
  object.finish();
}

}  // namespace quant::report
