#include <cmath>
#include <limits>

#include "fakes.h"
#include "quant/statistics.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

struct Moments {
  double mean = 0, stddev = 0, kurtosis = 0;
};

Moments reference_moments(const std::vector<float>& values) {
  Moments m;
  for (const float v : values) m.mean += v;
  m.mean /= static_cast<double>(values.size());
  double m2 = 0, m4 = 0;
  for (const float v : values) {
    const double d = v - m.mean;
    m2 += d * d;
    m4 += d * d * d * d;
  }
  m2 /= static_cast<double>(values.size());
  m4 /= static_cast<double>(values.size());
  m.stddev = std::sqrt(m2);
  m.kurtosis = m4 / (m2 * m2);
  return m;
}

}  // namespace

TEST_CASE("moments over many blocks equal those of one pass over all", "[statistics]") {
  const std::uint64_t rows = 1500, cols = 1001;
  std::vector<float> values = Numbers(3).many(rows * cols);
  // The blocks differ in mean and spread, so that merging them is put to the test.
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = values[i] * (i > 900'000 ? 3.0F : 0.5F) + (i > 1'200'000 ? 2.0F : 0.1F);
  values[5] = 0.0F;
  FakeCheckpoint checkpoint;
  checkpoint.add("w", {rows, cols}, values);
  const Registry registry = fake_registry();
  const LogicalTensors tensors(checkpoint, registry);
  StatisticsOptions options;
  options.outliers = true;
  options.outlier_sigmas = 2.0;
  options.top_columns = 3;
  const auto all = tensor_statistics(tensors, options);
  REQUIRE(all.size() == 1);
  const TensorStatistics& s = all[0];
  const Moments m = reference_moments(values);
  CHECK(s.count == rows * cols);
  CHECK(s.mean == Approx(m.mean).epsilon(1e-10));
  CHECK(s.stddev == Approx(m.stddev).epsilon(1e-10));
  CHECK(s.kurtosis == Approx(m.kurtosis).epsilon(1e-9));
  CHECK(s.min == *std::min_element(values.begin(), values.end()));
  CHECK(s.max == *std::max_element(values.begin(), values.end()));
  CHECK(s.zeros == static_cast<std::uint64_t>(std::count(values.begin(), values.end(), 0.0F)));
  CHECK_FALSE(s.first_bad);
  const auto outliers =
      std::count_if(values.begin(), values.end(), [&](float v) { return std::abs(v - m.mean) > 2.0 * m.stddev; });
  CHECK(s.outliers == static_cast<std::uint64_t>(outliers));
  std::vector<float> peaks(cols, 0.0F);
  for (std::size_t i = 0; i < values.size(); ++i) peaks[i % cols] = std::max(peaks[i % cols], std::abs(values[i]));
  REQUIRE(s.top_columns.size() == 3);
  CHECK(s.top_columns[0].absmax == *std::max_element(peaks.begin(), peaks.end()));
  for (const ColumnPeak& peak : s.top_columns) CHECK(peak.absmax == peaks[peak.column]);
  options.scan.threads = 1;
  const auto again = tensor_statistics(tensors, options);
  CHECK(again[0].mean == s.mean);
  CHECK(again[0].kurtosis == s.kurtosis);
}

TEST_CASE("values that are not numbers are counted and placed", "[statistics]") {
  const float inf = std::numeric_limits<float>::infinity();
  FakeCheckpoint checkpoint;
  checkpoint.add("w", {2, 3}, {1, 2, 3, -inf, std::nanf(""), 2});
  checkpoint.add("all", {2}, {inf, inf});
  checkpoint.add("empty", {0, 4}, {});
  checkpoint.add("constant", {4}, {2, 2, 2, 2});
  checkpoint.add_bytes("mask", DType::BOOL, {1}, std::vector<std::byte>(1));
  const Registry registry = fake_registry();
  const LogicalTensors tensors(checkpoint, registry);
  StatisticsOptions options;
  options.outliers = true;
  const auto all = tensor_statistics(tensors, options);
  REQUIRE(all.size() == 4);  // the mask has no statistics
  CHECK(all[0].nans == 1);
  CHECK(all[0].infinities == 1);
  CHECK(all[0].first_bad == 3U);
  CHECK(all[0].mean == 2.0);
  CHECK(all[0].min == 1.0F);
  CHECK(all[0].absmax == 3.0F);
  CHECK(all[0].top_columns[0].column == 2);
  CHECK(all[1].first_bad == 0U);
  CHECK(all[1].infinities == 2);
  CHECK(all[1].max == 0.0F);
  CHECK(all[2].count == 0);
  CHECK(all[2].top_columns.empty());
  CHECK(all[3].stddev == 0.0);
  CHECK(all[3].kurtosis == 0.0);
  CHECK(all[3].outliers == 0);
  CHECK(all[3].top_columns.empty());
}
