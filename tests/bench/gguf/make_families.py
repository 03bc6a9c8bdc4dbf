"""Small random models of the families that --to gguf knows, with the example model's tokenizer.

usage: make_families.py OUT_DIR [NAME ...]      (needs torch and transformers)
"""
import pathlib
import shutil
import sys

import torch
import transformers as tf

EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "examples" / "tiny-llama-novels"
BASE = dict(vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=None)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
GROUPED = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
EXPERTS = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=128)
GEMMA3 = dict(head_dim=32, sliding_window=64, query_pre_attn_scalar=32, num_hidden_layers=7)
FAMILIES = {
    "llama": tf.LlamaConfig(**BASE, tie_word_embeddings=False),
    "llama_bias": tf.LlamaConfig(**BASE, head_dim=64, attention_bias=True),
    "llama3_rope": tf.LlamaConfig(**BASE, rope_parameters=LLAMA3),
    "mistral": tf.MistralConfig(**BASE, head_dim=32, sliding_window=None),
    "qwen2": tf.Qwen2Config(**BASE),
    "qwen3": tf.Qwen3Config(**BASE, head_dim=64),
    "gemma": tf.GemmaConfig(**BASE, head_dim=32),
    "gemma2": tf.Gemma2Config(**BASE, head_dim=32, sliding_window=64, query_pre_attn_scalar=32),
    "phi3": tf.Phi3Config(**BASE),
    "olmo2": tf.Olmo2Config(**BASE),
    "olmo2_tied": tf.Olmo2Config(**BASE, tie_word_embeddings=True),
    "stablelm": tf.StableLmConfig(**BASE, use_qkv_bias=True),
    "stablelm_parallel": tf.StableLmConfig(**BASE, qk_layernorm=True, use_parallel_residual=True),
    "gemma3_text": tf.Gemma3TextConfig(**{**BASE, **GEMMA3}),
    "gemma3": tf.Gemma3Config(text_config={**BASE, **GEMMA3}, vision_config=dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)),
    "qwen3_moe": tf.Qwen3MoeConfig(**BASE, **EXPERTS, head_dim=64, norm_topk_prob=True),
    "qwen2_moe": tf.Qwen2MoeConfig(**BASE, **EXPERTS, shared_expert_intermediate_size=256),
    "mixtral": tf.MixtralConfig(**BASE, num_local_experts=4, num_experts_per_tok=2),
    "gpt2": tf.GPT2Config(vocab_size=4096, n_embd=256, n_layer=3, n_head=8, n_positions=512, bos_token_id=0, eos_token_id=1),
    "gpt_neox": tf.GPTNeoXConfig(**GROUPED, hidden_act="gelu_new"),
    "gpt_neox_serial": tf.GPTNeoXConfig(**GROUPED, hidden_act="gelu", use_parallel_residual=False),
}


def main():
    out = pathlib.Path(sys.argv[1])
    for name, config in FAMILIES.items():
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
        torch.manual_seed(1)
        kind = tf.Gemma3ForConditionalGeneration if name == "gemma3" else tf.AutoModelForCausalLM
        model = kind._from_config(config) if name == "gemma3" else kind.from_config(config)
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases that show where they go
                parameter.data += 0.1 * torch.randn_like(parameter)
            else:
                parameter.data *= 2.5
        model.float().save_pretrained(out / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXAMPLE / file, out / name / file)


main()
