#include "refine.h"

#include <algorithm>
#include <cmath>

#include "quant/kernels.h"
#include "quant/linalg.h"
#include "rtn/parallel_for.h"
#include "tile.h"

namespace quant::gptq {

// A few rows of a panel, columns one after the other: [width, kTileRows].
struct Refiner::Tile {
  std::uint64_t row = 0, count = 0;  // of the slab
  std::vector<float> weights, differences, gradients, changes, elements, products;
  std::vector<float> values, rounded, scales, zeros;
  std::vector<std::int8_t> codes;

  explicit Tile(std::uint64_t width) {
    for (auto* buffer : {&weights, &differences, &gradients, &changes, &elements, &products}) {
      buffer->resize(width * kTileRows);
    }
    for (auto* buffer : {&values, &rounded}) buffer->resize(kTileRows);
    scales.assign(kTileRows, 1.0F);
    zeros.assign(kTileRows, 0.0F);
    codes.resize(kTileRows);
  }
};

Refiner::Refiner(const rtn::Rules& rules, const RefineInputs& inputs, std::uint64_t block_size, int threads,
                 QuantizedTensor& out)
    : rules_(rules), inputs_(inputs), block_size_(block_size), threads_(threads), out_(out), n_(out.cols) {}

// Whether panels hold whole groups, whose scales each belong to one row.
bool Refiner::small_groups() const { return out_.grid.col_extent <= block_size_ && out_.grid.row_extent == 1; }

std::uint64_t Refiner::group_end(std::uint64_t group) const { return std::min(n_, (group + 1) * out_.grid.col_extent); }

Refiner::Panel Refiner::panel_at(std::uint64_t begin) const {
  const std::uint64_t extent = out_.grid.col_extent;
  if (extent > block_size_) return {begin, std::min(begin + block_size_, group_end(group_of(begin)))};
  return {begin, std::min(n_, begin + block_size_ / extent * extent)};
}

void Refiner::load_codes(std::uint64_t row, std::uint64_t count, std::uint64_t position, std::int8_t* codes) const {
  const std::int8_t* from = out_.codes.data() + (first_ + row) * n_ + inputs_.columns[position];
  for (std::uint64_t r = 0; r < count; ++r) codes[r] = from[r * n_];
}

void Refiner::load_scales(std::uint64_t row, std::uint64_t count, std::uint64_t group, float* scales,
                          float* zeros) const {
  for (std::uint64_t r = 0; r < count; ++r) {
    const std::uint64_t at = (first_ + row + r) / out_.grid.row_extent * out_.grid.cols + group;
    rtn::effective_scales(rules_, {out_.scales.data() + at, 1}, {scales + r, 1});
    zeros[r] = out_.zero_points.empty() ? 0.0F : static_cast<float>(out_.zero_points[at]);
  }
}

// The error as a function of a step of the scale is -2 slope step + curvature step^2. Returns the stored scale near the
// best one if that is better than `stored`, which it returns otherwise.
float Refiner::better_scale(float stored, double slope, double curvature) const {
  if (!(curvature > 0) || !std::isfinite(slope / curvature)) return stored;
  const double unit = rules_.two_level ? rules_.global_scale : 1.0;
  const double now = stored / unit;
  const double wanted = std::clamp((now + slope / curvature) / now, 0.5, 2.0) * now * unit;
  auto scale = static_cast<float>(wanted);
  kernels().round_values(rules_.round, &scale, 1);
  const double step = scale / unit - now;
  const bool better = scale != 0 && std::isfinite(scale) && curvature * step * step < 2 * slope * step;
  return better ? scale : stored;
}

void Refiner::fill_differences() {
  differences_.resize(count_ * n_);
  const auto fill = [&](Tile& tile, std::size_t t) {
    const std::uint64_t row = t * kTileRows, count = std::min(kTileRows, count_ - row);
    for (std::uint64_t p = 0; p < n_; ++p) {
      if (p % out_.grid.col_extent == 0) load_scales(row, count, group_of(p), tile.scales.data(), tile.zeros.data());
      load_codes(row, count, p, tile.codes.data());
      element_values(rules_, tile.codes.data(), tile.zeros.data(), count, tile.values.data());
      for (std::uint64_t r = 0; r < count; ++r) {
        const std::uint64_t at = (row + r) * n_ + p;
        differences_[at] = weights_[at] - tile.values[r] * tile.scales[r];
      }
    }
  };
  rtn::parallel_for(
      threads_, (count_ + kTileRows - 1) / kTileRows, [] { return Tile(1); }, fill, [](Tile&) {});
}

// With C the values of a group's codes at scale 1: slope = D H C^T and curvature = C H C^T per row, summed over the
// rows that share the scale.
void Refiner::refit_large_group(std::uint64_t group) {
  const std::uint64_t begin = group * out_.grid.col_extent, width = group_end(group) - begin;
  std::vector<float> elements(count_ * width), products(count_ * n_);
  const auto gather = [&](Tile& tile, std::size_t t) {
    const std::uint64_t row = t * kTileRows, count = std::min(kTileRows, count_ - row);
    load_scales(row, count, group, tile.scales.data(), tile.zeros.data());
    for (std::uint64_t k = 0; k < width; ++k) {
      load_codes(row, count, begin + k, tile.codes.data());
      element_values(rules_, tile.codes.data(), tile.zeros.data(), count, tile.values.data());
      for (std::uint64_t r = 0; r < count; ++r) elements[(row + r) * width + k] = tile.values[r];
    }
  };
  rtn::parallel_for(
      threads_, (count_ + kTileRows - 1) / kTileRows, [] { return Tile(1); }, gather, [](Tile&) {});
  gemm(count_, n_, width, 1.0F, {elements.data(), width}, {inputs_.gram.data() + begin * n_, n_}, false, 0.0F,
       {products.data(), n_}, threads_);
  const std::uint64_t sharing = std::min(out_.grid.row_extent, count_);
  rtn::parallel_for(threads_, (count_ + sharing - 1) / sharing, [&](std::size_t s) {
    const std::uint64_t row = s * sharing, end = std::min(count_, row + sharing);
    double slope = 0, curvature = 0;
    for (std::uint64_t r = row; r < end; ++r) {
      const float *d = differences_.data() + r * n_, *c = elements.data() + r * width, *hc = products.data() + r * n_;
      for (std::uint64_t p = 0; p < n_; ++p) slope += static_cast<double>(d[p]) * hc[p];
      for (std::uint64_t k = 0; k < width; ++k) {
        const double own = static_cast<double>(inputs_.damping) * c[k];
        slope += own * d[begin + k];
        curvature += c[k] * (hc[begin + k] + own);
      }
    }
    float& stored = out_.scales[(first_ + row) / out_.grid.row_extent * out_.grid.cols + group];
    const float old = stored;
    stored = better_scale(old, slope, curvature);
    if (stored == old) return;
    float scale = 0;
    rtn::effective_scales(rules_, {&stored, 1}, {&scale, 1});
    for (std::uint64_t r = row; r < end; ++r) {
      for (std::uint64_t k = 0; k < width; ++k) {
        const std::uint64_t at = r * n_ + begin + k;
        differences_[at] = weights_[at] - elements[r * width + k] * scale;
      }
    }
  });
}

// The same for a group of a panel, from the panel's gradients, which follow.
void Refiner::refit_in_tile(Tile& tile, const Panel& panel, std::uint64_t group) {
  const std::uint64_t width = panel.end - panel.begin, begin = group * out_.grid.col_extent - panel.begin,
                      end = group_end(group) - panel.begin;
  double slopes[kTileRows] = {}, curvatures[kTileRows] = {};
  for (std::uint64_t k = begin; k < end; ++k) {
    load_codes(tile.row, tile.count, panel.begin + k, tile.codes.data());
    element_values(rules_, tile.codes.data(), tile.zeros.data(), tile.count, tile.elements.data() + k * kTileRows);
  }
  std::fill(tile.products.begin(), tile.products.end(), 0.0F);  // -H C^T
  pass_on_columns(tile.products.data(), tile.elements.data(), coupling_.data(), width, begin, end, begin, width);
  for (std::uint64_t k = begin; k < end; ++k) {
    const float *c = tile.elements.data() + k * kTileRows, *hc = tile.products.data() + k * kTileRows,
                *g = tile.gradients.data() + k * kTileRows;
    for (std::uint64_t r = 0; r < kTileRows; ++r) {
      slopes[r] += static_cast<double>(c[r]) * g[r];
      curvatures[r] -= static_cast<double>(c[r]) * hc[r];
    }
  }
  float steps[kTileRows] = {};
  for (std::uint64_t r = 0; r < tile.count; ++r) {
    float& stored = out_.scales[(first_ + tile.row + r) * out_.grid.cols + group];
    stored = better_scale(stored, slopes[r], curvatures[r]);
    float scale = 0;
    rtn::effective_scales(rules_, {&stored, 1}, {&scale, 1});
    steps[r] = scale - tile.scales[r];
    tile.scales[r] = scale;
  }
  for (std::uint64_t k = begin; k < width; ++k) {
    float *d = tile.differences.data() + k * kTileRows, *g = tile.gradients.data() + k * kTileRows;
    const float *c = tile.elements.data() + k * kTileRows, *hc = tile.products.data() + k * kTileRows,
                *w = tile.weights.data() + k * kTileRows;
    for (std::uint64_t r = 0; r < kTileRows; ++r) g[r] += steps[r] * hc[r];
    if (k >= end) continue;
    for (std::uint64_t r = 0; r < tile.count; ++r) d[r] = w[r] - c[r] * tile.scales[r];
  }
}

// Each code of positions [begin, end) of the panel in turn.
void Refiner::recode_in_tile(Tile& tile, const Panel& panel, std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t width = panel.end - panel.begin;
  for (std::uint64_t k = begin; k < end; ++k) {
    const float own = coupling_[k * width + k];
    float *d = tile.differences.data() + k * kTileRows, *change = tile.changes.data() + k * kTileRows;
    const float *w = tile.weights.data() + k * kTileRows, *g = tile.gradients.data() + k * kTileRows;
    const float inverse = own > 0 ? 1.0F / own : 0.0F;
    for (std::uint64_t r = 0; r < kTileRows; ++r) tile.values[r] = (w[r] - d[r]) + g[r] * inverse;
    round_values(rules_, tile.values.data(), tile.scales.data(), tile.zeros.data(), tile.count, tile.codes.data(),
                 tile.rounded.data());
    if (kept_ != nullptr) {
      clear_codes(rules_, kept_ + tile.row * n_ + inputs_.columns[panel.begin + k], n_, tile.zeros.data(), tile.count,
                  tile.codes.data(), tile.rounded.data());
    }
    for (std::uint64_t r = 0; r < tile.count; ++r) {
      const float now = w[r] - tile.rounded[r];
      change[r] = d[r] - now;
      d[r] = now;
    }
    std::int8_t* to = out_.codes.data() + (first_ + tile.row) * n_ + inputs_.columns[panel.begin + k];
    for (std::uint64_t r = 0; r < tile.count; ++r) to[r * n_] = tile.codes[r];
    const std::uint64_t strip_end = std::min(end, begin + ((k - begin) / kStrip + 1) * kStrip);
    pass_on_column(tile.gradients.data(), tile.changes.data(), coupling_.data(), width, k, k + 1, strip_end);
    if (k + 1 != strip_end) continue;
    pass_on_columns(tile.gradients.data(), tile.changes.data(), coupling_.data(), width,
                    begin + (k - begin) / kStrip * kStrip, strip_end, strip_end, width);
  }
}

void Refiner::visit_tile(Tile& tile, std::size_t number, const Panel& panel, bool scales) {
  const std::uint64_t width = panel.end - panel.begin;
  tile.row = number * kTileRows;
  tile.count = std::min(kTileRows, count_ - tile.row);
  const std::uint64_t at = tile.row * n_ + panel.begin;
  load_tile(weights_.data() + at, n_, tile.count, width, tile.weights.data());
  load_tile(differences_.data() + at, n_, tile.count, width, tile.differences.data());
  load_tile(gradients_.data() + tile.row * width, width, tile.count, width, tile.gradients.data());
  for (std::uint64_t begin = 0; begin < width;) {
    const std::uint64_t group = group_of(panel.begin + begin);
    const std::uint64_t end = std::min(width, group_end(group) - panel.begin);
    load_scales(tile.row, tile.count, group, tile.scales.data(), tile.zeros.data());
    if (scales) refit_in_tile(tile, panel, group);
    recode_in_tile(tile, panel, begin, end);
    begin = end;
  }
  store_tile(tile.differences.data(), tile.count, width, differences_.data() + at, n_);
}

void Refiner::visit_panel(const Panel& panel, bool scales) {
  const std::uint64_t width = panel.end - panel.begin;
  coupling_.resize(width * width);
  for (std::uint64_t k = 0; k < width; ++k) {
    const float* row = inputs_.gram.data() + (panel.begin + k) * n_ + panel.begin;
    std::copy(row, row + width, coupling_.data() + k * width);
    coupling_[k * width + k] += inputs_.damping;
  }
  gradients_.resize(count_ * width);
  gemm(count_, width, n_, 1.0F, {differences_.data(), n_}, {inputs_.gram.data() + panel.begin, n_}, false, 0.0F,
       {gradients_.data(), width}, threads_);
  const auto visit = [&](Tile& tile, std::size_t number) {
    const std::uint64_t row = number * kTileRows, end = std::min(count_, row + kTileRows);
    for (std::uint64_t r = row; r < end; ++r) {
      for (std::uint64_t k = 0; k < width; ++k) {
        gradients_[r * width + k] += inputs_.damping * differences_[r * n_ + panel.begin + k];
      }
    }
    visit_tile(tile, number, panel, scales);
  };
  rtn::parallel_for(
      threads_, (count_ + kTileRows - 1) / kTileRows, [&] { return Tile(width); }, visit, [](Tile&) {});
}

void Refiner::run(std::span<const float> weights, const std::uint8_t* kept, std::uint64_t first, std::uint64_t count,
                  int rounds, bool scales) {
  weights_ = weights;
  kept_ = kept;
  first_ = first;
  count_ = count;
  fill_differences();
  // Powers of two leave nothing to refit; a scale of the whole tensor belongs to other slabs as well.
  const bool refit = scales && !rules_.mx && out_.args.strategy != Strategy::tensor;
  for (int round = 0; round < rounds; ++round) {
    for (std::uint64_t begin = 0; begin < n_;) {
      if (refit && !small_groups() && begin % out_.grid.col_extent == 0) refit_large_group(group_of(begin));
      const Panel panel = panel_at(begin);
      visit_panel(panel, refit && small_groups());
      begin = panel.end;
    }
  }
}

}  // namespace quant::gptq
