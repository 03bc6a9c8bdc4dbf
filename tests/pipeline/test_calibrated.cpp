// Laws of calibrated runs, with algorithms that only look.
#include <cmath>

#include "calibrated_fixture.h"
#include "evaluate/run_schemes.h"
#include "naive_statistics.h"
#include "quant/error.h"
#include "quant/forward.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

std::map<std::string, std::string> bytes_of(const CalibratedModel& model, const std::string& name) {
  return model_files(model.dir / name);
}

/// Probes with 8-bit weights and inputs of these arguments.
std::string static_inputs(const std::string& arguments) {
  return "    ProbeAllModifier:\n      ignore: [lm_head]\n      config_groups:\n        a:\n"
         "          targets: [Linear]\n"
         "          weights: {num_bits: 8, symmetric: true, strategy: channel}\n"
         "          input_activations: {" +
         arguments + "}\n";
}

float number_in(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* tensor = checkpoint.find(name);
  REQUIRE(tensor != nullptr);
  REQUIRE(element_count(tensor->shape) == 1);
  float value = 0;
  read_f32(checkpoint.view(*tensor), 0, std::span(&value, 1));
  return value;
}

}  // namespace

TEST_CASE("every linear is coded with the inputs that it has in the finished model") {
  CalibratedModel model;
  Seen::instance() = {};
  const RunReport report = model.run(probe("ProbeAll"), "out");
  const Seen seen = Seen::instance();
  REQUIRE(report.layers.size() == 14);
  REQUIRE(seen.order.size() == 14);

  // 3 bits change everything behind a linear: the float model's statistics would be far off.
  const auto naive = naive_statistics(model.dir / "out", model.dir / "ids.npy");
  REQUIRE(naive.size() == 14);
  for (const auto& [module, expected] : naive) {
    INFO(module);
    const InputStatistics& inputs = seen.inputs.at(module);
    CHECK(inputs.tokens == 12 * 16);
    REQUIRE(inputs.tokens == expected.tokens);
    const double tokens = static_cast<double>(inputs.tokens);
    check_near(inputs.gram, expected.gram, tokens, 2e-5);
    check_near(inputs.absmax, expected.absmax, 1, 1e-5);
    check_near(inputs.minimum, expected.minimum, 1, 1e-5);
    check_near(inputs.maximum, expected.maximum, 1, 1e-5);
    check_near(inputs.mean_abs, expected.sum_abs, tokens, 1e-5);
    CHECK(inputs.rows.size() == inputs.tokens * inputs.cols);  // fewer than kSampleRows: all of them
    CHECK(inputs.cross_gram.empty());
  }
  const auto float_model = naive_statistics(model.dir / "model", model.dir / "ids.npy");
  const auto& last = "model.layers.1.mlp.down_proj";
  double distance = 0;
  for (std::size_t i = 0; i < naive.at(last).gram.size(); ++i) {
    distance = std::max(distance, std::fabs(naive.at(last).gram[i] - float_model.at(last).gram[i]));
  }
  CHECK(distance > 0.01 * naive.at(last).gram[0]);
}

TEST_CASE("the report says what the outputs of each linear lost") {
  CalibratedModel model;
  Seen::instance() = {};
  const RunReport report = model.run(probe("ProbeAll"), "out");
  const auto original = open_checkpoint(model.dir / "model");
  const auto output = open_checkpoint(model.dir / "out");
  const LogicalTensors before(*original, builtin_registry());
  const LogicalTensors after(*output, builtin_registry());
  REQUIRE(report.calibration);
  CHECK(report.calibration->tokens == 12 * 16);
  CHECK(report.calibration->sequences == 12);
  CHECK(report.calibration->hash.size() == 32);
  CHECK(report.calibration->blocks.size() == 2);
  for (const LayerReport& layer : report.layers) {
    INFO(layer.module);
    REQUIRE(layer.calibration);
    REQUIRE(layer.calibration->output);
    CHECK(layer.calibration->tokens == 12 * 16);
    const std::vector<float>& gram = Seen::instance().inputs.at(layer.module).gram;
    const std::uint64_t rows = layer.shape[0];
    const std::uint64_t cols = layer.shape[1];
    std::vector<float> w(rows * cols);
    std::vector<float> v(rows * cols);
    before.read_rows(*before.find(layer.module + ".weight"), 0, rows, w);
    after.read_rows(*after.find(layer.module + ".weight"), 0, rows, v);
    double signal = 0;
    double noise = 0;
    for (std::uint64_t r = 0; r < rows; ++r) {
      for (std::uint64_t a = 0; a < cols; ++a) {
        for (std::uint64_t b = 0; b < cols; ++b) {
          const double h = gram[a * cols + b];
          const double wa = w[r * cols + a];
          const double wb = w[r * cols + b];
          signal += wa * h * wb;
          noise += (wa - v[r * cols + a]) * h * (wb - v[r * cols + b]);
        }
      }
    }
    CHECK(std::fabs(layer.calibration->output->signal / signal - 1) < 1e-4);
    CHECK(std::fabs(layer.calibration->output->noise / noise - 1) < 1e-3);
    CHECK(summarize(*layer.calibration->output).nmse > 0.001);
  }
}

TEST_CASE("the bytes do not depend on threads, or on where activations are kept") {
  CalibratedModel model;
  model.run(probe("ProbeCross"), "one");
  const auto expected = bytes_of(model, "one");
  REQUIRE(expected.size() >= 3);
  for (const int threads : {1, 3}) {
    model.options.threads = threads;
    model.run(probe("ProbeCross"), "threads" + std::to_string(threads));
    CHECK(bytes_of(model, "threads" + std::to_string(threads)) == expected);
  }
  // Room for a part of one chunk's activations, and for none.
  for (const std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{20000}}) {
    model.options.calibration.activation_bytes = bytes;
    const std::string name = "spill" + std::to_string(bytes);
    model.run(probe("ProbeCross"), name);
    CHECK(bytes_of(model, name) == expected);
  }
}

TEST_CASE("the residual stream's difference is measured where linears add to it") {
  CalibratedModel model;
  Seen::instance() = {};
  model.run(probe("ProbeResidual"), "out");
  const Seen seen = Seen::instance();
  CHECK(model.plan(probe("ProbeResidual")).calibration->second_stream);
  for (const auto& [module, inputs] : seen.inputs) {
    const bool adds = module.ends_with("o_proj") || module.ends_with("down_proj");
    INFO(module);
    CHECK(inputs.residual.empty() != adds);
    CHECK(inputs.cross_gram.empty());
  }
  // Nothing is quantized before the first one's residual stream.
  for (const float value : seen.inputs.at("model.layers.0.self_attn.o_proj").residual) CHECK(value == 0.0F);
  for (const std::string module :
       {"model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"}) {
    const auto output = open_checkpoint(model.dir / "out");
    const auto expected = naive_residual(*output, *model.checkpoint, model.dir / "ids.npy", module);
    check_near(seen.inputs.at(module).residual, expected, 12 * 16, 1e-4);
  }
}

TEST_CASE("the second stream is the unquantized model") {
  CalibratedModel model;
  Seen::instance() = {};
  const RunReport report = model.run(probe("ProbeCross"), "out");
  const auto quantized = naive_statistics(model.dir / "out", model.dir / "ids.npy");
  const Seen seen = Seen::instance();
  // Inputs of the very first linears are the same in both models.
  const InputStatistics& first = seen.inputs.at("model.layers.0.self_attn.q_proj");
  REQUIRE(first.cross_gram.size() == first.gram.size());
  for (const float value : first.cross_gram) CHECK(value == 0.0F);
  const InputStatistics& last = seen.inputs.at("model.layers.1.mlp.down_proj");
  double largest = 0;
  for (const float value : last.cross_gram) largest = std::max(largest, std::fabs(static_cast<double>(value)));
  CHECK(largest > 1e-3);
  check_near(last.gram, quantized.at("model.layers.1.mlp.down_proj").gram, 12 * 16, 2e-5);
  REQUIRE(report.calibration);
  for (const BlockReport& block : report.calibration->blocks) {
    REQUIRE(block.output);
    CHECK(summarize(*block.output).nmse > 0.0);
    CHECK(summarize(*block.output).nmse < 1.0);
  }
}

TEST_CASE("linears share statistics of one input, with the needs of all that read it") {
  CalibratedModel model;
  Seen::instance() = {};
  // q alone learns from Gram matrices, k and v from ranges: one input, one set of statistics.
  const std::string recipe =
      "    ProbeAllModifier:\n      config_groups:\n        a:\n          targets: ['re:.*q_proj']\n"
      "          weights: {num_bits: 4, symmetric: true, strategy: channel}\n"
      "    ProbeRangeModifier:\n      config_groups:\n        b:\n          targets: ['re:.*k_proj']\n"
      "          weights: {num_bits: 4, symmetric: true, strategy: channel}\n";
  model.run(recipe, "out");
  const InputStatistics& range = Seen::instance().inputs.at("model.layers.1.self_attn.k_proj");
  CHECK(!range.gram.empty());
  CHECK(!range.absmax.empty());
  CHECK(range.gram == Seen::instance().inputs.at("model.layers.1.self_attn.q_proj").gram);
}

TEST_CASE("rescaled channels leave the model's function as it was") {
  for (const DType dtype : {DType::F32, DType::F16}) {
    TinyLlama sizes;
    sizes.dtype = dtype;
    CalibratedModel model(sizes);
    Seen::instance() = {};
    // 8-bit weights per channel are fine enough to see the function; every site of a Llama block is rescaled.
    const RunReport report = model.run("    ProbeTransformModifier: {}\n" + probe("ProbeAll", 8), "smooth");
    REQUIRE(report.calibration);
    CHECK(report.calibration->blocks.front().notes.size() == 4);
    model.run(probe("ProbeAll", 8), "plain");
    const auto smooth = naive_statistics(model.dir / "smooth", model.dir / "ids.npy");
    const auto plain = naive_statistics(model.dir / "plain", model.dir / "ids.npy");
    // The norm's output is divided by the factors, channel by channel.
    const auto& a = smooth.at("model.layers.1.mlp.gate_proj").sum_abs;
    const auto& b = plain.at("model.layers.1.mlp.gate_proj").sum_abs;
    for (std::size_t c = 0; c < a.size(); ++c) {
      const double factor = 0.5 + 0.37 * static_cast<double>(c % 5);
      CHECK(std::fabs(a[c] * factor / b[c] - 1) < 0.05);
    }
    const auto norm_before = read_file(model.dir / "plain" / "model.safetensors");
    CHECK(norm_before != read_file(model.dir / "smooth" / "model.safetensors"));
  }
}

TEST_CASE("plain linears of a calibrated recipe are those of a data-free one") {
  CalibratedModel model;
  const std::string plain =
      "    QuantizationModifier:\n      config_groups:\n        a:\n          targets: ['re:.*(gate|up)_proj']\n"
      "          weights: {num_bits: 4, symmetric: true, strategy: channel}\n";
  const std::string probed =
      "    ProbeAllModifier:\n      config_groups:\n        b:\n          targets: ['re:.*down_proj']\n"
      "          weights: {num_bits: 4, symmetric: true, strategy: channel}\n";
  model.run(plain, "free");
  model.run(plain + probed, "both");
  const auto one = open_checkpoint(model.dir / "free");
  const auto two = open_checkpoint(model.dir / "both");
  for (const TensorInfo& tensor : one->tensors()) {
    if (tensor.name.find("gate_proj") == std::string::npos) continue;
    INFO(tensor.name);
    const TensorInfo* other = two->find(tensor.name);
    REQUIRE(other != nullptr);
    const auto a = one->view(tensor).bytes;
    const auto b = two->view(*other).bytes;
    CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  }
}

TEST_CASE("static scales of inputs come from their range") {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    TinyLlama sizes;
    sizes.dtype = dtype;
    CalibratedModel model(sizes);
    for (const bool symmetric : {true, false}) {
      INFO(dtype_name(dtype) << (symmetric ? " symmetric" : " asymmetric"));
      Seen::instance() = {};
      const std::string name = symmetric ? "symmetric" : "asymmetric";
      model.run(static_inputs(std::string("num_bits: 8, strategy: tensor, dynamic: false, symmetric: ") +
                              (symmetric ? "true" : "false")),
                name);
      const auto output = open_checkpoint(model.dir / name);
      REQUIRE(Seen::instance().inputs.size() == 14);
      bool shifted = false;
      for (const auto& [module, inputs] : Seen::instance().inputs) {
        INFO(module);
        const double least = *std::min_element(inputs.minimum.begin(), inputs.minimum.end());
        const double most = *std::max_element(inputs.maximum.begin(), inputs.maximum.end());
        // compressed-tensors: symmetric scales are absmax / 127.5, others (max - min) / 255, in the weight's type.
        const double exact = symmetric ? std::max(-least, most) / 127.5 : (most - least) / 255;
        const float scale = number_in(*output, module + ".input_scale");
        CHECK(output->find(module + ".input_scale")->dtype == dtype);
        // Half a unit in the last place, of the type and of the float32 arithmetic before it.
        CHECK(std::fabs(scale / exact - 1) <= dtype_epsilon(dtype) / 2 + 1.2e-7);
        CHECK((output->find(module + ".input_zero_point") != nullptr) == !symmetric);
        if (symmetric) continue;
        const double zero = std::clamp(std::nearbyint(-128 - least / static_cast<double>(scale)), -128.0, 127.0);
        CHECK(number_in(*output, module + ".input_zero_point") == zero);
        shifted = shifted || zero != 0;
      }
      CHECK((symmetric || shifted));
    }
  }
}

TEST_CASE("NVFP4 inputs get the global scale of their largest magnitude") {
  CalibratedModel model;
  Seen::instance() = {};
  model.run(static_inputs("num_bits: 4, type: float, symmetric: true, strategy: tensor_group, group_size: 16, "
                          "dynamic: local, scale_dtype: torch.float8_e4m3fn"),
            "out");
  const auto output = open_checkpoint(model.dir / "out");
  for (const auto& [module, inputs] : Seen::instance().inputs) {
    INFO(module);
    const double absmax = *std::max_element(inputs.absmax.begin(), inputs.absmax.end());
    CHECK(std::fabs(number_in(*output, module + ".input_global_scale") / (448.0 * 6.0 / absmax) - 1) < 1e-6);
  }
}

TEST_CASE("calibration runs inputs as the finished checkpoint will") {
  for (const char* inputs : {"num_bits: 8, symmetric: false, strategy: tensor, dynamic: false",
                             "num_bits: 8, symmetric: true, strategy: tensor, dynamic: false",
                             "num_bits: 8, type: float, symmetric: true, strategy: tensor, dynamic: false",
                             "num_bits: 8, symmetric: true, strategy: tensor, dynamic: false, "
                             "observer_kwargs: {absmax: 3.3}",
                             "num_bits: 4, type: float, symmetric: true, strategy: tensor_group, group_size: 16, "
                             "dynamic: local, scale_dtype: torch.float8_e4m3fn",
                             "num_bits: 4, symmetric: true, strategy: token, dynamic: true"}) {
    INFO(inputs);
    CalibratedModel model;
    Seen::instance() = {};
    model.run(static_inputs(inputs), "out");
    const auto output = open_checkpoint(model.dir / "out");
    const LogicalTensors tensors(*output, builtin_registry());
    const auto stored = evaluate::input_quantizers(tensors);
    CHECK(stored.size() == 14);
    const auto expected = naive_statistics(model.dir / "out", model.dir / "ids.npy", stored);
    const auto with_floats = naive_statistics(model.dir / "out", model.dir / "ids.npy");
    double distance = 0;
    for (const auto& [module, seen] : Seen::instance().inputs) {
      INFO(module);
      check_near(seen.gram, expected.at(module).gram, 12 * 16, 1e-5);
      for (std::size_t i = 0; i < seen.gram.size(); ++i) {
        distance = std::max(distance, std::fabs(expected.at(module).gram[i] - with_floats.at(module).gram[i]));
      }
    }
    CHECK(distance > 0.05);
  }
}

TEST_CASE("embeddings have no inputs to scale") {
  CalibratedModel model;
  const Plan plan = model.plan(
      "    QuantizationModifier:\n      config_groups:\n        a:\n          targets: [Embedding]\n"
      "          weights: {num_bits: 8, symmetric: true, strategy: channel}\n"
      "          input_activations: {num_bits: 8, symmetric: true, strategy: tensor, dynamic: false}\n");
  REQUIRE(plan.problems.size() == 1);
  CHECK(plan.problems[0].find("model.embed_tokens: an embedding has no inputs") == 0);
}

TEST_CASE("a stopped run goes on to the same bytes") {
  CalibratedModel model;
  const std::string recipe = "    ProbeTransformModifier: {}\n" + probe("ProbeCross");
  model.run(recipe, "whole");
  const auto expected = bytes_of(model, "whole");
  for (const std::size_t limit : {1U, 2U, 7U, 12U, 20U, 33U}) {
    const Plan plan = model.plan(recipe);
    const auto output = model.dir / ("out" + std::to_string(limit));
    std::size_t stops = 0;
    while (!std::filesystem::exists(output)) {
      std::atomic<bool> stop{false};
      RunOptions options;
      options.output = output;
      options.resume = true;
      options.stop = &stop;
      double first = -1;
      options.progress = [&](const RunProgress& progress) {
        if (first < 0) first = static_cast<double>(progress.tensors_done);
        if (stops < 3 && static_cast<double>(progress.tensors_done) - first >= static_cast<double>(limit)) stop = true;
      };
      try {
        run_plan(plan, options);
      } catch (const Error& error) {
        REQUIRE(error.code() == ErrorCode::interrupted);
        ++stops;
        REQUIRE(stops < 100);
      }
    }
    CHECK(model_files(output) == expected);
  }
}

TEST_CASE("a run that resumes keeps the blocks that were finished") {
  CalibratedModel model;
  const std::string recipe = probe("ProbeAll");
  model.run(recipe, "whole");
  const Plan plan = model.plan(recipe);
  RunOptions options;
  options.output = model.dir / "out";
  std::atomic<bool> stop{false};
  options.stop = &stop;
  // Probes are called in order: stop within the second block.
  Seen::instance() = {};
  options.progress = [&](const RunProgress&) {
    if (Seen::instance().order.size() >= 9) stop = true;
  };
  try {
    run_plan(plan, options);
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::interrupted);
  }
  if (std::filesystem::exists(options.output)) return;  // progress came too late to stop anything
  Seen::instance() = {};
  stop = false;
  options.progress = {};
  options.resume = true;
  const RunReport report = run_plan(plan, options);
  for (const std::string& module : Seen::instance().order) CHECK(module.find("layers.1.") != std::string::npos);
  REQUIRE(report.layers.size() == 14);
  for (const LayerReport& layer : report.layers) CHECK(layer.calibration);
  CHECK(report.calibration->blocks.size() == 2);
  CHECK(bytes_of(model, "out") == bytes_of(model, "whole"));
}

TEST_CASE("all weights that are not finite are named before anything runs") {
  CalibratedModel model;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<std::string, std::uint64_t>> places{{"model.layers.1.mlp.down_proj.weight", 48 * 5 + 7},
                                                                  {"model.layers.1.post_attention_layernorm.weight", 3},
                                                                  {"model.embed_tokens.weight", 32 * 49 + 31}};
  const auto poke = [&](const std::string& name, std::uint64_t index, float value) {
    std::fstream file(model.dir / "model" / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
    const std::uint16_t half = f32_to_f16(value);
    file.seekp(static_cast<std::streamoff>(model.checkpoint->find(name)->offset + 2 * index));
    file.write(reinterpret_cast<const char*>(&half), 2);
  };
  const auto error_of = [&](const std::string& recipe) {
    Seen::instance() = {};
    try {
      model.run(recipe, "out");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::numerical);
      CHECK(error.hint().find("repair the checkpoint") == 0);
      CHECK(Seen::instance().order.empty());
      std::filesystem::remove_all(model.dir / "out.partial");
      return std::string(error.what());
    }
    return std::string();
  };
  for (const auto& [name, index] : places) poke(name, index, nan);
  poke(places[0].first, 48 * 31 + 47, HUGE_VALF);
  model.checkpoint = open_checkpoint(model.dir / "model");
  // The bad linear is ignored in the second recipe: the forward pass reads it all the same.
  for (const std::string& recipe :
       {probe("ProbeAll"),
        std::string("    ProbeAllModifier:\n      config_groups:\n        a:\n          targets: ['re:.*q_proj']\n"
                    "          weights: {num_bits: 8, symmetric: true, strategy: channel}\n")}) {
    const std::string text = error_of(recipe);
    INFO(text);
    CHECK(text.find("down_proj.weight in ") != std::string::npos);
    CHECK(text.find("has 2 values that are NaN or infinite (first at row 5, column 7: nan)") != std::string::npos);
    CHECK(text.find("has 1 value that is NaN or infinite (first at element 3: nan)") != std::string::npos);
    CHECK(text.find("(first at row 49, column 31: nan)") != std::string::npos);
    CHECK(std::count(text.begin(), text.end(), '\n') == 2);
  }
  for (const TensorInfo& tensor : model.checkpoint->tensors()) poke(tensor.name, 0, HUGE_VALF);
  const std::string text = error_of(probe("ProbeAll"));
  CHECK(text.find("and 11 more tensors") != std::string::npos);  // 19 of 21: the head is not run
}

TEST_CASE("weights that only a copy holds may be what they are") {
  CalibratedModel model;
  {
    std::fstream file(model.dir / "model" / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
    const std::uint16_t nan = 0x7E00;
    file.seekp(static_cast<std::streamoff>(model.checkpoint->find("lm_head.weight")->offset));
    file.write(reinterpret_cast<const char*>(&nan), 2);
  }
  CHECK(model.run(probe("ProbeAll"), "out").layers.size() == 14);
}
