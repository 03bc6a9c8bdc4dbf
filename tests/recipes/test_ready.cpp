// The recipes of recipes/ and of the manual: all can be read, and say what their names promise.
#include <algorithm>
#include <filesystem>
#include <map>

#include "quant/names.h"
#include "quant/registry.h"
#include "recipes/support.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;

namespace {

const std::filesystem::path kSource = QUANT_SOURCE_DIR;

/// Everything that this build has: ready recipes use real modifiers.
const Registry& builtin() {
  static const Registry filled = [] {
    Registry result;
    register_builtin_algorithms(result);
    return result;
  }();
  return filled;
}

/// Name of each ready recipe, and its weights (and inputs) as described.
const std::map<std::string, std::string>& expected() {
  static const std::map<std::string, std::string> table = {
      {"fp8_block", "fp8-e4m3 block 128x128 / fp8-e4m3 group 128"},
      {"fp8_dynamic", "fp8-e4m3 channel / fp8-e4m3 token"},
      {"fp8_gptq", "fp8-e4m3 tensor / fp8-e4m3 tensor"},
      {"fp8_kv_cache", "fp8-e4m3 channel / fp8-e4m3 token; cache fp8-e4m3 tensor"},
      {"fp8_weight_only", "fp8-e4m3 channel"},
      {"gguf_q3_k_m", "gguf Q3_K; gguf Q4_K"},
      {"gguf_q4_k_m", "gguf Q4_K; gguf Q6_K"},
      {"gguf_q4_k_m_calibrated", "gguf Q4_K; gguf Q6_K"},
      {"gguf_q5_k_m", "gguf Q5_K; gguf Q6_K"},
      {"hqq", "int4 asym real zero group 64"},
      {"kmeans3_sparse", "codebook3 channel + 0.45 % outliers + 0.05 % sensitive"},
      {"kmeans4", "codebook4 channel"},
      {"llm_int8", "int8 sym restricted channel / int8 sym restricted token outliers from 6"},
      {"magnitude50", "MagnitudePruningModifier"},
      {"mxfp4", "mxfp4 group 32 / mxfp4 group 32"},
      {"mxfp4_gptq", "mxfp4 group 32 / mxfp4 group 32"},
      {"mxfp4a16", "mxfp4 group 32"},
      {"mxfp8", "mxfp8 group 32 / mxfp8 group 32"},
      {"mxfp8a16", "mxfp8 group 32"},
      {"nf4", "nf4 flat 64"},
      {"nf4_calibrated", "nf4 flat 64 by mse"},
      {"nf4_double_quant", "nf4 flat 64 double quant"},
      {"nvfp4_gptq", "nvfp4 group 16 / nvfp4 group 16"},
      {"nvfp4a16", "nvfp4 group 16"},
      {"opt_rtn", "int4 asym group 64 by mse_search"},
      {"prune_structured", "StructuredPruningModifier"},
      {"prune_structured_data_free", "StructuredPruningModifier"},
      {"reap", "REAPPruningModifier"},
      {"sign", "sign channel"},
      {"sparsegpt50", "SparseGPTModifier"},
      {"sparsegpt50_w4a16", "SparseGPTModifier; int4 asym group 128"},
      {"sparsegpt_2of4", "SparseGPTModifier"},
      {"template_with_variables", "int4 sym group 128 by mse_search"},
      {"ternary", "int2 sym restricted tensor"},
      {"w2a16", "int2 sym group 128 by mse_search"},
      {"w2a16_gptq", "int2 asym group 32"},
      {"w3a16", "int3 sym group 128 by mse_search"},
      {"w3a16_gptq", "int3 asym group 128"},
      {"w4a16", "int4 sym group 128"},
      {"w4a16_asym", "int4 asym group 128"},
      {"w4a16_awq", "AWQModifier; int4 asym group 128"},
      {"w4a16_down_proj_w8", "int4 sym group 128 by mse_search; int8 sym group 128"},
      {"w4a16_full_range", "int4 sym full-range group 128"},
      {"w4a16_gptq", "int4 sym group 128"},
      {"w4a16_mse", "int4 sym group 128 by mse_search"},
      {"w8a16", "int8 sym group 128"},
      {"w8a8", "int8 sym channel / int8 sym token"},
      {"w8a8_gptq", "int8 sym channel / int8 sym token"},
      {"w8a8_smoothquant", "SmoothQuantModifier; int8 sym channel / int8 sym token"},
      {"wanda50", "WandaPruningModifier"},
  };
  return table;
}

std::string summary(const Recipe& recipe) {
  std::string text;
  for (const auto& modifier : recipe.modifiers) {
    if (modifier.schemes.empty()) text += (text.empty() ? "" : "; ") + modifier.type;
    for (const auto& scheme : modifier.schemes) {
      if (!text.empty()) text += "; ";
      text += describe(*scheme.scheme.weights);
      if (scheme.scheme.weights->observer) text += " by " + *scheme.scheme.weights->observer;
      if (scheme.scheme.input_activations) text += " / " + describe(*scheme.scheme.input_activations);
    }
    if (modifier.kv_cache) text += "; cache " + describe(*modifier.kv_cache);
  }
  return text;
}

std::vector<std::filesystem::path> ready_recipes() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(kSource / "recipes")) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

struct Fence {
  std::string language;
  std::string text;
};

std::vector<Fence> fences_of(const std::string& markdown) {
  std::vector<Fence> fences;
  std::istringstream stream(markdown);
  bool inside = false;
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind("```", 0) == 0) {
      if (!inside) fences.push_back({line.substr(3), ""});
      inside = !inside;
    } else if (inside) {
      fences.back().text += line + "\n";
    }
  }
  return fences;
}

}  // namespace

TEST_CASE("each ready recipe means what its name says") {
  const auto files = ready_recipes();
  CHECK(files.size() == expected().size());
  for (const auto& file : files) {
    INFO(file.string());
    const Recipe recipe = load_recipe(file, {}, builtin());
    REQUIRE(expected().contains(recipe.name));
    CHECK(summary(recipe) == expected().at(recipe.name));
    REQUIRE(!recipe.modifiers.empty());
    // What changes shapes leaves nothing out, and pruning leaves the head alone by itself.
    const bool whole = recipe.modifiers.back().schemes.empty() && !recipe.modifiers.back().kv_cache;
    REQUIRE(recipe.modifiers.back().ignore.size() == (whole ? 0 : 1));
    if (!whole) CHECK(recipe.modifiers.back().ignore[0].text == "lm_head");
    const std::string text = read_file(file);
    // The first line is what `quant recipes list` shows.
    CHECK(text.substr(0, text.find('\n')).ends_with("."));
    for (const std::string line : {"# For: ", "# Size: ", "# Loads in: ", "# Loss: "}) {
      CHECK(text.find(line) != std::string::npos);
    }
  }
}

TEST_CASE("the template can be set to other numbers") {
  const auto file = kSource / "recipes" / "template_with_variables.yaml";
  const RecipeVariables settings = {
      {"bits", "3"}, {"group_size", "32"}, {"symmetric", "false"}, {"observer", "percentile"}, {"keep", "re:.*head$"}};
  const Recipe recipe = load_recipe(file, settings, registry());
  CHECK(summary(recipe) == "int3 asym group 32 by percentile");
  CHECK(recipe.modifiers[0].ignore[0].text == "re:.*head$");
  CHECK(same(recipe, parse_recipe(recipe.text, file.string(), {}, registry())));
}

TEST_CASE("the mixed recipe keeps 8 bits for down_proj and reaches the others") {
  const Recipe recipe = load_recipe(kSource / "recipes" / "w4a16_down_proj_w8.yaml", {}, registry());
  const auto chosen = [&](const std::string& module) {
    int bits = 0;
    for (const auto& scheme : recipe.modifiers[0].schemes) {
      for (const auto& target : scheme.targets) {
        if (NamePattern(target.text).match(module, "Linear")) bits += scheme.scheme.weights->num_bits;
      }
    }
    return bits;
  };
  for (const std::string name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                 "mlp.gate_proj", "mlp.up_proj"}) {
    CHECK(chosen("model.layers.10." + name) == 4);
  }
  CHECK(chosen("model.layers.10.mlp.down_proj") == 8);
}

TEST_CASE("every recipe in the manual can be read, and its messages are those of the reader") {
  int recipes = 0;
  for (const Fence& fence : fences_of(read_file(kSource / "docs" / "recipes.md"))) {
    if (fence.language != "yaml" && fence.language != "json") continue;
    INFO(fence.text);
    CHECK_NOTHROW(parse_recipe(fence.text, "r.yaml", {}, builtin()));
    ++recipes;
  }
  CHECK(recipes == 9);
  const std::string bad =
      "default_stage:\n  default_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head]\n      target: "
      "[Linear]\n      scheme: W4A61\n";
  std::string shown;
  for (std::string line : mistakes(bad)) shown += line.replace(0, 6, "w4.yaml") + "\n";
  const std::string manual = read_file(kSource / "docs" / "recipes.md");
  CHECK(manual.find("```text\n" + shown + "```") != std::string::npos);
}
