// Bytes before and after, by kind of module.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "report/html/parts.h"
#include "report/html/text.h"

namespace quant::report {

namespace {

constexpr std::size_t kMaxKinds = 40;

struct Segment {
  std::string css;
  std::string label;
  std::uint64_t before = 0;
  std::uint64_t after = 0;
};

// Kinds with a colour of their own, then all others together, then what was copied.
std::vector<Segment> segments(const Page& page) {
  std::vector<Segment> list;
  const std::vector<Kind>& kinds = page.grouping.kinds;
  for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
    if (kind <= kKindColours) list.push_back({kind_class(kind), kinds[kind].label, 0, 0});
    if (kind == kKindColours) list.back().label = "other kinds";
    list.back().before += kinds[kind].bytes_before;
    list.back().after += kinds[kind].bytes_after;
  }
  Segment kept{"kept", "kept as they are", page.report.bytes_before, page.report.bytes_after};
  for (const Segment& segment : list) {
    kept.before -= std::min(kept.before, segment.before);
    kept.after -= std::min(kept.after, segment.after);
  }
  list.push_back(kept);
  return list;
}

void add_bar(const std::vector<Segment>& list, std::uint64_t Segment::*bytes, double scale, const char* label,
             std::string& out) {
  double total = 0;
  for (const Segment& segment : list) total += static_cast<double>(segment.*bytes);
  fmt::format_to(std::back_inserter(out),
                 "<p><span>{}</span><strong>{}</strong></p><svg class=\"bars\" viewBox=\"0 0 1000 26\" "
                 "preserveAspectRatio=\"none\" "
                 "role=\"img\"><title>{}: {}</title>",
                 label, format_bytes(total), label, format_bytes(total));
  double at = 0;
  for (const Segment& segment : list) {
    const double width = scale > 0 ? 1000 * static_cast<double>(segment.*bytes) / scale : 0;
    if (width > 0) {
      fmt::format_to(std::back_inserter(out),
                     "<rect class=\"{}\" x=\"{:.2f}\" width=\"{:.2f}\" height=\"26\"><title>{}: {}</title></rect>",
                     segment.css, at, width, escape_html(segment.label),
                     format_bytes(static_cast<double>(segment.*bytes)));
    }
    at += width;
  }
  out += "</svg>\n";
}

void add_kind_row(const std::string& css, const std::string& label, const std::string& cells, std::string& out) {
  fmt::format_to(std::back_inserter(out),
                 "<tr><th scope=\"row\"><svg class=\"swatch\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><rect "
                 "class=\"{}\" width=\"12\" "
                 "height=\"12\"/></svg> {}</th>{}</tr>\n",
                 css, label, cells);
}

std::string bytes_cell(std::uint64_t bytes) {
  return "<td class=\"n\">" + format_bytes(static_cast<double>(bytes)) + "</td>";
}

void add_kinds(const Page& page, const Segment& kept, std::string& out) {
  const std::vector<Kind>& kinds = page.grouping.kinds;
  if (kinds.empty()) return;
  out +=
      "<div class=\"scroll\"><table class=\"kinds\">\n<thead><tr><th scope=\"col\">Kind</th><th scope=\"col\" "
      "class=\"n\">Layers</th>"
      "<th scope=\"col\" class=\"n\">Before</th><th scope=\"col\" class=\"n\">After</th><th scope=\"col\" "
      "class=\"n\">Bits/weight</th>"
      "<th scope=\"col\" class=\"n\">SQNR dB</th><th scope=\"col\">Worst layer</th></tr></thead>\n<tbody>\n";
  for (std::size_t kind = 0; kind < std::min(kinds.size(), kMaxKinds); ++kind) {
    const Kind& k = kinds[kind];
    const double bits =
        k.sums.count == 0 ? 0 : 8 * static_cast<double>(k.bytes_after) / static_cast<double>(k.sums.count);
    const std::string cells =
        fmt::format("<td class=\"n\">{}</td>{}{}<td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td>",
                    format_count(k.layers), bytes_cell(k.bytes_before), bytes_cell(k.bytes_after),
                    format_fixed(bits, 3), format_db(summarize(k.sums).sqnr_db), layer_link(page, k.worst));
    add_kind_row(kind_class(kind), escape_html(k.label), cells, out);
  }
  if (kept.before + kept.after > 0) {
    add_kind_row("kept", "kept as they are",
                 "<td></td>" + bytes_cell(kept.before) + bytes_cell(kept.after) + "<td></td><td></td><td></td>", out);
  }
  out += "</tbody></table></div>\n";
  if (kinds.size() > kMaxKinds) {
    fmt::format_to(std::back_inserter(out), "<p class=\"note\">{} more kinds are in report.json.</p>\n",
                   kinds.size() - kMaxKinds);
  }
}

}  // namespace

void add_size(const Page& page, std::string& out) {
  const std::vector<Segment> list = segments(page);
  const auto scale = static_cast<double>(std::max(page.report.bytes_before, page.report.bytes_after));
  out += "<section class=\"long\">\n<h2>Where the bytes are</h2>\n<div class=\"stack\">\n";
  add_bar(list, &Segment::before, scale, "Before", out);
  add_bar(list, &Segment::after, scale, "After", out);
  out += "</div>\n";
  add_kinds(page, list.back(), out);
  out += "</section>\n";
}

}  // namespace quant::report
