// Small random checkpoints on disk, for tests of the pipeline and the commands.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "quant/checkpoint.h"
#include "quant/registry.h"

namespace quant::test {

struct TinyModelOptions {
  int layers = 2;
  std::uint64_t hidden = 64;
  std::uint64_t intermediate = 96;
  std::uint64_t vocabulary = 50;
  DType dtype = DType::F16;
  bool tied = true;
  unsigned seed = 1;
};

inline std::vector<std::byte> random_bytes(DType dtype, std::uint64_t count, std::minstd_rand& random) {
  std::normal_distribution<float> normal(0.0F, 0.05F);
  std::vector<std::byte> bytes(byte_count(dtype, {count}));
  for (std::uint64_t i = 0; i < count; ++i) {
    const float value = normal(random);
    if (dtype == DType::F32) {
      std::memcpy(bytes.data() + 4 * i, &value, 4);
    } else {
      const std::uint16_t half = dtype == DType::F16 ? f32_to_f16(value) : f32_to_bf16(value);
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
  }
  return bytes;
}

/// Writes tensors of random values into one safetensors file.
inline void write_random_file(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                              unsigned seed) {
  Registry registry;
  register_builtin_formats(registry);
  std::minstd_rand random(seed);
  const auto writer = registry.container("safetensors")->create(path, tensors, {{"format", "pt"}}, false);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    writer->write(i, 0, random_bytes(tensors[i].dtype, element_count(tensors[i].shape), random));
  }
}

/// The tensors of a Llama-like model.
inline std::vector<StoredTensor> tiny_model_tensors(const TinyModelOptions& o) {
  std::vector<StoredTensor> tensors;
  const auto add = [&](const std::string& name, Shape shape) { tensors.push_back({name, o.dtype, std::move(shape)}); };
  add("model.embed_tokens.weight", {o.vocabulary, o.hidden});
  for (int layer = 0; layer < o.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {o.hidden});
    for (const char* name : {"q", "k", "v", "o"}) {
      add(prefix + "self_attn." + name + "_proj.weight", {o.hidden, o.hidden});
    }
    add(prefix + "mlp.gate_proj.weight", {o.intermediate, o.hidden});
    add(prefix + "mlp.up_proj.weight", {o.intermediate, o.hidden});
    add(prefix + "mlp.down_proj.weight", {o.hidden, o.intermediate});
  }
  if (!o.tied) add("lm_head.weight", {o.vocabulary, o.hidden});
  return tensors;
}

/// Writes config.json, model.safetensors and a tokenizer file into `directory`.
inline void write_tiny_model(const std::filesystem::path& directory, const TinyModelOptions& o = {}) {
  std::filesystem::create_directories(directory);
  write_random_file(directory / "model.safetensors", tiny_model_tensors(o), o.seed);
  std::ofstream(directory / "config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", )"
      << R"("tie_word_embeddings": )" << (o.tied ? "true" : "false") << R"(, "hidden_size": )" << o.hidden << "}\n";
  std::ofstream(directory / "tokenizer.json") << R"({"version": "1.0"})"
                                              << "\n";
}

}  // namespace quant::test
