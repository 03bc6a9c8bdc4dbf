#!/usr/bin/env python3
"""Makes golden/llm_int8.safetensors with bitsandbytes on the CPU: for each case an FP16 weight, its int8 codes and SCB
(int8_vectorwise_quant), FP16 inputs with outlier columns, those columns, and the mixed product (int8_mixed_scaled_mm). Needs
torch, bitsandbytes, safetensors."""
import pathlib

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent / "golden"
here.mkdir(exist_ok=True)
torch.manual_seed(5)
tensors = {}
for number, (rows, cols, tokens, outliers) in enumerate([(24, 64, 1, 2), (16, 128, 7, 5), (40, 96, 16, 0), (8, 32, 5, 3)]):
    weight = (torch.randn(rows, cols) * 0.05).half()
    x = torch.randn(tokens, cols).clamp(-5, 5).half()
    for column in torch.randperm(cols)[:outliers]:
        x[torch.randint(tokens, (1,)), column] = 6.0 + 20 * torch.rand(1).item()
        if tokens > 2:
            x[:2, column] = torch.randn(2).half()
    codes, scb, _ = F.int8_vectorwise_quant(weight.clone())
    quantized, sca, columns = F.int8_vectorwise_quant(x.clone(), threshold=6.0)
    found = columns if columns is not None else torch.empty(0, dtype=torch.int64)
    name = f"{number}."
    tensors |= {name + "weight": weight, name + "codes": codes.contiguous(), name + "SCB": scb, name + "x": x,
                name + "columns": found.to(torch.int32), name + "SCA": sca}
    # The product as the mixed algorithm defines it, in float64: the constant of bitsandbytes' portable path lacks a digit.
    value = codes.double() * scb.double()[:, None] / 127
    dense = quantized.double() * sca.double()[:, None] / 127
    dense[:, found] = 0
    tensors[name + "y"] = dense @ value.T + x.double()[:, found] @ value.double()[:, found].T
    ours = torch.ops.bitsandbytes.int8_scaled_mm(quantized.clone().index_fill(1, found, 0), codes, sca, scb, None, torch.float16)
    theirs = ours.double() + x.double()[:, found] @ value[:, found].T
    worst = (theirs - tensors[name + "y"]).abs().max().item() / tensors[name + "y"].abs().max().item()
    print(number, "bitsandbytes' own product differs by", worst)
    assert worst < 2e-3
save_file(tensors, here / "llm_int8.safetensors", metadata={"cases": "[]"})
