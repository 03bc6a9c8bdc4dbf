#include "least_squares.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "gptq/factor.h"
#include "quant/linalg.h"
#include "rtn/parallel_for.h"

namespace quant::refit {
namespace {

double dot(const float* a, const float* b, std::uint64_t n) {
  double sum = 0;
  for (std::uint64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// sum of r^2 / d
double weighed(const float* r, const float* inverse, std::uint64_t n) {
  double sum = 0;
  for (std::uint64_t i = 0; i < n; ++i) sum += static_cast<double>(r[i]) * r[i] * inverse[i];
  return sum;
}

// The rows that are not done yet, next to each other: the first `active` rows of each matrix belong to them.
class ConjugateGradients {
 public:
  ConjugateGradients(const Metric& metric, const Rows& rows, double tolerance, int threads)
      : metric_(metric),
        rows_(rows),
        threads_(threads),
        n_(metric.n),
        start_(rows.pruned.begin(), rows.pruned.end()),
        residuals_(rows.target),
        directions_(rows.count * n_),
        products_(rows.count * n_),
        row_(rows.count),
        size_(rows.count),
        goal_(rows.count),
        done_(rows.count) {
    std::iota(row_.begin(), row_.end(), std::uint64_t{0});
    times_metric(metric_, rows_.pruned, rows_.count, products_, threads_);
    rtn::parallel_for(threads_, rows_.count, [&](std::size_t a) { begin(a, tolerance); });
    drop_done();
  }

  Outcome run(std::uint64_t iterations) {
    Outcome outcome;
    for (; !row_.empty() && outcome.iterations < iterations; ++outcome.iterations) {
      times_metric(metric_, directions_, row_.size(), products_, threads_);
      rtn::parallel_for(threads_, row_.size(), [&](std::size_t a) { step(a); });
      drop_done();
    }
    outcome.unfinished = unfinished_ + row_.size();
    rtn::parallel_for(threads_, rows_.count, [&](std::size_t row) { keep_finite(row); });
    return outcome;
  }

 private:
  enum Done : std::uint8_t { no, reached, stuck };

  float* residual(std::size_t a) { return residuals_.data() + a * n_; }
  float* direction(std::size_t a) { return directions_.data() + a * n_; }

  void begin(std::size_t a, double tolerance) {
    const std::uint8_t* mask = rows_.mask.data() + a * n_;
    float *r = residual(a), *p = direction(a);
    const float* q = products_.data() + a * n_;
    for (std::uint64_t i = 0; i < n_; ++i) r[i] = mask[i] != 0 ? r[i] : 0.0F;
    goal_[a] = tolerance * tolerance * weighed(r, metric_.inverse.data(), n_);
    for (std::uint64_t i = 0; i < n_; ++i) {
      r[i] = mask[i] != 0 ? r[i] - q[i] : 0.0F;
      p[i] = r[i] * metric_.inverse[i];
    }
    size_[a] = weighed(r, metric_.inverse.data(), n_);
    done_[a] = state_of(size_[a], goal_[a]);
  }

  static Done state_of(double size, double goal) {
    if (!std::isfinite(size) || !std::isfinite(goal)) return stuck;
    return size <= goal ? reached : no;
  }

  void step(std::size_t a) {
    const std::uint8_t* mask = rows_.mask.data() + row_[a] * n_;
    float *v = rows_.pruned.data() + row_[a] * n_, *r = residual(a), *p = direction(a);
    float* q = products_.data() + a * n_;
    for (std::uint64_t i = 0; i < n_; ++i) q[i] = mask[i] != 0 ? q[i] : 0.0F;
    const double curvature = dot(p, q, n_);
    if (!(curvature > 0) || !std::isfinite(curvature)) {
      done_[a] = stuck;
      return;
    }
    const auto length = static_cast<float>(size_[a] / curvature);
    for (std::uint64_t i = 0; i < n_; ++i) {
      v[i] += length * p[i];
      r[i] -= length * q[i];
    }
    const double size = weighed(r, metric_.inverse.data(), n_);
    const auto turn = static_cast<float>(size / size_[a]);
    for (std::uint64_t i = 0; i < n_; ++i) p[i] = r[i] * metric_.inverse[i] + turn * p[i];
    size_[a] = size;
    done_[a] = state_of(size, goal_[a]);
  }

  void drop_done() {
    std::size_t kept = 0;
    for (std::size_t a = 0; a < row_.size(); ++a) {
      if (done_[a] == stuck) ++unfinished_;
      if (done_[a] != no) continue;
      if (kept != a) {
        std::copy_n(residual(a), n_, residual(kept));
        std::copy_n(direction(a), n_, direction(kept));
        row_[kept] = row_[a];
        size_[kept] = size_[a];
        goal_[kept] = goal_[a];
        done_[kept] = no;
      }
      ++kept;
    }
    row_.resize(kept);
  }

  void keep_finite(std::size_t row) {
    const std::span<float> own = rows_.pruned.subspan(row * n_, n_);
    if (!gptq::all_finite(own)) std::copy_n(start_.data() + row * n_, n_, own.data());
  }

  const Metric& metric_;
  const Rows& rows_;
  int threads_;
  std::uint64_t n_;
  std::vector<float> start_;
  std::span<float> residuals_;
  std::vector<float> directions_, products_;
  std::vector<std::uint64_t> row_;   // of the weight
  std::vector<double> size_, goal_;  // squares of residuals in the norm of the inverse diagonal
  std::vector<std::uint8_t> done_;
  std::uint64_t unfinished_ = 0;
};

}  // namespace

Metric make_metric(std::span<const float> gram, std::uint64_t n, double dampening_frac) {
  Metric metric{gram, 0, gptq::diagonal_of(gram, n), n};
  double sum = 0;
  std::uint64_t used = 0;
  for (const float value : metric.inverse) {
    if (!(value > 0)) continue;
    sum += value;
    ++used;
  }
  if (used > 0) metric.damping = static_cast<float>(dampening_frac * sum / static_cast<double>(used));
  for (float& value : metric.inverse) {
    value = std::max(value, 0.0F) + metric.damping;
    value = value > 0 && std::isfinite(1 / value) ? 1 / value : 0.0F;
  }
  return metric;
}

void times_metric(const Metric& metric, std::span<const float> in, std::uint64_t rows, std::span<float> out,
                  int threads) {
  const std::uint64_t n = metric.n;
  gemm(rows, n, n, 1.0F, {in.data(), n}, {metric.gram.data(), n}, false, 0.0F, {out.data(), n}, threads);
  rtn::parallel_for(threads, rows, [&](std::size_t r) {
    for (std::uint64_t i = r * n; i < (r + 1) * n; ++i) out[i] += metric.damping * in[i];
  });
}

Outcome solve_rows(const Metric& metric, const Rows& rows, double tolerance, std::uint64_t iterations, int threads) {
  return ConjugateGradients(metric, rows, tolerance, threads).run(iterations);
}

void scale_rows(const Metric& metric, const Rows& rows, int threads) {
  std::vector<float> products(rows.count * metric.n);
  times_metric(metric, rows.pruned, rows.count, products, threads);
  rtn::parallel_for(threads, rows.count, [&](std::size_t r) {
    const std::span<float> own = rows.pruned.subspan(r * metric.n, metric.n);
    const double curvature = dot(own.data(), products.data() + r * metric.n, metric.n);
    const double factor = dot(own.data(), rows.target.data() + r * metric.n, metric.n) / curvature;
    const bool usable = curvature > 0 && factor > 0 && std::isfinite(factor);
    for (float& value : own) {
      const float scaled = static_cast<float>(value * factor);
      // What is kept stays a number other than 0.
      if (usable && std::isfinite(scaled) && (scaled != 0 || value == 0)) value = scaled;
    }
  });
}

}  // namespace quant::refit
