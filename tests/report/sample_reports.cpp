#include "sample_reports.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

namespace quant::test {

namespace {

struct KindSpec {
  const char* name;
  std::uint64_t rows;
  std::uint64_t cols;
  double sqnr_db;
};
constexpr std::array<KindSpec, 7> kLlama{{{"self_attn.q_proj", 4096, 4096, 19.4},
                                          {"self_attn.k_proj", 1024, 4096, 19.2},
                                          {"self_attn.v_proj", 1024, 4096, 20.1},
                                          {"self_attn.o_proj", 4096, 4096, 19.7},
                                          {"mlp.gate_proj", 14336, 4096, 20.2},
                                          {"mlp.up_proj", 14336, 4096, 20.3},
                                          {"mlp.down_proj", 4096, 14336, 19.9}}};

constexpr const char* kRecipe =
    "# 4-bit weights, groups of 128\n"
    "default_stage:\n"
    "  default_modifiers:\n"
    "    QuantizationModifier:\n"
    "      targets: [Linear]\n"
    "      scheme: W4A16\n"
    "      ignore: [lm_head]\n";

using Random = std::mt19937_64;

LayerReport make_layer(const std::string& module, const KindSpec& spec, double sqnr_db, Random& random) {
  LayerReport layer;
  layer.module = module;
  layer.shape = {spec.rows, spec.cols};
  layer.dtype = "BF16";
  layer.rule = "Linear";
  layer.modifier = "QuantizationModifier";
  layer.algorithm = "rtn";
  layer.scheme = "int4 sym group 128";
  layer.format = "pack-quantized";
  const std::uint64_t weights = spec.rows * spec.cols;
  layer.bytes_before = 2 * weights;
  layer.bytes_after = weights / 2 + weights / 64;
  layer.bits_per_weight = 8.0 * static_cast<double>(layer.bytes_after) / static_cast<double>(weights);
  std::normal_distribution<double> spread(0, 0.35);
  const double nmse = std::pow(10, -sqnr_db / 10);
  for (std::uint64_t row = 0; row < spec.rows; ++row) {
    layer.row_nmse.push_back(static_cast<float>(nmse * std::pow(10, spread(random) / 10)));
  }
  for (std::uint64_t group = 0; group < spec.cols / 128; ++group) {
    layer.group_nmse.push_back(static_cast<float>(nmse * std::pow(10, spread(random) / 10)));
  }
  const double signal = static_cast<double>(weights) * 0.02 * 0.02;
  layer.sums = {signal,
                nmse * signal,
                signal * (1 - nmse / 2),
                signal * (1 - 0.1 * nmse),
                0.02 + nmse,
                weights,
                weights / 4000,
                static_cast<std::uint64_t>(0.15 * static_cast<double>(weights))};
  layer.scale_min = 3.1e-4;
  layer.scale_max = 0.071;
  layer.seconds = static_cast<double>(weights) / 4e7;
  return layer;
}

// Worse at both ends of the model, and two layers far off.
double block_sqnr(const KindSpec& spec, int block, int blocks, Random& random) {
  std::normal_distribution<double> jitter(0, 0.12);
  const double at = blocks > 1 ? static_cast<double>(block) / (blocks - 1) : 0.5;
  double sqnr = spec.sqnr_db - 1.6 * std::pow(2 * at - 1, 6) + jitter(random);
  const std::string name = spec.name;
  if (name == "mlp.down_proj" && block == 1) sqnr -= 4.6;
  if (name == "self_attn.k_proj" && block == 0) sqnr -= 2.9;
  return sqnr;
}

void skip(RunReport& report, const std::string& name, Shape shape, const std::string& reason) {
  const std::uint64_t bytes = 2 * shape[0] * (shape.size() > 1 ? shape[1] : 1);
  report.skipped.push_back({name, std::move(shape), "BF16", bytes, reason});
}

void add_up(RunReport& report) {
  std::uint64_t weights = 0;
  std::uint64_t stored = 0;
  for (const LayerReport& layer : report.layers) {
    report.bytes_before += layer.bytes_before;
    report.bytes_after += layer.bytes_after;
    weights += layer.sums.count;
    stored += layer.bytes_after;
    report.seconds += layer.seconds;
  }
  for (const SkippedTensor& tensor : report.skipped) {
    report.bytes_before += tensor.bytes;
    report.bytes_after += tensor.bytes;
  }
  report.parameters = report.bytes_before / 2;
  if (weights > 0) report.bits_per_weight = 8.0 * static_cast<double>(stored) / static_cast<double>(weights);
  if (report.parameters > 0) {
    report.model_bits_per_parameter =
        8.0 * static_cast<double>(report.bytes_after) / static_cast<double>(report.parameters);
  }
}

void set_identity(RunReport& report) {
  report.tool_version = "0.1.0";
  report.model = "/models/Llama-3.1-8B";
  report.architecture = "LlamaForCausalLM";
  report.recipe_name = "w4a16-rtn";
  report.recipe_text = kRecipe;
  report.plan_identity = "9f2c41d07be35a68";
  report.layout = "compressed-tensors";
  report.machine = "AMD EPYC 7B13, avx2, 2 threads";
  report.fingerprint = "feedc0de";
  report.started = "2026-01-15T09:30:00Z";
  report.peak_memory_planned = 412'000'000;
  report.peak_memory_measured = 398'458'880;
}

}  // namespace

RunReport small_report() {
  RunReport report;
  set_identity(report);
  report.recipe_text = "a: 1\n";
  LayerReport layer;
  layer.module = "model.layers.0.q_proj";
  layer.shape = {2, 4};
  layer.dtype = "F16";
  layer.rule = "Linear";
  layer.modifier = "QuantizationModifier";
  layer.algorithm = "rtn";
  layer.scheme = "int4 sym channel";
  layer.format = "pack-quantized";
  layer.bits_per_weight = 6;
  layer.bytes_before = 16;
  layer.bytes_after = 6;
  layer.sums = {100, 1, 99.5, 100, 0.5, 8, 1, 2};
  layer.scale_min = 0.25;
  layer.scale_max = 0.5;
  layer.seconds = 0.125;
  layer.notes = {"row 1 is all zero"};
  layer.row_nmse = {0.01F, 0.0F};
  layer.group_nmse = {0.01F};
  report.layers.push_back(layer);
  layer.module = "model.layers.0.k_proj";
  layer.sums = {64, 0, 64, 64, 0, 8, 0, 0};  // exact
  layer.notes.clear();
  layer.row_nmse = {0.0F, 0.0F};
  layer.group_nmse = {0.0F};
  report.layers.push_back(layer);
  report.skipped.push_back({"model.norm.weight", {4}, "F16", 8, "not a linear"});
  report.warnings = {"target 're:.*foo' matches nothing"};
  report.bytes_before = 40;
  report.bytes_after = 20;
  report.parameters = 20;
  report.bits_per_weight = 6;
  report.model_bits_per_parameter = 8;
  report.seconds = 1.5;
  return report;
}

RunReport calibrated_report() {
  RunReport report = small_report();
  report.layers[0].calibration = CalibrationRecord{4096, 0.01, "", OutputErrors{400, 4, 199, 100}};
  report.layers[1].calibration = CalibrationRecord{3, 0, "plain rounding: 3 tokens, \"too few\"", std::nullopt};
  CalibrationReport calibration{"text.jsonl", "0123456789abcdef0123456789abcdef", 8, 4096, 512, "bf16", {}};
  calibration.blocks.push_back({"model.layers.0", OutputErrors{1000, 10, 995, 1000}, {"norm: ratio 0.25"}});
  calibration.blocks.push_back({"model.layers.1", std::nullopt, {}});
  report.calibration = calibration;
  return report;
}

RunReport evaluated_report() {
  RunReport report = small_report();
  EvaluationReport evaluation;
  evaluation.source = "evaluation.txt";
  evaluation.hash = "feed";
  evaluation.window_length = 8;
  evaluation.text_bytes = 96;
  evaluation.product = "f32";
  evaluation.model = {"int4 sym group 128", "int8 sym token in 2 linears", "float"};
  evaluation.base = {"F16", "float", "float"};
  evaluation.seconds = 2.5;
  evaluation.peak_memory_planned = 1000;
  evaluation.peak_memory_measured = 900;
  evaluation.peak_resident_memory = 1100;
  EvalResult& result = evaluation.result;
  result.windows = 3;
  result.tokens = 24;
  result.predictions = 21;
  result.nats = {2.0, 0.125};
  result.perplexity = {7.5, 0.9375};
  result.window_nats = {1.5, 2.0, 2.5};
  BaseComparison base;
  base.nats = {1.5, 0.125};
  base.perplexity = {4.5, 0.5625};
  base.nats_increase = {0.5, 0.0625};
  base.increase = {3.0, 0.25};
  base.divergence = {{0.0625, 0.03125}, 0.03125, 0.125, 0.25, 0.375, 0.5};
  base.same_top = {0.75, 0.125};
  base.top5 = {0.875, std::nan("")};
  result.base = base;
  report.evaluation = evaluation;
  return report;
}

RunReport imported_report() {
  RunReport report = calibrated_report();
  report.calibration->statistics = {"novels.txt", "cafe", "0.1.0"};
  report.calibration->sequences = 0;
  report.calibration->longest = 0;
  return report;
}

RunReport llama_report(int blocks) {
  RunReport report;
  Random random(42);
  set_identity(report);
  skip(report, "model.embed_tokens.weight", {128256, 4096}, "no target matches the class Embedding");
  for (int block = 0; block < blocks; ++block) {
    const std::string prefix = "model.layers." + std::to_string(block) + ".";
    for (const KindSpec& spec : kLlama) {
      report.layers.push_back(make_layer(prefix + spec.name, spec, block_sqnr(spec, block, blocks, random), random));
    }
    skip(report, prefix + "input_layernorm.weight", {4096}, "not a linear");
    skip(report, prefix + "post_attention_layernorm.weight", {4096}, "not a linear");
  }
  skip(report, "model.norm.weight", {4096}, "not a linear");
  skip(report, "lm_head.weight", {128256, 4096}, "ignored by 'lm_head'");
  if (blocks > 1) report.layers[13].notes = {"3 rows have no non-zero weight; their scale was set to 1"};
  report.warnings = {"w4a16-rtn.yaml:7:16: ignore entry 're:.*router' matches nothing"};
  add_up(report);
  return report;
}

RunReport hostile_report() {
  const std::string attack =
      "</script><script>document.documentElement.dataset.pwned='1'</script>\"'><img src=x onerror=alert(1)>&";
  RunReport report = llama_report(2);
  report.tool_version = report.model = report.architecture = report.recipe_name = report.recipe_text = attack;
  report.plan_identity = report.layout = report.machine = report.started = attack;
  report.warnings = {attack};
  report.evaluation = evaluated_report().evaluation;
  report.evaluation->source = report.evaluation->hash = report.evaluation->product = attack;
  report.evaluation->model = {attack, attack, attack};
  report.evaluation->base = report.evaluation->model;
  for (LayerReport& layer : report.layers) {
    layer.module += attack;
    layer.scheme = layer.rule = layer.algorithm = layer.dtype = layer.format = layer.modifier = attack;
    layer.notes = {attack, "second \x01 line\xE2\x80\xAEreversed"};
  }
  for (SkippedTensor& tensor : report.skipped) {
    tensor.name += attack;
    tensor.dtype = attack;
    tensor.reason += attack;
  }
  return report;
}

}  // namespace quant::test
