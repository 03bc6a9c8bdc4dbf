#!/usr/bin/env python3
"""Makes golden/bitsandbytes.safetensors with bitsandbytes' quantize_4bit on the CPU: for each case the weight and the serialized
state (QuantState.as_dict(packed=True)), and the value that bitsandbytes dequantizes to. Needs torch, bitsandbytes, safetensors.
golden/errors.json: mean absolute and relative error over 1024 x 1024 normal weights, as the reference tests measure them."""
import json
import pathlib

import bitsandbytes.functional as F
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent / "golden"
here.mkdir(exist_ok=True)
torch.manual_seed(3)
tensors = {}
cases = [("nf4", 64, False, (6, 128), torch.float16), ("nf4", 32, True, (20, 512), torch.float32),
         ("nf4", 32, True, (33, 96), torch.bfloat16), ("nf4", 256, False, (5, 96), torch.float32),
         ("fp4", 64, False, (6, 128), torch.bfloat16), ("fp4", 128, True, (12, 64), torch.float32),
         ("nf4", 4096, False, (9, 1000), torch.float16), ("fp4", 512, False, (8, 64), torch.float32)]
for number, (kind, block, nested, shape, dtype) in enumerate(cases):
    weight = (torch.randn(shape) * 0.05).to(dtype)
    packed, state = F.quantize_4bit(weight, blocksize=block, quant_type=kind, compress_statistics=nested)
    name = f"{number}"
    tensors[f"{name}.weight"] = packed.contiguous()
    for key, value in state.as_dict(packed=True).items():
        tensors[f"{name}.weight.{key}"] = value.contiguous()
    tensors[f"{name}.original"] = weight
    # The portable computation: the CPU kernel of 0.50.2 takes other scales where a block goes on in the next row.
    absmax = F.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    value = _dequantize_4bit_compute(packed.reshape(-1), absmax.float(), state.code, block, shape, dtype)
    tensors[f"{name}.dequantized"] = value.float().contiguous()
save_file(tensors, here / "bitsandbytes.safetensors", metadata={"cases": "[]"})

errors = []
for kind in ("nf4", "fp4"):
    for block in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(block))
        packed, state = F.quantize_4bit(weight, blocksize=block, quant_type=kind)
        difference = (weight - F.dequantize_4bit(packed, state)).abs()
        errors.append({"type": kind, "block": block, "absolute": difference.mean().item(),
                       "relative": (difference / (weight.abs() + 1e-8)).mean().item()})
(here / "errors.json").write_text(json.dumps(errors, indent=1) + "\n")
