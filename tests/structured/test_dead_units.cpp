// Removing what contributes nothing changes no output: the strictest check that what is cut belongs together, for
// every family and axis, against a forward pass in float64.
#include <set>

#include "structured/pruned.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using namespace quant::structured;

namespace {

constexpr double kExact = 1e-12;

// Families whose config.json ties the size of heads to the hidden size.
const std::set<std::string> kFixedHeads = {"opt", "gpt2", "gpt_neox", "stablelm", "bert"};

void check_unchanged(Pruning& pruning) {
  const std::vector<double> before = reference_outputs(pruning.golden->checkpoint, pruning.golden->ids);
  const RunReport report = pruning.run();
  const auto after = pruning.opened();
  CHECK(relative_error(reference_outputs(*after, pruning.golden->ids), before) < kExact);
  CHECK(report.bytes_after < report.bytes_before);
  std::uint64_t bytes = 0;
  for (const TensorInfo& tensor : after->tensors()) bytes += tensor.bytes;
  CHECK(bytes == report.bytes_after);
  const StructuredPlan plan = pruning.plan();
  if (plan.sizes_exact) CHECK(plan.bytes_after == bytes);
}

}  // namespace

TEST_CASE("removing dead channels of MLPs changes nothing in any family") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    Pruning pruning(name);
    const Axes found(pruning.golden->checkpoint);
    for (std::size_t b = 0; b < found.axes.blocks.size(); ++b) {
      const BlockAxes& block = found.axes.blocks[b];
      for (const FfnAxis& ffn : block.ffn) {
        // Different ones in each layer and expert.
        for (std::size_t e = 0; e < ffn.experts; ++e) {
          for (std::uint64_t c = 0; c < ffn.width / 4; ++c) {
            kill_channel(pruning.golden->checkpoint, block, ffn.value, (4 * c + e + b) % ffn.width, e);
          }
        }
      }
    }
    pruning.options.ffn = {0.25};
    check_unchanged(pruning);
  }
}

TEST_CASE("removing dead heads changes nothing, one of each group or whole groups") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    Pruning pruning(name);
    const Axes found(pruning.golden->checkpoint);
    const AttentionAxis& axis = *found.axes.blocks.front().attention;
    const bool query = axis.group() > 1;
    for (std::size_t b = 0; b < found.axes.blocks.size(); ++b) {
      const BlockAxes& block = found.axes.blocks[b];
      const AttentionAxis& attention = *block.attention;
      for (std::uint64_t h = 0; h < attention.heads; ++h) {
        const bool dead = query ? h % attention.group() == b % attention.group() : h == (b + 1) % attention.heads;
        for (std::uint64_t c = 0; dead && c < attention.head_dim; ++c) {
          kill_channel(pruning.golden->checkpoint, block, attention.q, h * attention.head_dim + c);
          kill_channel(pruning.golden->checkpoint, block, attention.out, h * attention.value_dim + c);
          if (query) continue;
          kill_channel(pruning.golden->checkpoint, block, attention.k, h * attention.head_dim + c);
          kill_channel(pruning.golden->checkpoint, block, attention.v, h * attention.value_dim + c);
        }
      }
    }
    pruning.options.heads = {query ? static_cast<double>(axis.kv_heads) : 1.0};
    const std::string family = pruning.golden->checkpoint.config().model_type;
    if (kFixedHeads.contains(family)) {
      const StructuredPlan plan = pruning.plan();
      REQUIRE(plan.problems.size() == 1);
      CHECK(plan.problems.front().find("config") != std::string::npos);
      continue;
    }
    // Its norm of a whole row of queries means over fewer of them.
    if (family == "olmo2") {
      CHECK(pruning.plan().warnings.size() == 1);
      continue;
    }
    check_unchanged(pruning);
  }
}

TEST_CASE("whole groups go with their keys and values") {
  for (const char* name : {"llama", "llama_tied_biases", "qwen2", "qwen3", "gemma3", "phi3", "mixtral_fused"}) {
    INFO(name);
    Pruning pruning(name);
    const Axes found(pruning.golden->checkpoint);
    for (std::size_t b = 0; b < found.axes.blocks.size(); ++b) {
      const BlockAxes& block = found.axes.blocks[b];
      const AttentionAxis& axis = *block.attention;
      const std::uint64_t group = b % axis.kv_heads;
      for (std::uint64_t c = 0; c < axis.head_dim; ++c) {
        kill_channel(pruning.golden->checkpoint, block, axis.k, group * axis.head_dim + c);
        kill_channel(pruning.golden->checkpoint, block, axis.v, group * axis.value_dim + c);
        for (std::uint64_t h = group * axis.group(); h < (group + 1) * axis.group(); ++h) {
          kill_channel(pruning.golden->checkpoint, block, axis.q, h * axis.head_dim + c);
          kill_channel(pruning.golden->checkpoint, block, axis.out, h * axis.value_dim + c);
        }
      }
    }
    pruning.options.heads = {0.5};
    pruning.options.head_unit = HeadUnit::group;
    check_unchanged(pruning);
    const auto config = nlohmann::json::parse(read_file(pruning.dir / "out" / "config.json"));
    const auto& settings = config.contains("text_config") ? config["text_config"] : config;
    CHECK(settings.at("num_key_value_heads") == 1);
    CHECK(settings.at("num_attention_heads") == 2);
  }
}

TEST_CASE("a layer that adds nothing is the one that goes, and nothing changes") {
  for (const std::string& name : golden_names()) {
    INFO(name);
    Pruning pruning(name);
    const Axes found(pruning.golden->checkpoint);
    const std::string family = pruning.golden->checkpoint.config().model_type;
    const bool post_norm = family == "bert" || name == "opt_post_norm";
    const BlockAxes& block = found.axes.blocks.front();
    std::vector<std::size_t> readers = {block.attention->reader};
    for (const FfnAxis& ffn : block.ffn) readers.push_back(ffn.reader);
    for (const std::size_t op : readers) {
      for (const LinearWeight& weight : std::get<LinearOp>(block.program->ops[op]).weights) {
        WeightEditor editor(pruning.golden->checkpoint, weight);
        for (std::uint64_t r = 0; r < weight.rows; ++r) editor.zero_row(r);
      }
    }
    pruning.options.layers = {1};
    if (name == "gpt2_scaled_by_layer") {
      REQUIRE(pruning.plan().problems.size() == 1);
      CHECK(pruning.plan().problems.front().find("attention") != std::string::npos);
      continue;
    }
    if (!post_norm) check_unchanged(pruning);
    // The cosine finds it as well; a block of post-norms is no identity.
    pruning.give_data();
    pruning.options.layer_importance = LayerImportance::cosine;
    pruning.run("cosine");
    const auto structure = nlohmann::json::parse(read_file(pruning.dir / "cosine" / "structure.json"));
    if (post_norm) continue;
    CHECK(structure.at("layers").at(0).at("becomes").is_null());
    CHECK(std::abs(structure.at("layers").at(0).at("score").get<double>()) < 1e-6);
    CHECK(structure.at("layers").at(1).at("becomes") == 0);
  }
}

TEST_CASE("a hidden channel goes from every tensor, and the model means what is left") {
  // Norms mean over fewer channels, so nothing is dead here; the rest of the definition is a program of its own.
  for (const char* name : {"llama", "llama_mqa_head_dim", "qwen3", "qwen2_moe", "phi3", "mixtral", "olmo2"}) {
    INFO(name);
    Pruning pruning(name);
    pruning.options.hidden = {0.25};
    pruning.options.hidden_divisor = 8;
    const auto& checkpoint = pruning.golden->checkpoint;
    pruning.run();
    const auto after = pruning.opened();
    const auto structure = nlohmann::json::parse(read_file(pruning.dir / "out" / "structure.json"));
    const auto kept = structure.at("hidden").get<std::vector<std::size_t>>();
    CHECK(kept.size() == 24);
    for (const TensorInfo& info : after->tensors()) {
      INFO(info.name);
      const Shape shape = checkpoint.find(info.name)->shape;
      const std::vector<float> all = golden_weights(info.name, shape);
      const std::vector<float> own = stored_values<float>(*after, info.name);
      const auto is_hidden = [&](std::size_t dimension) { return info.shape[dimension] != shape[dimension]; };
      std::size_t at = 0;
      const std::size_t cols = shape.back(), rows = all.size() / cols;
      const std::vector<std::size_t> everything = [&] {
        std::vector<std::size_t> list(std::max(rows, cols));
        for (std::size_t i = 0; i < list.size(); ++i) list[i] = i;
        return list;
      }();
      const std::size_t dims = shape.size();
      for (std::size_t r = 0; r < rows; ++r) {
        if (dims > 1 && is_hidden(dims - 2) && std::find(kept.begin(), kept.end(), r) == kept.end()) continue;
        for (const std::size_t c :
             is_hidden(dims - 1) ? kept
                                 : std::vector<std::size_t>(everything.begin(),
                                                            everything.begin() + static_cast<std::ptrdiff_t>(cols))) {
          CHECK(own.at(at++) == all[r * cols + c]);
        }
      }
      CHECK(at == own.size());
    }
    const std::vector<double> logits = reference_outputs(*after, pruning.golden->ids);
    CHECK(std::all_of(logits.begin(), logits.end(), [](double value) { return std::isfinite(value); }));
  }
}
