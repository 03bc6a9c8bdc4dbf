// Rotary position embeddings and their scalings for longer contexts, from config.json.
#pragma once

#include <cstdint>
#include <string_view>

#include "model/family_config.h"
#include "quant/model_program.h"

namespace quant {

/// Fills the frequencies of `op`, whose heads and head_dim are set. `layer_type` ("full_attention" or
/// "sliding_attention") chooses among settings per type of layer. Scalings: default, linear, dynamic, llama3, yarn,
/// longrope. Throws Error{unsupported} naming any other. Sources: RoPE arXiv:2104.09864; linear arXiv:2306.15595; YaRN
/// arXiv:2309.00071; LongRoPE arXiv:2402.13753; dynamic NTK and llama3 as in Transformers' modeling_rope_utils.py,
/// whose defaults apply.
void set_rope(RotaryOp& op, const Family& family, const FamilyConfig& config, std::string_view layer_type);

}  // namespace quant
