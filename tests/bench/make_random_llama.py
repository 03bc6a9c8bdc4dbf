#!/usr/bin/env python3
"""Writes a checkpoint with the shapes of Llama 3 8B, random BF16 weights and as many blocks as asked for, and token ids to
calibrate it with: for measuring time and memory, which do not depend on what the weights are.

    make_random_llama.py DIR [--blocks 2] [--samples 128] [--seq-len 512] [--hidden 4096 --ffn 14336 --vocabulary 128256]

DIR/ids.npy has the token ids. Needs numpy."""

import argparse
import json
import pathlib

import numpy

HEADS, KV_HEADS = 32, 8


def shapes(given):
    hidden, ffn = given.hidden, given.ffn
    yield "model.embed_tokens.weight", (given.vocabulary, hidden)
    for block in range(given.blocks):
        layer = f"model.layers.{block}."
        kv = hidden // HEADS * KV_HEADS
        for name, rows, cols in [("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", kv, hidden),
                                 ("self_attn.v_proj", kv, hidden), ("self_attn.o_proj", hidden, hidden),
                                 ("mlp.gate_proj", ffn, hidden), ("mlp.up_proj", ffn, hidden),
                                 ("mlp.down_proj", hidden, ffn)]:
            yield layer + name + ".weight", (rows, cols)
        for name in ["input_layernorm", "post_attention_layernorm"]:
            yield layer + name + ".weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (given.vocabulary, hidden)


def values(shape, random):
    """BF16 bits of normal values with the deviation 0.02; ones for norms."""
    if len(shape) == 1:
        return numpy.full(shape, 0x3F80, numpy.uint16)
    floats = random.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)
    return (floats.view(numpy.uint32) >> 16).astype(numpy.uint16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--ffn", type=int, default=14336)
    parser.add_argument("--vocabulary", type=int, default=128256)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": given.hidden,
              "intermediate_size": given.ffn, "num_hidden_layers": given.blocks, "num_attention_heads": HEADS,
              "num_key_value_heads": KV_HEADS, "head_dim": given.hidden // HEADS, "hidden_act": "silu",
              "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
              "vocab_size": given.vocabulary, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    (given.directory / "config.json").write_text(json.dumps(config, indent=2))
    header, offset = {}, 0
    for name, shape in shapes(given):
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = numpy.random.default_rng(0)
    with open(given.directory / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in shapes(given):
            file.write(values(shape, random).tobytes())
    ids = random.integers(0, given.vocabulary, (given.samples, given.seq_len), dtype=numpy.int32)
    numpy.save(given.directory / "ids.npy", ids)


if __name__ == "__main__":
    main()
