// The page of a batch: every job with its figures, and size against quality for each model.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "quant/batch.h"
#include "quant/version.h"
#include "report/html/axis.h"
#include "report/html/parts.h"
#include "report/html/text.h"

namespace quant {
namespace {

using namespace report;

template <class... Args>
void print(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
}

// Added to the style of reports.
constexpr std::string_view kStyle = R"css(
.dot { fill: var(--kept); stroke: none; } .dot.front { fill: var(--accent); }
.front-line { fill: none; stroke: var(--accent); stroke-width: 1.5; opacity: .6; }
.state-complete { color: var(--k2); } .state-failed, .state-refused { color: var(--bar); font-weight: 600; }
.error { color: var(--soft); overflow-wrap: anywhere; min-width: 30ch; }
.error b { color: var(--ink); font-weight: 400; }
)css";

constexpr double kWidth = 720, kHeight = 340, kLeft = 76, kRight = 24, kTop = 14, kBottom = 46;

struct Point {
  const JobRow* row = nullptr;
  double size = 0;
  double loss = 0;
};

// Positions on the chart; the loss on a logarithmic axis where that is possible.
class Scale {
 public:
  explicit Scale(const std::vector<Point>& points) {
    for (const Point& point : points) logarithmic_ = logarithmic_ && point.loss > 0;
    low_x_ = high_x_ = points.front().size;
    low_y_ = high_y_ = value(points.front().loss);
    for (const Point& point : points) {
      low_x_ = std::min(low_x_, point.size);
      high_x_ = std::max(high_x_, point.size);
      low_y_ = std::min(low_y_, value(point.loss));
      high_y_ = std::max(high_y_, value(point.loss));
    }
    widen(low_x_, high_x_, std::max(0.02 * std::abs(high_x_), 1e-9));
    widen(low_y_, high_y_, logarithmic_ ? 0.02 : std::max(0.02 * std::abs(high_y_), 1e-9));
  }

  double x(double size) const { return kLeft + (size - low_x_) / (high_x_ - low_x_) * (kWidth - kLeft - kRight); }
  double y(double loss) const {
    return kHeight - kBottom - (value(loss) - low_y_) / (high_y_ - low_y_) * (kHeight - kTop - kBottom);
  }
  std::vector<double> x_ticks() const { return linear_ticks(low_x_, high_x_, 6); }
  std::vector<double> y_ticks() const {
    return logarithmic_ ? log_ticks(low_y_, high_y_) : linear_ticks(low_y_, high_y_, 6);
  }

 private:
  double value(double loss) const { return logarithmic_ ? std::log10(loss) : loss; }
  static void widen(double& low, double& high, double least) {
    const double margin = std::max(0.08 * (high - low), least);
    low -= margin;
    high += margin;
  }

  bool logarithmic_ = true;
  double low_x_ = 0, high_x_ = 0, low_y_ = 0, high_y_ = 0;
};

std::string tick_text(double value) {
  return value != 0 && (std::abs(value) < 0.01 || std::abs(value) >= 1e5) ? format_small(value)
                                                                          : fmt::format("{:.6g}", value);
}

void add_axes(const Scale& scale, std::string_view loss, std::string& out) {
  for (const double tick : scale.x_ticks()) {
    const double x = scale.x(tick);
    print(out, "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>", x, kTop,
          kHeight - kBottom);
    print(out, "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x, kHeight - kBottom + 16,
          format_bytes(tick));
  }
  for (const double tick : scale.y_ticks()) {
    const double y = scale.y(tick);
    print(out, "<line class=\"grid\" x1=\"{1}\" x2=\"{2}\" y1=\"{0:.1f}\" y2=\"{0:.1f}\"/>", y, kLeft, kWidth - kRight);
    print(out, "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 8, y + 4, tick_text(tick));
  }
  print(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">size of tensors (\xE2\x86\x90 smaller)</text>\n",
        (kLeft + kWidth - kRight) / 2, kHeight - 8);
  print(out, "<text transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
        (kTop + kHeight - kBottom) / 2, loss);
}

void add_points(const std::vector<Point>& points, const Scale& scale, std::string& out) {
  std::string line;
  for (const Point& point : points) {
    if (!point.row->on_front) continue;
    print(line, "{}{:.1f} {:.1f}", line.empty() ? "M" : " L", scale.x(point.size), scale.y(point.loss));
  }
  if (!line.empty()) print(out, "<path class=\"front-line\" d=\"{}\"/>\n", line);
  for (const Point& point : points) {
    const double x = scale.x(point.size);
    const double y = scale.y(point.loss);
    const bool right = x > kWidth * 0.72;
    print(out, "<circle class=\"dot{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}: {}, {}</title></circle>",
          point.row->on_front ? " front" : "", x, y, point.row->on_front ? 5 : 4, escape_html(point.row->name),
          format_bytes(point.size), tick_text(point.loss));
    print(out, "<text{} x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
          point.row->on_front ? " class=\"strong\"" : "", right ? x - 8 : x + 8, y - 6, right ? "end" : "start",
          escape_html(point.row->recipe));
  }
}

void add_model(const std::string& model, const std::vector<const JobRow*>& rows, std::string& out) {
  std::vector<const JobFigures*> figures;
  for (const JobRow* row : rows) figures.push_back(&*row->outcome.figures);
  const Quality quality = common_quality(figures);
  print(out, "<section><h2>{}</h2>\n", escape_html(model));
  if (quality == Quality::none) {
    out += "<p class=\"note\">Its jobs have no measure of quality in common.</p>\n</section>\n";
    return;
  }
  std::vector<Point> points;
  for (const JobRow* row : rows) {
    points.push_back(
        {row, static_cast<double>(row->outcome.figures->bytes_after), quality_of(*row->outcome.figures, quality)});
  }
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.size < b.size; });
  print(out,
        "<p class=\"note\">Down and to the left is better. Filled dots on the line are the Pareto front: no other job "
        "of this model is smaller and as good.</p>\n<div class=\"scroll wide\"><svg viewBox=\"0 0 {} {}\" role=\"img\" "
        "aria-label=\"Size against {}\">\n",
        kWidth, kHeight, title(quality));
  const Scale scale(points);
  add_axes(scale, title(quality), out);
  add_points(points, scale, out);
  out += "</svg></div>\n</section>\n";
}

void add_charts(const BatchSummary& summary, std::string& out) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<const JobRow*>> models;
  for (const JobRow& row : summary.rows) {
    if (row.outcome.state != JobState::complete || !row.outcome.figures) continue;
    auto& rows = models[row.model];
    if (rows.empty()) order.push_back(row.model);
    rows.push_back(&row);
  }
  for (const std::string& model : order) add_model(model, models[model], out);
}

std::string cell(double value, std::string (*text)(double)) { return std::isfinite(value) ? text(value) : ""; }

std::string three_digits(double value) { return format_fixed(value, 3); }

void add_row(const JobRow& row, std::string& out) {
  const JobOutcome& outcome = row.outcome;
  const std::string_view state = to_string(outcome.state);
  print(out, "<tr><th scope=\"row\"><span class=\"name\">{}</span></th><td class=\"state-{}\">{}</td>",
        breakable(escape_html(row.name)), state, state);
  if (outcome.figures) {
    const JobFigures& f = *outcome.figures;
    print(out, "<td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>",
          format_bytes(static_cast<double>(f.bytes_after)), cell(f.bits_per_parameter, format_bits),
          cell(f.nmse, format_small), cell(f.output_error, format_small));
    print(out, "<td class=\"n\">{}</td><td class=\"n\">{}</td>", cell(f.perplexity, three_digits),
          cell(f.divergence, format_small));
  } else {
    out += "<td></td><td></td><td></td><td></td><td></td><td></td>";
  }
  print(out, "<td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td>",
        outcome.seconds > 0 ? format_seconds(outcome.seconds) : "",
        outcome.peak_memory > 0 ? format_bytes(static_cast<double>(outcome.peak_memory)) : "",
        row.on_front ? "front" : "");
  std::string remark;
  if (!outcome.error.empty()) remark = "<b>" + escape_html(outcome.error) + "</b>";
  if (!outcome.hint.empty()) remark += "<br>" + escape_html(outcome.hint);
  print(out, "<td class=\"error\">{}</td></tr>\n", remark);
}

void add_table(const BatchSummary& summary, std::string& out) {
  out +=
      "<section class=\"long\"><h2>Jobs</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Job</th><th "
      "scope=\"col\">State</th><th scope=\"col\" class=\"n\">Size</th><th scope=\"col\" class=\"n\">Bits per "
      "parameter</th><th scope=\"col\" class=\"n\">NMSE</th><th scope=\"col\" class=\"n\">Output error</th><th "
      "scope=\"col\" class=\"n\">Perplexity</th><th scope=\"col\" class=\"n\">KL</th><th scope=\"col\" "
      "class=\"n\">Time</th><th scope=\"col\" class=\"n\">Peak memory</th><th scope=\"col\">Pareto</th><th "
      "scope=\"col\">Error</th></tr></thead>\n<tbody>\n";
  for (const JobRow& row : summary.rows) add_row(row, out);
  out += "</tbody></table></div>\n</section>\n";
}

std::string verdict(const BatchSummary& summary) {
  std::string text =
      fmt::format("{} of {} complete", summary.count(JobState::complete), format_plural(summary.rows.size(), "job"));
  for (const JobState state :
       {JobState::failed, JobState::refused, JobState::running, JobState::interrupted, JobState::waiting}) {
    if (const std::size_t count = summary.count(state); count > 0)
      text += fmt::format(", {} {}", count, to_string(state));
  }
  return text + ".";
}

}  // namespace

std::string summary_to_html(const BatchSummary& summary) {
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Batch: {0}</title>\n"
      "<style>{1}{2}</style>\n</head>\n<body>\n<header>\n<p class=\"eyebrow\">Batch</p>\n<h1>{0}</h1>\n",
      escape_html(summary.file), page_style(), kStyle);
  print(out, "<p class=\"facts\"><span>{}</span></p>\n<p class=\"verdict\">{}</p>\n</header>\n<main>\n",
        escape_html(summary.written), verdict(summary));
  add_table(summary, out);
  add_charts(summary, out);
  print(out, "</main>\n<footer>Written by quant {}.</footer>\n</body>\n</html>\n", escape_html(version()));
  return out;
}

}  // namespace quant
