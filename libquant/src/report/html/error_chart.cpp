// SQNR along the model: one trace per kind of module, one mark per block.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "report/html/axis.h"
#include "report/html/block_grid.h"
#include "report/html/text.h"

namespace quant::report {

namespace {

constexpr double kWidth = 1100;
constexpr double kHeight = 330;
constexpr double kLeft = 40;
constexpr double kRight = 14;
constexpr double kTop = 12;
constexpr double kBottom = 40;
constexpr std::size_t kMaxMarks = 2500;  // beyond it only the traces are drawn
constexpr std::size_t kMaxLoose = 400;

// Marks differ by shape as well, for readers who cannot tell the colours apart.
constexpr std::array<const char*, 4> kShapes{
    "<circle r=\"3.6\"/>", "<rect x=\"-3.2\" y=\"-3.2\" width=\"6.4\" height=\"6.4\"/>",
    "<path d=\"M0-4.2L4 3.2H-4z\"/>", "<path d=\"M0-4.6L4.6 0 0 4.6-4.6 0z\"/>"};

const char* shape_of(std::size_t kind) { return kShapes[kind % kShapes.size()]; }

struct Frame {
  double low = 0;
  double high = 1;
  double slots = 1;

  double x(double slot) const { return kLeft + (slot + 0.5) * (kWidth - kLeft - kRight) / slots; }
  double y(double db) const { return kTop + (high - db) / (high - low) * (kHeight - kTop - kBottom); }
};

class ErrorChart {
 public:
  ErrorChart(const Page& page, std::string& out) : page_(page), out_(out), grid_(make_block_grid(page)) {
    loose_ = grid_.loose.size() <= kMaxLoose ? grid_.loose.size() : 0;
    gap_ = loose_ > 0 && !grid_.blocks.empty() ? 1 : 0;
    frame_.slots = std::max(1.0, static_cast<double>(grid_.blocks.size() + loose_) + gap_);
    drawable_ = find_range();
  }

  bool drawable() const { return drawable_; }

  void draw() {
    print("<div class=\"scroll wide\"><svg viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"sqnr-t sqnr-d\">\n",
          kWidth, kHeight);
    print("<title id=\"sqnr-t\">SQNR of every layer in model order</title>\n<desc id=\"sqnr-d\">{}</desc>\n",
          description());
    draw_scale();
    draw_overall();
    for (std::size_t kind = 0; kind < page_.grouping.kinds.size(); ++kind) draw_kind(kind);
    for (std::size_t i = 0; i < loose_; ++i) draw_loose(i);
    out_ += "</svg></div>\n";
    draw_legend();
  }

  bool hides_loose() const { return loose_ < grid_.loose.size(); }

 private:
  template <class... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  bool find_range() {
    double low = 1e300;
    double high = -1e300;
    for (const WeightMetrics& layer : page_.layers) {
      if (!std::isfinite(layer.sqnr_db)) continue;
      low = std::min(low, layer.sqnr_db);
      high = std::max(high, layer.sqnr_db);
    }
    if (low > high) return false;
    const double spare = std::max(1.0, 0.06 * (high - low));
    const double middle = (low + high) / 2;
    // A range of at least 8 dB keeps small differences looking small.
    const double half = std::max(4.0, (high - low) / 2 + spare);
    frame_.low = std::floor(middle - half);
    frame_.high = std::ceil(middle + half);
    return true;
  }

  std::string description() const {
    return fmt::format("{} layers in {} blocks; overall {} dB, from {} dB to {} dB.", page_.layers.size(),
                       grid_.blocks.size(), format_db(page_.metrics.sqnr_db),
                       format_db(page_.layers[page_.worst.front()].sqnr_db),
                       format_db(page_.layers[page_.worst.back()].sqnr_db));
  }

  void draw_scale() {
    for (const double tick : linear_ticks(frame_.low, frame_.high, 7)) {
      print("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>", kLeft, kWidth - kRight,
            frame_.y(tick), frame_.y(tick));
      print("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n", kLeft - 7, frame_.y(tick) + 4, tick);
    }
    const std::size_t step =
        std::max<std::size_t>(1, static_cast<std::size_t>(nice_step(static_cast<double>(grid_.blocks.size()), 16)));
    for (std::size_t i = 0; i < grid_.blocks.size(); i += step) {
      print("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", frame_.x(static_cast<double>(i)),
            kHeight - 22, grid_.blocks[i]);
    }
    const double centre = (kLeft + kWidth - kRight) / 2;
    print("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", centre, kHeight - 4,
          grid_.blocks.empty() ? "layers in model order" : "block");
    if (gap_ > 0) {
      print("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"end\">outside the blocks</text>\n", kWidth - kRight,
            kHeight - 4);
    }
  }

  void draw_overall() {
    const double db = page_.metrics.sqnr_db;
    if (!(db >= frame_.low && db <= frame_.high)) return;
    print("<line class=\"mean\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft, kWidth - kRight,
          frame_.y(db), frame_.y(db));
  }

  void draw_kind(std::size_t kind) {
    std::string trace;
    std::string marks;
    bool pen_down = false;
    std::size_t previous = 0;
    const auto begin = grid_.cells.lower_bound({kind, 0});
    const auto end = grid_.cells.lower_bound({kind + 1, 0});
    for (auto cell = begin; cell != end; ++cell) {
      const std::size_t slot = cell->first.second;
      const double db = summarize(cell->second.sums).sqnr_db;
      if (!std::isfinite(db)) {
        pen_down = false;
        continue;
      }
      const double x = frame_.x(static_cast<double>(slot));
      pen_down = pen_down && slot == previous + 1;
      fmt::format_to(std::back_inserter(trace), "{}{:.1f} {:.1f}", pen_down ? "L" : "M", x, frame_.y(db));
      pen_down = true;
      previous = slot;
      if (grid_.cells.size() <= kMaxMarks) marks += cell_mark(kind, cell->second, x, db);
    }
    if (!trace.empty())
      print("<path class=\"trace {}\" d=\"{}\"/>\n<g class=\"{}\">{}</g>\n", kind_class(kind), trace, kind_class(kind),
            marks);
  }

  std::string cell_mark(std::size_t kind, const Cell& cell, double x, double db) const {
    if (cell.layers == 1) return mark(kind, cell.worst, x, db);
    std::string text;
    if (std::isfinite(cell.low) && std::isfinite(cell.high)) {
      text = fmt::format("<path class=\"spread\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", x, frame_.y(cell.high),
                         frame_.y(cell.low));
    }
    return text + fmt::format(
                      "<g transform=\"translate({:.1f} {:.1f})\">{}<title>{} layers {}: {} dB together, {} to {} "
                      "dB</title></g>",
                      x, frame_.y(db), shape_of(kind), cell.layers, escape_html(page_.grouping.kinds[kind].label),
                      format_db(db), format_db(cell.low), format_db(cell.high));
  }

  std::string mark(std::size_t kind, std::size_t layer, double x, double db) const {
    return fmt::format("<g transform=\"translate({:.1f} {:.1f})\">{}<title>{}: {} dB</title></g>", x, frame_.y(db),
                       shape_of(kind), escape_html(page_.report.layers[layer].module), format_db(db));
  }

  void draw_loose(std::size_t index) {
    const std::size_t layer = grid_.loose[index];
    const double db = page_.layers[layer].sqnr_db;
    if (!std::isfinite(db)) return;
    const std::size_t kind = page_.grouping.places[layer].kind;
    const double slot = static_cast<double>(grid_.blocks.size() + index) + gap_;
    print("<g class=\"{}\">{}</g>\n", kind_class(kind), mark(kind, layer, frame_.x(slot), db));
  }

  void draw_legend() {
    const std::vector<Kind>& kinds = page_.grouping.kinds;
    out_ += "<ul class=\"legend\">\n";
    for (std::size_t kind = 0; kind < std::min(kinds.size(), kKindColours); ++kind) {
      print("<li><svg class=\"swatch {}\" viewBox=\"-6 -6 12 12\" aria-hidden=\"true\">{}</svg>{}</li>\n",
            kind_class(kind), shape_of(kind), escape_html(kinds[kind].label));
    }
    if (kinds.size() > kKindColours) {
      print("<li><svg class=\"swatch k8\" viewBox=\"-6 -6 12 12\" aria-hidden=\"true\">{}</svg>{} more kinds</li>\n",
            shape_of(0), kinds.size() - kKindColours);
    }
    if (std::isfinite(page_.metrics.sqnr_db)) {
      print(
          "<li><svg class=\"swatch\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><path class=\"mean\" d=\"M0 "
          "6H12\"/></svg>overall, {} dB</li>\n",
          format_db(page_.metrics.sqnr_db));
    }
    out_ += "</ul>\n";
  }

  const Page& page_;
  std::string& out_;
  BlockGrid grid_;
  std::size_t loose_ = 0;
  double gap_ = 0;
  Frame frame_;
  bool drawable_ = false;
};

}  // namespace

void add_error_by_layer(const Page& page, std::string& out) {
  ErrorChart chart(page, out);
  if (!chart.drawable()) return;
  out += "<section>\n<h2>Error along the model</h2>\n<p class=\"note\">SQNR in dB, higher is better.";
  const auto exact = std::count_if(page.layers.begin(), page.layers.end(), [](const auto& m) { return m.nmse == 0; });
  if (exact > 0)
    out += fmt::format(" {} without error {} not drawn.", format_plural(static_cast<std::uint64_t>(exact), "layer"),
                       exact == 1 ? "is" : "are");
  if (chart.hides_loose()) out += " Layers outside the blocks are too many to be drawn.";
  out += "</p>\n";
  chart.draw();
  out += "</section>\n";
}

}  // namespace quant::report
