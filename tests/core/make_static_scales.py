"""Writes static_scales.json: static activation scales as the compressed-tensors package (0.20.0) computes them.

    python make_static_scales.py > static_scales.json
"""
import json

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

RANGES = [(-3.5, 2.25), (0.125, 7.0), (-9.0, -0.5), (-0.001, 0.0007), (-448.0, 448.0), (-1e-6, 60000.0),
          (-17.3, 17.299), (-1e-30, 1e-30), (-3e38, 1.0)]
ARGS = [dict(num_bits=8, type="int", symmetric=True), dict(num_bits=8, type="int", symmetric=False),
        dict(num_bits=4, type="int", symmetric=False), dict(num_bits=8, type="float", symmetric=True)]

scales = []
for args in ARGS:
    for low, high in RANGES:
        scale, zero = calculate_qparams(
            torch.tensor([low]), torch.tensor([high]), QuantizationArgs(strategy="tensor", dynamic=False, **args))
        scales.append({**args, "minimum": low, "maximum": high, "scale": scale.item(), "zero_point": int(zero.item())})
globals_ = [{"minimum": low, "maximum": high,
             "global_scale": generate_gparam(torch.tensor([low]), torch.tensor([high])).item()}
            for low, high in [*RANGES, (0.0, 0.0), (-1e-38, 0.0)]]
print(json.dumps({"scales": scales, "global_scales": globals_}, indent=1))
