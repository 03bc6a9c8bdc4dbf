// The worst layers, what was skipped, and the table of all layers.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <unordered_map>

#include "report/html/parts.h"
#include "report/html/text.h"

namespace quant::report {

namespace {

constexpr std::size_t kWorst = 10;
constexpr std::size_t kMaxNames = 200;

template <class... Args>
void print(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
}

// Skipped tensors of one reason.
struct Reason {
  std::string text;
  std::vector<std::size_t> tensors;
  std::uint64_t bytes = 0;
};

std::vector<Reason> by_reason(const RunReport& report) {
  std::vector<Reason> reasons;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < report.skipped.size(); ++i) {
    const auto [found, added] = index.try_emplace(report.skipped[i].reason, reasons.size());
    if (added) reasons.push_back({report.skipped[i].reason, {}, 0});
    reasons[found->second].tensors.push_back(i);
    reasons[found->second].bytes += report.skipped[i].bytes;
  }
  std::stable_sort(reasons.begin(), reasons.end(), [](const Reason& a, const Reason& b) { return a.bytes > b.bytes; });
  return reasons;
}

void add_names(const RunReport& report, const Reason& reason, std::string& out) {
  const auto describe = [&](std::size_t index) {
    const SkippedTensor& tensor = report.skipped[index];
    return fmt::format("<span class=\"name\">{}</span> <small>{} {}, {}</small>", escape_html(tensor.name),
                       escape_html(tensor.dtype), format_shape(tensor.shape),
                       format_bytes(static_cast<double>(tensor.bytes)));
  };
  if (reason.tensors.size() == 1) {
    out += describe(reason.tensors[0]);
    return;
  }
  const SkippedTensor& first = report.skipped[reason.tensors[0]];
  print(out, "<details class=\"inner\"><summary><span class=\"name\">{}</span> and {} more</summary><ul>\n",
        escape_html(first.name), reason.tensors.size() - 1);
  for (std::size_t i = 0; i < std::min(reason.tensors.size(), kMaxNames); ++i) {
    print(out, "<li>{}</li>\n", describe(reason.tensors[i]));
  }
  if (reason.tensors.size() > kMaxNames)
    print(out, "<li>and {} more; see report.json</li>\n", reason.tensors.size() - kMaxNames);
  out += "</ul></details>";
}

enum class Shown { always, calibrated, pruned };  // on pages of such runs

struct Column {
  const char* key;
  const char* label;
  const char* first;  ///< direction of the first click
  bool number;
  Shown shown = Shown::always;
};
constexpr std::array<Column, 17> kColumns{{{"index", "#", "ascending", true},
                                           {"module", "Module", "ascending", false},
                                           {"shape", "Shape", "descending", true},
                                           {"scheme", "Scheme", "ascending", false},
                                           {"bits", "Bits/weight", "ascending", true},
                                           {"sqnr", "SQNR dB", "ascending", true},
                                           {"nmse", "NMSE", "descending", true},
                                           {"cosine", "Cosine", "ascending", true},
                                           {"output", "Output error", "descending", true, Shown::calibrated},
                                           {"max", "Max error", "descending", true},
                                           {"clipped", "Clipped", "descending", true},
                                           {"zero", "Zero", "descending", true},
                                           {"pattern", "Sparsity", "descending", true, Shown::pruned},
                                           {"violations", "Violations", "descending", true, Shown::pruned},
                                           {"before", "Before", "descending", true},
                                           {"after", "After", "descending", true},
                                           {"notes", "Notes", "descending", false}}};

void number_cell(std::string& out, double sort_key, const std::string& text) {
  print(out, "<td class=\"n\" data-v=\"{}\">{}</td>",
        std::isinf(sort_key)   ? (sort_key > 0 ? "Infinity" : "-Infinity")
        : std::isnan(sort_key) ? "NaN"
                               : fmt::format("{}", sort_key),
        text);
}

void add_output_cell(const LayerReport& layer, std::string& out) {
  const bool known = layer.calibration && layer.calibration->output;
  const double error = known ? summarize(*layer.calibration->output).nmse : std::nan("");
  number_cell(out, error, known ? format_small(error) : "not measured");
}

bool is_pruned(const LayerReport& layer) { return layer.sparsity.has_value(); }

bool is_shown(const Page& page, const Column& column) {
  if (column.shown == Shown::calibrated) return page.report.calibration.has_value();
  return column.shown == Shown::always || std::any_of(page.report.layers.begin(), page.report.layers.end(), is_pruned);
}

// What the recipe asked for, and the groups that do not have it.
void add_sparsity_cells(const LayerReport& layer, double zeros, std::string& out) {
  const bool semi = layer.sparsity && layer.sparsity->of > 0;
  number_cell(out, layer.sparsity ? zeros : -1, layer.sparsity ? escape_html(layer.sparsity->pattern) : "");
  number_cell(out, semi ? static_cast<double>(layer.sparsity->violations) : -1,
              semi ? format_count(layer.sparsity->violations) : "");
}

// Remarks, and first of all what was done instead of the method.
std::string remarks_of(const LayerReport& layer) {
  std::string text = layer.calibration ? layer.calibration->fallback : "";
  for (const std::string& note : layer.notes) text += (text.empty() ? "" : "; ") + note;
  return text;
}

void add_row(const Page& page, std::size_t index, std::string& out) {
  const LayerReport& layer = page.report.layers[index];
  const WeightMetrics& metrics = page.layers[index];
  print(out, "<tr id=\"l{}\" data-kind=\"{}\"><td class=\"n\" data-v=\"{}\">{}</td>", index,
        page.grouping.places[index].kind, index, index + 1);
  print(out, "<th scope=\"row\" class=\"name\">{}</th>", escape_html(layer.module));
  number_cell(out, static_cast<double>(layer.sums.count), format_shape(layer.shape));
  print(out, "<td class=\"nowrap\">{}</td>", escape_html(layer.scheme));
  number_cell(out, layer.bits_per_weight, format_fixed(layer.bits_per_weight, 3));
  number_cell(out, metrics.sqnr_db, format_db(metrics.sqnr_db));
  number_cell(out, metrics.nmse, format_small(metrics.nmse));
  number_cell(out, metrics.cosine, format_fixed(metrics.cosine, 5));
  if (page.report.calibration) add_output_cell(layer, out);
  number_cell(out, metrics.max_abs_error, format_small(metrics.max_abs_error));
  number_cell(out, metrics.clipped_fraction, format_percent(metrics.clipped_fraction));
  number_cell(out, metrics.zero_fraction, format_percent(metrics.zero_fraction));
  if (std::any_of(page.report.layers.begin(), page.report.layers.end(), is_pruned)) {
    add_sparsity_cells(layer, metrics.zero_fraction, out);
  }
  number_cell(out, static_cast<double>(layer.bytes_before), format_bytes(static_cast<double>(layer.bytes_before)));
  number_cell(out, static_cast<double>(layer.bytes_after), format_bytes(static_cast<double>(layer.bytes_after)));
  print(out, "<td class=\"notes\">{}</td></tr>\n", escape_html(remarks_of(layer)));
}

void add_filters(const Page& page, std::string& out) {
  out +=
      "<div class=\"filters\" id=\"filters\" hidden><input id=\"filter-text\" type=\"search\" placeholder=\"Filter by "
      "any text\" "
      "aria-label=\"Filter the layers by text\">\n<select id=\"filter-kind\" aria-label=\"Filter the layers by kind\">"
      "<option value=\"\">all kinds</option>";
  for (std::size_t kind = 0; kind < std::min<std::size_t>(page.grouping.kinds.size(), kMaxNames); ++kind) {
    print(out, "<option value=\"{}\">{}</option>", kind, escape_html(page.grouping.kinds[kind].label));
  }
  out += "</select>\n<output id=\"shown\"></output></div>\n";
}

}  // namespace

void add_worst(const Page& page, std::string& out) {
  if (page.worst.empty()) return;
  const std::size_t count = std::min(kWorst, page.worst.size());
  const double most = badness(page.report.layers[page.worst.front()].sums);
  out +=
      "<section>\n<h2>Worst layers</h2>\n<p class=\"note\">By NMSE: first candidates for more bits.</p>\n<div "
      "class=\"scroll\">"
      "<table class=\"worst\">\n<thead><tr><th scope=\"col\">Module</th><th scope=\"col\" class=\"n\">SQNR dB</th><th "
      "scope=\"col\" "
      "class=\"n\">NMSE</th>"
      "<th scope=\"col\"><span hidden>NMSE as a bar</span></th></tr></thead>\n<tbody>\n";
  for (std::size_t i = 0; i < count; ++i) {
    const WeightMetrics& metrics = page.layers[page.worst[i]];
    const double part = std::isfinite(most) ? metrics.nmse / most : std::isfinite(metrics.nmse) ? 0 : 1;
    print(out, "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"bar\">",
          layer_link(page, page.worst[i]), format_db(metrics.sqnr_db), format_small(metrics.nmse));
    print(out,
          "<svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"worst-bar\" "
          "width=\"{:.1f}\" height=\"10\"/></svg></td></tr>\n",
          100 * part);
  }
  out += "</tbody></table></div>\n</section>\n";
}

void add_skipped(const Page& page, std::string& out) {
  if (page.report.skipped.empty()) return;
  out +=
      "<section class=\"long\" id=\"skipped\">\n<h2>Kept as they are</h2>\n<p class=\"note\">Tensors copied unchanged, "
      "by reason.</p>\n"
      "<div class=\"scroll\"><table class=\"skips\">\n<thead><tr><th scope=\"col\">Reason</th><th scope=\"col\" "
      "class=\"n\">Tensors</th>"
      "<th scope=\"col\" class=\"n\">Bytes</th><th scope=\"col\">Names</th></tr></thead>\n<tbody>\n";
  std::size_t shown = 0;
  const std::vector<Reason> reasons = by_reason(page.report);
  for (const Reason& reason : reasons) {
    if (++shown > kMaxNames) break;
    print(out, "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td>",
          escape_html(reason.text), format_count(reason.tensors.size()),
          format_bytes(static_cast<double>(reason.bytes)));
    add_names(page.report, reason, out);
    out += "</td></tr>\n";
  }
  out += "</tbody></table></div>\n";
  if (reasons.size() > kMaxNames)
    print(out, "<p class=\"note\">{} more reasons are in report.json.</p>\n", reasons.size() - kMaxNames);
  out += "</section>\n";
}

void add_layer_table(const Page& page, std::string& out) {
  if (page.layers.empty()) return;
  out += "<section class=\"long\">\n<h2>All layers</h2>\n";
  if (page.listed.size() < page.layers.size()) {
    print(out, "<p class=\"note\">The {} worst of {} layers; all of them are in report.json and report.h5.</p>\n",
          format_count(page.listed.size()), format_count(page.layers.size()));
  }
  add_filters(page, out);
  out +=
      "<div class=\"tall\" tabindex=\"0\" role=\"region\" aria-label=\"All layers\"><table id=\"layers\">\n<thead><tr>";
  for (const Column& column : kColumns) {
    if (!is_shown(page, column)) continue;
    print(out, "<th scope=\"col\" data-key=\"{}\" data-first=\"{}\"{}>{}</th>", column.key, column.first,
          column.number ? " class=\"n\"" : "", column.label);
  }
  out += "</tr></thead>\n<tbody>\n";
  for (const std::size_t index : page.listed) add_row(page, index, out);
  out += "</tbody></table></div>\n</section>\n";
}

}  // namespace quant::report
