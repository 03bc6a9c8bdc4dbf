// What the checkpoint makes of a text, beside the original.
#include <fmt/format.h>

#include <cmath>
#include <iterator>

#include "report/html/parts.h"
#include "report/html/text.h"

namespace quant::report {
namespace {

template <class... Args>
void print(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
}

std::string estimate(const Estimate& value, int digits, const char* sign = "") {
  const std::string mean = (value.mean < 0 ? "" : sign) + format_fixed(value.mean, digits);
  return std::isfinite(value.error)
             ? fmt::format("{} <small>\xC2\xB1 {}</small>", mean, format_fixed(value.error, digits))
             : mean;
}

std::string share(const Estimate& value) { return estimate({100 * value.mean, 100 * value.error}, 2) + " %"; }

void add_model(const EvaluationReport& evaluation, const char* name, const EvaluatedAs& as, const Estimate& perplexity,
               const Estimate& nats, std::string& out) {
  std::string ran = as.weights + " weights";
  if (as.activations != "float") ran += ", activations " + as.activations;
  if (as.kv_cache != "float") ran += ", KV cache " + as.kv_cache;
  const double bits = evaluation.bits_per_byte(nats.mean);
  print(out,
        "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td "
        "class=\"n\">{}</td></tr>\n",
        name, escape_html(ran), estimate(perplexity, 3), estimate(nats, 4),
        std::isfinite(bits) ? format_fixed(bits, 4) : "");
}

void add_divergence(const BaseComparison& base, std::string& out) {
  const Divergence& d = base.divergence;
  const auto fact = [&](const char* label, const std::string& value) {
    print(out, "<dt>{}</dt><dd>{}</dd>\n", label, value);
  };
  out += "<dl class=\"identity\">\n";
  fact("Increase of the perplexity",
       fmt::format("{} ({}{} %)", estimate(base.increase, 3, "+"), base.increase.mean < 0 ? "" : "+",
                   format_fixed(100 * base.increase.mean / base.perplexity.mean, 2)));
  fact("KL divergence", fmt::format("{} nats per prediction; median {}, 90 % {}, 99 % {}, largest {}",
                                    format_small(d.mean.mean), format_small(d.median), format_small(d.percent90),
                                    format_small(d.percent99), format_small(d.maximum)));
  fact("Same likeliest token", share(base.same_top));
  fact("Common among the five likeliest", share(base.top5));
  out += "</dl>\n";
}

}  // namespace

void add_evaluation(const Page& page, std::string& out) {
  if (!page.report.evaluation) return;
  const EvaluationReport& evaluation = *page.report.evaluation;
  const EvalResult& result = evaluation.result;
  print(out,
        "<section id=\"evaluation\">\n<h2>What it makes of a text</h2>\n<p class=\"note\">{}: {} of {} tokens, not "
        "overlapping, {}. The written checkpoint was read again and run as its files say.</p>\n",
        escape_html(evaluation.source), format_plural(result.windows, "window"), format_count(evaluation.window_length),
        evaluation.first_token ? fmt::format("each begins with token {}", *evaluation.first_token)
                               : std::string("nothing added in front"));
  out +=
      "<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Model</th><th scope=\"col\">Ran with</th><th "
      "scope=\"col\" class=\"n\">Perplexity</th><th scope=\"col\" class=\"n\">Nats per token</th><th scope=\"col\" "
      "class=\"n\">Bits per byte</th></tr></thead>\n<tbody>\n";
  add_model(evaluation, "Quantized", evaluation.model, result.perplexity, result.nats, out);
  if (result.base) {
    add_model(evaluation, "Original", evaluation.base.value_or(EvaluatedAs{}), result.base->perplexity,
              result.base->nats, out);
  }
  out += "</tbody></table></div>\n";
  if (result.base) add_divergence(*result.base, out);
  out += "</section>\n";
}

}  // namespace quant::report
