#!/usr/bin/env python3
"""Writes golden/<case>/: tiny checkpoints of compressed-tensors, and the logits that Transformers computes for them.

Each folder is a checkpoint as the package saves it (config.json, model.safetensors); <case>.safetensors beside it has two
sequences of token ids and their logits. The package quantizes inputs of linears, keys and values on the way ("frozen"
models), with static scales taken here from the float model's ranges, narrowed so that some values are clipped.

    python tests/evaluate/make_golden.py [CASE ...]     made with torch 2.15, transformers 5.23, compressed-tensors 0.20
"""

import pathlib
import shutil
import sys

import compressed_tensors
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, apply_quantization_config
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

GOLDEN = pathlib.Path(__file__).parent / "golden"
CONFIG = dict(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, rope_theta=500.0)
INT8 = dict(num_bits=8, type="int", strategy="channel", symmetric=True)
FP8 = dict(INT8, type="float")
NVFP4 = dict(num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True,
             scale_dtype="torch.float8_e4m3fn", zp_dtype="torch.float8_e4m3fn")
KV = dict(num_bits=8, strategy="tensor", dynamic=False, symmetric=True)


def static(**more):
    return dict(dict(num_bits=8, type="int", strategy="tensor", dynamic=False, symmetric=True), **more)


# Weights, inputs, cache.
CASES = {
    "int8_symmetric": (INT8, static(), None),
    "int8_asymmetric": (INT8, static(symmetric=False), None),
    "fp8": (FP8, static(type="float"), None),
    "nvfp4": (NVFP4, dict(NVFP4, dynamic="local"), None),
    "fp8_cache": (FP8, None, dict(KV, type="float")),
    "int8_cache": (INT8, None, dict(KV, type="int")),
}


def float_model():
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG), dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # channels of different sizes, some with a mean
                parameter.copy_(1 + 0.4 * torch.randn(parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape) * 1.3 / parameter.shape[1] ** 0.5 + 0.02)
    return model.eval()


def token_ids():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, CONFIG["vocab_size"], (1, length), generator=generator) for length in (29, 12)]


def watch(model, ids):
    """Least and largest value of the inputs of every linear, and of all keys and values of every attention."""
    ranges = {}

    def widen(name, x):
        least, most = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(least, x.min().item()), max(most, x.max().item()))

    hooks = [module.register_forward_pre_hook(lambda _, args, name=name: widen(name, args[0]))
             for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for sequence in ids:
            cache = model(sequence, use_cache=True).past_key_values
            for number, layer in enumerate(cache.layers):
                widen(f"model.layers.{number}.self_attn.k", layer.keys)
                widen(f"model.layers.{number}.self_attn.v", layer.values)
    for hook in hooks:
        hook.remove()
    return {name: (torch.tensor([0.8 * a]), torch.tensor([0.8 * b])) for name, (a, b) in ranges.items()}


def set_parameter(module, name, value):
    current = getattr(module, name)
    assert current.numel() == value.numel(), (name, current.shape, value.shape)
    current.data.copy_(value.reshape(current.shape).to(current.dtype))


def set_scales(model, ranges, weights, inputs, cache):
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if cache and name.endswith("self_attn"):
            for which in "kv":
                scale, _ = calculate_qparams(*ranges[f"{name}.{which}"], cache)
                set_parameter(module, f"{which}_scale", scale)
        if scheme is None or not isinstance(module, torch.nn.Linear):
            continue
        weight = module.weight.data
        gparam = None
        groups = weight.unflatten(1, (-1, 16)) if weights.group_size else weight.unsqueeze(1)
        if weights.group_size:
            gparam = generate_gparam(weight.amin().reshape(1), weight.amax().reshape(1))
            set_parameter(module, "weight_global_scale", gparam)
        scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), weights, global_scale=gparam)
        set_parameter(module, "weight_scale", scale)
        if not inputs:
            continue
        least, most = ranges[name]
        if inputs.dynamic:
            set_parameter(module, "input_global_scale", generate_gparam(least, most))
            continue
        scale, zero_point = calculate_qparams(least, most, inputs)
        set_parameter(module, "input_scale", scale)
        if not inputs.symmetric:
            set_parameter(module, "input_zero_point", zero_point)


def quantized_model(weights, inputs, cache):
    model, ids = float_model(), token_ids()
    ranges = watch(model, ids)
    group = dict(targets=["Linear"], weights=weights, input_activations=inputs)
    config = QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"], kv_cache_scheme=cache,
                                quantization_status=QuantizationStatus.FROZEN)
    apply_quantization_config(model, config)
    scheme = config.config_groups["group_0"]
    set_scales(model, ranges, scheme.weights, scheme.input_activations, config.kv_cache_scheme)
    return model, ids


def make(name):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    weights, inputs, cache = CASES[name]
    tensors = {}
    for which, (i, c) in {"output": (inputs, cache), "plain": (None, None)}.items():
        model, ids = quantized_model(weights, i, c)
        for number, sequence in enumerate(ids):
            with torch.no_grad():
                logits = model(sequence, use_cache=True).logits
            tensors[f"ids.{number}"] = sequence[0].to(torch.int32)
            tensors[f"{which}.{number}"] = logits[0].contiguous()
    model, _ = quantized_model(weights, inputs, cache)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    made_with = f"compressed-tensors {compressed_tensors.__version__}, transformers {transformers.__version__}"
    save_file(tensors, GOLDEN / f"{name}.safetensors", metadata={"made_with": made_with})
    difference = (tensors["output.0"] - tensors["plain.0"]).abs().max() / tensors["plain.0"].abs().max()
    print(f"{name}: quantized inputs or cache change the logits by {difference:.3f}")
    assert difference > 1e-3


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        make(case)
