#include "quant/metrics.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "quant/error.h"
#include "support/catch.h"

using namespace quant;

namespace {

// An oracle in long double, one plain loop per sum.
ErrorSums plain_sums(const std::vector<float>& w, const std::vector<float>& v) {
  long double signal = 0, noise = 0, dot = 0, recon = 0, most = 0;
  ErrorSums sums;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const long double a = w[i], b = v[i];
    signal += a * a;
    noise += (a - b) * (a - b);
    dot += a * b;
    recon += b * b;
    most = std::max(most, std::abs(a - b));
    if (v[i] == 0) ++sums.zeros;
  }
  sums.signal = static_cast<double>(signal);
  sums.noise = static_cast<double>(noise);
  sums.dot = static_cast<double>(dot);
  sums.recon = static_cast<double>(recon);
  sums.max_abs_error = static_cast<double>(most);
  sums.count = w.size();
  return sums;
}

}  // namespace

TEST_CASE("measure_values agrees with a plain long double loop", "[metrics]") {
  std::mt19937 random(7);
  std::normal_distribution<float> weight(0, 1);
  for (const std::size_t size : {0, 1, 7, 8, 9, 1000}) {
    std::vector<float> w(size), v(size);
    for (std::size_t i = 0; i < size; ++i) {
      w[i] = weight(random);
      v[i] = std::round(w[i] * 2) / 2;
    }
    const ErrorSums found = measure_values(w, v);
    const ErrorSums expected = plain_sums(w, v);
    CAPTURE(size);
    CHECK(found.signal == Approx(expected.signal).epsilon(1e-13));
    CHECK(found.noise == Approx(expected.noise).epsilon(1e-13));
    CHECK(found.dot == Approx(expected.dot).epsilon(1e-13));
    CHECK(found.recon == Approx(expected.recon).epsilon(1e-13));
    CHECK(found.max_abs_error == expected.max_abs_error);
    CHECK(found.count == size);
    CHECK(found.zeros == expected.zeros);
    CHECK(found.clipped == 0);
  }
}

TEST_CASE("measure_values refuses rows of different lengths", "[metrics]") {
  const std::vector<float> three(3), four(4);
  try {
    measure_values(three, four);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    CHECK(std::string(error.what()).find("3 reference values against 4") != std::string::npos);
  }
}

TEST_CASE("sums of parts are the sums of the whole", "[metrics]") {
  const std::vector<float> w{1, -2, 3, 4}, v{1, -1, 0, 4.5F};
  const std::span<const float> ws(w), vs(v);
  ErrorSums parts = measure_values(ws.first(2), vs.first(2));
  parts.clipped = 2;
  ErrorSums rest = measure_values(ws.subspan(2), vs.subspan(2));
  rest.clipped = 3;
  parts += rest;
  CHECK(parts.signal == 30);
  CHECK(parts.noise == 1 + 9 + 0.25);
  CHECK(parts.dot == 1 + 2 + 18);
  CHECK(parts.recon == 1 + 1 + 20.25);
  CHECK(parts.max_abs_error == 3);
  CHECK(parts.count == 4);
  CHECK(parts.zeros == 1);
  CHECK(parts.clipped == 5);
}

TEST_CASE("summarize follows the formulas", "[metrics]") {
  const WeightMetrics metrics = summarize({100, 1, 99, 98.01, 0.5, 50, 5, 10});
  CHECK(metrics.nmse == 0.01);
  CHECK(metrics.sqnr_db == Approx(20).epsilon(1e-14));
  CHECK(metrics.cosine == Approx(1).epsilon(1e-14));  // v = 0.99 w / 1 is parallel to w
  CHECK(metrics.rmse == Approx(std::sqrt(0.02)));
  CHECK(metrics.max_abs_error == 0.5);
  CHECK(metrics.clipped_fraction == 0.1);
  CHECK(metrics.zero_fraction == 0.2);
}

TEST_CASE("summarize of the edges", "[metrics]") {
  const double infinity = std::numeric_limits<double>::infinity();
  SECTION("nothing") {
    const WeightMetrics metrics = summarize({});
    CHECK(metrics.nmse == 0);
    CHECK(metrics.sqnr_db == infinity);
    CHECK(metrics.cosine == 1);
    CHECK(metrics.rmse == 0);
    CHECK(metrics.clipped_fraction == 0);
    CHECK(metrics.zero_fraction == 0);
  }
  SECTION("exact") { CHECK(summarize({5, 0, 5, 5, 0, 3, 0, 0}).sqnr_db == infinity); }
  SECTION("zero weights that became something") {
    const WeightMetrics metrics = summarize({0, 4, 0, 4, 2, 1, 0, 0});
    CHECK(metrics.nmse == infinity);
    CHECK(metrics.sqnr_db == -infinity);
    CHECK(metrics.cosine == 0);
  }
  SECTION("weights that became zero") {
    const WeightMetrics metrics = summarize({4, 4, 0, 0, 2, 1, 0, 1});
    CHECK(metrics.nmse == 1);
    CHECK(metrics.sqnr_db == 0);
    CHECK_FALSE(std::signbit(metrics.sqnr_db));
    CHECK(metrics.cosine == 0);
  }
  SECTION("sums whose product leaves the range of double") {
    CHECK(summarize({1e200, 0, 1e200, 1e200, 0, 1, 0, 0}).cosine == Approx(1));
  }
}
