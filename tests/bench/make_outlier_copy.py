#!/usr/bin/env python3
"""Copies a Llama-like model with outlier channels that leave its function unchanged.

    tests/bench/make_outlier_copy.py MODEL_DIR OUTPUT_DIR [CHANNELS] [FACTOR] [SEED]

CHANNELS (4) random channels of each norm's weight in a block are multiplied by FACTOR (60), the columns of the linears
that read them are divided by it. Real models have such channels; they are what makes 8-bit activations hard. All tensors
are stored as float32, so that the division loses nothing that matters. The final norm stays: its reader may be tied to
the embeddings. Standard library only.
"""

import array
import json
import pathlib
import random
import shutil
import struct
import sys

READERS = {
    "input_layernorm": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "post_attention_layernorm": ["mlp.gate_proj", "mlp.up_proj"],
}


def floats(dtype, data):
    if dtype == "F32":
        return array.array("f", data)
    if dtype == "F16":
        return array.array("f", struct.unpack(f"<{len(data) // 2}e", data))
    if dtype == "BF16":
        return array.array("f", b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))
    sys.exit(f"cannot convert {dtype}")


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (info["shape"], floats(info["dtype"], data[slice(*info["data_offsets"])]))
            for name, info in header.items()}


def write(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, values) in sorted(tensors.items()):
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * len(values)]}
        offset += 4 * len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, (_, values) in sorted(tensors.items()):
            file.write(values.tobytes())


def add_outliers(tensors, channels, factor, rng):
    for name in sorted(tensors):
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        if not name.endswith(".weight") or norm not in READERS or not block:
            continue
        scale = tensors[name][1]
        chosen = rng.sample(range(len(scale)), channels)
        for c in chosen:
            scale[c] *= factor
        for reader in READERS[norm]:
            (rows, cols), weight = tensors[f"{block}.{reader}.weight"]
            for row in range(rows):
                for c in chosen:
                    weight[row * cols + c] /= factor


def main():
    source, output = map(pathlib.Path, sys.argv[1:3])
    channels, factor, seed = (int(a) for a in (sys.argv[3:] + ["4", "60", "0"][len(sys.argv) - 3:]))
    output.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name.startswith(("tokenizer", "generation_config", "special_tokens")):
            shutil.copy(file, output)
    tensors = read(source / "model.safetensors")
    add_outliers(tensors, channels, factor, random.Random(seed))
    write(output / "model.safetensors", tensors)
    config = json.loads((source / "config.json").read_text())
    config["torch_dtype"] = "float32"
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
