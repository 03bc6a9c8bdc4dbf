// A small Llama-like model with token ids, and algorithms that look at what the pipeline gives them.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <random>

#include "fixture.h"
#include "quant/calibrated.h"

namespace quant::test {

struct TinyLlama {
  std::uint64_t layers = 2;
  std::uint64_t hidden = 32;
  std::uint64_t intermediate = 48;
  std::uint64_t heads = 4;
  std::uint64_t kv_heads = 2;
  std::uint64_t vocabulary = 50;
  DType dtype = DType::F16;
};

inline std::vector<StoredTensor> tiny_llama_tensors(const TinyLlama& o) {
  std::vector<StoredTensor> tensors;
  const auto add = [&](const std::string& name, Shape shape) { tensors.push_back({name, o.dtype, std::move(shape)}); };
  const std::uint64_t kv = o.hidden / o.heads * o.kv_heads;
  add("model.embed_tokens.weight", {o.vocabulary, o.hidden});
  for (std::uint64_t layer = 0; layer < o.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {o.hidden});
    add(prefix + "self_attn.q_proj.weight", {o.hidden, o.hidden});
    add(prefix + "self_attn.k_proj.weight", {kv, o.hidden});
    add(prefix + "self_attn.v_proj.weight", {kv, o.hidden});
    add(prefix + "self_attn.o_proj.weight", {o.hidden, o.hidden});
    add(prefix + "post_attention_layernorm.weight", {o.hidden});
    add(prefix + "mlp.gate_proj.weight", {o.intermediate, o.hidden});
    add(prefix + "mlp.up_proj.weight", {o.intermediate, o.hidden});
    add(prefix + "mlp.down_proj.weight", {o.hidden, o.intermediate});
  }
  add("model.norm.weight", {o.hidden});
  add("lm_head.weight", {o.vocabulary, o.hidden});
  return tensors;
}

/// Values that make every layer matter: norms near 1, weights of deviation 1 / sqrt(columns).
inline std::vector<std::byte> llama_values(const StoredTensor& tensor, std::minstd_rand& random) {
  std::normal_distribution<float> normal;
  const std::uint64_t count = element_count(tensor.shape);
  std::vector<std::byte> bytes(byte_count(tensor.dtype, tensor.shape));
  for (std::uint64_t i = 0; i < count; ++i) {
    const bool norm = tensor.shape.size() == 1;
    const float value =
        norm ? 1.0F + 0.3F * normal(random) : normal(random) / std::sqrt(static_cast<float>(tensor.shape.back()));
    const std::uint16_t half = tensor.dtype == DType::F16 ? f32_to_f16(value) : f32_to_bf16(value);
    if (tensor.dtype == DType::F32) {
      std::memcpy(bytes.data() + 4 * i, &value, 4);
    } else {
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
  }
  return bytes;
}

inline void write_tiny_llama(const std::filesystem::path& directory, const TinyLlama& o = {},
                             const std::string& model_type = "llama") {
  std::filesystem::create_directories(directory);
  const auto tensors = tiny_llama_tensors(o);
  std::minstd_rand random(7);
  const auto writer = builtin_registry()
                          .container("safetensors")
                          ->create(directory / "model.safetensors", tensors, {{"format", "pt"}}, false);
  for (std::size_t i = 0; i < tensors.size(); ++i) writer->write(i, 0, llama_values(tensors[i], random));
  write_file(
      directory / "config.json",
      R"({"architectures": ["LlamaForCausalLM"], "model_type": ")" + model_type +
          R"(", "tie_word_embeddings": false, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,)" +
          R"( "max_position_embeddings": 128, "hidden_size": )" + std::to_string(o.hidden) +
          R"(, "intermediate_size": )" + std::to_string(o.intermediate) + R"(, "num_hidden_layers": )" +
          std::to_string(o.layers) + R"(, "num_attention_heads": )" + std::to_string(o.heads) +
          R"(, "num_key_value_heads": )" + std::to_string(o.kv_heads) + R"(, "vocab_size": )" +
          std::to_string(o.vocabulary) + "}\n");
}

/// Writes int32 ids [sequences, length] as NumPy does.
inline void write_ids(const std::filesystem::path& file, std::size_t sequences, std::size_t length,
                      std::uint64_t vocabulary, unsigned seed = 3) {
  std::string header = "{'descr': '<i4', 'fortran_order': False, 'shape': (" + std::to_string(sequences) + ", " +
                       std::to_string(length) + "), }";
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() % 256);
  bytes += static_cast<char>(header.size() / 256);
  bytes += header;
  std::minstd_rand random(seed);
  for (std::size_t i = 0; i < sequences * length; ++i) {
    const auto id = static_cast<std::int32_t>(random() % vocabulary);
    bytes.append(reinterpret_cast<const char*>(&id), 4);
  }
  write_file(file, bytes);
}

/// What probes saw, by module.
struct Seen {
  std::map<std::string, InputStatistics> inputs;
  std::vector<std::string> order;
  static Seen& instance() {
    static Seen seen;
    return seen;
  }
};

/// Rounds each row to a few levels, and remembers the statistics that it was given.
class ProbeQuantizer final : public CalibratedQuantizer {
 public:
  explicit ProbeQuantizer(CalibrationNeeds needs) : needs_(needs) {}
  CalibrationNeeds needs() const override { return needs_; }
  std::optional<std::string> unsupported(const QuantArgs&) const override { return std::nullopt; }
  void quantize(std::span<LinearTask> group, const InputStatistics& inputs, const RunContext&) const override {
    for (LinearTask& task : group) {
      Seen::instance().inputs[task.module] = inputs;
      Seen::instance().order.push_back(task.module);
      QuantizedTensor& out = *task.out;
      out.resize(task.args, task.rows, task.cols);
      out.scale_dtype = task.scale_dtype;
      for (std::uint64_t r = 0; r < task.rows; ++r) {
        const auto row = task.weight.subspan(r * task.cols, task.cols);
        float absmax = 0;
        for (const float w : row) absmax = std::max(absmax, std::fabs(w));
        const auto top = static_cast<float>(code_max(task.args));
        out.scales[r] = round_to_dtype(task.scale_dtype, absmax / top);
        for (std::uint64_t c = 0; c < task.cols; ++c) {
          const float code = std::nearbyint(row[c] / out.scales[r]);
          out.codes[r * task.cols + c] = static_cast<std::int8_t>(std::clamp(code, -top, top));
        }
      }
      std::fill(task.weight.begin(), task.weight.end(), 0.0F);  // allowed: errors are measured against the original
    }
  }

 private:
  CalibrationNeeds needs_;
};

/// Rescales every group by factors that depend on its channels' number.
class ProbeTransform final : public Transform {
 public:
  CalibrationNeeds needs() const override { return {true, true, false, false, true}; }
  std::optional<std::string> unsupported(const QuantArgs&) const override { return std::nullopt; }
  bool wants(const SmoothingGroup&) const override { return true; }
  std::vector<float> factors(const SmoothingGroup& group, const InputStatistics& inputs, const RunContext&,
                             SolveRecord& record) const override {
    Seen::instance().inputs[group.smooth_layer] = inputs;
    Seen::instance().order.push_back(group.smooth_layer);
    record.notes.emplace_back("rescaled");
    std::vector<float> s(inputs.cols);
    for (std::size_t c = 0; c < s.size(); ++c) {
      const std::size_t channel = group.channel.empty() ? c : group.channel[c];
      s[c] = 0.5F + 0.37F * static_cast<float>(channel % 5);
    }
    return s;
  }
};

/// The built-in algorithms and the probes.
inline const Registry& probe_registry() {
  static const Registry registry = [] {
    Registry all;
    register_builtin_algorithms(all);
    register_builtin_formats(all);
    const auto add = [&](const std::string& name, CalibrationNeeds needs) {
      AlgorithmEntry entry;
      entry.name = name;
      entry.modifier = name + "Modifier";
      entry.create = [needs](const Parameters&) { return std::make_unique<ProbeQuantizer>(needs); };
      all.add(std::move(entry));
    };
    add("ProbeAll", {true, true, true, false, true});
    add("ProbeCross", {false, false, true, true, false});
    add("ProbeResidual", {false, false, true, false, false, true});
    add("ProbeRange", {true, false, false, false, false});
    AlgorithmEntry transform;
    transform.name = "probe_transform";
    transform.modifier = "ProbeTransformModifier";
    transform.create = [](const Parameters&) { return std::make_unique<ProbeTransform>(); };
    all.add(std::move(transform));
    return all;
  }();
  return registry;
}

inline Recipe probe_recipe(const std::string& modifiers) {
  return parse_recipe("default_stage:\n  default_modifiers:\n" + modifiers, "test.yaml", {}, probe_registry());
}

inline std::string probe(const std::string& name, int bits = 3, const std::string& more = "",
                         const std::string& ignore = "lm_head") {
  return "    " + name + "Modifier:\n      ignore: [" + ignore + "]\n      config_groups:\n        " + name +
         ":\n          targets: [Linear]\n          weights: {num_bits: " + std::to_string(bits) +
         ", symmetric: true, strategy: channel}\n" + more;
}

/// A model with ids on disk, and runs of recipes over it.
struct CalibratedModel {
  TempDir dir;
  TinyLlama sizes;
  PlanOptions options;
  std::unique_ptr<Checkpoint> checkpoint;

  explicit CalibratedModel(const TinyLlama& o = {}) : sizes(o) {
    write_tiny_llama(dir / "model", o);
    write_ids(dir / "ids.npy", 12, 16, o.vocabulary);
    checkpoint = open_checkpoint(dir / "model");
    options.threads = 2;
    options.calibration.file = dir / "ids.npy";
    options.calibration.data.seq_len = 16;
    options.calibration.product = ProductType::f32;
  }
  Plan plan(const std::string& modifiers) const {
    return make_plan(*checkpoint, probe_recipe(modifiers), probe_registry(), options);
  }
  RunReport run(const std::string& modifiers, const std::string& output) const {
    const Plan planned = plan(modifiers);
    RunOptions run_options;
    run_options.output = dir / output;
    return run_plan(planned, run_options);
  }
};

}  // namespace quant::test
