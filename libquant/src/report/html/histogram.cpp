// How the errors of single rows (output channels) are distributed.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "report/html/axis.h"
#include "report/html/parts.h"
#include "report/html/text.h"

namespace quant::report {

namespace {

constexpr double kWidth = 460;
constexpr double kHeight = 220;
constexpr double kLeft = 8;
constexpr double kRight = 8;
constexpr double kTop = 24;
constexpr double kBottom = 36;
constexpr std::size_t kBins = 40;

struct Sample {
  std::vector<float> logs;  ///< log10 NMSE, finite
  std::uint64_t exact = 0;
  std::uint64_t beyond = 0;  ///< infinite or not a number
  bool rows = false;

  void add(double nmse) {
    if (nmse == 0)
      ++exact;
    else if (!std::isfinite(nmse) || nmse < 0)
      ++beyond;
    else
      logs.push_back(static_cast<float>(std::log10(nmse)));
  }
};

// A report that came from JSON alone has no rows; its layers are counted instead.
Sample take_sample(const Page& page) {
  Sample sample;
  for (const LayerReport& layer : page.report.layers) {
    for (const float nmse : layer.row_nmse) sample.add(nmse);
    sample.rows = sample.rows || !layer.row_nmse.empty();
  }
  if (!sample.rows) {
    for (const WeightMetrics& layer : page.layers) sample.add(layer.nmse);
  }
  return sample;
}

double quantile(std::vector<float>& values, double part) {
  const auto at = static_cast<std::ptrdiff_t>(part * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<std::size_t>(at)];
}

struct Histogram {
  double low = 0;
  double high = 0;
  double median = 0;
  std::array<std::uint64_t, kBins> counts{};
  bool clipped = false;  ///< the outer columns hold values beyond the axis

  double x(double log) const { return kLeft + (log - low) / (high - low) * (kWidth - kLeft - kRight); }
};

Histogram make_histogram(std::vector<float>& logs) {
  Histogram histogram;
  histogram.median = quantile(logs, 0.5);
  // A handful of odd rows must not squeeze all others into one column.
  histogram.low = std::min(quantile(logs, 0.001), histogram.median - 0.1);
  histogram.high = std::max(quantile(logs, 0.999), histogram.median + 0.1);
  const double spare = 0.04 * (histogram.high - histogram.low);
  histogram.low -= spare;
  histogram.high += spare;
  const double width = (histogram.high - histogram.low) / kBins;
  for (const float log : logs) {
    const double bin = std::floor((log - histogram.low) / width);
    histogram.clipped = histogram.clipped || bin < 0 || bin >= static_cast<double>(kBins);
    ++histogram.counts[static_cast<std::size_t>(std::clamp(bin, 0.0, static_cast<double>(kBins - 1)))];
  }
  return histogram;
}

void draw(const Histogram& histogram, std::size_t size, bool rows, std::string& out) {
  const auto print = [&]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
  };
  const double base = kHeight - kBottom;
  const auto most = static_cast<double>(*std::max_element(histogram.counts.begin(), histogram.counts.end()));
  const double width = (kWidth - kLeft - kRight) / kBins;
  print(
      "<svg class=\"small\" viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"hist-t hist-d\">\n<title "
      "id=\"hist-t\">Distribution "
      "of NMSE</title>\n",
      kWidth, kHeight);
  print("<desc id=\"hist-d\">{} {}; median NMSE {}.</desc>\n", format_count(size), rows ? "rows" : "layers",
        format_small(std::pow(10, histogram.median)));
  for (std::size_t bin = 0; bin < kBins; ++bin) {
    if (histogram.counts[bin] == 0) continue;
    // A single row must stay visible beside a hundred thousand.
    const double height = std::max(1.5, static_cast<double>(histogram.counts[bin]) / most * (base - kTop));
    print(
        "<rect class=\"column\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"><title>{}</title></rect>",
        kLeft + static_cast<double>(bin) * width + 0.5, base - height, width - 1, height,
        format_count(histogram.counts[bin]));
  }
  print("\n<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>\n", kLeft, kWidth - kRight, base, base);
  for (const double tick : log_ticks(histogram.low, histogram.high)) {
    const double at = histogram.x(std::log10(tick));
    const char* anchor = at < kLeft + 24 ? "start" : at > kWidth - kRight - 24 ? "end" : "middle";
    print(
        "<line class=\"axis\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\"/><text x=\"{:.1f}\" y=\"{}\" "
        "text-anchor=\"{}\">{:g}</text>\n",
        at, at, base, base + 4, at, base + 17, anchor, tick);
  }
  const double middle = histogram.x(histogram.median);
  const char* anchor = middle < 120 ? "start" : middle > kWidth - 120 ? "end" : "middle";
  print("<line class=\"mean\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\"/>", middle, middle, kTop - 4, base);
  print("<text class=\"strong\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"{}\">median {}</text></svg>\n", middle, kTop - 10,
        anchor, format_small(std::pow(10, histogram.median)));
}

}  // namespace

void add_histogram(const Page& page, std::string& out) {
  Sample sample = take_sample(page);
  if (sample.logs.empty()) return;
  const Histogram histogram = make_histogram(sample.logs);
  const std::string what = format_plural(sample.logs.size(), sample.rows ? "row" : "layer");
  fmt::format_to(std::back_inserter(out),
                 "<section>\n<h2>Distribution of the error</h2>\n<p class=\"note\">NMSE of {}{}, logarithmic axis.",
                 what, sample.rows ? " (output channels)" : "");
  if (histogram.clipped) out += " The outermost columns include everything beyond.";
  if (sample.exact > 0)
    out += fmt::format(" {} without error left out.", format_plural(sample.exact, sample.rows ? "row" : "layer"));
  if (sample.beyond > 0)
    out +=
        fmt::format(" {} without a finite NMSE left out.", format_plural(sample.beyond, sample.rows ? "row" : "layer"));
  out += "</p>\n";
  draw(histogram, sample.logs.size(), sample.rows, out);
  out += "</section>\n";
}

}  // namespace quant::report
