#!/usr/bin/env python3
"""Loads a GPTQ or AWQ output with Transformers and GPTQModel, and compares it with this project's own reading of it.

Not part of the default test suite. Needs: pip install torch transformers optimum gptqmodel==7.7.0 (no GPU).

    quant dequantize <model> <dense> --dtype F32          # this project's reading, as a plain checkpoint
    load_with_python.py <model> <dense> [--prompt TEXT]

Checks that
  1. Transformers loads the model, with kernels of GPTQModel for every linear that <model> holds quantized,
  2. each of their weights, dequantized by the package, is the one in <dense> to the rounding of float16,
  3. the logits of both models agree to the rounding of a forward pass with float16 weights (and the best tokens are printed).
Exit status 0 if all that holds."""
import argparse
import pathlib
import sys

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer


def tensors_of(folder):
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name)


def compare_weights(model, folder, dense):
    plain = dict(tensors_of(dense))
    problems, worst, compared = [], 0.0, 0
    modules = dict(model.named_modules())
    for name, _ in tensors_of(folder):
        if not name.endswith(".qweight"):
            continue
        module = name[: -len(".qweight")]
        layer = modules[module]
        if not hasattr(layer, "qweight"):
            problems.append(f"{module} is quantized in the file and {type(layer).__name__} in the model")
            continue
        if type(layer).__name__ not in seen:
            seen.append(type(layer).__name__)
        # A product with ones in one place each: whatever the kernel does inside, its columns are the weights.
        size = layer.in_features
        with torch.no_grad():
            values = layer(torch.eye(size, dtype=torch.float16).unsqueeze(0))[0].T.float()
        if layer.bias is not None:
            values -= layer.bias.float()[:, None]
        expected = plain[module + ".weight"].float()
        worst = max(worst, ((values - expected).abs() / expected.abs().clamp_min(1e-4)).max().item())
        compared += 1
    print(f"{compared} linears ({', '.join(seen)}), largest relative difference of a weight {worst:.2e}")
    if compared == 0:
        problems.append("no quantized linear was compared")
    if worst > 2.0**-9:
        problems.append("weights differ by more than float16 rounds")
    return problems


seen = []
parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("dense")
parser.add_argument("--prompt", default="It was a dark night, and the old house")
options = parser.parse_args()

quantized = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float16, device_map="cpu").eval()
problems = compare_weights(quantized, options.model, options.dense)
dense = AutoModelForCausalLM.from_pretrained(options.dense, dtype=torch.float32).eval()
ids = AutoTokenizer.from_pretrained(options.model)(options.prompt, return_tensors="pt").input_ids
with torch.no_grad():
    ours = dense(ids).logits[0].float()
    theirs = quantized(ids).logits[0].float()
difference = (ours - theirs).abs().max().item()
print(f"logits: largest difference {difference:.4f}, of values up to {ours.abs().max().item():.2f}")
print(f"best next tokens: {ours[-1].argmax().item()} and {theirs[-1].argmax().item()}")
if not torch.isfinite(theirs).all() or difference > 0.01 * ours.abs().max().item():
    problems.append("logits differ by more than one percent of their range")
for problem in problems:
    print("PROBLEM:", problem)
sys.exit(1 if problems else 0)
