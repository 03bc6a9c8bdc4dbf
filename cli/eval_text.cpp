#include "eval_text.h"

#include <fmt/format.h>

#include <cmath>

#include "metrics_text.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

/// "50.234 ± 0.912"; the error has as many digits as the mean.
std::string estimate_text(const Estimate& value, int digits, const char* sign = "") {
  const std::string mean = fmt::format("{}{:.{}f}", value.mean < 0 ? "" : sign, value.mean, digits);
  return std::isnan(value.error) ? mean : fmt::format("{} ± {:.{}f}", mean, value.error, digits);
}

std::string share_text(const Estimate& share) {
  const Estimate percent{share.mean * 100, share.error * 100};
  return estimate_text(percent, 2) + " %";
}

std::string loss_text(const Estimate& perplexity, const Estimate& nats, double bits_per_byte) {
  std::string text = fmt::format("{}  ({} nats/token", estimate_text(perplexity, 3), estimate_text(nats, 4));
  if (!std::isnan(bits_per_byte)) text += fmt::format(", {:.4f} bits/byte", bits_per_byte);
  return text + ")";
}

std::string model_text(const EvaluatedModel& model) {
  std::string text = fmt::format("{} ({} weights", model.path, model.weights);
  if (model.activations != "float") text += ", activations " + model.activations;
  if (model.kv_cache != "float") text += ", KV cache " + model.kv_cache;
  return text + ")";
}

std::string protocol_text(const EvalReport& report) {
  const EvalResult& result = *report.result;
  const std::string first = report.first ? fmt::format("each begins with token {}", *report.first) : "no <s>";
  return fmt::format("{} of {} tokens, not overlapping, {}; {} predictions each, {} products",
                     counted(result.windows, "window"), report.window_length, first, report.window_length - 1,
                     report.product);
}

/// `text`: has bits_per_byte.
template <class Text>
void add_result(const EvalResult& result, const Text& text, Fields& fields) {
  fields.emplace_back("perplexity", loss_text(result.perplexity, result.nats, text.bits_per_byte(result.nats.mean)));
  if (!result.base) return;
  const BaseComparison& base = *result.base;
  fields.emplace_back("of the base", loss_text(base.perplexity, base.nats, text.bits_per_byte(base.nats.mean)));
  fields.emplace_back("increase", fmt::format("{} ({:+.2f} %)", estimate_text(base.increase, 3, "+"),
                                              100 * base.increase.mean / base.perplexity.mean));
  const Divergence& d = base.divergence;
  const std::string error = std::isnan(d.mean.error) ? "" : fmt::format(" ± {:.1e}", d.mean.error);
  fields.emplace_back("KL divergence", fmt::format("{:.3e}{} nats; median {:.1e}, 90 % {:.1e}, 99 % {:.1e}, max {:.1e}",
                                                   d.mean.mean, error, d.median, d.percent90, d.percent99, d.maximum));
  fields.emplace_back("same top token", share_text(base.same_top));
  fields.emplace_back("top-5 overlap", share_text(base.top5));
}

void add_perplexity(const EvalReport& report, Fields& fields) {
  fields.emplace_back("text", report.text);
  fields.emplace_back("protocol", protocol_text(report));
  add_result(*report.result, *report.windows, fields);
}

std::string accuracy_text(const ChoiceScore& score) {
  return fmt::format("{}, by length {}", share_text(score.accuracy), share_text(score.accuracy_normalized));
}

void add_choices(const EvalReport& report, Fields& fields) {
  const ChoiceResult& result = *report.choices;
  std::string head = fmt::format("{}, {}, chance {:.1f} %", report.choices_file, counted(result.questions, "question"),
                                 100 * result.chance);
  if (result.cut_prompts > 0) head += fmt::format(", {} cut at the front", counted(result.cut_prompts, "prompt"));
  fields.emplace_back("choices", head);
  fields.emplace_back("accuracy", accuracy_text(result.model));
  if (!result.base) return;
  fields.emplace_back("of the base", accuracy_text(*result.base));
  fields.emplace_back("difference", fmt::format("{}, by length {}", share_text(result.difference),
                                                share_text(result.difference_normalized)));
}

void add_speed(const EvalReport& report, Fields& fields) {
  const SpeedResult& speed = *report.speed;
  fields.emplace_back("first token",
                      fmt::format("{} after {} ({} tokens/s), {}", human_seconds(speed.first_token_seconds),
                                  counted(speed.prompt_tokens, "token"), number_text(speed.prefill_tokens_per_second),
                                  counted(static_cast<std::uint64_t>(report.threads), "thread")));
  fields.emplace_back("decoding", fmt::format("{} tokens/s", number_text(speed.decode_tokens_per_second)));
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json estimate_json(const Estimate& estimate) {
  return {{"mean", number(estimate.mean)}, {"standard_error", number(estimate.error)}};
}

Json model_json(const EvaluatedModel& model) {
  return {{"path", model.path},
          {"weights", model.weights},
          {"activations", model.activations},
          {"kv_cache", model.kv_cache}};
}

Json loss_json(const EvalWindows& windows, const Estimate& perplexity, const Estimate& nats) {
  return {{"perplexity", estimate_json(perplexity)},
          {"nats_per_token", estimate_json(nats)},
          {"bits_per_byte", number(windows.bits_per_byte(nats.mean))}};
}

Json divergence_json(const Divergence& d) {
  Json json = estimate_json(d.mean);
  json["median"] = number(d.median);
  json["percent_90"] = number(d.percent90);
  json["percent_99"] = number(d.percent99);
  json["percent_99_9"] = number(d.percent999);
  json["maximum"] = number(d.maximum);
  return json;
}

Json perplexity_json(const EvalReport& report) {
  const EvalResult& result = *report.result;
  const EvalWindows& windows = *report.windows;
  Json json = {{"text", report.text},
               {"hash", windows.hash},
               {"windows", result.windows},
               {"window_length", report.window_length},
               {"first_token", report.first ? Json(*report.first) : Json(nullptr)},
               {"overlap", 0},
               {"predictions", result.predictions},
               {"text_bytes", windows.bytes == 0 ? Json(nullptr) : Json(windows.bytes)},
               {"model", loss_json(windows, result.perplexity, result.nats)}};
  json["window_nats"] = result.window_nats;
  if (!result.base) return json;
  const BaseComparison& base = *result.base;
  json["base"] = loss_json(windows, base.perplexity, base.nats);
  json["increase"] = estimate_json(base.increase);
  json["nats_increase"] = estimate_json(base.nats_increase);
  json["kl_divergence"] = divergence_json(base.divergence);
  json["same_top_token"] = estimate_json(base.same_top);
  json["top5_overlap"] = estimate_json(base.top5);
  return json;
}

Json score_json(const ChoiceScore& score) {
  return {{"accuracy", estimate_json(score.accuracy)},
          {"accuracy_normalized", estimate_json(score.accuracy_normalized)},
          {"chosen", score.chosen},
          {"chosen_normalized", score.chosen_normalized}};
}

Json choices_json(const EvalReport& report) {
  const ChoiceResult& result = *report.choices;
  Json json = {{"file", report.choices_file},
               {"questions", result.questions},
               {"chance", result.chance},
               {"cut_prompts", result.cut_prompts},
               {"special_tokens", report.choices_special},
               {"model", score_json(result.model)}};
  if (!result.base) return json;
  json["base"] = score_json(*result.base);
  json["difference"] = estimate_json(result.difference);
  json["difference_normalized"] = estimate_json(result.difference_normalized);
  return json;
}

Json speed_json(const SpeedResult& speed) {
  return {{"prompt_tokens", speed.prompt_tokens},
          {"new_tokens", speed.new_tokens},
          {"first_token_seconds", speed.first_token_seconds},
          {"prefill_tokens_per_second", speed.prefill_tokens_per_second},
          {"decode_tokens_per_second", speed.decode_tokens_per_second}};
}

}  // namespace

std::vector<std::pair<std::string, std::string>> evaluation_fields(const EvaluationReport& evaluation) {
  const std::string first =
      evaluation.first_token ? fmt::format(", each begins with token {}", *evaluation.first_token) : "";
  Fields fields{
      {"evaluation", fmt::format("{}: {} of {} tokens{}", printable(evaluation.source),
                                 counted(evaluation.result.windows, "window"), evaluation.window_length, first)}};
  add_result(evaluation.result, evaluation, fields);
  return fields;
}

std::string eval_text(const EvalReport& report) {
  Fields fields{{"model", model_text(report.model)}};
  if (report.base) fields.emplace_back("base", model_text(*report.base));
  if (report.result) add_perplexity(report, fields);
  if (report.choices) add_choices(report, fields);
  if (report.speed) add_speed(report, fields);
  fields.emplace_back("memory", fmt::format("{} ({} resident; planned: {}, {})", human_bytes(report.memory_measured),
                                            human_bytes(report.memory_resident), human_bytes(report.memory_planned),
                                            report.resident ? "all weights at once" : "block by block"));
  fields.emplace_back("time", human_seconds(report.seconds));
  return field_list(fields);
}

Json eval_json(const EvalReport& report) {
  Json json = {{"model", model_json(report.model)},
               {"base", report.base ? model_json(*report.base) : Json(nullptr)},
               {"product", report.product}};
  if (report.result) json["perplexity"] = perplexity_json(report);
  if (report.choices) json["choices"] = choices_json(report);
  if (report.speed) json["speed"] = speed_json(*report.speed);
  json["run"] = {{"threads", report.threads},
                 {"seconds", report.seconds},
                 {"resident", report.resident},
                 {"peak_memory_planned", report.memory_planned},
                 {"peak_memory", report.memory_measured},
                 {"peak_resident_memory", report.memory_resident}};
  return json;
}

}  // namespace quant::cli
