// Least squares through whole models: what the files hold against fits made here, and what it is good for.
#include "quant/forward.h"
#include "structured/least_squares.h"
#include "structured/pruned.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using namespace quant::structured;

namespace {

/// Mean squared difference of outputs over the calibration sequences.
double output_error(const Checkpoint& a, const Checkpoint& b, const Pruning& pruning) {
  const auto ids =
      read_sequences(pruning.resources.calibration.file, nullptr, pruning.resources.calibration.data).sequences;
  const auto x = reference_outputs(a, ids), y = reference_outputs(b, ids);
  double sum = 0, all = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]), all += x[i] * x[i];
  return sum / all;
}

}  // namespace

TEST_CASE("the first layer's projections are the least squares of their inputs") {
  // Block 0 sees the same inputs in both models, so its fit can be made here from the unpruned model's values.
  for (const char* name : {"llama", "llama_tied_biases", "phi3"}) {
    INFO(name);
    Pruning pruning(name);
    pruning.give_data();
    pruning.options.heads = {0.5};
    pruning.options.compensation = Compensation::least_squares;
    pruning.options.target = CompensationTarget::block;
    pruning.run();
    const Axes model(pruning.golden->checkpoint);
    const BlockAxes& block = model.axes.blocks.front();
    const AttentionAxis& axis = *block.attention;
    const LinearWeight& weight = std::get<LinearOp>(block.program->ops[axis.reader]).weights.front();
    const bool bias = !weight.bias.empty();
    const std::uint64_t n = weight.cols + (bias ? 1 : 0);
    GramAccumulator gram(n, ProductType::f32);
    const ModelWeights weights(model.tensors);
    for (const auto& ids :
         read_sequences(pruning.resources.calibration.file, nullptr, pruning.resources.calibration.data).sequences) {
      Batch batch;
      batch.lengths = {ids.size()};
      batch.ids = ids;
      Values embedded(model.program.embeddings), values(*block.program);
      ProgramRunner(model.program.embeddings, weights, {}).run(0, model.program.embeddings.ops.size(), batch, embedded);
      values.at(block.program->input) = embedded.at(model.program.embeddings.output);
      const ValueId keep[] = {axis.out};
      ProgramRunner(*block.program, weights, {}).run(0, block.program->ops.size(), batch, values, keep);
      std::vector<float> x;
      for (std::size_t t = 0; t < ids.size(); ++t) {
        const auto begin = values.at(axis.out).begin() + static_cast<std::ptrdiff_t>(t * weight.cols);
        x.insert(x.end(), begin, begin + static_cast<std::ptrdiff_t>(weight.cols));
        if (bias) x.push_back(1);
      }
      gram.add(x, {}, ids.size(), 1);
    }
    FitProblem problem;
    problem.rows = weight.rows;
    problem.cols = n;
    problem.bias = bias;
    problem.gram = gram.take_gram(1);
    problem.damping = 0.01;
    const auto flat = weights.read(weight, 1);
    const auto biases = bias ? weights.read(weight.bias, 1) : std::vector<float>();
    for (std::uint64_t r = 0; r < weight.rows; ++r) {
      for (std::uint64_t c = 0; c < weight.cols; ++c) problem.weight.push_back(flat[r * weight.cols + c]);
      if (bias) problem.weight.push_back(biases[r]);
    }
    const auto structure = nlohmann::json::parse(read_file(pruning.dir / "out" / "structure.json"));
    for (const auto& head : structure.at("layers").at(0).at("heads")) {
      for (std::uint64_t c = 0; c < axis.head_dim; ++c) {
        problem.kept.push_back(static_cast<std::uint32_t>(head.get<std::uint64_t>() * axis.head_dim + c));
      }
    }
    const Fit fit = fit_columns(problem, 1);
    const auto after = pruning.opened();
    const auto stored = stored_values<float>(*after, weight.tensor);
    REQUIRE(stored.size() == weight.rows * problem.kept.size());
    double worst = 0;
    for (std::uint64_t r = 0; r < weight.rows; ++r) {
      for (std::size_t k = 0; k < problem.kept.size(); ++k) {
        worst = std::max<double>(worst,
                                 std::abs(stored[r * problem.kept.size() + k] - fit.weight[r * n + problem.kept[k]]));
      }
      if (bias) {
        const auto own = stored_values<float>(*after, weight.bias);
        worst = std::max<double>(worst, std::abs(own[r] - fit.weight[r * n + weight.cols]));
      }
    }
    CHECK(worst < 1e-4);
  }
}

TEST_CASE("least squares lower the error of the outputs, in every family and on every axis") {
  struct Row {
    const char* name;
    bool heads, ffn, hidden, layers;
  };
  // The hidden cut alone leaves nothing that a block's own fit could see: there the model is the target.
  for (const Row& row : {Row{"llama", true, true, false, false}, Row{"llama", true, true, false, true},
                         Row{"llama_tied_biases", true, true, true, true}, Row{"qwen2", true, true, false, false},
                         Row{"phi3", true, true, false, true}, Row{"gpt_neox", false, true, false, false},
                         Row{"gpt2", false, true, false, true}, Row{"gemma2", true, true, false, false},
                         Row{"mixtral", true, true, false, false}, Row{"qwen2_moe_fused", true, true, false, false},
                         Row{"stablelm_parallel", false, true, false, false}}) {
    INFO(row.name << " " << row.heads << row.ffn << row.hidden << row.layers);
    Pruning pruning(row.name);
    pruning.give_data(40, 24);
    if (row.heads) pruning.options.heads = {0.5};
    if (row.ffn) pruning.options.ffn = {0.25};
    if (row.hidden) pruning.options.hidden = {0.125};
    if (row.layers) pruning.options.layers = {1};
    pruning.options.hidden_divisor = 4;
    pruning.run("plain");
    pruning.options.compensation = Compensation::least_squares;
    pruning.options.target = CompensationTarget::block;
    pruning.run("block");
    pruning.options.target = CompensationTarget::model;
    const RunReport report = pruning.run("model");
    const double plain = output_error(pruning.golden->checkpoint, *pruning.opened("plain"), pruning);
    const double block = output_error(pruning.golden->checkpoint, *pruning.opened("block"), pruning);
    const double model = output_error(pruning.golden->checkpoint, *pruning.opened("model"), pruning);
    INFO("errors " << plain << ", " << block << ", " << model);
    if (!row.hidden) CHECK(block < plain);
    CHECK(model < plain);
    REQUIRE(report.calibration);
    CHECK(report.calibration->blocks.size() == Axes(*pruning.opened("model")).axes.blocks.size());
    for (const BlockReport& one : report.calibration->blocks) CHECK(one.output);
  }
}

TEST_CASE("what is removed and contributes nothing is fitted to the same model") {
  Pruning pruning("qwen2");
  pruning.give_data();
  const Axes found(pruning.golden->checkpoint);
  for (const BlockAxes& block : found.axes.blocks) {
    for (std::uint64_t c = 0; c < 12; ++c) {
      kill_channel(pruning.golden->checkpoint, block, block.ffn.front().value, 3 * c);
    }
  }
  pruning.options.ffn = {0.25};
  pruning.options.compensation = Compensation::least_squares;
  for (const auto target : {CompensationTarget::block, CompensationTarget::model}) {
    pruning.options.target = target;
    const std::string name = target == CompensationTarget::block ? "block" : "model";
    pruning.run(name);
    CHECK(relative_error(reference_outputs(*pruning.opened(name), pruning.golden->ids),
                         reference_outputs(pruning.golden->checkpoint, pruning.golden->ids)) < 1e-3);
  }
}

TEST_CASE("the bias takes the mean of what is missing, where there is one or can be one") {
  for (const bool added : {false, true}) {
    INFO("added " << added);
    Pruning pruning(added ? "llama" : "llama_tied_biases");
    pruning.give_data();
    pruning.options.ffn = {0.25};
    pruning.options.importance = UnitImportance::flap;
    pruning.options.compensation = Compensation::bias;
    pruning.options.add_bias = added;
    pruning.run();
    const auto after = pruning.opened();
    const auto config = nlohmann::json::parse(after->config().text);
    CHECK(config.at("mlp_bias") == true);
    const auto structure = nlohmann::json::parse(read_file(pruning.dir / "out" / "structure.json"));
    const auto kept = structure.at("layers").at(0).at("ffn.intermediate_size").get<std::vector<std::size_t>>();
    // Means of what down_proj reads in the first layer, which sees the same inputs as before.
    const Axes model(pruning.golden->checkpoint);
    const BlockAxes& block = model.axes.blocks.front();
    const ModelWeights weights(model.tensors);
    std::vector<double> means(48);
    double tokens = 0;
    for (const auto& ids :
         read_sequences(pruning.resources.calibration.file, nullptr, pruning.resources.calibration.data).sequences) {
      Batch batch;
      batch.lengths = {ids.size()};
      batch.ids = ids;
      Values embedded(model.program.embeddings), values(*block.program);
      ProgramRunner(model.program.embeddings, weights, {}).run(0, model.program.embeddings.ops.size(), batch, embedded);
      values.at(block.program->input) = embedded.at(model.program.embeddings.output);
      const ValueId keep[] = {block.ffn.front().value};
      ProgramRunner(*block.program, weights, {}).run(0, block.program->ops.size(), batch, values, keep);
      const auto& x = values.at(block.ffn.front().value);
      for (std::size_t i = 0; i < x.size(); ++i) means[i % 48] += x[i];
      tokens += static_cast<double>(ids.size());
    }
    const auto down = stored_values<float>(pruning.golden->checkpoint, "model.layers.0.mlp.down_proj.weight");
    const auto bias = stored_values<float>(*after, "model.layers.0.mlp.down_proj.bias");
    std::vector<float> old(32, 0.0F);
    if (!added) old = stored_values<float>(pruning.golden->checkpoint, "model.layers.0.mlp.down_proj.bias");
    for (std::uint64_t r = 0; r < 32; ++r) {
      double expected = old[r];
      for (std::size_t c = 0; c < 48; ++c) {
        if (std::find(kept.begin(), kept.end(), c) == kept.end()) expected += down[r * 48 + c] * means[c] / tokens;
      }
      CHECK(bias[r] == Approx(expected).margin(1e-5));
    }
    if (!added) continue;
    // All linears that the key speaks of have one; those that are not fitted get zeros.
    for (const char* part : {"gate_proj", "up_proj"}) {
      const auto zeros = stored_values<float>(*after, std::string("model.layers.1.mlp.") + part + ".bias");
      CHECK(zeros == std::vector<float>(36, 0.0F));
    }
  }
}
