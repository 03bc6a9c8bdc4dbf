#include <fmt/format.h>

#include <algorithm>

#include "report/html/block_grid.h"
#include "report/html/parts.h"
#include "report/html/text.h"

namespace quant::report {

Page::Page(const RunReport& source)
    : report(source), grouping(group_layers(source)), total(total_errors(source)), metrics(summarize(total)) {
  for (const LayerReport& layer : report.layers) layers.push_back(summarize(layer.sums));
  worst = worst_layers(report, report.layers.size());
  is_listed.assign(layers.size(), layers.size() <= kMaxListed);
  if (layers.size() > kMaxListed) {
    for (std::size_t i = 0; i < std::min(kMaxListed, worst.size()); ++i) is_listed[worst[i]] = true;
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (is_listed[i]) listed.push_back(i);
  }
}

std::string kind_class(std::size_t kind) { return fmt::format("k{}", std::min(kind, kKindColours)); }

std::string layer_link(const Page& page, std::size_t layer) {
  const std::string name = breakable(escape_html(page.report.layers[layer].module));
  if (!page.is_listed[layer]) return fmt::format("<span class=\"name\">{}</span>", name);
  return fmt::format("<a class=\"name\" href=\"#l{}\">{}</a>", layer, name);
}

}  // namespace quant::report

namespace quant {

namespace {

std::string page_title(const RunReport& report) {
  return "Quantization report" + (report.recipe_name.empty() ? "" : ": " + report::escape_html(report.recipe_name));
}

// Two columns. The map of blocks stands on the right; the histogram goes where there is room.
void add_where(const report::Page& page, std::string& out) {
  constexpr std::size_t kTallMap = 16;
  std::string map;
  report::add_heat_map(page, map);
  const bool tall = report::make_block_grid(page).blocks.size() >= kTallMap;
  out += "<div class=\"pair\">\n<div>\n";
  report::add_worst(page, out);
  if (tall) report::add_histogram(page, out);
  out += "</div>\n<div>\n" + map;
  if (!tall) report::add_histogram(page, out);
  out += "</div>\n</div>\n";
}

}  // namespace

std::string report_to_html(const RunReport& report) {
  const report::Page page(report);
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'sha256-{}'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>{}</style>\n"
      "</head>\n<body>\n",
      report::page_script_hash(), page_title(report), report::page_style());
  report::add_header(page, out);
  out += "<main>\n";
  report::add_summary(page, out);
  report::add_remarks(page, out);
  report::add_evaluation(page, out);
  report::add_error_by_layer(page, out);
  if (!page.worst.empty()) add_where(page, out);
  report::add_size(page, out);
  report::add_skipped(page, out);
  report::add_layer_table(page, out);
  report::add_run(page, out);
  out += "</main>\n";
  out += fmt::format("<footer>Written by quant{}{}.</footer>\n<script>{}</script>\n</body>\n</html>\n",
                     report.tool_version.empty() ? "" : " ", report::escape_html(report.tool_version),
                     report::page_script());
  return out;
}

}  // namespace quant
