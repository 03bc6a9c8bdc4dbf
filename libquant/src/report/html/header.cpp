// Top of the page: what was compressed, how well, how small; and its foot: how the run was made.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>

#include "report/html/parts.h"
#include "report/html/text.h"

namespace quant::report {

namespace {

// SQNR of round-to-nearest of independent Gaussian weights, symmetric integers, groups of 128: docs/metrics.md.
struct Reference {
  int bits;
  double sqnr_db;
};
constexpr std::array<Reference, 7> kGaussian{
    {{2, 5.2}, {3, 12.5}, {4, 19.1}, {5, 25.4}, {6, 31.6}, {7, 37.7}, {8, 43.7}}};
constexpr double kHalfBit = 3.1;  // dB

std::string compared_with_rounding(double sqnr_db) {
  if (sqnr_db > kGaussian.back().sqnr_db + kHalfBit) return "That is finer than 8-bit rounding.";
  if (sqnr_db < kGaussian.front().sqnr_db - kHalfBit) {
    return "That is worse than plain 2-bit rounding of bell-shaped weights: expect this model not to work.";
  }
  const Reference near = *std::min_element(kGaussian.begin(), kGaussian.end(), [&](const auto& a, const auto& b) {
    return std::abs(a.sqnr_db - sqnr_db) < std::abs(b.sqnr_db - sqnr_db);
  });
  return fmt::format("For comparison: plain {}-bit rounding of bell-shaped weights in groups of 128 gives {:.1f} dB.",
                     near.bits, near.sqnr_db);
}

// Layers that stand out; the same limit as in docs/report.md.
constexpr double kOutlierDb = 3.0;

std::string outliers(const Page& page) {
  const double limit = page.metrics.sqnr_db - kOutlierDb;
  const auto count = std::count_if(page.layers.begin(), page.layers.end(),
                                   [&](const auto& layer) { return !(layer.sqnr_db >= limit); });
  if (count == 0) return "No layer lies more than 3 dB below that.";
  return fmt::format("{} of {} layers {} more than 3 dB below that; the worst is {} at {} dB.", count,
                     page.layers.size(), count == 1 ? "lies" : "lie", layer_link(page, page.worst.front()),
                     format_db(page.layers[page.worst.front()].sqnr_db));
}

std::string verdict(const Page& page) {
  if (page.layers.empty()) return "No layer was quantized: every tensor was copied unchanged.";
  if (page.total.count == 0) return "No weights were measured.";
  if (page.metrics.nmse == 0) return "Every quantized weight is reproduced exactly.";
  if (!std::isfinite(page.metrics.nmse))
    return "The weight error of this model is not a finite number; look at the layers.";
  return fmt::format(
      "The quantized weights differ from the originals by {} of their energy: a signal-to-noise ratio of "
      "<strong>{}\xC2\xA0"
      "dB</strong>.",
      format_percent(page.metrics.nmse), format_db(page.metrics.sqnr_db));
}

std::string context(const Page& page) {
  if (page.total.count == 0 || !(page.metrics.nmse > 0) || !std::isfinite(page.metrics.nmse)) return "";
  const std::string_view effect =
      page.report.evaluation
          ? "This is the error of the weights; <a href=\"#evaluation\">what it does to the model's predictions</a> was "
            "measured."
      : page.report.calibration
          ? "This is the error of the weights; what it does to the outputs of layers stands in the table of all layers."
          : "This is the error of the weights; its effect on the model's answers was not measured.";
  return fmt::format("{} {} {}", outliers(page), compared_with_rounding(page.metrics.sqnr_db), effect);
}

std::string model_name(const RunReport& report) {
  const std::filesystem::path path(report.model);
  const std::string last = (path.has_filename() ? path : path.parent_path()).filename().string();
  const std::string name = last.empty() || last == "." || last == ".." ? report.model : last;
  return name.empty() ? "Unnamed model" : name;
}

void add_card(std::string& out, const char* label, const std::string& big, const std::string& sub) {
  fmt::format_to(
      std::back_inserter(out),
      "<div class=\"card\"><dt>{}</dt><dd><div class=\"big\">{}</div><div class=\"sub\">{}</div></dd></div>\n", label,
      big, sub);
}

std::string size_note(const RunReport& report) {
  if (report.bytes_after == 0) return "of " + format_bytes(static_cast<double>(report.bytes_before));
  return fmt::format("{} before, {:.2f} \xC3\x97 smaller", format_bytes(static_cast<double>(report.bytes_before)),
                     static_cast<double>(report.bytes_before) / static_cast<double>(report.bytes_after));
}

std::string model_bits_note(const RunReport& report) {
  if (report.parameters == 0) return "";
  return fmt::format("{} bits per parameter over the whole model", format_bits(report.model_bits_per_parameter));
}

double median_sqnr(const Page& page) {
  std::vector<double> values;
  for (const WeightMetrics& layer : page.layers) {
    if (!std::isnan(layer.sqnr_db)) values.push_back(layer.sqnr_db);
  }
  if (values.empty()) return std::nan("");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string decibels(double db) { return std::isfinite(db) ? format_db(db) + " <small>dB</small>" : format_db(db); }

std::string error_note(const Page& page) {
  if (page.layers.empty()) return "nothing was quantized";
  const double worst = page.worst.empty() ? page.metrics.sqnr_db : page.layers[page.worst.front()].sqnr_db;
  return fmt::format("median layer {}, worst {}<br>NMSE {}, cosine {}", format_db(median_sqnr(page)), format_db(worst),
                     format_small(page.metrics.nmse), format_fixed(page.metrics.cosine, 5));
}

std::string coverage(const Page& page) {
  std::uint64_t skipped = 0;
  for (const SkippedTensor& tensor : page.report.skipped) skipped += tensor.bytes;
  std::string text = fmt::format("{} weights", format_large(static_cast<double>(page.total.count)));
  if (page.report.skipped.empty()) return text + "<br>nothing left out";
  return text + fmt::format("<br><a href=\"#skipped\">{}</a> kept unchanged ({})",
                            format_plural(page.report.skipped.size(), "tensor"),
                            format_bytes(static_cast<double>(skipped)));
}

void add_fact(std::string& out, const char* label, const std::string& value) {
  if (value.empty()) return;
  fmt::format_to(std::back_inserter(out), "<dt>{}</dt><dd>{}</dd>\n", label, value);
}

std::string memory_text(const RunReport& report) {
  if (report.peak_memory_planned == 0 && report.peak_memory_measured == 0) return "";
  const std::string measured = report.peak_memory_measured == 0
                                   ? "not measured"
                                   : format_bytes(static_cast<double>(report.peak_memory_measured));
  return fmt::format("{} (planned: {})", measured, format_bytes(static_cast<double>(report.peak_memory_planned)));
}

std::string calibration_text(const RunReport& report) {
  if (!report.calibration) return "";
  const CalibrationReport& data = *report.calibration;
  if (data.statistics) {
    return fmt::format("statistics of {} tokens, imported from {}, hash {}", format_count(data.tokens),
                       escape_html(data.source), escape_html(data.hash));
  }
  return fmt::format("{} tokens in {} of {}, hash {}, products in {}", format_count(data.tokens),
                     format_plural(data.sequences, "sequence"), escape_html(data.source), escape_html(data.hash),
                     escape_html(data.product));
}

void add_guide(std::string& out) {
  out +=
      "<section><h2>How to read the figures</h2>\n<dl class=\"identity\">\n"
      "<dt>NMSE</dt><dd>energy of the error over energy of the weights, \xE2\x80\x96W \xE2\x88\x92 "
      "\xC5\xB4\xE2\x80\x96\xC2\xB2 / "
      "\xE2\x80\x96W\xE2\x80\x96\xC2\xB2. 0 is exact.</dd>\n"
      "<dt>SQNR</dt><dd>the same in decibels, \xE2\x88\x92"
      "10 log\xE2\x82\x81\xE2\x82\x80 NMSE. Higher is better; one bit more is "
      "worth about 6 dB, 3 dB less is twice the error.</dd>\n"
      "<dt>Cosine</dt><dd>of the angle between the weights and their quantized values; 1 is exact.</dd>\n"
      "<dt>Output error</dt><dd>of calibrated runs: energy of the error of a layer's outputs over energy of its "
      "outputs, "
      "on the calibration data. It counts for more than NMSE: a method may raise one to lower the other.</dd>\n"
      "<dt>Max error</dt><dd>the largest |w \xE2\x88\x92 \xC5\xB5| of a single weight.</dd>\n"
      "<dt>Clipped</dt><dd>share of weights beyond the end of the code range.</dd>\n"
      "<dt>Zero</dt><dd>share of weights whose quantized value is 0.</dd>\n"
      "<dt>Bits per weight</dt><dd>all stored bytes of a layer, scales and zero points included, over its "
      "weights.</dd>\n"
      "</dl></section>\n";
}

}  // namespace

void add_header(const Page& page, std::string& out) {
  const RunReport& report = page.report;
  fmt::format_to(std::back_inserter(out),
                 "<header>\n<p class=\"eyebrow\">Quantization report</p>\n<h1>{}</h1>\n<p class=\"facts\">",
                 escape_html(model_name(report)));
  for (const std::string& fact : {report.architecture, report.recipe_name, report.layout, report.started}) {
    if (!fact.empty()) out += "<span>" + escape_html(fact) + "</span>";
  }
  fmt::format_to(std::back_inserter(out), "</p>\n<p class=\"verdict\">{}</p>\n<p class=\"context\">{}</p>\n</header>\n",
                 verdict(page), context(page));
}

void add_summary(const Page& page, std::string& out) {
  const RunReport& report = page.report;
  out += "<dl class=\"cards\">\n";
  add_card(out, "Size", format_bytes(static_cast<double>(report.bytes_after)), size_note(report));
  add_card(out, "Bits per quantized weight", page.layers.empty() ? "none" : format_bits(report.bits_per_weight),
           model_bits_note(report));
  add_card(out, "Signal to quantization noise", page.layers.empty() ? "none" : decibels(page.metrics.sqnr_db),
           error_note(page));
  add_card(
      out, "Quantized",
      fmt::format("{} <small>layer{}</small>", format_count(page.layers.size()), page.layers.size() == 1 ? "" : "s"),
      coverage(page));
  out += "</dl>\n";
}

void add_remarks(const Page& page, std::string& out) {
  std::map<std::string, std::vector<std::size_t>> notes;
  for (std::size_t i = 0; i < page.layers.size(); ++i) {
    for (const std::string& note : page.report.layers[i].notes) notes[note].push_back(i);
  }
  if (notes.empty() && page.report.warnings.empty()) return;
  constexpr std::size_t kMaxRemarks = 100;
  std::vector<std::string> lines;
  for (const std::string& warning : page.report.warnings) lines.push_back(escape_html(warning));
  for (const auto& [note, layers] : notes) {
    const std::string where =
        layers.size() == 1 ? layer_link(page, layers[0]) : fmt::format("{} layers", layers.size());
    lines.push_back(fmt::format("{}: {}", where, escape_html(note)));
  }
  out += "<section class=\"remarks\">\n<h2>Warnings and fallbacks</h2>\n<ul>\n";
  for (std::size_t i = 0; i < std::min(lines.size(), kMaxRemarks); ++i) out += "<li>" + lines[i] + "</li>\n";
  if (lines.size() > kMaxRemarks) {
    fmt::format_to(std::back_inserter(out), "<li>and {} more; see report.json</li>\n", lines.size() - kMaxRemarks);
  }
  out += "</ul>\n</section>\n";
}

void add_run(const Page& page, std::string& out) {
  const RunReport& report = page.report;
  out += "<section class=\"long\"><h2>Run</h2>\n<dl class=\"identity\">\n";
  if (!report.model.empty()) add_fact(out, "Model", "<span class=\"name\">" + escape_html(report.model) + "</span>");
  add_fact(out, "Architecture", escape_html(report.architecture));
  add_fact(out, "Parameters", format_count(report.parameters));
  add_fact(out, "Recipe", escape_html(report.recipe_name));
  add_fact(out, "Layout", escape_html(report.layout));
  add_fact(out, "Calibration", calibration_text(report));
  add_fact(out, "Started", escape_html(report.started));
  add_fact(out, "Wall time", format_seconds(report.seconds));
  add_fact(out, "Peak memory", memory_text(report));
  add_fact(out, "Machine", escape_html(report.machine));
  add_fact(out, "Tool", "quant " + escape_html(report.tool_version));
  if (!report.plan_identity.empty()) {
    add_fact(out, "Plan identity", "<span class=\"name\">" + escape_html(report.plan_identity) + "</span>");
  }
  out += "</dl>\n";
  if (!report.recipe_text.empty()) {
    out += "<details><summary>Recipe text</summary>\n<pre>" + escape_html(report.recipe_text) + "</pre></details>\n";
  }
  out += "</section>\n";
  add_guide(out);
}

}  // namespace quant::report
