// Tables of dense decoder families, and the list of all tables. Sources: each family's configuration and modeling files
// in Transformers 5.23. To add a family, see docs/models.md.
#include "model/family.h"

namespace quant {
namespace {

Family llama() {
  return {.model_type = "llama",
          .defaults = R"({"rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 2048,
                          "tie_word_embeddings": false})"};
}

Family mistral() {
  return {.model_type = "mistral",
          .defaults = R"({"num_key_value_heads": 8, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                          "max_position_embeddings": 131072, "sliding_window": 4096, "tie_word_embeddings": false})",
          .keys = {.qkv_bias = {}, .o_bias = {}, .mlp_bias = {}, .window = "sliding_window"},
          .windows = Windows::every_layer};
}

Family qwen2() {
  return {.model_type = "qwen2",
          .defaults = R"({"num_key_value_heads": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                          "max_position_embeddings": 32768, "sliding_window": 4096, "use_sliding_window": false,
                          "max_window_layers": 28, "tie_word_embeddings": false})",
          .keys = {.qkv_bias = {},
                   .o_bias = {},
                   .mlp_bias = {},
                   .window = "sliding_window",
                   .use_window = "use_sliding_window"},
          .qkv_bias = true,
          .windows = Windows::from_layer};
}

Family qwen3() {
  Family family = qwen2();
  family.model_type = "qwen3";
  family.defaults = R"({"num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                        "max_position_embeddings": 32768, "sliding_window": 4096, "use_sliding_window": false,
                        "max_window_layers": 28, "tie_word_embeddings": false})";
  family.names.q_norm = "self_attn.q_norm";
  family.names.k_norm = "self_attn.k_norm";
  family.keys.qkv_bias = family.keys.o_bias = "attention_bias";
  family.qkv_bias = false;
  family.qk_norm = QkNorm::per_head;
  return family;
}

Family gemma2() {
  return {.model_type = "gemma2",
          .defaults = R"({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
                          "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
                          "query_pre_attn_scalar": 256, "sliding_window": 4096, "final_logit_softcapping": 30.0,
                          "attn_logit_softcapping": 50.0, "vocab_size": 256000, "tie_word_embeddings": true})",
          .requires_values = {{"use_bidirectional_attention", "false"}},
          .names = {.attention_out_norm = "post_attention_layernorm",
                    .mlp_norm = "pre_feedforward_layernorm",
                    .mlp_out_norm = "post_feedforward_layernorm"},
          .keys = {.activation = "hidden_activation",
                   .mlp_bias = {},
                   .attention_scale = "query_pre_attn_scalar",
                   .attention_softcap = "attn_logit_softcapping",
                   .logit_softcap = "final_logit_softcapping",
                   .window = "sliding_window"},
          .scale_embedding = true,
          .norm_plus_one = true,
          .windows = Windows::by_layer_type,
          .full_every = 2};
}

Family gemma3_text() {
  Family family = gemma2();
  family.model_type = "gemma3_text";
  family.defaults = R"({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
                        "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072,
                        "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_theta": 1000000.0,
                        "rope_local_base_freq": 10000.0, "vocab_size": 262208, "tie_word_embeddings": true})";
  family.names.q_norm = "self_attn.q_norm";
  family.names.k_norm = "self_attn.k_norm";
  family.keys.window_pattern = "sliding_window_pattern";
  family.keys.rope_theta_local = "rope_local_base_freq";
  family.qk_norm = QkNorm::per_head;
  family.full_every = 6;
  return family;
}

// The multimodal model; only its language model is run.
Family gemma3() {
  Family family = gemma3_text();
  family.model_type = "gemma3";
  family.nested = "text_config";
  family.names.prefixes = {"language_model.model.", "model.language_model.", "model.", ""};
  family.names.heads = {"lm_head", "language_model.lm_head"};
  return family;
}

Family phi3() {
  return {.model_type = "phi3",
          .defaults = R"({"rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 4096,
                          "original_max_position_embeddings": 4096, "tie_word_embeddings": false})",
          .names = {.qkv = "self_attn.qkv_proj", .gate_up = "mlp.gate_up_proj"},
          .keys = {.qkv_bias = {},
                   .o_bias = {},
                   .mlp_bias = {},
                   .window = "sliding_window",
                   .rope_partial = "partial_rotary_factor"},
          .qkv = QkvOrder::one_after_another,
          .windows = Windows::every_layer,
          .rope_aliases = {{"su", "longrope"}, {"yarn", "longrope"}}};
}

Family opt() {
  return {.model_type = "opt",
          .defaults = R"({"activation_function": "relu", "max_position_embeddings": 2048, "do_layer_norm_before": true,
                          "enable_bias": true, "layer_norm_elementwise_affine": true, "tie_word_embeddings": true})",
          .names = {.prefixes = {"model.decoder.", "decoder.", ""},
                    .positions = "embed_positions",
                    .project_in = "project_in",
                    .project_out = "project_out",
                    .final_norm = "final_layer_norm",
                    .attention_norm = "self_attn_layer_norm",
                    .mlp_norm = "final_layer_norm",
                    .o = "self_attn.out_proj",
                    .up = "fc1",
                    .down = "fc2"},
          .keys = {.kv_heads = {},
                   .head_dim = {},
                   .intermediate = "ffn_dim",
                   .epsilon = {},
                   .activation = "activation_function",
                   .embedding_width = "word_embed_proj_dim",
                   .qkv_bias = "enable_bias",
                   .o_bias = "enable_bias",
                   .mlp_bias = "enable_bias",
                   .norm_affine = "layer_norm_elementwise_affine",
                   .norm_first = "do_layer_norm_before",
                   .remove_final_norm = "_remove_final_layer_norm"},
          .positions = Positions::learned,
          .position_offset = 2,
          .norm = NormKind::layer,
          .mlp = MlpKind::plain};
}

Family gpt2() {
  return {.model_type = "gpt2",
          .defaults = R"({"n_positions": 1024, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
                          "scale_attn_weights": true, "tie_word_embeddings": true})",
          .requires_values = {{"add_cross_attention", "false"}},
          .names = {.prefixes = {"transformer.", ""},
                    .tokens = "wte",
                    .positions = "wpe",
                    .layers = "h",
                    .final_norm = "ln_f",
                    .attention_norm = "ln_1",
                    .mlp_norm = "ln_2",
                    .attention = "attn",
                    .qkv = "attn.c_attn",
                    .o = "attn.c_proj",
                    .up = "mlp.c_fc",
                    .down = "mlp.c_proj"},
          .keys = {.hidden = "n_embd|hidden_size",
                   .layers = "n_layer|num_hidden_layers",
                   .heads = "n_head|num_attention_heads",
                   .kv_heads = {},
                   .head_dim = {},
                   .intermediate = "n_inner",
                   .epsilon = "layer_norm_epsilon",
                   .activation = "activation_function",
                   .positions = "n_positions|max_position_embeddings",
                   .qkv_bias = {},
                   .o_bias = {},
                   .mlp_bias = {},
                   .scale_attention = "scale_attn_weights",
                   .scale_by_layer = "scale_attn_by_inverse_layer_idx"},
          .positions = Positions::learned,
          .norm = NormKind::layer,
          .qkv = QkvOrder::one_after_another,
          .mlp = MlpKind::plain,
          .intermediate_factor = 4,
          .transposed = true,
          .qkv_bias = true,
          .o_bias = true,
          .mlp_bias = true};
}

Family gpt_neox() {
  return {.model_type = "gpt_neox",
          .defaults = R"({"hidden_act": "gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 2048,
                          "use_parallel_residual": true, "rotary_pct": 0.25, "tie_word_embeddings": false})",
          .names = {.prefixes = {"gpt_neox.", ""},
                    .tokens = "embed_in",
                    .final_norm = "final_layer_norm",
                    .heads = {"embed_out", "lm_head"},
                    .attention = "attention",
                    .qkv = "attention.query_key_value",
                    .o = "attention.dense",
                    .up = "mlp.dense_h_to_4h",
                    .down = "mlp.dense_4h_to_h"},
          .keys = {.kv_heads = {},
                   .head_dim = {},
                   .epsilon = "layer_norm_eps",
                   .mlp_bias = {},
                   .parallel = "use_parallel_residual",
                   .rope_theta = "rotary_emb_base|rope_theta",
                   .rope_partial = "rotary_pct|partial_rotary_factor"},
          .norm = NormKind::layer,
          .qkv = QkvOrder::per_head,
          .mlp = MlpKind::plain,
          .qkv_bias = true,
          .o_bias = true,
          .mlp_bias = true};
}

Family stablelm() {
  return {.model_type = "stablelm",
          .defaults = R"({"num_key_value_heads": 32, "hidden_act": "silu", "layer_norm_eps": 1e-5,
                          "max_position_embeddings": 4096, "partial_rotary_factor": 0.25, "qk_layernorm": false,
                          "use_parallel_residual": false, "tie_word_embeddings": false})",
          .names = {.q_norm = "self_attn.q_layernorm", .k_norm = "self_attn.k_layernorm"},
          .keys = {.head_dim = {},
                   .epsilon = "layer_norm_eps",
                   .qkv_bias = "use_qkv_bias",
                   .o_bias = {},
                   .mlp_bias = {},
                   .parallel = "use_parallel_residual",
                   .qk_norm = "qk_layernorm",
                   .rope_partial = "partial_rotary_factor"},
          .norm = NormKind::layer,
          .qk_norm = QkNorm::per_head_own,
          .parallel_shares_norm = true};
}

Family olmo2() {
  return {.model_type = "olmo2",
          .defaults = R"({"rms_norm_eps": 1e-5, "hidden_act": "silu", "max_position_embeddings": 2048,
                          "tie_word_embeddings": false})",
          .names = {.attention_norm = {},
                    .attention_out_norm = "post_attention_layernorm",
                    .mlp_norm = {},
                    .mlp_out_norm = "post_feedforward_layernorm",
                    .q_norm = "self_attn.q_norm",
                    .k_norm = "self_attn.k_norm"},
          .keys = {.mlp_bias = {}},
          .qk_norm = QkNorm::whole_row};
}

}  // namespace

std::vector<Family> decoder_families() {
  return {llama(), mistral(), qwen2(), qwen3(),    gemma2(),   gemma3_text(), gemma3(),
          phi3(),  opt(),     gpt2(),  gpt_neox(), stablelm(), olmo2()};
}

const std::vector<Family>& families() {
  static const std::vector<Family> all = [] {
    std::vector<Family> list = decoder_families();
    for (const auto& more : {expert_families(), encoder_families()}) list.insert(list.end(), more.begin(), more.end());
    return list;
  }();
  return all;
}

}  // namespace quant
