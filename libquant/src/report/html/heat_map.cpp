// Blocks against kinds of modules: where in the model the error sits.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "report/html/block_grid.h"
#include "report/html/text.h"

namespace quant::report {

namespace {

constexpr std::size_t kMaxRows = 200;
constexpr std::size_t kMaxColumns = 16;
constexpr int kShades = 7;

struct Range {
  double low = 1e300;
  double high = -1e300;

  void add(double db) {
    if (!std::isfinite(db)) return;
    low = std::min(low, db);
    high = std::max(high, db);
  }
  // At least 6 dB wide, so that equal layers look equal.
  void widen() {
    const double spare = std::max(0.0, 6.0 - (high - low)) / 2;
    low -= spare;
    high += spare;
  }
  int shade(double db) const {
    if (!std::isfinite(db)) return db > 0 ? 0 : kShades - 1;
    return std::clamp(static_cast<int>((high - db) / (high - low) * kShades), 0, kShades - 1);
  }
};

std::vector<std::size_t> columns(const BlockGrid& grid) {
  std::vector<std::size_t> kinds;
  for (const auto& [key, cell] : grid.cells) {
    if (kinds.empty() || kinds.back() != key.first) kinds.push_back(key.first);
  }
  return kinds;
}

std::string cell_html(const Page& page, const Cell& cell, const Range& range) {
  const double db = summarize(cell.sums).sqnr_db;
  const std::string text = std::isfinite(db) ? format_db(db) : db > 0 ? "exact" : "\xE2\x80\x93";
  const std::string title = cell.layers == 1 ? escape_html(page.report.layers[cell.worst].module)
                                             : fmt::format("{} layers, worst {}", cell.layers,
                                                           escape_html(page.report.layers[cell.worst].module));
  const std::string tip =
      fmt::format("{}: {} dB, NMSE {}", title, format_db(db), format_small(summarize(cell.sums).nmse));
  if (!page.is_listed[cell.worst])
    return fmt::format("<td class=\"h{}\" title=\"{}\">{}</td>", range.shade(db), tip, text);
  return fmt::format("<td class=\"h{}\" title=\"{}\"><a href=\"#l{}\">{}</a></td>", range.shade(db), tip, cell.worst,
                     text);
}

void add_scale(const Range& range, std::string& out) {
  out += fmt::format("<p class=\"scale\">{} dB <span>", format_db(range.high));
  for (int shade = 0; shade < kShades; ++shade) out += fmt::format("<i class=\"h{}\"></i>", shade);
  out += fmt::format("</span> {} dB</p>\n", format_db(range.low));
}

}  // namespace

void add_heat_map(const Page& page, std::string& out) {
  const BlockGrid grid = make_block_grid(page);
  std::vector<std::size_t> kinds = columns(grid);
  if (kinds.empty()) return;
  const std::size_t hidden_kinds = kinds.size() > kMaxColumns ? kinds.size() - kMaxColumns : 0;
  kinds.resize(kinds.size() - hidden_kinds);
  const std::size_t rows = std::min(grid.blocks.size(), kMaxRows);
  Range range;
  for (const auto& [key, cell] : grid.cells) range.add(summarize(cell.sums).sqnr_db);
  if (range.low > range.high) return;
  range.widen();

  out +=
      "<section class=\"long\">\n<h2>Error by block and kind</h2>\n<p class=\"note\">SQNR in dB; stronger colour means "
      "more error. "
      "Each cell leads to its row in the table.</p>\n<div class=\"scroll\"><table class=\"heat\">\n<thead><tr><th "
      "scope=\"col\">block</th>";
  for (const std::size_t kind : kinds) {
    out += fmt::format("<th scope=\"col\">{}</th>", breakable(escape_html(page.grouping.kinds[kind].label)));
  }
  out += "</tr></thead>\n<tbody>\n";
  for (std::size_t row = 0; row < rows; ++row) {
    out += fmt::format("<tr><th scope=\"row\">{}</th>", grid.blocks[row]);
    for (const std::size_t kind : kinds) {
      const auto cell = grid.cells.find({kind, row});
      out += cell == grid.cells.end() ? "<td></td>" : cell_html(page, cell->second, range);
    }
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n";
  add_scale(range, out);
  if (hidden_kinds > 0) out += fmt::format("<p class=\"note\">{} more kinds are not shown.</p>\n", hidden_kinds);
  if (rows < grid.blocks.size()) {
    out += fmt::format("<p class=\"note\">The first {} of {} blocks are shown.</p>\n", rows, grid.blocks.size());
  }
  out += "</section>\n";
}

}  // namespace quant::report
