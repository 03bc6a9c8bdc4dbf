// A file of sensitivities: what it does to codes, what is refused and when, and that a run is resumed with no other.
#include <algorithm>
#include <cmath>
#include <limits>

#include "calibrated_fixture.h"
#include "quant/codebook.h"
#include "quant/error.h"
#include "quant/hqq.h"
#include "quant/kmeans.h"
#include "quant/outliers.h"
#include "quant/rtn.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

constexpr const char* kKMeans =
    "KMeansModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: 3, type: codebook, strategy: "
    "channel}}}, ignore: [lm_head]}";
constexpr const char* kSparse =
    "KMeansModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: 3, type: codebook, strategy: tensor, "
    "outlier_percent: 1, sensitive_percent: 2}}}, ignore: [lm_head]}";
constexpr const char* kRounding =
    "QuantizationModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: 4, strategy: channel, "
    "observer: mse_search}}}, ignore: [lm_head]}";

Recipe recipe_with(const std::string& modifier) {
  return parse_recipe("s_stage:\n  s_modifiers:\n    " + modifier + "\n", "test.yaml", {}, builtin_registry());
}

struct Sensitivities {
  DType dtype = DType::F32;
  bool columns = false;  // [cols] instead of [rows, cols]
  unsigned seed = 5;
  std::string leave_out = {};
  std::string spoil = {};  // gets `value` at row 3, column 4
  float value = -1;
};

float read_one(DType type, float value) {
  return type == DType::F16    ? f16_to_f32(f32_to_f16(value))
         : type == DType::BF16 ? bf16_to_f32(f32_to_bf16(value))
                               : value;
}

// Writes a file of positive numbers over several powers of ten, and gives them as they are stored.
std::map<std::string, std::vector<float>> write_sensitivities(const std::filesystem::path& file,
                                                              const Checkpoint& model, const Sensitivities& o = {}) {
  std::map<std::string, std::vector<float>> numbers;
  std::vector<StoredTensor> tensors;
  for (const TensorInfo& tensor : model.tensors()) {
    if (!tensor.name.ends_with("proj.weight") || tensor.name == o.leave_out) continue;
    tensors.push_back({tensor.name, o.dtype, o.columns ? Shape{tensor.shape[1]} : tensor.shape});
  }
  const auto writer = builtin_registry().container("safetensors")->create(file, tensors, {}, false);
  std::minstd_rand random(o.seed);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::vector<float>& values = numbers[tensors[i].name];
    for (std::uint64_t n = element_count(tensors[i].shape); n > 0; --n) {
      values.push_back(read_one(o.dtype, std::exp(2 * normal(random))));
    }
    if (tensors[i].name == o.spoil) values[o.columns ? 4 : 3 * tensors[i].shape[1] + 4] = o.value;
    std::vector<std::byte> bytes(tensors[i].bytes());
    for (std::size_t n = 0; n < values.size(); ++n) {
      const double wide = static_cast<double>(values[n]);
      const std::uint16_t half = o.dtype == DType::F16 ? f32_to_f16(values[n]) : f32_to_bf16(values[n]);
      if (o.dtype == DType::F64) {
        std::memcpy(bytes.data() + 8 * n, &wide, 8);
      } else if (o.dtype == DType::F32) {
        std::memcpy(bytes.data() + 4 * n, &values[n], 4);
      } else {
        std::memcpy(bytes.data() + 2 * n, &half, 2);
      }
    }
    writer->write(i, 0, bytes);
  }
  return numbers;
}

struct Prepared {
  TempDir dir;
  std::unique_ptr<Checkpoint> model, file;
  std::map<std::string, std::vector<float>> numbers;
  PlanOptions options;
  Prepared() {
    write_tiny_llama(dir / "model");
    model = open_checkpoint(dir / "model");
    options.layout = "libquant";
    options.threads = 2;
  }
  Plan plan(const std::string& modifier, const Sensitivities& o = {}) {
    file.reset();
    std::filesystem::remove(dir / "s.safetensors");
    numbers = write_sensitivities(dir / "s.safetensors", *model, o);
    file = open_checkpoint(dir / "s.safetensors");
    options.sensitivities = file.get();
    return make_plan(*model, recipe_with(modifier), builtin_registry(), options);
  }
  RunReport run(const Plan& plan, const std::string& name, bool resume = false,
                std::atomic<bool>* stop = nullptr) const {
    RunOptions run;
    run.output = dir / name;
    run.resume = resume;
    run.stop = stop;
    return run_plan(plan, run);
  }
  // The codes of a linear as they were written.
  QuantizedTensor written(const std::string& name, const std::string& module) const {
    const auto checkpoint = open_checkpoint(dir / name);
    const Layout& layout = *builtin_registry().layout(options.layout);
    for (const StoredLinear& linear : layout.find_linears(*checkpoint)) {
      if (linear.shape.module != module) continue;
      QuantizedTensor out;
      layout.read_rows(*checkpoint, linear, 0, linear.shape.rows, out);
      return out;
    }
    FAIL(module << " is not in " << name);
    return {};
  }
};

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::vector<std::string> kModules = {"model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"};

void check_same(const QuantizedTensor& a, const QuantizedTensor& b) {
  CHECK(a.codes == b.codes);
  CHECK(a.codebook == b.codebook);
  CHECK(a.scales == b.scales);
  CHECK(a.sparse.columns == b.sparse.columns);
  CHECK(a.sparse.values == b.sparse.values);
}

}  // namespace

TEST_CASE("a run with sensitivities codes as the call with the same importance", "[sensitivities]") {
  Prepared p;
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16, DType::F64}) {
    for (const bool columns : {false, true}) {
      CAPTURE(dtype_name(dtype), columns);
      const Plan plan = p.plan(kKMeans, {.dtype = dtype, .columns = columns});
      REQUIRE(plan.problems.empty());
      const std::string name = "out" + std::string(dtype_name(dtype)) + (columns ? "c" : "");
      const RunReport report = p.run(plan, name);
      CHECK(std::find(report.layers.front().notes.begin(), report.layers.front().notes.end(),
                      "errors weighted by s.safetensors") != report.layers.front().notes.end());
      for (const std::string& module : kModules) {
        const TensorView weight = p.model->view(*p.model->find(module + ".weight"));
        QuantArgs args = *plan.groups.front().scheme.weights;
        args.scale_dtype = DType::F16;
        check_same(p.written(name, module), kmeans_quantize(weight, args, p.numbers.at(module + ".weight"), {}));
      }
    }
  }
}

TEST_CASE("sensitivities choose the sensitive weights and weigh codebooks of whole tensors", "[sensitivities]") {
  Prepared p;
  const Plan plan = p.plan(kSparse);
  REQUIRE(plan.problems.empty());
  p.run(plan, "out");
  const auto dense = make_kmeans({});
  const auto quantizer = with_sparse_part(*dense);
  for (const std::string& module : kModules) {
    const TensorView weight = p.model->view(*p.model->find(module + ".weight"));
    const std::vector<float>& numbers = p.numbers.at(module + ".weight");
    const QuantArgs& args = *plan.groups.front().scheme.weights;
    QuantizedTensor expected;
    const TensorParams params = quantizer->prepare(weight, args, numbers, 1);
    quantizer->quantize_rows(weight, args, DType::F16, params, numbers, expected, {});
    check_same(p.written("out", module), expected);
    // By themselves: of the weights that are not outliers, the most sensitive are all there.
    const auto choice = choose_sparse(weight, args, {});
    CHECK(p.written("out", module).sparse.columns != choice->columns);
  }
}

TEST_CASE("searched scales and the choice beside plain rounding take sensitivities too", "[sensitivities]") {
  Prepared p;
  const std::string module = kModules.front();
  const TensorView weight = p.model->view(*p.model->find(module + ".weight"));
  Plan plan = p.plan(kRounding, {.columns = true});
  REQUIRE(plan.problems.empty());
  p.run(plan, "searched");
  QuantArgs args = *plan.groups.front().scheme.weights;
  args.scale_dtype = DType::F16;
  check_same(p.written("searched", module), rtn_quantize(weight, args, p.numbers.at(module + ".weight")));
  // Rounding weighs columns; a choice beside plain rounding takes either.
  plan = p.plan(kRounding);
  REQUIRE_FALSE(plan.problems.empty());
  CHECK(has(plan.problems.front(), "weighs columns"));
  plan = p.plan(
      "QuantizationModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: 4, strategy: channel, "
      "sensitive_percent: 1}}}, ignore: [lm_head]}");
  REQUIRE(plan.problems.empty());
  p.run(plan, "chosen");
  const auto choice = choose_sparse(weight, *plan.groups.front().scheme.weights, p.numbers.at(module + ".weight"));
  CHECK(p.written("chosen", module).sparse.columns == choice->columns);
}

TEST_CASE("a calibrated run takes sensitivities for what it codes block by block", "[sensitivities]") {
  Prepared p;
  write_ids(p.dir / "ids.npy", 8, 16, 50);
  p.options.calibration.file = p.dir / "ids.npy";
  p.options.calibration.data.pack = false;
  p.options.calibration.data.seq_len = 16;
  // Beside a method that needs calibration, in the same blocks.
  const Plan plan = p.plan(
      "KMeansModifier: {config_groups: {g: {targets: [\"re:.*mlp\"], weights: {num_bits: 3, type: codebook, strategy: "
      "channel, sensitive_percent: 1}}}}\n    GPTQModifier: {config_groups: {h: {targets: [\"re:.*self_attn\"], "
      "weights: {num_bits: 4, strategy: channel}}}}");
  CAPTURE(plan.problems);
  REQUIRE(plan.problems.empty());
  REQUIRE(plan.calibration);
  p.run(plan, "out");
  const auto dense = make_kmeans({});
  const auto quantizer = with_sparse_part(*dense);
  const std::string module = kModules.back();
  const TensorView weight = p.model->view(*p.model->find(module + ".weight"));
  const std::vector<float>& numbers = p.numbers.at(module + ".weight");
  const QuantArgs& args = *plan.groups.front().scheme.weights;
  QuantizedTensor expected;
  quantizer->quantize_rows(weight, args, DType::F16, quantizer->prepare(weight, args, numbers, 1), numbers, expected,
                           {});
  check_same(p.written("out", module), expected);
}

TEST_CASE("sensitivities weigh linears whose inputs are calibrated", "[sensitivities]") {
  Prepared p;
  write_ids(p.dir / "ids.npy", 8, 16, 50);
  p.options.calibration.file = p.dir / "ids.npy";
  p.options.calibration.data.pack = false;
  p.options.calibration.data.seq_len = 16;
  p.options.layout = "compressed-tensors";
  const Plan plan = p.plan(
      "QuantizationModifier: {config_groups: {g: {targets: [Linear], weights: {num_bits: 4, strategy: channel, "
      "observer: "
      "mse_search}, input_activations: {num_bits: 8, strategy: tensor}}}, ignore: [lm_head]}",
      {.columns = true});
  CAPTURE(plan.problems);
  REQUIRE(plan.problems.empty());
  REQUIRE(plan.calibration);
  p.run(plan, "out");
  QuantArgs args = *plan.groups.front().scheme.weights;
  args.scale_dtype = DType::F16;
  for (const std::string& module : kModules) {
    const TensorView weight = p.model->view(*p.model->find(module + ".weight"));
    const QuantizedTensor expected = rtn_quantize(weight, args, p.numbers.at(module + ".weight"));
    check_same(p.written("out", module), expected);
    CHECK(expected.codes != rtn_quantize(weight, args).codes);
  }
}

TEST_CASE("importance from calibration chooses the sensitive weights, too", "[sensitivities]") {
  Prepared p;
  write_ids(p.dir / "ids.npy", 8, 16, 50);
  p.options.calibration.file = p.dir / "ids.npy";
  p.options.calibration.data.pack = false;
  p.options.calibration.data.seq_len = 16;
  const Plan plan = make_plan(
      *p.model,
      recipe_with("KMeansModifier: {config_groups: {g: {targets: [\"re:.*layers.0.self_attn.k_proj\"], weights: "
                  "{num_bits: 3, type: codebook, strategy: channel, sensitive_percent: 5}}}, importance: hessian}"),
      builtin_registry(), p.options);
  CAPTURE(plan.problems);
  REQUIRE(plan.problems.empty());
  p.run(plan, "out");
  // What the first layer's projections read: normed rows of the embedding table.
  const auto values = [&](const std::string& name) {
    const TensorInfo& tensor = *p.model->find(name);
    std::vector<float> out(element_count(tensor.shape));
    read_f32(p.model->view(tensor), 0, out);
    return out;
  };
  const std::vector<float> table = values("model.embed_tokens.weight"),
                           norm = values("model.layers.0.input_layernorm.weight");
  std::minstd_rand random(3);  // of write_ids
  std::vector<double> sums(32, 0.0);
  for (int token = 0; token < 8 * 16; ++token) {
    const float* row = table.data() + random() % 50 * 32;
    double square = 0;
    for (int c = 0; c < 32; ++c) square += static_cast<double>(row[c]) * row[c];
    for (int c = 0; c < 32; ++c) {
      const double x = row[c] / std::sqrt(square / 32 + 1e-5) * norm[static_cast<std::size_t>(c)];
      sums[static_cast<std::size_t>(c)] += x * x / 128;
    }
  }
  const std::string module = kModules.front();
  const TensorView weight = p.model->view(*p.model->find(module + ".weight"));
  const auto chosen =
      choose_sparse(weight, *plan.groups.front().scheme.weights, std::vector<float>(sums.begin(), sums.end()));
  CHECK(p.written("out", module).sparse.columns == chosen->columns);
  CHECK(choose_sparse(weight, *plan.groups.front().scheme.weights, {})->columns != chosen->columns);
}

TEST_CASE("what does not fit is a problem of the plan", "[sensitivities]") {
  Prepared p;
  const auto problem = [&](const Plan& plan) { return plan.problems.empty() ? std::string() : plan.problems.front(); };
  CHECK(has(problem(p.plan(kKMeans, {.leave_out = "model.layers.0.mlp.up_proj.weight"})),
            "s.safetensors holds no model.layers.0.mlp.up_proj.weight"));
  CHECK(has(problem(p.plan("QuantizationModifier: {scheme: W4A16, targets: [\"re:.*none\"]}")), "match"));
  CHECK(has(problem(p.plan("QuantizationModifier: {config_groups: {g: {targets: [Linear], weights: {strategy: "
                           "channel}}}}")),
            "no use for sensitivities"));
  const std::string hessian(kKMeans);
  p.options.calibration.file = p.dir / "ids.npy";
  write_ids(p.dir / "ids.npy", 8, 16, 50);
  const auto both = p.plan(hessian.substr(0, hessian.size() - 1) + ", importance: hessian}").problems;
  CHECK(std::any_of(both.begin(), both.end(), [](const std::string& text) { return has(text, "not from both"); }));
  const auto moved = p.plan("SmoothQuantModifier: {smoothing_strength: 0.5}\n    " + std::string(kKMeans)).problems;
  CHECK(std::any_of(moved.begin(), moved.end(), [](const std::string& text) { return has(text, "rescales weights"); }));
  // Shapes and types of somebody else's file.
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  for (const auto& [dtype, shape, part] :
       {std::tuple{DType::F32, Shape{32, 31}, "is [32, 31]; the weight needs [32, 32], or [32]"},
        std::tuple{DType::I32, Shape{32, 32}, "is of type I32, not floats"}}) {
    const auto path = p.dir / (std::string(dtype_name(dtype)) + ".safetensors");
    const auto writer = builtin_registry().container("safetensors")->create(path, {{name, dtype, shape}}, {}, false);
    writer->write(0, 0, std::vector<std::byte>(4 * shape[0] * shape[1]));
    const auto file = open_checkpoint(path);
    p.options.sensitivities = file.get();
    const auto problems = make_plan(*p.model, recipe_with(kKMeans), builtin_registry(), p.options).problems;
    CAPTURE(problems);
    REQUIRE_FALSE(problems.empty());
    CHECK(has(problems.front(), part));
    CHECK(has(problems.front(), name + " in " + path.string()));
  }
}

TEST_CASE("numbers that are no sensitivities are found before anything is coded", "[sensitivities]") {
  Prepared p;
  for (const float value : {-0.5F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const bool columns : {false, true}) {
      CAPTURE(value, columns);
      const Plan plan =
          p.plan(kKMeans, {.columns = columns, .spoil = "model.layers.1.mlp.up_proj.weight", .value = value});
      REQUIRE(plan.problems.empty());
      const std::string text = error_of([&] { p.run(plan, "out"); });
      CHECK(has(text, "model.layers.1.mlp.up_proj.weight in "));
      CHECK(has(text, columns ? "at column 4" : "at row 3, column 4"));
      CHECK(has(text, value < 0 ? "is -0.5" : std::isnan(value) ? "is nan" : "is inf"));
      CHECK_FALSE(std::filesystem::exists(p.dir / "out"));
      std::filesystem::remove_all(p.dir / "out.partial");
    }
  }
}

TEST_CASE("a run is resumed with the same sensitivities and no others", "[sensitivities]") {
  Prepared p;
  const Plan plan = p.plan(kSparse);
  p.run(plan, "whole");
  std::atomic<bool> stop{true};
  CHECK_THROWS_AS(p.run(plan, "out", false, &stop), Error);
  {
    Prepared other;
    CHECK(other.plan(kSparse).identity == plan.identity);
    CHECK(other.plan(kSparse, {.seed = 6}).identity != plan.identity);
    other.options.sensitivities = nullptr;
    CHECK(make_plan(*other.model, recipe_with(kSparse), builtin_registry(), other.options).identity != plan.identity);
  }
  const auto without = p.options.sensitivities;
  p.options.sensitivities = nullptr;
  const Plan none = make_plan(*p.model, recipe_with(kSparse), builtin_registry(), p.options);
  CHECK(has(error_of([&] { p.run(none, "out", true); }), "have changed"));
  p.options.sensitivities = without;
  p.run(plan, "out", true);
  CHECK(model_files(p.dir / "out") == model_files(p.dir / "whole"));
}

TEST_CASE("the plan's memory counts sensitivities", "[sensitivities]") {
  Prepared p;
  const std::uint64_t with = p.plan(kKMeans).peak_memory;
  p.options.sensitivities = nullptr;
  const std::uint64_t without = make_plan(*p.model, recipe_with(kKMeans), builtin_registry(), p.options).peak_memory;
  CHECK(with == without + 2 * 48 * 32 * sizeof(float));  // two threads, the largest linear
}
