// Limits of weights.
#include "quant/awq.h"
#include "quant/error.h"
#include "smoothquant/sample.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

AwqClipOptions enabled() {
  AwqClipOptions options;
  options.enabled = true;
  return options;
}

/// d H d^T of columns [begin, end) of one row, in float64.
double form(const Sample& sample, const std::vector<double>& d, std::size_t begin, std::size_t end) {
  double sum = 0;
  for (std::size_t i = begin; i < end; ++i) {
    for (std::size_t k = begin; k < end; ++k) {
      sum += d[i] * static_cast<double>(sample.inputs.gram[i * sample.cols + k]) * d[k];
    }
  }
  return sum;
}

/// The rounding error of one row whose groups are limited to `factors` of their range.
std::vector<double> error_of(const std::vector<float>& row, const std::vector<float>& factors, std::size_t group,
                             int bits) {
  std::vector<float> limited = row;
  for (std::size_t begin = 0; begin < row.size(); begin += group) {
    float most = 0;
    for (std::size_t i = begin; i < begin + group; ++i) most = std::max(most, std::fabs(row[i]));
    const float bound = factors[begin / group] * most;
    for (std::size_t i = begin; i < begin + group; ++i) limited[i] = std::clamp(row[i], -bound, bound);
  }
  fake_quantize(limited, group, bits, true);
  std::vector<double> d;
  for (std::size_t i = 0; i < row.size(); ++i) {
    d.push_back(static_cast<double>(limited[i]) - static_cast<double>(row[i]));
  }
  return d;
}

/// Weights with a few large ones that matter little, where limits help.
Sample heavy_tails(const QuantArgs& args) {
  Sample sample(48, 96, {20}, args);
  for (std::size_t i = 0; i < sample.weights[0].size(); i += 17) sample.weights[0][i] *= 3;
  return sample;
}

}  // namespace

TEST_CASE("each group gets the limit that float64 finds best") {
  Sample sample = heavy_tails(int_args(3, Strategy::group, 16));
  const std::vector<float> original = sample.weights[0];
  const std::uint64_t limited = awq_clip(sample.tasks[0], sample.inputs, enabled(), {2, nullptr});
  CHECK(limited > 0);
  std::uint64_t expected = 0;
  for (std::size_t r = 0; r < 20; ++r) {
    const std::vector<float> row(original.begin() + static_cast<std::ptrdiff_t>(r * 48),
                                 original.begin() + static_cast<std::ptrdiff_t>((r + 1) * 48));
    std::vector<float> best(3, 1.0F);
    for (std::size_t g = 0; g < 3; ++g) {
      double least = 1e300;
      for (int i = 0; i < 10; ++i) {
        const float factor = 1.0F - static_cast<float>(i) / 20.0F;
        const double found = form(sample, error_of(row, {factor, factor, factor}, 16, 3), g * 16, (g + 1) * 16);
        if (found >= least) continue;
        least = found;
        best[g] = factor;
      }
    }
    const double before = form(sample, error_of(row, {1, 1, 1}, 16, 3), 0, 48);
    const double after = form(sample, error_of(row, best, 16, 3), 0, 48);
    const bool kept = after < before;
    for (std::size_t c = 0; c < 48; ++c) {
      float most = 0;
      for (std::size_t i = c / 16 * 16; i < c / 16 * 16 + 16; ++i) most = std::max(most, std::fabs(row[i]));
      const float bound = kept ? best[c / 16] * most : most;
      CHECK(sample.weights[0][r * 48 + c] == std::clamp(row[c], -bound, bound));
    }
    for (const float one : best) expected += kept && one < 1 ? 1 : 0;
  }
  CHECK(limited == expected);
}

TEST_CASE("no row gets worse, whatever the strategy") {
  for (const auto& args :
       {int_args(3, Strategy::group, 16), int_args(4, Strategy::channel), int_args(2, Strategy::group, 24, false)}) {
    Sample sample = heavy_tails(args);
    const std::vector<float> original = sample.weights[0];
    awq_clip(sample.tasks[0], sample.inputs, enabled(), {1, nullptr});
    const std::size_t group = args.strategy == Strategy::channel ? 48 : static_cast<std::size_t>(*args.group_size);
    for (std::size_t r = 0; r < 20; ++r) {
      const auto error = [&](const std::vector<float>& weights) {
        std::vector<float> rounded(weights.begin() + static_cast<std::ptrdiff_t>(r * 48),
                                   weights.begin() + static_cast<std::ptrdiff_t>((r + 1) * 48));
        fake_quantize(rounded, group, args.num_bits, args.symmetric);
        std::vector<double> d;
        for (std::size_t c = 0; c < 48; ++c) {
          d.push_back(static_cast<double>(rounded[c]) - static_cast<double>(original[r * 48 + c]));
        }
        return form(sample, d, 0, 48);
      };
      CHECK(error(sample.weights[0]) <= error(original) * (1 + 1e-6));
    }
  }
}

TEST_CASE("any number of threads limits the same weights") {
  Sample one = heavy_tails(int_args(3, Strategy::group, 16));
  Sample many = heavy_tails(int_args(3, Strategy::group, 16));
  CHECK(awq_clip(one.tasks[0], one.inputs, enabled(), {1, nullptr}) ==
        awq_clip(many.tasks[0], many.inputs, enabled(), {6, nullptr}));
  CHECK(one.weights == many.weights);
}

TEST_CASE("what has no scales of its own per row and group is left alone") {
  for (auto args : {int_args(8, Strategy::tensor), *preset_scheme("NVFP4A16")->weights}) {
    Sample sample = heavy_tails(args);
    const auto before = sample.weights;
    CHECK(awq_clip(sample.tasks[0], sample.inputs, enabled(), {1, nullptr}) == 0);
    CHECK(sample.weights == before);
  }
  Sample sample = heavy_tails(int_args(3, Strategy::group, 16));
  sample.tasks[0].quantized = false;
  CHECK(awq_clip(sample.tasks[0], sample.inputs, enabled(), {1, nullptr}) == 0);
}

TEST_CASE("the modifier limits readers but queries and keys") {
  const auto transform = make_awq({{"clip", true}});
  for (const std::string name : {"model.layers.0.self_attn.q_proj", "a.k_proj", "a.query", "a.key", "a.Wqkv"}) {
    Sample sample = heavy_tails(int_args(3, Strategy::group, 16));
    const auto before = sample.weights;
    sample.tasks[0].module = name;
    transform->adjust(sample.tasks, sample.inputs, {});
    CHECK(sample.weights == before);
  }
  Sample sample = heavy_tails(int_args(3, Strategy::group, 16));
  const auto before = sample.weights;
  make_awq({})->adjust(sample.tasks, sample.inputs, {});
  CHECK(sample.weights == before);
  sample.tasks[0].module = "model.layers.0.self_attn.v_proj";
  transform->adjust(sample.tasks, sample.inputs, {});
  CHECK(sample.weights != before);
  CHECK(sample.tasks[0].record.notes.at(0).find("groups clipped") != std::string::npos);
}

TEST_CASE("wrong usage") {
  Sample sample = heavy_tails(int_args(3, Strategy::group, 16));
  AwqClipOptions options = enabled();
  options.grid = 0;
  CHECK_THROWS_AS(awq_clip(sample.tasks[0], sample.inputs, options, {}), Error);
  options = enabled();
  options.max_shrink = 1;
  CHECK_THROWS_AS(awq_clip(sample.tasks[0], sample.inputs, options, {}), Error);
  sample.inputs.gram.clear();
  CHECK_THROWS_AS(awq_clip(sample.tasks[0], sample.inputs, enabled(), {}), Error);
}
