#!/usr/bin/env python3
"""Loads a compressed model with the Python packages and compares it with this project's own reading of it.

Not part of the default test suite. Needs: pip install torch transformers compressed-tensors safetensors.

    quant dequantize <model> <dense>            # this project's reading, as a plain checkpoint
    load_with_python.py <model> [<dense>] [--prompt TEXT] [--dequantize]

--dequantize: have transformers decompress while it loads. Packed asymmetric models need it: compressed-tensors 0.20 does
not pack the zero points of the empty model into which transformers would load them, and refuses the sizes.

Checks that
  1. the package accepts quantization_config,
  2. transformers loads the model without missing, unexpected or newly initialised tensors,
  3. every decompressed weight equals the one in <dense>, up to the rounding of the type in which the package computes,
  4. the logits are finite (the best next tokens are printed).
Exit status 0 if all that was checked holds.
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig


def load_model(folder: pathlib.Path, dequantize: bool):
    """The model, and the complaints of loading."""
    config = json.loads((folder / "config.json").read_text())
    from compressed_tensors.quantization import QuantizationConfig

    parsed = QuantizationConfig.model_validate(config["quantization_config"])
    print(f"format {parsed.format}, groups {', '.join(parsed.config_groups)}, status {parsed.quantization_status.value}")
    # The package unpacks FP4 and MX weights to BF16 whatever the model's type is, and then cannot multiply other types.
    names = {str(group.format or parsed.format) for group in parsed.config_groups.values()}
    in_bf16 = any(name.startswith(("nvfp4", "mxfp")) for name in names)
    dtype = {"dtype": torch.bfloat16} if in_bf16 else {}
    method = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **dtype, **method)
    return model.eval(), info


def loading_problems(info: dict) -> list[str]:
    problems = []
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        values = list(info.get(key) or [])
        if values:
            problems.append(f"{key}: {', '.join(map(str, values[:5]))}{' ...' if len(values) > 5 else ''}")
    return problems


def input_ids(folder: pathlib.Path, model, prompt: str) -> torch.Tensor:
    if (folder / "tokenizer.json").exists():
        try:
            return AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt").input_ids
        except Exception as problem:  # a tokenizer is no part of what is tested here
            print(f"no tokenizer ({problem}); using fixed token numbers")
    return (torch.arange(16) * 7 % model.config.vocab_size).unsqueeze(0)


def dense_tensors(folder: pathlib.Path):
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name)


def tolerance(dtype: torch.dtype) -> float:
    """Two roundings to the computing type: of the product and of a scale times a global scale."""
    return 2.0 * torch.finfo(dtype).eps


def compare(model, dense: pathlib.Path) -> list[str]:
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    problems, worst, compared = [], 0.0, 0
    for name, expected in dense_tensors(dense):
        if name not in own:
            print(f"  {name}: not in the loaded model")
            continue
        loaded = own[name].detach()
        if loaded.shape != expected.shape:
            problems.append(f"{name}: shape {tuple(loaded.shape)} instead of {tuple(expected.shape)}")
            continue
        difference = (loaded.double() - expected.double()).abs()
        relative = (difference / expected.double().abs().clamp_min(torch.finfo(loaded.dtype).tiny)).max().item()
        worst, compared = max(worst, relative), compared + 1
        if relative > tolerance(loaded.dtype):
            problems.append(f"{name}: relative difference {relative:.3g}")
    print(f"{compared} tensors compared, largest relative difference {worst:.3g}")
    if compared == 0:
        problems.append("no tensor could be compared")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("dense", type=pathlib.Path, nargs="?")
    parser.add_argument("--prompt", default="It was a dark and stormy night; the rain fell")
    parser.add_argument("--dequantize", action="store_true")
    options = parser.parse_args()

    model, info = load_model(options.model, options.dequantize)
    problems = loading_problems(info)
    ids = input_ids(options.model, model, options.prompt)
    with torch.no_grad():
        logits = model(ids).logits[0, -1].float()  # the first forward pass decompresses the weights
    best = logits.topk(5)
    print("best next tokens:", ", ".join(f"{i} ({v:.4f})" for v, i in zip(best.values.tolist(), best.indices.tolist())))
    if not torch.isfinite(logits).all():
        problems.append("the logits are not finite")
    if options.dense is not None:
        problems += compare(model, options.dense)
    for problem in problems:
        print("PROBLEM", problem)
    print("failed" if problems else "all good")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
