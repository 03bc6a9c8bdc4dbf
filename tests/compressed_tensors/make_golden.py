#!/usr/bin/env python3
"""Makes golden/golden.safetensors with the compressed-tensors Python package (see golden/README.md for the schema).

Needs: pip install torch safetensors compressed-tensors==0.20.0.  Usage: make_golden.py [output file]
"""

import json
import math
import pathlib
import sys

import compressed_tensors
import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import (
    calculate_qparams,
    generate_gparam,
    maybe_pad_tensor_for_block_quant,
)
from safetensors.torch import save_file

ARG_KEYS = (
    "num_bits type symmetric group_size strategy block_structure dynamic actorder scale_dtype zp_dtype observer "
    "observer_kwargs"
).split()

TENSORS: dict[str, torch.Tensor] = {}
CASES: list[dict] = []


def make_weights() -> None:
    """Gaussian rows with the values that break quantizers: outliers, one-sided rows, a zero row, zeros of both signs."""
    generator = torch.Generator().manual_seed(20)
    for rows, cols in ((40, 64), (33, 48), (6, 256)):
        weight = torch.randn(rows, cols, generator=generator) * 0.05
        weight[1, 5] = 1.75
        weight[2] = weight[2].abs() + 0.01
        weight[3] = -weight[3].abs() - 0.01
        weight[4] = 0.0
        weight[0, 0], weight[0, 1] = 0.0, -0.0
        TENSORS[f"weights/w{rows}x{cols}"] = weight.contiguous()
    # Multiples of a power of two, so that quotients fall on ties between codes.
    steps = torch.arange(-64, 64, dtype=torch.float32).reshape(2, 64)
    TENSORS["weights/ties"] = (torch.cat([steps, steps.flip(1) / 4, -steps / 8]) / 64).contiguous()


def extremes(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest value per scale, in the shape of the scale tensor."""
    strategy = str(args.strategy)
    if strategy == "tensor":
        return weight.amin().reshape(1), weight.amax().reshape(1)
    if strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if strategy in ("group", "tensor_group"):
        groups = weight.unflatten(1, (-1, args.group_size))
        return groups.amin(-1), groups.amax(-1)
    height, width = args.block_structure
    padded = maybe_pad_tensor_for_block_quant(weight, (height, width))
    blocks = padded.reshape(padded.shape[0] // height, height, padded.shape[1] // width, width)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


def dump_args(args: QuantizationArgs | None) -> dict | None:
    if args is None:
        return None
    plain = {key: getattr(args, key) for key in ARG_KEYS}
    for key in ("scale_dtype", "zp_dtype"):
        plain[key] = None if plain[key] is None else str(plain[key])
    if args.symmetric:
        plain["zp_dtype"] = None
    return plain


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).contiguous()


def unpacked_codes(weight, scale, zero_point, global_scale, args, state) -> torch.Tensor:
    if args.type == "float" and args.num_bits == 4:
        return nibbles(state["weight_packed"])
    if args.type == "float":
        return state["weight"].view(torch.uint8)
    return quantize(weight, scale, zero_point, args, dtype=torch.int8, global_scale=global_scale)


def add_case(name: str, weight_name: str, args: dict, inputs: dict | None = None, dtype=torch.float32,
             format_name: str | None = None, dequantized: bool = False) -> None:
    weights = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights,
                                input_activations=QuantizationArgs(**inputs) if inputs else None)
    format_name = format_name or infer_module_format(torch.nn.Linear, scheme).value
    weight = TENSORS[f"weights/{weight_name}"].to(dtype)
    low, high = extremes(weight, weights)
    two_level = str(weights.strategy) == "tensor_group"
    global_scale = generate_gparam(weight.amin(), weight.amax()) if two_level else None
    scale, zero_point = calculate_qparams(low, high, weights, global_scale=global_scale)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
    if two_level:
        state["weight_global_scale"] = global_scale
    compressor = BaseCompressor.get_value_from_registry(format_name)
    compressed = compressor.compress(dict(state), scheme)
    for key, tensor in compressed.items():
        TENSORS[f"{name}/{key}"] = tensor.contiguous()
    TENSORS[f"{name}/codes"] = unpacked_codes(weight, scale, zero_point, global_scale, weights, compressed).contiguous()
    TENSORS[f"{name}/scale_f32"] = scale.to(torch.float32).contiguous()
    if not weights.symmetric:
        TENSORS[f"{name}/zero_point"] = zero_point.contiguous()
    if dequantized:
        restored = compressor.decompress(dict(compressed), scheme)["weight"]
        TENSORS[f"{name}/dequantized"] = restored.to(torch.float32).contiguous()
    CASES.append({"name": name, "weight": f"weights/{weight_name}", "weight_dtype": str(dtype).removeprefix("torch."),
                  "format": format_name, "weights": dump_args(weights), "input_activations": dump_args(
                      scheme.input_activations), "stored": sorted(compressed)})


def integer_cases() -> None:
    for bits in range(1, 9):
        for symmetric in (True, False):
            tag = f"int{bits}_{'sym' if symmetric else 'asym'}"
            common = dict(num_bits=bits, type="int", symmetric=symmetric)
            add_case(f"{tag}_tensor_w33x48", "w33x48", common | dict(strategy="tensor"))
            add_case(f"{tag}_channel_w33x48", "w33x48", common | dict(strategy="channel"))
            add_case(f"{tag}_group_w33x48", "w33x48", common | dict(strategy="group", group_size=16),
                     dequantized=bits in (3, 4))
            add_case(f"{tag}_group_w40x64", "w40x64", common | dict(strategy="group", group_size=32))
            if bits in (4, 8):
                add_case(f"{tag}_block_w33x48", "w33x48", common | dict(strategy="block", block_structure=[16, 20]))
                add_case(f"{tag}_channel_ties", "ties", common | dict(strategy="channel"))
    add_case("int4_sym_group128_w6x256", "w6x256", dict(num_bits=4, strategy="group", group_size=128))


def int_activation_cases() -> None:
    token = dict(num_bits=8, type="int", strategy="token", dynamic=True)
    add_case("w8a8_channel", "w33x48", dict(num_bits=8, strategy="channel"), token)
    add_case("w8a8_asym_channel", "w33x48", dict(num_bits=8, strategy="channel", symmetric=False), token)
    add_case("w4a8_group", "w33x48", dict(num_bits=4, strategy="group", group_size=16), token)
    add_case("w4afp8_group", "w33x48", dict(num_bits=4, strategy="group", group_size=16), token | dict(type="float"))


def float_cases() -> None:
    fp8 = dict(num_bits=8, type="float")
    token = fp8 | dict(strategy="token", dynamic=True)
    for weight in ("w40x64", "w33x48", "ties"):
        add_case(f"fp8_tensor_{weight}", weight, fp8 | dict(strategy="tensor"), token)
        add_case(f"fp8_channel_{weight}", weight, fp8 | dict(strategy="channel"), token, dequantized=weight == "w33x48")
    add_case("fp8_block_w40x64", "w40x64", fp8 | dict(strategy="block", block_structure=[16, 32]), token)
    add_case("fp8_block_w33x48", "w33x48", fp8 | dict(strategy="block", block_structure=[16, 20]), token)
    add_case("fp8_group_w40x64", "w40x64", fp8 | dict(strategy="group", group_size=32), token)
    add_case("fp8_weight_only_channel_w33x48", "w33x48", fp8 | dict(strategy="channel"))
    nvfp4 = dict(num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype="torch.float8_e4m3fn")
    mxfp4 = dict(num_bits=4, type="float", strategy="group", group_size=32, scale_dtype="torch.uint8")
    for weight in ("w40x64", "w33x48", "w6x256", "ties"):
        add_case(f"nvfp4_{weight}", weight, nvfp4, dequantized=weight == "w33x48")
        if weight == "w33x48":
            continue
        add_case(f"mxfp4_{weight}", weight, mxfp4, dequantized=weight == "w40x64")
        add_case(f"mxfp8_{weight}", weight, mxfp4 | dict(num_bits=8), dequantized=weight == "w40x64")


def low_precision_cases() -> None:
    """Weights in 16 bits: the package computes in that type, so only the layout can be compared (see README)."""
    for dtype in (torch.bfloat16, torch.float16):
        tag = str(dtype).removeprefix("torch.")
        add_case(f"{tag}_int4_asym_group", "w33x48", dict(num_bits=4, symmetric=False, strategy="group", group_size=16),
                 dtype=dtype)
        add_case(f"{tag}_fp8_channel", "w33x48", dict(num_bits=8, type="float", strategy="channel"), dtype=dtype)


def pack_whole_elements(codes: np.ndarray, bits: int) -> np.ndarray:
    """The packing of compressed-tensors <= 0.17: floor(32 / bits) whole codes per word, lowest bits first."""
    per_word = 32 // bits
    padded = np.zeros((codes.shape[0], math.ceil(codes.shape[1] / per_word) * per_word), dtype=np.uint32)
    padded[:, : codes.shape[1]] = codes.astype(np.int32) + (1 << (bits - 1))
    words = padded.reshape(codes.shape[0], -1, per_word) << (np.arange(per_word, dtype=np.uint32) * bits)
    return np.bitwise_or.reduce(words, axis=2).astype(np.uint32).view(np.int32)


def old_packing_cases() -> None:
    for case in [case for case in CASES if case["format"] == "pack-quantized"]:
        bits = case["weights"]["num_bits"]
        if bits not in (3, 5, 6, 7) or "_group_w" not in case["name"]:
            continue
        name = case["name"]
        codes = TENSORS[f"{name}/codes"].numpy()
        TENSORS[f"{name}/old_weight_packed"] = torch.from_numpy(pack_whole_elements(codes, bits).copy())
        if not case["weights"]["symmetric"]:
            zeros = TENSORS[f"{name}/zero_point"].numpy()
            packed = pack_whole_elements(np.ascontiguousarray(zeros.T), bits).T
            TENSORS[f"{name}/old_weight_zero_point"] = torch.from_numpy(packed.copy())


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "golden" / "golden.safetensors"
    make_weights()
    integer_cases()
    int_activation_cases()
    float_cases()
    low_precision_cases()
    old_packing_cases()
    metadata = {"cases": json.dumps(CASES), "compressed_tensors": compressed_tensors.__version__,
                "torch": torch.__version__}
    save_file({name: tensor.clone() for name, tensor in TENSORS.items()}, str(target), metadata=metadata)
    print(f"{target}: {len(CASES)} cases, {len(TENSORS)} tensors, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
