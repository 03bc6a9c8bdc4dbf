// Tables of encoder families: every token sees every other one, and there is no language-model head.
#include "model/family.h"

namespace quant {
namespace {

// Also MiniLM and most sentence encoders.
Family bert() {
  return {
      .model_type = "bert",
      .defaults = R"({"hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
                          "type_vocab_size": 2})",
      .requires_values = {{"position_embedding_type", "\"absolute\""}, {"is_decoder", "false"}},
      .names = {.prefixes = {"bert.", ""},
                .tokens = "embeddings.word_embeddings",
                .positions = "embeddings.position_embeddings",
                .token_types = "embeddings.token_type_embeddings",
                .embedding_norm = "embeddings.LayerNorm",
                .layers = "encoder.layer",
                .final_norm = {},
                .heads = {},
                .attention_norm = {},
                .attention_sum_norm = "attention.output.LayerNorm",
                .mlp_norm = {},
                .mlp_sum_norm = "output.LayerNorm",
                .attention = "attention.self",
                .q = "attention.self.query",
                .k = "attention.self.key",
                .v = "attention.self.value",
                .o = "attention.output.dense",
                .up = "intermediate.dense",
                .down = "output.dense"},
      .keys =
          {.kv_heads = {}, .head_dim = {}, .epsilon = "layer_norm_eps", .qkv_bias = {}, .o_bias = {}, .mlp_bias = {}},
      .causal = false,
      .positions = Positions::learned,
      .norm = NormKind::layer,
      .mlp = MlpKind::plain,
      .qkv_bias = true,
      .o_bias = true,
      .mlp_bias = true};
}

}  // namespace

std::vector<Family> encoder_families() { return {bert()}; }

}  // namespace quant
