// Scores against their formulas, computed here in float64 from the weights and values by name.
#include "quant/forward.h"
#include "structured/pruned.h"
#include "structured/scores.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using namespace quant::structured;

namespace {

constexpr std::uint64_t kHidden = 32, kWidth = 48, kHeads = 4, kHeadDim = 8;

double squares_of(const std::vector<float>& weight, std::uint64_t cols, std::uint64_t row0, std::uint64_t rows,
                  std::uint64_t col0, std::uint64_t count) {
  double sum = 0;
  for (std::uint64_t r = row0; r < row0 + rows; ++r) {
    for (std::uint64_t c = col0; c < col0 + count; ++c) sum += std::pow(static_cast<double>(weight[r * cols + c]), 2);
  }
  return sum;
}

std::vector<float> weight(const GoldenModel& golden, const std::string& name) {
  return stored_values<float>(golden.checkpoint, name + ".weight");
}

/// Whether kept are the units with the highest scores.
bool are_best(const std::vector<double>& scores, const std::vector<std::size_t>& kept) {
  double lowest_kept = HUGE_VAL, highest_removed = -HUGE_VAL;
  for (std::size_t u = 0; u < scores.size(); ++u) {
    const bool is_kept = std::find(kept.begin(), kept.end(), u) != kept.end();
    if (is_kept) lowest_kept = std::min(lowest_kept, scores[u]);
    if (!is_kept) highest_removed = std::max(highest_removed, scores[u]);
  }
  return lowest_kept >= highest_removed;
}

nlohmann::json structure_of(const Pruning& pruning) {
  return nlohmann::json::parse(read_file(pruning.dir / "out" / "structure.json"));
}

/// The values of one block for each calibration sequence alone, by name.
using SequenceValues = std::vector<std::map<std::string, std::vector<float>>>;
SequenceValues values_of_block(const Pruning& pruning, std::size_t block, const std::vector<std::string>& names) {
  const Axes model(pruning.golden->checkpoint);
  const ModelWeights weights(model.tensors);
  SequenceValues result;
  const StructuredPlan plan = pruning.plan();
  CalibrationOptions reading = pruning.resources.calibration.data;
  for (const auto& ids : read_sequences(pruning.resources.calibration.file, nullptr, reading).sequences) {
    Batch batch;
    batch.lengths = {ids.size()};
    batch.ids = ids;
    std::vector<float> x;
    for (std::size_t p = 0; p <= block + 1; ++p) {
      const Program& program = p == 0 ? model.program.embeddings : model.program.blocks[p - 1];
      ProgramRunner runner(program, weights, {});
      Values values(program);
      if (program.input >= 0) values.at(program.input) = x;
      std::vector<ValueId> keep;
      for (ValueId v = 0; v < static_cast<ValueId>(program.values.size()); ++v) keep.push_back(v);
      runner.run(0, program.ops.size(), batch, values, keep);
      if (p == block + 1) {
        result.emplace_back();
        for (ValueId v : keep) {
          const std::string& name = program.values[static_cast<std::size_t>(v)].name;
          if (std::find(names.begin(), names.end(), name) != names.end()) result.back()[name] = values.at(v);
        }
        result.back()["residual"] = x;
      }
      x = values.at(program.output);
    }
  }
  return result;
}

}  // namespace

TEST_CASE("magnitude is the norm of all weights of a unit") {
  Pruning pruning("llama");
  pruning.options.ffn = {0.25};
  pruning.options.heads = {0.5};
  pruning.options.layers = {1};
  pruning.run();
  const auto structure = structure_of(pruning);
  std::vector<double> layers;
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const auto q = weight(*pruning.golden, prefix + "self_attn.q_proj");
    const auto o = weight(*pruning.golden, prefix + "self_attn.o_proj");
    const auto up = weight(*pruning.golden, prefix + "mlp.up_proj"),
               gate = weight(*pruning.golden, prefix + "mlp.gate_proj");
    const auto down = weight(*pruning.golden, prefix + "mlp.down_proj");
    layers.push_back(
        std::sqrt(squares_of(o, kHidden, 0, kHidden, 0, kHidden) + squares_of(down, kWidth, 0, kHidden, 0, kWidth)));
    const auto& entry = structure.at("layers").at(layer);
    CHECK(entry.at("score").get<double>() == Approx(layers.back()));
    if (entry.at("becomes").is_null()) continue;
    std::vector<double> channels;
    for (std::uint64_t c = 0; c < kWidth; ++c) {
      channels.push_back(squares_of(up, kHidden, c, 1, 0, kHidden) + squares_of(gate, kHidden, c, 1, 0, kHidden) +
                         squares_of(down, kWidth, 0, kHidden, c, 1));
    }
    const auto kept = entry.at("ffn.intermediate_size").get<std::vector<std::size_t>>();
    CHECK(kept.size() == 36);
    CHECK(are_best(channels, kept));
    const auto heads = entry.at("heads").get<std::vector<std::size_t>>();
    REQUIRE(heads.size() == 2);
    for (std::uint64_t h = 0; h < kHeads; ++h) {
      const double score = std::sqrt(squares_of(q, kHidden, h * kHeadDim, kHeadDim, 0, kHidden) +
                                     squares_of(o, kHidden, 0, kHidden, h * kHeadDim, kHeadDim));
      CHECK(entry.at("head_scores").at(h).get<double>() == Approx(score));
    }
    // One of each group of two.
    CHECK(heads[0] / 2 == 0);
    CHECK(heads[1] / 2 == 1);
  }
  CHECK(structure.at("layers").at(layers[0] < layers[1] ? 0 : 1).at("becomes").is_null());
}

TEST_CASE("activation follows Minitron, flap the variance, and layers the cosine") {
  for (const bool flap : {false, true}) {
    INFO("flap " << flap);
    Pruning pruning("llama");
    pruning.give_data();
    pruning.options.importance = flap ? UnitImportance::flap : UnitImportance::activation;
    pruning.options.ffn = {0.25};
    pruning.options.heads = {0.5};
    pruning.options.layers = {1};
    pruning.run();
    const auto structure = structure_of(pruning);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const auto sequences = values_of_block(pruning, layer, {"mlp_mid", "attention", "mlp_sum"});
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      const auto down = weight(*pruning.golden, prefix + "mlp.down_proj");
      const auto o = weight(*pruning.golden, prefix + "self_attn.o_proj");
      const auto score = [&](const std::string& value, std::uint64_t width, std::uint64_t c,
                             const std::vector<float>& reader) {
        double total = 0, sum = 0, squares = 0, rows = 0;
        for (const auto& values : sequences) {
          const auto& x = values.at(value);
          double mean = 0;
          for (std::size_t r = 0; r < x.size() / width; ++r) {
            const double one = x[r * width + c];
            mean += std::abs(one) / (static_cast<double>(x.size()) / static_cast<double>(width));
            sum += one, squares += one * one, rows += 1;
          }
          total += mean * mean;
        }
        if (!flap) return std::sqrt(total);
        return (squares / rows - sum / rows * sum / rows) * squares_of(reader, width, 0, kHidden, c, 1);
      };
      double distance = 0, tokens = 0;
      for (const auto& values : sequences) {
        const auto &in = values.at("residual"), &out = values.at("mlp_sum");
        for (std::size_t t = 0; t < in.size() / kHidden; ++t) {
          double dot = 0, a = 0, b = 0;
          for (std::size_t c = t * kHidden; c < (t + 1) * kHidden; ++c) {
            dot += static_cast<double>(in[c]) * out[c], a += static_cast<double>(in[c]) * in[c],
                b += static_cast<double>(out[c]) * out[c];
          }
          distance += 1 - dot / std::sqrt(a * b), tokens += 1;
        }
      }
      const auto& entry = structure.at("layers").at(layer);
      CHECK(entry.at("score").get<double>() == Approx(distance / tokens).epsilon(1e-5));
      if (entry.at("becomes").is_null()) continue;
      std::vector<double> channels;
      for (std::uint64_t c = 0; c < kWidth; ++c) channels.push_back(score("mlp_mid", kWidth, c, down));
      CHECK(are_best(channels, entry.at("ffn.intermediate_size").get<std::vector<std::size_t>>()));
      for (std::uint64_t h = 0; h < kHeads; ++h) {
        double expected = 0;
        for (std::uint64_t c = h * kHeadDim; flap && c < (h + 1) * kHeadDim; ++c) {
          expected += score("attention", kHidden, c, o);
        }
        for (const auto& values : flap ? SequenceValues() : sequences) {
          const auto& x = values.at("attention");
          double mean = 0;
          for (std::size_t t = 0; t < x.size() / kHidden; ++t) {
            mean += std::sqrt(squares_of(x, kHidden, t, 1, h * kHeadDim, kHeadDim)) /
                    (static_cast<double>(x.size()) / kHidden);
          }
          expected += mean * mean;
        }
        if (!flap) expected = std::sqrt(expected);
        CHECK(entry.at("head_scores").at(h).get<double>() == Approx(expected).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("experts are ranked by gate times norm of their outputs") {
  for (const auto importance : {ExpertImportance::router, ExpertImportance::norm}) {
    Pruning pruning("mixtral");
    pruning.give_data();
    pruning.options.experts = {1};
    pruning.options.expert_importance = importance;
    pruning.run();
    const auto structure = structure_of(pruning);
    const Axes model(pruning.golden->checkpoint);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const ExpertAxis& axis = *model.axes.blocks[layer].experts;
      std::vector<double> sums(axis.count), counts(axis.count);
      for (const auto& values : values_of_block(pruning, layer, {"routing", "expert_out"})) {
        const auto &routing = values.at("routing"), &out = values.at("expert_out");
        const std::size_t tokens = routing.size() / (2 * axis.top_k);
        std::size_t row = 0;
        for (std::size_t e = 0; e < axis.count; ++e) {
          for (std::size_t t = 0; t < tokens; ++t) {
            for (std::size_t k = 0; k < axis.top_k; ++k) {
              const float* at = routing.data() + t * 2 * axis.top_k;
              if (static_cast<std::size_t>(at[k]) != e) continue;
              const double norm = std::sqrt(squares_of(out, kHidden, row++, 1, 0, kHidden));
              sums[e] += importance == ExpertImportance::router ? norm * at[axis.top_k + k] : norm;
              counts[e] += 1;
            }
          }
        }
      }
      std::vector<double> scores;
      for (std::size_t e = 0; e < axis.count; ++e) scores.push_back(counts[e] > 0 ? sums[e] / counts[e] : 0);
      const auto& entry = structure.at("layers").at(layer);
      for (std::size_t e = 0; e < axis.count; ++e) {
        CHECK(entry.at("expert_scores").at(e).get<double>() == Approx(scores[e]).epsilon(1e-5));
      }
      CHECK(are_best(scores, entry.at("experts").get<std::vector<std::size_t>>()));
    }
    // Routers lost the same rows, experts were renumbered.
    const auto after = pruning.opened();
    for (int layer = 0; layer < 2; ++layer) {
      const auto kept = structure.at("layers").at(layer).at("experts").get<std::vector<std::size_t>>();
      const std::string prefix = "model.layers." + std::to_string(layer) + ".block_sparse_moe.";
      const auto router = stored_values<float>(*after, prefix + "gate.weight");
      const auto old = weight(*pruning.golden, prefix + "gate");
      for (std::size_t place = 0; place < kept.size(); ++place) {
        CHECK(std::equal(router.begin() + static_cast<std::ptrdiff_t>(place * kHidden),
                         router.begin() + static_cast<std::ptrdiff_t>((place + 1) * kHidden),
                         old.begin() + static_cast<std::ptrdiff_t>(kept[place] * kHidden)));
        for (const char* part : {"w1", "w2", "w3"}) {
          CHECK(stored_values<float>(*after, prefix + "experts." + std::to_string(place) + "." + part + ".weight") ==
                weight(*pruning.golden, prefix + "experts." + std::to_string(kept[place]) + "." + part));
        }
      }
      CHECK(after->find(prefix + "experts." + std::to_string(kept.size()) + ".w1.weight") == nullptr);
    }
    const auto logits = reference_outputs(*after, pruning.golden->ids);
    CHECK(std::isfinite(logits.back()));
  }
}

TEST_CASE("hidden channels are ranked by all that reads and writes them") {
  Pruning pruning("llama");
  pruning.options.hidden = {0.25};
  pruning.options.hidden_divisor = 1;
  pruning.run();
  const auto kept = structure_of(pruning).at("hidden").get<std::vector<std::size_t>>();
  std::vector<double> scores(kHidden);
  for (const TensorInfo& info : pruning.golden->checkpoint.tensors()) {
    if (info.shape.size() != 2) continue;
    const auto values = stored_values<float>(pruning.golden->checkpoint, info.name);
    const bool writes =
        info.name.find("o_proj") != std::string::npos || info.name.find("down_proj") != std::string::npos;
    for (std::uint64_t c = 0; c < kHidden; ++c) {
      scores[c] += writes ? squares_of(values, info.shape[1], c, 1, 0, info.shape[1])
                          : squares_of(values, kHidden, 0, info.shape[0], c, 1);
    }
  }
  CHECK(kept.size() == 24);
  CHECK(are_best(scores, kept));
}

TEST_CASE("the best units are the highest, the first among equals") {
  CHECK(best_units({1, 3, 2, 3}, 2) == Units{1, 3});
  CHECK(best_units({2, 2, 2}, 2) == Units{0, 1});
  CHECK(best_units({1, 2}, 5) == Units{0, 1});
}
