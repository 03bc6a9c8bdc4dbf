#!/usr/bin/env python3
"""Makes golden/gptq.safetensors and golden/awq.safetensors: random codes, scales and zero points, packed by the packages
themselves. Where a package dequantizes on the CPU its values are checked here as well.

    pip install torch safetensors gptqmodel==7.7.0 optimum
    pip download --no-deps autoawq==0.2.9 && tar xzf autoawq-0.2.9.tar.gz
    make_golden.py autoawq-0.2.9

No GPU is needed: only pack and dequantize functions run. AutoAWQ is archived and does not install beside newer packages, so
its modules are imported from the folder without its __init__."""
import importlib
import json
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent / "golden"
here.mkdir(exist_ok=True)


def random_linear(bits, rows, cols, group, symmetric, least, seed, order=None):
    """Codes, zero points and float16 scales, and a linear whose weights they give exactly enough to be found again."""
    random = torch.Generator().manual_seed(seed)
    groups = cols // group
    codes = torch.randint(0, 2**bits, (rows, cols), generator=random)
    zeros = torch.full((rows, groups), 2 ** (bits - 1))
    if not symmetric:
        zeros = torch.randint(least, 2**bits, (rows, groups), generator=random)
    scales = (torch.rand((rows, groups), generator=random) * 0.02 + 0.001).half().float()
    index = order if order is not None else torch.arange(cols) // group
    weight = (codes - zeros[:, index]) * scales[:, index]
    linear = torch.nn.Linear(cols, rows, bias=False)
    linear.weight.data = weight
    return linear, codes, zeros, scales, index


def golden_gptq():
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
    from gptqmodel.quantization import QuantizeConfig

    tensors, cases = {}, []
    specs = [(bits, symmetric, version, ordered) for bits in (2, 3, 4, 8) for symmetric in (True, False)
             for version in ("gptq", "gptq_v2") for ordered in (False, True)]
    for number, (bits, symmetric, version, ordered) in enumerate(specs):
        rows, cols, group = 32, 96, 32
        order = torch.randperm(cols, generator=torch.Generator().manual_seed(number)) // group if ordered else None
        # Version 1 of asymmetric weights: zero points of 0 once, where GPTQModel borrows from the neighbour.
        least = 0 if version == "gptq_v2" or not ordered else 1
        linear, codes, zeros, scales, index = random_linear(bits, rows, cols, group, symmetric, least, number, order)
        module = TorchLinear(bits=bits, group_size=group, sym=symmetric, desc_act=ordered, in_features=cols,
                             out_features=rows, bias=False, pack_dtype=torch.int32, register_buffers=True)
        module.pack_original(linear, scales, zeros, index.to(torch.int32))
        module.post_init()
        values = (codes - zeros[:, index]) * scales[:, index]
        assert torch.equal(module.dequantize_weight().T.float(), values.half().float())
        if version == "gptq":
            config = QuantizeConfig(bits=bits, group_size=group, sym=symmetric, desc_act=ordered)
            convert_gptq_v2_to_v1_format_module(module, config)
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"{number}.{part}"] = getattr(module, part).clone().contiguous()
        tensors[f"{number}.codes"] = (codes - 2 ** (bits - 1)).to(torch.int8)
        tensors[f"{number}.zeros"] = (zeros - 2 ** (bits - 1)).to(torch.int8)
        cases.append({"bits": bits, "rows": rows, "cols": cols, "group": group, "symmetric": symmetric,
                      "version": version, "ordered": ordered, "least": least})
    save_file(tensors, here / "gptq.safetensors", metadata={"cases": "[]", "gptq": json.dumps(cases)})


def import_autoawq(folder):
    for name in ("awq", "awq.modules", "awq.modules.linear", "awq.utils"):
        module = types.ModuleType(name)
        module.__path__ = [str(pathlib.Path(folder, *name.split(".")))]
        sys.modules[name] = module
    # Lists of calibration data and the like, which packing does not need.
    linear = {}
    for form, name in (("gemm", "WQLinear_GEMM"), ("gemv", "WQLinear_GEMV"), ("gemv_fast", "WQLinear_GEMVFast")):
        linear[form] = getattr(importlib.import_module(f"awq.modules.linear.{form}"), name)
    return linear, importlib.import_module("awq.utils.packing_utils").dequantize_gemm


def golden_awq(folder):
    classes, dequantize_gemm = import_autoawq(folder)
    tensors, cases = {}, []
    specs = [(form, *rest) for form in classes for rest in ((32, False), (64, False), (128, False), (128, True))]
    for number, (form, group, symmetric) in enumerate(specs):
        rows, cols = 32, 256
        linear, codes, zeros, scales, index = random_linear(4, rows, cols, group, symmetric, 0, number)
        wide = form == "gemm"
        packed = classes[form].from_linear(linear, 4, group, scales=scales.T.contiguous() if wide else scales,
                                           zeros=zeros.T.contiguous() if wide else zeros)
        for part in ("qweight", "qzeros", "scales"):
            tensors[f"{number}.{part}"] = getattr(packed, part).clone().contiguous()
        if wide:
            values = (codes - zeros[:, index]) * scales[:, index]
            own = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales.float(), 4, group).T
            assert torch.equal(own, values)
        tensors[f"{number}.codes"] = (codes - 8).to(torch.int8)
        tensors[f"{number}.zeros"] = (zeros - 8).to(torch.int8)
        cases.append({"form": form, "rows": rows, "cols": cols, "group": group, "symmetric": symmetric})
    save_file(tensors, here / "awq.safetensors", metadata={"cases": "[]", "awq": json.dumps(cases)})


golden_awq(sys.argv[1])
golden_gptq()
