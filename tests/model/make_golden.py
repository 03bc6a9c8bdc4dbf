#!/usr/bin/env python3
"""Writes golden/<case>.safetensors: what Transformers computes for tiny models of every family.

A file holds the case's config.json, the names and shapes of its tensors, two token sequences, and the model's output in
float32 (logits, or the last hidden state where there is no language-model head). Weights are not stored: this script and
golden_model.h both compute them from the tensor's name, see `fill`.

    python tests/model/make_golden.py [CASE ...]        made with torch 2.15, transformers 5.23
"""
import copy
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, Gemma3ForConditionalGeneration

GOLDEN = pathlib.Path(__file__).parent / "golden"
LENGTHS = (29, 12)
MASK = (1 << 64) - 1


def fill(name, shape):
    """Uniform values from splitmix64 of the name's FNV-1a hash plus the index; norms' weights lie around 1."""
    state = 14695981039346656037
    for byte in name.encode():
        state = ((state ^ byte) * 1099511628211) & MASK
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(state) + (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    uniform = (z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
    if len(shape) == 1:
        base = 1.0 if name.endswith(".weight") or name.endswith(".gamma") else 0.0
        values = base + uniform * 0.25
    else:
        values = uniform * np.sqrt(3.0 / shape[-1])
    return values.astype(np.float32).reshape(shape)


BASE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}
MOE = {"moe_intermediate_size": 24, "num_experts_per_tok": 2, "norm_topk_prob": False}


def case(model_type, base=BASE, drop=(), **settings):
    config = {"model_type": model_type, **{k: v for k, v in base.items() if k not in drop}, **settings}
    return config


NO_KV = ("num_key_value_heads",)
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": None,
        "eos_token_id": None}
OPT = {"vocab_size": 64, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
       "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
BERT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64, "pad_token_id": None}
GEMMA3 = dict(BASE, num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=12, sliding_window=8)

# Old forms of the settings (rope_theta, rope_scaling) and new ones (rope_parameters) take turns.
CASES = {
    "llama": case("llama", tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama_tied_biases": case("llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_theta=10000.0),
    "llama_mqa_head_dim": case("llama", num_key_value_heads=1, head_dim=16, hidden_act="gelu"),
    "llama_linear": case("llama", rope_theta=1000.0, rope_scaling={"type": "linear", "factor": 3.0}),
    "llama_dynamic": case("llama", max_position_embeddings=16, rope_theta=1000.0,
                          rope_scaling={"type": "dynamic", "factor": 2.0}),
    "llama_llama3": case("llama", head_dim=16, rope_theta=500000.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24}),
    "llama_yarn": case("llama", head_dim=16, rope_parameters={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}),
    "llama_yarn_mscale": case("llama", head_dim=16, rope_theta=10000.0, rope_scaling={
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 1.2,
        "beta_fast": 20, "beta_slow": 2, "truncate": False}),
    "llama_headless": case("llama"),
    "mistral": case("mistral", sliding_window=8, rope_theta=10000.0),
    "mistral_no_window": case("mistral", sliding_window=None, head_dim=16),
    "qwen2": case("qwen2", tie_word_embeddings=True, rope_theta=1000000.0),
    "qwen2_window": case("qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": case("qwen3", head_dim=16, tie_word_embeddings=True, rope_theta=1000000.0),
    "gemma2": case("gemma2", num_hidden_layers=3, head_dim=16, query_pre_attn_scalar=12, sliding_window=8,
                   attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
    "gemma3_text": case("gemma3_text", GEMMA3, sliding_window_pattern=3, rope_theta=1000000.0,
                        rope_local_base_freq=100.0, rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "gemma3_text_new": case(
        "gemma3_text", GEMMA3, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        final_logit_softcapping=4.0, attn_logit_softcapping=None,
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}),
    "gemma3": {
        "model_type": "gemma3", "tie_word_embeddings": True, "mm_tokens_per_image": 4,
        "text_config": {k: v for k, v in case("gemma3_text", GEMMA3, sliding_window_pattern=2).items()
                        if k not in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8,
                          "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8, "patch_size": 4}},
    "phi3": case("phi3", sliding_window=8),
    "phi3_partial": case("phi3", head_dim=16, partial_rotary_factor=0.5, tie_word_embeddings=True),
    "phi3_longrope": case(
        "phi3", head_dim=8, max_position_embeddings=64, original_max_position_embeddings=16,
        rope_scaling={"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.5], "long_factor": [1.5, 2.0, 5.0, 9.0]}),
    "opt": case("opt", OPT),
    "opt_post_norm": case("opt", OPT, do_layer_norm_before=False, word_embed_proj_dim=24),
    "opt_plain": case("opt", OPT, enable_bias=False, layer_norm_elementwise_affine=False, word_embed_proj_dim=24,
                      activation_function="gelu"),
    "gpt2": case("gpt2", GPT2),
    "gpt2_scaled_by_layer": case("gpt2", GPT2, scale_attn_by_inverse_layer_idx=True, n_inner=40,
                                 activation_function="relu"),
    "gpt_neox": case("gpt_neox", drop=NO_KV, rotary_pct=0.5, rotary_emb_base=1000),
    "gpt_neox_sequential": case("gpt_neox", drop=NO_KV, use_parallel_residual=False, attention_bias=False,
                                rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0,
                                                 "partial_rotary_factor": 1.0}),
    "stablelm": case("stablelm", partial_rotary_factor=0.25, use_qkv_bias=True),
    "stablelm_parallel": case("stablelm", partial_rotary_factor=0.5, use_parallel_residual=True, qk_layernorm=True),
    "olmo2": case("olmo2", rope_theta=500000.0),
    "mixtral": case("mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=8),
    "mixtral_fused": case("mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": case("qwen2_moe", num_hidden_layers=4, num_experts=6, shared_expert_intermediate_size=40,
                      decoder_sparse_step=2, mlp_only_layers=[1], **MOE),
    "qwen2_moe_window": case("qwen2_moe", num_hidden_layers=3, num_experts=4, shared_expert_intermediate_size=16,
                             use_sliding_window=True, sliding_window=8, max_window_layers=2,
                             **dict(MOE, norm_topk_prob=True)),
    "qwen2_moe_fused": case("qwen2_moe", num_experts=4, shared_expert_intermediate_size=16, **MOE),
    "qwen3_moe": case("qwen3_moe", num_experts=6, head_dim=16, **dict(MOE, norm_topk_prob=True)),
    "qwen3_moe_fused": case("qwen3_moe", num_local_experts=4, use_sliding_window=True, sliding_window=8, **MOE),
    "bert": case("bert", BERT),
    "bert_masked_lm": case("bert", BERT, hidden_act="gelu_new"),
}
CLASSES = {"llama_headless": AutoModel, "bert": AutoModel, "bert_masked_lm": AutoModelForMaskedLM,
           "gemma3": Gemma3ForConditionalGeneration}


def tensor_shapes(model, fused, folder):
    model.save_pretrained(folder, save_original_format=not fused)
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}


def build(name, config, folder):
    cls = CLASSES.get(name, AutoModelForCausalLM)
    (folder / "config.json").write_text(json.dumps(config))
    model = cls.from_config(AutoConfig.from_pretrained(folder)) if hasattr(cls, "from_config") else cls(
        AutoConfig.from_pretrained(folder))
    config = dict(config, architectures=[type(model).__name__])
    saved = folder / "saved"
    shapes = tensor_shapes(model, name.endswith("_fused"), saved)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: fill(key, shape) for key, shape in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    return config, shapes, cls


def run(name, cls, folder, ids):
    # A model of its own for each sequence: dynamic rope scaling remembers the longest one.
    model, info = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    model.eval()
    with torch.no_grad():
        if name == "bert_masked_lm":
            return model.bert(ids[None]).last_hidden_state[0].numpy()
        out = model(ids[None])
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state)[0].numpy()


def make(name, config):
    random = np.random.default_rng(len(name))
    tensors = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        config, shapes, cls = build(name, copy.deepcopy(config), folder)
        for i, length in enumerate(LENGTHS):
            ids = random.integers(0, 64, length)
            tensors[f"ids.{i}"] = ids.astype(np.int32)
            tensors[f"output.{i}"] = run(name, cls, folder, torch.tensor(ids)).astype(np.float32)
            assert np.isfinite(tensors[f"output.{i}"]).all()
    GOLDEN.mkdir(exist_ok=True)
    metadata = {"config": json.dumps(config), "tensors": json.dumps(shapes),
                "made_with": f"torch {torch.__version__}, transformers {transformers.__version__}"}
    save_file(tensors, GOLDEN / f"{name}.safetensors", metadata)
    print(name, sum(int(np.prod(s)) for s in shapes.values()), "weights",
          [float(abs(tensors[f"output.{i}"]).max()) for i in (0, 1)])


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    for chosen in sys.argv[1:] or CASES:
        make(chosen, CASES[chosen])
