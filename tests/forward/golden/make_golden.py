#!/usr/bin/env python3
"""Writes fake_quantize.safetensors: activations that compressed-tensors quantized and turned back, in float32.

Made with compressed-tensors 0.20.0 and torch 2.15. The tensors are x [6, 64] and one result per case of test_quantize.cpp.
"""
import pathlib

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors.torch import save_file

torch.manual_seed(3)
x = torch.randn(1, 6, 64)
x[0, 1] = 0
x[0, 2, 7] = 60
x[0, 3] = -x[0, 3].abs()
x[0, 4] *= 1e-3
x[0, 5] = x[0, 5].abs() + 2


def run(args, scale=None, zero_point=None, global_scale=None):
    args = QuantizationArgs(**args)
    if scale is None:
        scale, zero_point = compute_dynamic_scales_and_zp(x, args, None, global_scale)
    else:
        scale, zero_point = torch.tensor([scale]), torch.tensor([zero_point or 0], dtype=torch.int8)
    return fake_quantize(x, scale, zero_point, args, global_scale).reshape(6, 64).contiguous()


def ints(bits, symmetric, strategy, **more):
    return dict(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy, dynamic=True) | more


def floats(bits, strategy, **more):
    return dict(num_bits=bits, type="float", symmetric=True, strategy=strategy, dynamic=True) | more


absmax = x.abs().max()
result = {
    "x": x.reshape(6, 64).contiguous(),
    "int8_token": run(ints(8, True, "token")),
    "int8_token_asymmetric": run(ints(8, False, "token")),
    "int4_token": run(ints(4, True, "token")),
    "int4_token_asymmetric": run(ints(4, False, "token")),
    "int8_group": run(ints(8, True, "group", group_size=16)),
    "int4_group_asymmetric": run(ints(4, False, "group", group_size=16)),
    "int8_tensor": run(ints(8, True, "tensor")),
    "int8_tensor_asymmetric": run(ints(8, False, "tensor")),
    "int8_static": run(ints(8, True, "tensor", dynamic=False), 0.0625),
    "int8_static_asymmetric": run(ints(8, False, "tensor", dynamic=False), 0.03, -17),
    "fp8_token": run(floats(8, "token")),
    "fp8_group": run(floats(8, "group", group_size=32)),
    "fp8_static": run(floats(8, "tensor", dynamic=False), 0.01),
    "mxfp4": run(floats(4, "group", group_size=32, scale_dtype=torch.uint8, zp_dtype=torch.uint8)),
    "nvfp4": run(
        floats(4, "tensor_group", group_size=16, dynamic="local", scale_dtype=torch.float8_e4m3fn,
               zp_dtype=torch.float8_e4m3fn),
        global_scale=(448 * 6 / absmax).to(torch.float32).reshape(1)),
}
save_file(result, pathlib.Path(__file__).with_name("fake_quantize.safetensors"))
