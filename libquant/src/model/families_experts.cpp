// Tables of decoder families with a mixture of experts.
#include "model/family.h"

namespace quant {
namespace {

Family mixtral() {
  return {.model_type = "mixtral",
          .defaults = R"({"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "hidden_act": "silu",
                          "max_position_embeddings": 131072, "num_experts_per_tok": 2, "num_local_experts": 8,
                          "rope_theta": 1000000.0, "tie_word_embeddings": false})",
          .names = {.routers = {"block_sparse_moe.gate", "mlp.gate"},
                    .experts = "block_sparse_moe.experts",
                    .expert_gate = "w1",
                    .expert_up = "w3",
                    .expert_down = "w2",
                    .fused_experts = {"mlp.experts", "block_sparse_moe.experts"}},
          .keys = {.qkv_bias = {},
                   .o_bias = {},
                   .mlp_bias = {},
                   .window = "sliding_window",
                   .experts = "num_local_experts|num_experts"},
          .windows = Windows::every_layer};
}

Family qwen2_moe() {
  return {.model_type = "qwen2_moe",
          .defaults = R"({"num_key_value_heads": 16, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                          "max_position_embeddings": 32768, "sliding_window": 4096, "use_sliding_window": false,
                          "max_window_layers": 28, "decoder_sparse_step": 1, "num_experts": 60,
                          "num_experts_per_tok": 4, "norm_topk_prob": false, "qkv_bias": true,
                          "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
                          "tie_word_embeddings": false})",
          .names = {.routers = {"mlp.gate"},
                    .experts = "mlp.experts",
                    .expert_gate = "gate_proj",
                    .expert_up = "up_proj",
                    .expert_down = "down_proj",
                    .shared = "mlp.shared_expert",
                    .shared_gate = "mlp.shared_expert_gate",
                    .fused_experts = {"mlp.experts"}},
          .keys = {.qkv_bias = "qkv_bias",
                   .o_bias = {},
                   .mlp_bias = {},
                   .window = "sliding_window",
                   .use_window = "use_sliding_window",
                   .experts = "num_experts|num_local_experts",
                   .expert_width = "moe_intermediate_size",
                   .shared_width = "shared_expert_intermediate_size",
                   .normalize_experts = "norm_topk_prob"},
          .windows = Windows::odd_layers_below};
}

Family qwen3_moe() {
  Family family = qwen2_moe();
  family.model_type = "qwen3_moe";
  family.defaults = R"({"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                        "max_position_embeddings": 32768, "sliding_window": 4096, "use_sliding_window": false,
                        "decoder_sparse_step": 1, "num_experts": 128, "num_experts_per_tok": 8,
                        "norm_topk_prob": false, "moe_intermediate_size": 768, "tie_word_embeddings": false})";
  family.names.q_norm = "self_attn.q_norm";
  family.names.k_norm = "self_attn.k_norm";
  family.names.shared = family.names.shared_gate = {};
  family.keys.qkv_bias = family.keys.o_bias = "attention_bias";
  family.qk_norm = QkNorm::per_head;
  family.windows = Windows::every_layer;
  return family;
}

}  // namespace

std::vector<Family> expert_families() { return {mixtral(), qwen2_moe(), qwen3_moe()}; }

}  // namespace quant
