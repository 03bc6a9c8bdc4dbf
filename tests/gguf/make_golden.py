"""Blocks as ggml's own encoder makes them and as its decoder reads them: golden/blocks.safetensors.

usage: make_golden.py libggml-base.so      (built for x86-64 without -march flags, see tests/bench/gguf/README.md)
Needs numpy and safetensors.
"""
import ctypes
import json
import sys

import numpy as np
from safetensors.numpy import save_file

TYPES = {"q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34),
         "q2_K": (10, 256, 84), "q3_K": (11, 256, 110), "q4_K": (12, 256, 144), "q5_K": (13, 256, 176),
         "q6_K": (14, 256, 210), "iq4_nl": (20, 32, 18), "iq4_xs": (23, 256, 136), "tq1_0": (34, 256, 54),
         "tq2_0": (35, 256, 66), "mxfp4": (39, 32, 17), "nvfp4": (40, 64, 36)}


def weights(random):
    rows = np.zeros((6, 512), np.float32)
    rows[0] = random.normal(0, 0.02, 512)
    rows[1] = 0.0004 * random.normal(0, 1, 512) / (np.abs(random.normal(0, 0.02, 512)) + 1e-4)
    rows[2, ::9] = random.normal(0, 0.5, 57)  # mostly zeros
    rows[2, 256:] = 0
    rows[2, 300] = -1
    rows[3] = random.normal(0, 0.02, 512) * np.where(random.random(512) < 0.02, 1e-3, 1e-8)
    rows[4] = random.integers(-3, 4, 512) / 8
    rows[5] = np.abs(random.normal(0, 0.02, 512)) + 0.01
    return rows


def main():
    ggml = ctypes.CDLL(sys.argv[1])
    chunk = ggml.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    pointer = lambda a: a.ctypes.data_as(ctypes.c_void_p)
    random = np.random.default_rng(7)
    rows = weights(random)
    importance = np.exp(random.normal(0, 1.2, 512)).astype(np.float32)
    out = {"weights": rows, "importance": importance}
    for name, (number, size, width) in TYPES.items():
        for suffix, weight in ((".plain", None), (".weighted", importance)):
            data = np.zeros(rows.size // size * width, np.uint8)
            done = chunk(number, pointer(rows), pointer(data), ctypes.c_int64(0), ctypes.c_int64(rows.shape[0]),
                         ctypes.c_int64(rows.shape[1]), None if weight is None else pointer(weight))
            assert done == data.size, (name, done, data.size)
            out[name + suffix] = data
        some = random.integers(0, 256, 512 // size * width, dtype=np.uint8)
        values = np.zeros(512, np.float32)
        getattr(ggml, "dequantize_row_" + name)(pointer(some), pointer(values), ctypes.c_int64(512))
        out[name + ".random"] = some
        out[name + ".values"] = values
    save_file(out, sys.argv[2] if len(sys.argv) > 2 else "golden/blocks.safetensors",
              metadata={"cases": json.dumps([])})


main()
