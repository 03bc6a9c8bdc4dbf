// What a family table says about a kind of model: names of tensors, names of settings, and the few places where
// families differ. The values that stand here are Llama's; a row states only what is different.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quant/model_program.h"

namespace quant {

/// Names of modules. Those of a block stand behind "<prefix><layers>.<number>."; empty: the family has none.
struct FamilyNames {
  std::vector<std::string_view> prefixes = {"model.", ""};  ///< of all but the head; the first that fits is taken
  std::string_view tokens = "embed_tokens";
  std::string_view positions = {};       ///< learned positions
  std::string_view token_types = {};     ///< row 0 is added
  std::string_view embedding_norm = {};  ///< after the sum of the embeddings
  std::string_view project_in = {};      ///< between embedding and first block, where their widths differ
  std::string_view project_out = {};     ///< between final norm and head, where their widths differ
  std::string_view layers = "layers";
  std::string_view final_norm = "norm";
  std::vector<std::string_view> heads = {"lm_head"};  ///< without prefix; empty: the family has no language-model head

  // Norms: before a branch, on its output, and on the sum of residual and output.
  std::string_view attention_norm = "input_layernorm";
  std::string_view attention_out_norm = {};
  std::string_view attention_sum_norm = {};
  std::string_view mlp_norm = "post_attention_layernorm";
  std::string_view mlp_out_norm = {};
  std::string_view mlp_sum_norm = {};

  std::string_view attention = "self_attn";
  std::string_view qkv = {};  ///< fused projection, instead of q, k and v
  std::string_view q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj";
  std::string_view q_norm = {}, k_norm = {};
  std::string_view o = "self_attn.o_proj";

  std::string_view gate = "mlp.gate_proj";  ///< empty: no gate, the activation follows `up`
  std::string_view up = "mlp.up_proj";
  std::string_view gate_up = {};  ///< fused projection, instead of gate and up
  std::string_view down = "mlp.down_proj";

  // Mixture of experts. `routers` empty: none. Each expert's linears are "<experts>.<number>.<expert_gate>".
  std::vector<std::string_view> routers = {};  ///< the first that is there
  std::string_view experts = {};
  std::string_view expert_gate = {}, expert_up = {}, expert_down = {};
  std::string_view shared = {};       ///< expert for every token: "<shared>.gate_proj", ...
  std::string_view shared_gate = {};  ///< its factor, a linear of one row, through a sigmoid
  /// Folders in which all experts lie as one tensor: "<fused>.gate_up_proj" [experts, 2 * width, hidden] and
  /// "<fused>.down_proj" [experts, hidden, width].
  std::vector<std::string_view> fused_experts = {};
};

/// Names of settings in config.json; "a|b": the first that is there. Empty: the family has no such setting.
struct FamilyKeys {
  std::string_view hidden = "hidden_size";
  std::string_view layers = "num_hidden_layers";
  std::string_view heads = "num_attention_heads";
  std::string_view kv_heads = "num_key_value_heads";  ///< absent or null: as many as heads
  std::string_view head_dim = "head_dim";             ///< absent or null: hidden / heads
  std::string_view intermediate = "intermediate_size";
  std::string_view epsilon = "rms_norm_eps";  ///< empty: 1e-5
  std::string_view activation = "hidden_act";
  std::string_view embedding_width = {};  ///< absent or null: hidden
  std::string_view positions = "max_position_embeddings";
  std::string_view qkv_bias = "attention_bias";
  std::string_view o_bias = "attention_bias";
  std::string_view mlp_bias = "mlp_bias";
  std::string_view norm_affine = {};        ///< false: norms have no weight
  std::string_view norm_first = {};         ///< false: norms before branches stand after the sums instead
  std::string_view remove_final_norm = {};  ///< true: there is none
  std::string_view parallel = {};           ///< true: attention and MLP both read the block's input
  std::string_view qk_norm = {};            ///< true: q_norm and k_norm exist; empty: wherever the table names them
  std::string_view attention_scale = {};    ///< scores are divided by its square root; empty: by that of head_dim
  std::string_view scale_attention = {};    ///< false: scores are not divided
  std::string_view scale_by_layer = {};     ///< true: scores are divided by the layer's number, too
  std::string_view attention_softcap = {};
  std::string_view logit_softcap = {};
  std::string_view window = {};          ///< sliding window; null: none
  std::string_view use_window = {};      ///< false: no sliding window, whatever `window` says
  std::string_view window_pattern = {};  ///< one layer in so many sees everything
  std::string_view rope_theta = "rope_theta";
  std::string_view rope_theta_local = {};  ///< of sliding layers
  std::string_view rope_partial = {};      ///< fraction of each head that rotates; empty: all of it
  std::string_view experts = {};
  std::string_view experts_per_token = "num_experts_per_tok";
  std::string_view expert_width = {};
  std::string_view shared_width = {};
  std::string_view normalize_experts = {};  ///< empty: weights of chosen experts sum to 1
};

enum class Positions { rotary, learned };
enum class MlpKind { gated, plain };
enum class QkvOrder { separate, one_after_another, per_head };  ///< fused projections: q k v, or q k v of each head
enum class QkNorm { none, per_head, whole_row, per_head_own };  ///< own: each head has a weight tensor
enum class Windows { none, every_layer, by_layer_type, from_layer, odd_layers_below };

/// A setting that must have this value (JSON text) or be absent; other values are not supported.
struct Requirement {
  std::string_view key;
  std::string_view value;
};

/// A name of a rope scaling that means another one in this family.
struct RopeAlias {
  std::string_view alias;
  std::string_view type;
};

struct Family {
  std::string_view model_type = {};
  std::string_view nested = {};    ///< object of config.json that holds the settings; if absent, they stand at the top
  std::string_view defaults = {};  ///< JSON: what Transformers' configuration class says where config.json is silent
  std::vector<Requirement> requires_values = {};
  FamilyNames names = {};
  FamilyKeys keys = {};

  bool causal = true;
  Positions positions = Positions::rotary;
  std::int64_t position_offset = 0;
  bool scale_embedding = false;  ///< times sqrt(hidden)
  NormKind norm = NormKind::rms;
  bool norm_plus_one = false;
  QkvOrder qkv = QkvOrder::separate;
  QkNorm qk_norm = QkNorm::none;
  MlpKind mlp = MlpKind::gated;
  std::uint64_t intermediate_factor = 0;  ///< where keys.intermediate is absent: times hidden
  bool transposed = false;                ///< linears of blocks are stored as [in_features, out_features]
  bool parallel_shares_norm = false;      ///< parallel branches read one norm
  bool qkv_bias = false, o_bias = false, mlp_bias = false;  ///< where the keys above are empty or absent
  Windows windows = Windows::none;
  std::uint64_t full_every = 0;  ///< Windows::by_layer_type without layer_types: every so manieth layer sees all
  std::vector<RopeAlias> rope_aliases = {};
};

/// All tables.
const std::vector<Family>& families();
std::vector<Family> decoder_families();
std::vector<Family> expert_families();
std::vector<Family> encoder_families();

}  // namespace quant
