// Importance from calibration reaches all that a codec decides: what is stored apart, and what a whole tensor shares.
#include <cmath>

#include "naive_statistics.h"
#include "quant/kmeans.h"
#include "quant/outliers.h"

using namespace quant;
using namespace quant::test;

namespace {

std::string weighted(const std::string& modifier, const std::string& weights) {
  return "    " + modifier +
         ":\n      importance: hessian\n      ignore: [lm_head]\n      config_groups:\n        a:\n" +
         "          targets: [Linear]\n          weights: {" + weights + "}\n";
}

// Mean squares of the columns of a linear's inputs.
std::vector<float> mean_squares(const NaiveStatistics& naive) {
  const std::size_t cols = naive.absmax.size();
  std::vector<float> squares(cols);
  for (std::size_t c = 0; c < cols; ++c) {
    squares[c] = static_cast<float>(naive.gram[c * cols + c] / static_cast<double>(naive.tokens));
  }
  return squares;
}

// What the run stored for each linear, with the weights and the importance that it had.
template <class Check>
std::size_t for_each_linear(const CalibratedModel& model, const std::string& name, const Check& check) {
  const auto before = open_checkpoint(model.dir / "model");
  const auto after = open_checkpoint(model.dir / name);
  const auto naive = naive_statistics(model.dir / name, model.dir / "ids.npy");
  const Layout& layout = *builtin_registry().layout("libquant");
  std::size_t count = 0;
  for (const StoredLinear& linear : layout.find_linears(*after)) {
    QuantizedTensor stored;
    layout.read_rows(*after, linear, 0, linear.shape.rows, stored);
    const TensorView view = before->view(*before->find(linear.shape.module + ".weight"));
    std::vector<float> weights(view.rows() * view.cols());
    read_f32(view, 0, weights);
    INFO(linear.shape.module);
    check(stored, weights, mean_squares(naive.at(linear.shape.module)));
    ++count;
  }
  return count;
}

}  // namespace

TEST_CASE("weights stored apart are those that inputs make sensitive") {
  CalibratedModel model;
  model.options.layout = "libquant";
  model.run(weighted("KMeansModifier", "num_bits: 3, type: codebook, strategy: channel, sensitive_percent: 2"), "out");
  std::size_t others = 0;
  const std::size_t count =
      for_each_linear(model, "out", [&](const QuantizedTensor& stored, auto& weights, auto squares) {
        const TensorView view = f32_view(weights, stored.rows, stored.cols);
        CHECK(stored.sparse.columns == choose_sparse(view, stored.args, squares)->columns);
        if (stored.sparse.columns != choose_sparse(view, stored.args, {})->columns) ++others;
      });
  CHECK(count == 14);
  CHECK(others > 10);
}

TEST_CASE("a codebook of a whole tensor is weighted by the inputs") {
  CalibratedModel model;
  model.options.layout = "libquant";
  model.run(weighted("KMeansModifier", "num_bits: 3, type: codebook, strategy: tensor"), "out");
  std::size_t others = 0;
  const std::size_t count =
      for_each_linear(model, "out", [&](const QuantizedTensor& stored, auto& weights, auto squares) {
        std::vector<float> each(weights.size());
        for (std::size_t i = 0; i < each.size(); ++i) each[i] = squares[i % stored.cols];
        const auto expected = kmeans_1d(weights, each, 8), plain = kmeans_1d(weights, {}, 8);
        REQUIRE((stored.codebook.size() == 8 && expected.size() == 8));
        double far = 0;
        for (std::size_t i = 0; i < 8; ++i) {
          CHECK(std::fabs(static_cast<double>(stored.codebook[i]) - expected[i]) <=
                1e-3 * std::fabs(expected[i]) + 1e-5);
          far = std::max(far, std::fabs(static_cast<double>(stored.codebook[i]) - plain[i]));
        }
        if (far > 5e-3) ++others;
      });
  CHECK(count == 14);
  CHECK(others > 10);
}
