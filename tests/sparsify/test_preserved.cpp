// Zeros that a model has already: they stay, and count towards what is asked for, wherever they lie.
#include <algorithm>
#include <random>

#include "quant/registry.h"
#include "quant/sparsify.h"
#include "support/catch.h"

using namespace quant;

TEST_CASE("zeros that lie in a few columns count for the whole matrix") {
  Registry registry;
  register_builtin_algorithms(registry);
  constexpr std::uint64_t kRows = 24, kCols = 384;
  std::minstd_rand random(3);
  std::normal_distribution<float> normal;
  InputStatistics inputs;
  inputs.tokens = 512;
  inputs.cols = kCols;
  inputs.gram.assign(kCols * kCols, 0.0F);
  for (std::uint64_t c = 0; c < kCols; ++c) inputs.gram[c * kCols + c] = 1 + normal(random) * normal(random);
  for (std::uint64_t c = 0; c < kCols; ++c) inputs.square.push_back(inputs.gram[c * kCols + c]);
  // More than the share of the first block of 128 columns, or of the last: the others make up for it.
  for (const std::uint64_t empty : {std::uint64_t{0}, kCols - 128}) {
    for (const char* name : {"magnitude", "sparsegpt"}) {
      INFO(name << " " << empty);
      std::vector<float> weight(kRows * kCols);
      for (std::uint64_t i = 0; i < weight.size(); ++i) {
        weight[i] = i % kCols >= empty && i % kCols < empty + 128 ? 0.0F : 1 + normal(random) / 4;
      }
      std::vector<std::uint8_t> mask(weight.size(), 1);
      const auto algorithm = registry.algorithm(name)->create({{"preserve_sparsity_mask", true}});
      PruneTask task;
      task.rows = kRows;
      task.cols = kCols;
      task.weight = weight;
      task.mask = mask;
      task.pattern.sparsity = 0.5;
      dynamic_cast<const Sparsifier&>(*algorithm).prune(std::span(&task, 1), inputs, {1, nullptr});
      const auto zeros = static_cast<std::uint64_t>(std::count(mask.begin(), mask.end(), 0));
      // What lies in the last block is not known before: there only what was asked for besides can be avoided.
      const bool late = std::string(name) == "sparsegpt" && empty > 0;
      CHECK(zeros == weight.size() / (late ? 3 : 2) + (late ? weight.size() / 3 : 0));
      for (std::uint64_t i = 0; i < mask.size(); ++i) CHECK((mask[i] != 0 || weight[i] == 0));
    }
  }
}
